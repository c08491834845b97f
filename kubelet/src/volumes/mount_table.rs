//! What is mounted, as the kernel tells it.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::VolumeError;

/// The mount points at and below a path, the innermost first.
pub(crate) fn below(root: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(|e| VolumeError::io("read", table, e))?;
    let mut points: Vec<PathBuf> = parse(&text)
        .into_iter()
        .filter(|point| point.starts_with(root))
        .collect();
    points.reverse();
    Ok(points)
}

/// The mount points in the order in which they were mounted.
fn parse(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

/// The kernel writes spaces and the like as octal numbers.
fn unescape(field: &str) -> String {
    let mut output = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        output.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                output.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                output.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    output.push_str(rest);
    output
}

pub(crate) fn is_mounted(path: &Path) -> Result<bool, VolumeError> {
    Ok(below(path)?.iter().any(|point| point == path))
}

/// Unmounts everything at and below a path. What is still in use goes away with its last
/// user.
pub(crate) fn unmount_below(root: &Path) -> Result<(), VolumeError> {
    for point in below(root)? {
        match umount2(&point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(VolumeError::io("unmount", &point, errno.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text =
            "22 1 0:20 / / rw - ext4 /dev/vda rw\n30 22 0:25 / /mnt/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/"), PathBuf::from("/mnt/a b")]);
    }
}
