//! A place's file system: the machine's, with directories of its own where a node keeps state.
//!
//! | path | what is there |
//! |---|---|
//! | `/` | the machine's, shared recursively within the place only |
//! | `/proc`, `/sys`, `/sys/fs/cgroup` | those of the place's namespaces |
//! | `/run`, `/dev/shm` | empty, in memory |
//! | `/etc`, `/opt` | the machine's, with changes kept in the place |
//! | `/var/lib`, `/var/log` | the place's own |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::specification::Specification;
use super::start::PlaceError;
use crate::cgroup::{self, Hierarchy, Version};

/// What the place has its own of.
const COVERED: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// Sets up the file system. Runs as process 1, in the place's namespaces.
pub(super) fn set_up(specification: &Specification) -> Result<(), PlaceError> {
    // What is read from the machine has to be read before it is covered.
    let hierarchies = cgroup::hierarchies().map_err(|source| PlaceError::Cgroup { source })?;
    let links = symlinks(Path::new("/sys/fs/cgroup"));
    let resolver = fs::read("/etc/resolv.conf").unwrap_or_default();

    let root = Path::new("/");
    flags(root, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let _ = umount_covered(&specification.directory);
    flags(root, MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    file_system("proc", Path::new("/proc"), "")?;
    set_up_sys(&hierarchies, &links)?;
    file_system("tmpfs", Path::new("/dev/shm"), "mode=1777")?;
    let _ = file_system("mqueue", Path::new("/dev/mqueue"), "");
    for name in ["etc", "opt"] {
        overlay(&specification.directory, name)?;
    }
    // The place's directory is below /var/lib, which is covered last.
    file_system("tmpfs", Path::new("/run"), "mode=755")?;
    bind(
        &specification.directory.join("var-log"),
        Path::new("/var/log"),
    )?;
    bind(
        &specification.directory.join("var-lib"),
        Path::new("/var/lib"),
    )?;
    for directory in [
        "/run/netns",
        "/run/lock",
        "/run/fairlead",
        "/run/fairlead-lab",
        "/var/log/fairlead",
    ] {
        let directory = Path::new(directory);
        fs::create_dir_all(directory).map_err(PlaceError::file(directory))?;
    }
    file_system("tmpfs", Path::new("/run/netns"), "mode=755")?;
    identity(specification, &resolver)
}

/// Lets go of the machine's mounts in directories that are covered: a copy of a mount keeps
/// alive what is mounted, such as the network namespaces of other labs.
fn umount_covered(own: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for target in covered(&mounts, own) {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// The mounts that are covered, the last one mounted first, since it lies on top. Without what
/// the place's own directory lies on: `/var/lib` may be a file system of its own.
fn covered<'m>(mounts: &'m str, own: &Path) -> Vec<&'m str> {
    let targets = mounts.lines().rev();
    targets
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| COVERED.iter().any(|by| Path::new(target).starts_with(by)))
        .filter(|target| !own.starts_with(target))
        .collect()
}

/// The files that tell who this machine is and how it finds others.
fn identity(specification: &Specification, resolver: &[u8]) -> Result<(), PlaceError> {
    let machine_id = machine_id(&specification.directory);
    let files: [(&str, &[u8]); 4] = [
        ("/etc/hostname", specification.hostname.as_bytes()),
        ("/etc/hosts", specification.hosts.as_bytes()),
        ("/etc/machine-id", machine_id.as_bytes()),
        ("/etc/resolv.conf", resolver),
    ];
    for (path, content) in files {
        let path = Path::new(path);
        // A link may lead into the machine's /run, which is not here.
        let _ = fs::remove_file(path);
        fs::write(path, content).map_err(PlaceError::file(path))?;
    }
    Ok(())
}

/// The same for the same place, also after it was stopped and started.
fn machine_id(directory: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    format!("{}\n", hex::encode(&digest[..16]))
}

/// sysfs shows the network namespace of whoever mounted it; the cgroups below it are those of
/// the cgroup namespace.
fn set_up_sys(hierarchies: &[Hierarchy], links: &[(PathBuf, PathBuf)]) -> Result<(), PlaceError> {
    let sys = Path::new("/sys");
    umount2(sys, MntFlags::MNT_DETACH).map_err(|errno| PlaceError::Mount {
        target: sys.to_owned(),
        source: errno.into(),
    })?;
    file_system("sysfs", sys, "")?;
    let _ = file_system("bpf", Path::new("/sys/fs/bpf"), "");
    let base = Path::new("/sys/fs/cgroup");
    let unified_only = hierarchies
        .iter()
        .any(|hierarchy| hierarchy.mount_point == base);
    if !unified_only {
        file_system("tmpfs", base, "mode=755")?;
    }
    for hierarchy in hierarchies
        .iter()
        .filter(|h| h.mount_point.starts_with(base))
    {
        let target = &hierarchy.mount_point;
        fs::create_dir_all(target).map_err(PlaceError::file(target))?;
        match &hierarchy.version {
            Version::V1 { options } => file_system("cgroup", target, options)?,
            Version::V2 => file_system("cgroup2", target, "")?,
        }
    }
    for (link, target) in links {
        if fs::symlink_metadata(link).is_err() {
            std::os::unix::fs::symlink(target, link).map_err(PlaceError::file(link))?;
        }
    }
    Ok(())
}

/// Controllers that share a hierarchy are reached through links, such as `cpu` to `cpu,cpuacct`.
fn symlinks(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), fs::read_link(entry.path()).ok()?)))
        .collect()
}

/// The machine's directory with the place's changes above it.
fn overlay(directory: &Path, name: &str) -> Result<(), PlaceError> {
    let target = Path::new("/").join(name);
    let upper = directory.join(name);
    let work = directory.join(format!("{name}-work"));
    for path in [&upper, &work] {
        fs::create_dir_all(path).map_err(PlaceError::file(path))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    file_system("overlay", &target, &options)
}

fn file_system(kind: &str, target: &Path, options: &str) -> Result<(), PlaceError> {
    mount(
        Some(kind),
        target,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .map_err(|errno| failed(target, errno))
}

fn bind(source: &Path, target: &Path) -> Result<(), PlaceError> {
    fs::create_dir_all(source).map_err(PlaceError::file(source))?;
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| failed(target, errno))
}

fn flags(target: &Path, flags: MsFlags) -> Result<(), PlaceError> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|errno| failed(target, errno))
}

fn failed(target: &Path, errno: nix::Error) -> PlaceError {
    PlaceError::Mount {
        target: target.to_owned(),
        source: io::Error::from(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_goes_but_not_what_the_place_lies_on() {
        let mounts = "\
            root / ext4 rw 0 0\n\
            run /run tmpfs rw 0 0\n\
            data /var/lib ext4 rw 0 0\n\
            labs /var/lib/fairlead-labs tmpfs rw 0 0\n\
            nsfs /run/netns/x nsfs rw 0 0\n\
            other /var/lib/other ext4 rw 0 0\n\
            home /home ext4 rw 0 0\n";
        let own = Path::new("/var/lib/fairlead-labs/demo/node1");
        assert_eq!(
            covered(mounts, own),
            ["/var/lib/other", "/run/netns/x", "/run"]
        );
    }
}
