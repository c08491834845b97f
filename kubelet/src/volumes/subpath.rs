//! Parts of volumes, found without ever leaving the volume.
//!
//! A container can write to its volume and put links there. The path is therefore opened
//! one component at a time, by the kernel, which refuses what leads out; and what is given
//! to the runtime is a mount of the opened file, not a path that could change meanwhile.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use super::{VolumeError, mount_table};

/// Mounts a part of a volume at `target`, making it as a directory if it is missing.
pub(crate) fn bind(volume: &Path, subpath: &str, target: &Path) -> Result<(), VolumeError> {
    let inner = open(volume, subpath)?;
    let file = File::from(inner);
    let is_dir = file
        .metadata()
        .map_err(|error| VolumeError::io("read", volume, error))?
        .is_dir();
    if mount_table::is_mounted(target)? {
        mount_table::unmount_below(target)?;
    }
    place(target, is_dir)?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| VolumeError::io("mount", target, errno.into()))
}

/// Something to mount on.
fn place(target: &Path, is_dir: bool) -> Result<(), VolumeError> {
    let wrong = |error| VolumeError::io("create", target, error);
    if target.exists() && target.is_dir() != is_dir {
        let removed = if is_dir {
            fs::remove_file(target)
        } else {
            fs::remove_dir(target)
        };
        removed.map_err(wrong)?;
    }
    if is_dir {
        return fs::create_dir_all(target).map_err(wrong);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(target)
        .map(drop)
        .map_err(wrong)
}

fn open(volume: &Path, subpath: &str) -> Result<OwnedFd, VolumeError> {
    let wrong = |errno: nix::errno::Errno| match errno {
        nix::errno::Errno::EXDEV | nix::errno::Errno::ELOOP => {
            VolumeError::Escape(subpath.to_owned())
        }
        errno => VolumeError::io("open", &volume.join(subpath), errno.into()),
    };
    let parts: Vec<&str> = Path::new(subpath)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_str()),
            Component::CurDir => None,
            _ => Some(None),
        })
        .collect::<Option<_>>()
        .ok_or_else(|| VolumeError::Escape(subpath.to_owned()))?;
    let root = File::open(volume).map_err(|error| VolumeError::io("open", volume, error))?;
    let permissions = root
        .metadata()
        .map_err(|error| VolumeError::io("read", volume, error))?
        .permissions();
    let mut done = String::from(".");
    let mut current = beneath(root.as_fd(), &done).map_err(wrong)?;
    for part in parts {
        let next = format!("{done}/{part}");
        current = match beneath(root.as_fd(), &next) {
            Err(nix::errno::Errno::ENOENT) => {
                mkdirat(&current, part, Mode::from_bits_truncate(0o750)).map_err(wrong)?;
                let made = beneath(root.as_fd(), &next).map_err(wrong)?;
                // As open as the volume itself; through the open file, which cannot be swapped.
                let opened = format!("/proc/self/fd/{}", made.as_raw_fd());
                fs::set_permissions(&opened, permissions.clone()).map_err(|error| {
                    VolumeError::io("set the mode of", &volume.join(subpath), error)
                })?;
                made
            }
            opened => opened.map_err(wrong)?,
        };
        done = next;
    }
    Ok(current)
}

fn beneath(root: std::os::fd::BorrowedFd<'_>, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_inside_lead_on_and_links_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("..data")).unwrap();
        fs::write(root.join("..data/k"), "v").unwrap();
        symlink("..data/k", root.join("k")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        assert!(open(root, "k").is_ok());
        assert!(open(root, "new/deep").is_ok());
        assert!(root.join("new/deep").is_dir(), "what is missing is made");
        for path in ["out", "out/passwd", "up", "../x", "/etc", "a/../../x"] {
            assert!(
                matches!(open(root, path), Err(VolumeError::Escape(_))),
                "{path}"
            );
        }
    }
}
