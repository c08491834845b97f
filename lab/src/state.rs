//! What is written down about a lab: `/run/fairlead-labs/LAB/lab.json`.
//!
//! The file is for finding processes and addresses again. Removal does not depend on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::topology::{LabNumber, Topology};

const RUN: &str = "/run/fairlead-labs";
const DATA: &str = "/var/lib/fairlead-labs";
const SETTINGS: &str = "changed-settings";

/// Why a lab's state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {source}; remove the lab with `fairlead lab down`", path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("there is no lab {name:?}; `fairlead lab list` shows those that exist")]
    NoSuchLab { name: String },
}

fn file_error(path: &Path, source: io::Error) -> StateError {
    StateError::File {
        path: path.to_owned(),
        source,
    }
}

/// The directories of a lab.
#[derive(Debug, Clone)]
pub struct Directories {
    pub run: PathBuf,
    pub data: PathBuf,
}

impl Directories {
    pub fn of(lab: &str) -> Self {
        Self {
            run: Path::new(RUN).join(lab),
            data: Path::new(DATA).join(lab),
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// What a place keeps on disk.
    pub fn place(&self, place: &str) -> PathBuf {
        self.data.join(place)
    }

    pub fn specification(&self, place: &str) -> PathBuf {
        self.run.join(format!("{place}.json"))
    }

    /// The parents, once nobody uses them any more.
    pub fn remove_empty_parents() {
        for parent in [RUN, DATA] {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// A lab as it was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    pub topology: Topology,
    /// Process 1 of each place that runs.
    pub places: BTreeMap<String, Process>,
    /// Whether every node has become Ready once.
    pub complete: bool,
}

impl LabState {
    pub fn load(lab: &str) -> Result<Self, StateError> {
        let path = Directories::of(lab).run.join("lab.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::NoSuchLab {
                    name: lab.to_owned(),
                });
            }
            Err(error) => return Err(file_error(&path, error)),
        };
        serde_json::from_slice(&text).map_err(|source| StateError::Damaged { path, source })
    }

    pub fn save(&self) -> Result<(), StateError> {
        let directory = Directories::of(&self.topology.lab).run;
        let text = serde_json::to_vec_pretty(self).expect("the state has string keys only");
        write_private(&directory.join("lab.json"), &text)
    }
}

/// Writes a file that only its owner may read, all of it or nothing.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let unfinished = path.with_extension("unfinished");
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        io::Write::write_all(&mut options.open(&unfinished)?, content)?;
        fs::rename(&unfinished, path)
    };
    write().map_err(|error| file_error(path, error))
}

/// Remembers settings of this machine that labs changed. They are set back with the last lab.
pub fn remember_settings(changed: &[String]) -> Result<(), StateError> {
    let mut all = changed_settings();
    all.extend(
        changed
            .iter()
            .filter(|name| !all.contains(name))
            .cloned()
            .collect::<Vec<_>>(),
    );
    if all.is_empty() {
        return Ok(());
    }
    write_private(&Path::new(RUN).join(SETTINGS), all.join("\n").as_bytes())
}

/// The settings to be set back.
pub fn changed_settings() -> Vec<String> {
    let text = fs::read_to_string(Path::new(RUN).join(SETTINGS)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The settings are as they were.
pub fn forget_settings() {
    let _ = fs::remove_file(Path::new(RUN).join(SETTINGS));
}

/// The labs that left anything on this machine, by name.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = [RUN, DATA]
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The numbers that labs have.
pub fn taken_numbers() -> Vec<LabNumber> {
    names()
        .iter()
        .filter_map(|name| LabState::load(name).ok())
        .map(|state| state.topology.number)
        .collect()
}

/// The lock of those who make or remove what labs share.
pub const ALL_LABS: &str = "all-labs-of-this-machine";

/// Held while a lab is changed: two commands for labs do not disturb each other.
///
/// The lock is beside the labs' directories, so that a lab's removal does not remove it.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits for whoever holds the lock of this name.
    pub fn take(name: &str) -> Result<Self, StateError> {
        let path = PathBuf::from(format!("/run/fairlead-lab-{name}.lock"));
        loop {
            let file = File::create(&path).map_err(|error| file_error(&path, error))?;
            let locked = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file_error(&path, errno.into()))?;
            if same_file(&locked, &path) {
                return Ok(Self { _file: locked });
            }
        }
    }

    /// Lets go and removes the file; one who waits for it notices and makes it anew.
    pub fn remove(self, name: &str) {
        let _ = fs::remove_file(format!("/run/fairlead-lab-{name}.lock"));
    }
}

/// The file may have been removed while this process waited for its lock.
fn same_file(locked: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (locked.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::IpFamily;

    #[test]
    fn the_state_survives_being_written_and_read() {
        let topology = Topology::new("demo", LabNumber(7), IpFamily::Dual, 2);
        let places = BTreeMap::from([("node1".to_owned(), Process { pid: 7, started: 8 })]);
        let state = LabState {
            topology,
            places,
            complete: true,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<LabState>(&text).unwrap(), state);
    }

    #[test]
    fn a_lab_that_is_not_there_is_told_so() {
        let error = LabState::load("no-such-lab-at-all").unwrap_err();
        assert!(error.to_string().contains("fairlead lab list"), "{error}");
    }

    #[test]
    fn a_removed_lock_can_be_taken_again() {
        let name = format!("unit-{}", std::process::id());
        Lock::take(&name).unwrap().remove(&name);
        Lock::take(&name).unwrap().remove(&name);
        assert!(!Path::new(&format!("/run/fairlead-lab-{name}.lock")).exists());
    }
}
