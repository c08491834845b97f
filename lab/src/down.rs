//! Removes a lab: by name, whatever is left of it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;
use crate::process::{self, Process};
use crate::state::{self, ALL_LABS, Directories, LabState, Lock};
use crate::{cgroup, network, topology};

/// A process in the middle of a system call may need a moment to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Removes the lab. One that is not there is fine.
pub fn run(name: &str) -> Result<(), LabError> {
    topology::check_name(name)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let lock = Lock::take(name)?;
    remove(name)?;
    lock.remove(name);
    after_last()
}

/// With the last lab goes what all of them shared.
pub(crate) fn after_last() -> Result<(), LabError> {
    let lock = Lock::take(ALL_LABS)?;
    if state::names().is_empty() {
        network::restore_forwarding(&state::changed_settings())?;
        state::forget_settings();
        Directories::remove_empty_parents();
    }
    lock.remove(ALL_LABS);
    Ok(())
}

/// As [`run`], for one who holds the lab's lock.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    // With process 1 of a place everything in its PID namespace ends.
    if let Ok(state) = LabState::load(name) {
        for process in state.places.values() {
            process
                .kill(PATIENCE)
                .map_err(remove_error(format!("process {}", process.pid)))?;
        }
    }
    end_processes(name, None)?;
    network::remove_all(name)?;
    remove_cgroups(name, None)?;
    let directories = Directories::of(name);
    for directory in [&directories.run, &directories.data] {
        remove_directory(directory)?;
    }
    Ok(())
}

/// Ends whatever is still in the cgroups of the lab or of one place, or in its networks.
pub(crate) fn end_processes(lab: &str, place: Option<&str>) -> Result<(), LabError> {
    let hierarchies = cgroup::hierarchies().map_err(remove_error("cgroups".to_owned()))?;
    let cgroup = cgroup::path(lab, place);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut alive: Vec<i32> = hierarchies
            .iter()
            .flat_map(|hierarchy| hierarchy.processes(&cgroup))
            .collect();
        alive.extend(in_networks(lab, place));
        alive.sort_unstable();
        alive.dedup();
        let own = std::process::id() as i32;
        alive.retain(|pid| *pid != own && Process::find(*pid).is_some_and(Process::is_alive));
        let Some(first) = alive.first() else {
            return Ok(());
        };
        if Instant::now() > deadline {
            let source = io::Error::new(io::ErrorKind::TimedOut, "it does not end");
            return Err(LabError::Remove {
                what: format!("process {first}"),
                source,
            });
        }
        for pid in &alive {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes in the lab's network namespaces: those that were started from outside, too.
fn in_networks(lab: &str, place: Option<&str>) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let wanted = |name: &String| place.is_none_or(|p| *name == topology::namespace(lab, p));
    let inodes: Vec<u64> = network::namespaces(lab)
        .iter()
        .filter(|name| wanted(name))
        .filter_map(|name| fs::metadata(Path::new("/run/netns").join(name)).ok())
        .map(|metadata| metadata.ino())
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    process::all()
        .into_iter()
        .filter(|pid| process::namespace(*pid, "net").is_some_and(|inode| inodes.contains(&inode)))
        .collect()
}

/// Removes the cgroups of the lab or of one place. The kernel may need a moment to let go.
pub(crate) fn remove_cgroups(lab: &str, place: Option<&str>) -> Result<(), LabError> {
    let hierarchies = cgroup::hierarchies().map_err(remove_error("cgroups".to_owned()))?;
    let cgroup = cgroup::path(lab, place);
    let deadline = Instant::now() + PATIENCE;
    for hierarchy in &hierarchies {
        while let Err(error) = hierarchy.remove(&cgroup) {
            if Instant::now() > deadline {
                return Err(remove_error(format!("cgroup {}", cgroup.display()))(error));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The last lab takes the parent with it.
        let _ = fs::remove_dir(hierarchy.mount_point.join(cgroup::PARENT));
    }
    Ok(())
}

fn remove_directory(directory: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(remove_error(directory.display().to_string())(error))
        }
        _ => Ok(()),
    }
}

fn remove_error(what: String) -> impl FnOnce(io::Error) -> LabError {
    move |source| LabError::Remove { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_what_is_not_there_succeeds_twice() {
        let name = format!("unit-{}", std::process::id());
        run(&name).unwrap();
        run(&name).unwrap();
        assert!(!Path::new(&format!("/run/fairlead-lab-{name}.lock")).exists());
    }

    #[test]
    fn a_path_is_no_name_of_a_lab() {
        assert!(matches!(run("../x"), Err(LabError::Name(_))));
    }
}
