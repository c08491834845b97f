//! The cgroups of pods, in hierarchies of version 1 and 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pod::cgroup::PodLimits;
use crate::pod::resources::{CPU_PERIOD, weight_of_shares};

/// Which hierarchies the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {source}")]
pub(crate) struct CgroupError {
    path: String,
    source: io::Error,
}

fn wrong(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError { path, source }
}

/// The mounted hierarchies.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    mount: PathBuf,
    version: Version,
}

const CONTROLLERS_V1: [&str; 4] = ["cpu", "memory", "pids", "hugetlb"];
const CONTROLLERS_V2: [&str; 6] = ["+cpu", "+memory", "+pids", "+cpuset", "+io", "+hugetlb"];

impl Cgroups {
    /// Looks at what is mounted.
    pub(crate) fn detect(mount: impl Into<PathBuf>) -> Self {
        let mount = mount.into();
        let unified = mount.join("cgroup.controllers").exists();
        Self {
            version: if unified { Version::Two } else { Version::One },
            mount,
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Makes a pod's cgroup, or changes its limits.
    pub(crate) fn apply(&self, path: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        match self.version {
            Version::One => self.apply_v1(path, limits),
            Version::Two => self.apply_v2(path, limits),
        }
    }

    fn apply_v1(&self, path: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        for controller in CONTROLLERS_V1 {
            let root = self.mount.join(controller);
            if !root.is_dir() {
                continue;
            }
            let directory = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(&directory).map_err(wrong(&directory))?;
            for (file, value) in settings_v1(controller, limits) {
                write(&directory.join(file), &value)?;
            }
        }
        Ok(())
    }

    fn apply_v2(&self, path: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        let mut directory = self.mount.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            for controller in CONTROLLERS_V2 {
                // A controller that the parent does not have cannot be handed on.
                let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
            }
            directory.push(part);
            if !directory.is_dir() {
                fs::create_dir(&directory).map_err(wrong(&directory))?;
            }
        }
        for controller in CONTROLLERS_V2 {
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
        for (file, value) in settings_v2(limits) {
            let file = directory.join(file);
            if file.exists() {
                write(&file, &value)?;
            }
        }
        Ok(())
    }

    /// Kills what is left in a cgroup and removes it with everything below.
    pub(crate) fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let relative = path.trim_start_matches('/');
        let roots: Vec<PathBuf> = match self.version {
            Version::Two => vec![self.mount.clone()],
            Version::One => fs::read_dir(&self.mount)
                .map_err(wrong(&self.mount))?
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect(),
        };
        for root in roots {
            let directory = root.join(relative);
            if directory.is_dir() {
                remove_tree(&directory)?;
            }
        }
        Ok(())
    }

    /// A value of a pod's cgroup, such as its memory usage in bytes.
    pub(crate) fn read(&self, controller: &str, path: &str, file: &str) -> Option<u64> {
        self.text(controller, path, file)?.trim().parse().ok()
    }

    /// A file of a cgroup.
    pub(crate) fn text(&self, controller: &str, path: &str, file: &str) -> Option<String> {
        let base = match self.version {
            Version::One => self.mount.join(controller),
            Version::Two => self.mount.clone(),
        };
        let file = base.join(path.trim_start_matches('/')).join(file);
        fs::read_to_string(file).ok()
    }
}

fn settings_v1(controller: &str, limits: &PodLimits) -> Vec<(String, String)> {
    let none = || "-1".to_owned();
    match controller {
        "cpu" => vec![
            ("cpu.shares".into(), limits.cpu_shares.to_string()),
            ("cpu.cfs_period_us".into(), CPU_PERIOD.to_string()),
            (
                "cpu.cfs_quota_us".into(),
                limits
                    .cpu_quota
                    .map_or_else(none, |quota| quota.to_string()),
            ),
        ],
        "memory" => vec![(
            "memory.limit_in_bytes".into(),
            limits.memory.map_or_else(none, |bytes| bytes.to_string()),
        )],
        "pids" => limits
            .pids
            .map(|pids| ("pids.max".into(), pids.to_string()))
            .into_iter()
            .collect(),
        _ => limits
            .hugepages
            .iter()
            .map(|(size, bytes)| (format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string()))
            .collect(),
    }
}

fn settings_v2(limits: &PodLimits) -> Vec<(String, String)> {
    let max =
        |value: Option<i64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
    let mut settings = vec![
        (
            "cpu.weight".to_owned(),
            weight_of_shares(limits.cpu_shares).to_string(),
        ),
        (
            "cpu.max".to_owned(),
            format!("{} {CPU_PERIOD}", max(limits.cpu_quota)),
        ),
        ("memory.max".to_owned(), max(limits.memory)),
        ("pids.max".to_owned(), max(limits.pids)),
    ];
    let pages = limits.hugepages.iter();
    settings.extend(pages.map(|(size, bytes)| (format!("hugetlb.{size}.max"), bytes.to_string())));
    settings
}

fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    // A value that is there already is not written: the kernel refuses some that equal the
    // present state under use.
    if fs::read_to_string(file).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(file, value).map_err(wrong(file))
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    for entry in fs::read_dir(directory).map_err(wrong(directory))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    for attempt in 0..20 {
        kill_all(directory);
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A killed process stays in its cgroup for a moment.
            Err(error) if attempt == 19 => return Err(wrong(directory)(error)),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10 << attempt.min(4))),
        }
    }
    Ok(())
}

fn kill_all(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> PodLimits {
        PodLimits {
            cpu_shares: 1024,
            cpu_quota: Some(50_000),
            memory: None,
            hugepages: vec![("2MB".into(), 4 << 20)],
            pids: Some(100),
        }
    }

    #[test]
    fn limits_are_written_in_the_words_of_each_version() {
        let v2 = settings_v2(&limits());
        let find = |name: &str| {
            v2.iter()
                .find(|(file, _)| file == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(find("cpu.max"), Some("50000 100000"));
        assert_eq!(find("memory.max"), Some("max"));
        assert_eq!(find("hugetlb.2MB.max"), Some("4194304"));
        assert_eq!(
            settings_v1("memory", &limits()),
            [("memory.limit_in_bytes".into(), "-1".into())]
        );
    }

    #[test]
    fn a_cgroup_is_made_changed_and_removed() {
        let cgroups = Cgroups::detect("/sys/fs/cgroup");
        let path = format!("/fairlead-test-{}/kubepods/podx", std::process::id());
        let mut limits = limits();
        limits.memory = Some(64 << 20);
        limits.hugepages.clear();
        cgroups.apply(&path, &limits).unwrap();
        let file = if cgroups.version() == Version::One {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        assert_eq!(cgroups.read("memory", &path, file), Some(64 << 20));
        limits.memory = Some(128 << 20);
        cgroups.apply(&path, &limits).unwrap();
        assert_eq!(cgroups.read("memory", &path, file), Some(128 << 20));
        let root = path.split('/').nth(1).unwrap();
        cgroups.remove(root).unwrap();
        assert_eq!(cgroups.read("memory", &path, file), None);
    }
}
