//! A cgroup for each place, on cgroup v1, v2 and machines with both.
//!
//! The place's process 1 unshares the cgroup namespace inside its cgroup, so that the runtime
//! and the kubelet see it as the root and need no option for it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where every lab's cgroups are, below the root of each hierarchy.
pub const PARENT: &str = "fairlead-labs";

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// With the mount options that select it, such as `memory` or `name=systemd`.
    V1 {
        options: String,
    },
    V2,
}

/// The hierarchies that are mounted here.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mounts")?))
}

fn parse_mounts(mounts: &str) -> Vec<Hierarchy> {
    let mut seen = BTreeSet::new();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (mount_point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let version = match kind {
                "cgroup2" => Version::V2,
                "cgroup" => Version::V1 {
                    options: selecting_options(options),
                },
                _ => return None,
            };
            Some(Hierarchy {
                mount_point: mount_point.into(),
                version,
            })
        })
        .filter(|hierarchy| seen.insert(hierarchy.mount_point.clone()))
        .collect()
}

/// Without what a mount has besides the choice of its hierarchy.
fn selecting_options(options: &str) -> String {
    const OTHERS: [&str; 10] = [
        "rw",
        "ro",
        "relatime",
        "nosuid",
        "nodev",
        "noexec",
        "xattr",
        "noprefix",
        "clone_children",
        "seclabel",
    ];
    let selecting: Vec<&str> = options
        .split(',')
        .filter(|option| !OTHERS.contains(option) && !option.starts_with("release_agent"))
        .collect();
    selecting.join(",")
}

impl Hierarchy {
    /// Makes the cgroup and those above it.
    pub fn create(&self, cgroup: &Path) -> io::Result<()> {
        let mut path = self.mount_point.clone();
        for part in cgroup.components() {
            if self.version == Version::V2 {
                self.delegate(&path)?;
            }
            let parent = path.clone();
            path.push(part);
            self.make(&parent, &path)?;
        }
        Ok(())
    }

    /// Makes a cgroup directly below the mount point, to which that gives no controllers: while
    /// it has processes of its own, its children could then take none.
    pub fn create_leaf(&self, name: &str) -> io::Result<()> {
        self.make(&self.mount_point, &self.mount_point.join(name))
    }

    fn make(&self, parent: &Path, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) if self.is_cpuset() => inherit_cpuset(parent, path),
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(annotate(path, error)),
        }
    }

    /// Whether the cgroup at the mount point has controllers to give, and processes of its own
    /// that keep it from that.
    pub fn is_occupied(&self) -> io::Result<bool> {
        let has = |name: &str| -> io::Result<bool> {
            let file = self.mount_point.join(name);
            let text = fs::read_to_string(&file).map_err(|error| annotate(&file, error))?;
            Ok(!text.trim().is_empty())
        };
        Ok(has("cgroup.controllers")? && has("cgroup.procs")?)
    }

    fn is_cpuset(&self) -> bool {
        matches!(&self.version, Version::V1 { options } if options.split(',').any(|o| o == "cpuset"))
    }

    /// Lets children of the cgroup use every controller that it has itself.
    pub fn delegate(&self, path: &Path) -> io::Result<()> {
        let controllers = fs::read_to_string(path.join("cgroup.controllers"))?;
        let control = path.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control)?;
        let enabled: BTreeSet<&str> = enabled.split_whitespace().collect();
        for controller in controllers
            .split_whitespace()
            .filter(|name| !enabled.contains(name))
        {
            // Some controllers refuse domains that others already use; the rest still serves.
            let _ = fs::write(&control, format!("+{controller}"));
        }
        Ok(())
    }

    /// Moves a process into the cgroup. 0 is the caller.
    pub fn enter(&self, cgroup: &Path, pid: i32) -> io::Result<()> {
        let procs = self.mount_point.join(cgroup).join("cgroup.procs");
        fs::write(&procs, pid.to_string()).map_err(|error| annotate(&procs, error))
    }

    /// Every process of the cgroup and of those below it.
    pub fn processes(&self, cgroup: &Path) -> Vec<i32> {
        let mut found = Vec::new();
        visit(&self.mount_point.join(cgroup), &mut |path| {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
        });
        found
    }

    /// Removes the cgroup and those below it. One that is not there is fine.
    pub fn remove(&self, cgroup: &Path) -> io::Result<()> {
        let mut result = Ok(());
        visit(
            &self.mount_point.join(cgroup),
            &mut |path| match fs::remove_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => result = Err(annotate(path, error)),
            },
        );
        result
    }
}

/// Visits a directory and those below it, children first.
fn visit(path: &Path, action: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), action);
        }
    }
    action(path);
}

/// A v1 cpuset starts empty and takes no process until it has processors and memory.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for (name, alternative) in [("cpuset.cpus", "cpus"), ("cpuset.mems", "mems")] {
        let file = if parent.join(name).exists() {
            name
        } else {
            alternative
        };
        let value = fs::read_to_string(parent.join(file))?;
        fs::write(child.join(file), value.trim()).map_err(|error| annotate(child, error))?;
    }
    Ok(())
}

fn annotate(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The cgroup of a lab or, with a place, of one of its places.
pub fn path(lab: &str, place: Option<&str>) -> PathBuf {
    let mut path = Path::new(PARENT).join(lab);
    path.extend(place);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n";
        let v1 = |mount_point: &str, options: &str| Hierarchy {
            mount_point: mount_point.into(),
            version: Version::V1 {
                options: options.to_owned(),
            },
        };
        assert_eq!(
            parse_mounts(mounts),
            [
                v1("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
                v1("/sys/fs/cgroup/systemd", "name=systemd"),
                Hierarchy {
                    mount_point: "/sys/fs/cgroup/unified".into(),
                    version: Version::V2
                },
            ]
        );
    }

    #[test]
    fn a_cgroup_can_be_made_twice_and_is_removed_with_its_children() {
        let cgroup = Path::new(PARENT).join(format!("unit-{}", std::process::id()));
        for hierarchy in hierarchies().unwrap() {
            hierarchy.create(&cgroup.join("a/b")).unwrap();
            hierarchy.create(&cgroup.join("a/b")).unwrap();
            assert!(hierarchy.processes(&cgroup).is_empty());
            hierarchy.remove(&cgroup).unwrap();
            hierarchy.remove(&cgroup).unwrap();
            assert!(!hierarchy.mount_point.join(&cgroup).exists());
        }
    }
}
