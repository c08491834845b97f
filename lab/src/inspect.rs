//! Looks at labs and into their nodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use crate::cgroup;
use crate::error::LabError;
use crate::image::import;
use crate::launch;
use crate::place::{PlaceError, RUNNING, Running};
use crate::process::{self, Process};
use crate::runtime::Programs;
use crate::state::{self, Directories, LabState, StateError};
use crate::topology::PlaceKind;
use crate::up::runtime_of;

/// A lab as `fairlead lab list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabStatus {
    pub name: String,
    pub kubeconfig: PathBuf,
    pub nodes: Vec<String>,
    pub processes: Vec<ProcessStatus>,
    /// Whether `lab up` came to its end.
    pub complete: bool,
}

/// A process of a lab, by its number on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    pub pid: i32,
    pub node: String,
    /// `server`, `node`, `containerd`, or `init` for process 1 of the place.
    pub role: String,
    pub restarts: u32,
    /// Resident memory.
    pub memory_kib: u64,
}

/// Every lab of this machine, also one of which only remains are left.
pub fn list() -> Vec<LabStatus> {
    state::names().iter().map(|name| status(name)).collect()
}

/// One lab.
pub fn status(name: &str) -> LabStatus {
    let kubeconfig = Directories::of(name).kubeconfig();
    let Ok(state) = LabState::load(name) else {
        let (nodes, processes) = (Vec::new(), Vec::new());
        return LabStatus {
            name: name.to_owned(),
            kubeconfig,
            nodes,
            processes,
            complete: false,
        };
    };
    let nodes = state
        .topology
        .nodes()
        .map(|place| place.name.clone())
        .collect();
    let processes = state
        .topology
        .places
        .iter()
        .filter_map(|place| Some((place, *state.places.get(&place.name)?)))
        .filter(|(_, init)| init.is_alive())
        .flat_map(|(place, init)| processes_of(&place.name, init))
        .collect();
    LabStatus {
        name: name.to_owned(),
        kubeconfig,
        nodes,
        processes,
        complete: state.complete,
    }
}

fn processes_of(node: &str, init: Process) -> Vec<ProcessStatus> {
    let entry = |pid, role: &str, restarts| ProcessStatus {
        pid,
        node: node.to_owned(),
        role: role.to_owned(),
        restarts,
        memory_kib: process::memory_kib(pid),
    };
    let text = fs::read(format!("/proc/{}/root{RUNNING}", init.pid)).unwrap_or_default();
    let running: Vec<Running> = serde_json::from_slice(&text).unwrap_or_default();
    let numbers = numbers_outside(init);
    let programs = running.iter().filter_map(|running| {
        Some(entry(
            *numbers.get(&running.pid)?,
            &running.role,
            running.restarts,
        ))
    });
    std::iter::once(entry(init.pid, "init", 0))
        .chain(programs)
        .collect()
}

/// The numbers on this machine of the processes in a place, by their numbers inside.
fn numbers_outside(init: Process) -> BTreeMap<i32, i32> {
    let namespace = process::namespace(init.pid, "pid");
    process::all()
        .into_iter()
        .filter(|pid| process::namespace(*pid, "pid") == namespace)
        .filter_map(|pid| Some((process::inner_pid(pid)?, pid)))
        .collect()
}

/// The place's process 1, or why there is none.
pub(crate) fn place_process(state: &LabState, node: &str) -> Result<Process, LabError> {
    let lab = &state.topology.lab;
    if state.topology.place(node).is_none() {
        return Err(LabError::NoSuchPlace {
            lab: lab.clone(),
            node: node.to_owned(),
            known: state
                .topology
                .places
                .iter()
                .map(|place| place.name.clone())
                .collect(),
        });
    }
    let process = state
        .places
        .get(node)
        .copied()
        .filter(|process| process.is_alive());
    process.ok_or_else(|| LabError::Stopped {
        lab: lab.clone(),
        node: node.to_owned(),
    })
}

/// Runs a command in a place, with this process's standard streams. The caller has one thread
/// only and is in the place's namespaces afterwards.
#[expect(clippy::disallowed_methods, reason = "the command is the user's")]
pub fn exec(lab: &str, node: &str, command: &[String]) -> Result<ExitStatus, LabError> {
    let state = LabState::load(lab)?;
    let init = place_process(&state, node)?;
    // What the command starts belongs to the place, also in its cgroups.
    let cgroup = cgroup::path(lab, Some(node)).join("init");
    for hierarchy in cgroup::hierarchies().map_err(LabError::file("/proc/self/mounts"))? {
        let _ = hierarchy.enter(&cgroup, 0);
    }
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut namespaces = Vec::new();
    for (kind, flag) in kinds {
        let path = format!("/proc/{}/ns/{kind}", init.pid);
        namespaces.push((File::open(&path).map_err(LabError::file(path))?, flag));
    }
    for (namespace, flag) in namespaces {
        setns(namespace, flag).map_err(|errno| PlaceError::Namespace {
            operation: "join the place's namespaces; this needs root",
            source: errno.into(),
        })?;
    }
    let (program, arguments) = command.split_first().ok_or_else(|| LabError::NoProgram {
        program: String::new(),
        advice: "name a command after --",
    })?;
    Command::new(program)
        .args(arguments)
        .current_dir("/")
        .env("PATH", Programs::default().search_path())
        .status()
        .map_err(LabError::file(program))
}

/// Imports an archive on every node that runs. Returns the references that it brought.
pub fn load(lab: &str, archive: &Path, programs: &Programs) -> Result<Vec<String>, LabError> {
    let state = LabState::load(lab)?;
    let mut references = Vec::new();
    launch::publish(lab, archive)?;
    for node in state
        .topology
        .places
        .iter()
        .filter(|place| place.kind == PlaceKind::Node)
    {
        match runtime_of(&state, &node.name, programs) {
            Ok(runtime) => references = import::load(&runtime, archive)?,
            // It gets the image when somebody loads it again.
            Err(LabError::Stopped { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(references)
}

/// Whether anything of a lab is on this machine.
pub fn exists(lab: &str) -> bool {
    !matches!(LabState::load(lab), Err(StateError::NoSuchLab { .. }))
        || Directories::of(lab).data.exists()
}
