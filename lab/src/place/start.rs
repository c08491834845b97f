//! The first half of a place's start: out of the machine's namespaces.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use super::specification::Specification;
use crate::cgroup;
use crate::process::Process;

/// Why a place did not start.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not a place's description: {source}", path.display())]
    Specification {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot {operation}: {source}")]
    Namespace {
        operation: &'static str,
        source: io::Error,
    },
    #[error("cannot enter the cgroup: {source}")]
    Cgroup { source: io::Error },
    #[error("cannot mount {}: {source}", target.display())]
    Mount { target: PathBuf, source: io::Error },
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
}

impl PlaceError {
    pub(super) fn namespace(operation: &'static str) -> impl Fn(nix::Error) -> Self {
        move |errno| Self::Namespace {
            operation,
            source: errno.into(),
        }
    }

    pub(super) fn file(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads the description that both halves work from.
pub(super) fn read(path: &Path) -> Result<Specification, PlaceError> {
    let text = std::fs::read(path).map_err(PlaceError::file(path))?;
    serde_json::from_slice(&text).map_err(|source| PlaceError::Specification {
        path: path.to_owned(),
        source,
    })
}

/// Starts process 1 of the place and returns it, as this machine sees it. The caller has one
/// thread only: namespaces of a thread are not those of its process.
pub fn run(path: &Path) -> Result<Process, PlaceError> {
    let specification = read(path)?;
    nix::unistd::setsid().map_err(PlaceError::namespace("start a session"))?;
    for hierarchy in cgroup::hierarchies().map_err(|source| PlaceError::Cgroup { source })? {
        hierarchy
            .create(&specification.cgroup)
            .and_then(|()| hierarchy.enter(&specification.cgroup, 0))
            .map_err(|source| PlaceError::Cgroup { source })?;
    }
    let namespace = &specification.network_namespace;
    let namespace = File::open(namespace).map_err(PlaceError::file(namespace))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(PlaceError::namespace("join the network namespace"))?;
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(own).map_err(PlaceError::namespace("unshare namespaces; this needs root"))?;
    nix::unistd::sethostname(&specification.hostname)
        .map_err(PlaceError::namespace("set the host name"))?;
    spawn_init(&specification, path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "process 1 of the place is this program again"
)]
fn spawn_init(specification: &Specification, path: &Path) -> Result<Process, PlaceError> {
    let log_path = specification.directory.join("init.log");
    let log = File::create(&log_path).map_err(PlaceError::file(&log_path))?;
    let errors = log.try_clone().map_err(PlaceError::file(&log_path))?;
    let child = Command::new(&specification.fairlead)
        .arg("lab-init")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|source| PlaceError::Start {
            program: specification.fairlead.clone(),
            source,
        })?;
    Process::find(child.id() as i32).ok_or_else(|| PlaceError::Start {
        program: specification.fairlead.clone(),
        source: io::Error::other(format!("it ended at once; see {}", log_path.display())),
    })
}
