//! What a place is made of, as JSON between the processes that make it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where process 1 tells which programs run, inside the place.
pub const RUNNING: &str = "/run/fairlead-lab/running.json";

/// A place to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Specification {
    pub hostname: String,
    /// The file of the network namespace.
    pub network_namespace: PathBuf,
    /// What the place keeps on disk; see [`super::mounts`].
    pub directory: PathBuf,
    /// Below the root of each hierarchy.
    pub cgroup: PathBuf,
    /// The contents of `/etc/hosts`.
    pub hosts: String,
    /// This program, which starts again as process 1.
    pub fairlead: PathBuf,
    pub programs: Vec<Program>,
}

/// A program that a place runs for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What it is for: `server`, `node`, `containerd`.
    pub role: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// A file with more arguments, one per line. The program starts once the file is there.
    pub arguments_file: Option<PathBuf>,
    /// A socket that has to exist first.
    pub after_socket: Option<PathBuf>,
}

impl Program {
    /// Where its output goes, inside the place.
    pub fn log(role: &str) -> PathBuf {
        Path::new("/var/log/fairlead").join(format!("{role}.log"))
    }
}

/// A program that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub role: String,
    /// In the place's PID namespace.
    pub pid: i32,
    /// How often it was started again.
    pub restarts: u32,
}
