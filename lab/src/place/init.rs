//! Process 1 of a place: mounts, then looks after the programs until it is killed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::mounts;
use super::specification::{Program, RUNNING, Specification};
use super::start::{PlaceError, read};
use super::supervision::Supervision;
use crate::cgroup::{self, Version};

/// How often files and sockets that programs wait for are looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long the process that started this one may take to end.
const STARTER_ENDS: Duration = Duration::from_secs(30);
/// How long nothing but the end of a child wakes this process up.
const IDLE: Duration = Duration::from_secs(3600);

/// Runs until the place is ended by SIGKILL from outside.
pub fn run(path: &Path) -> Result<(), PlaceError> {
    let specification = read(path)?;
    mounts::set_up(&specification)?;
    leave_root_cgroup()?;
    let children = SigSet::from_iter([Signal::SIGCHLD]);
    children
        .thread_block()
        .map_err(PlaceError::namespace("block signals"))?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(PlaceError::namespace("watch for signals"))?;
    let mut supervision = Supervision::new(specification.programs.len());
    loop {
        collect(&mut supervision);
        start_due(&specification, &mut supervision)?;
        wait(
            &children,
            supervision
                .next_look(Instant::now())
                .map_or(IDLE, |due| due.max(POLL)),
        )?;
    }
}

/// A v2 cgroup with processes gives its children no controllers: process 1 moves to a leaf.
fn leave_root_cgroup() -> Result<(), PlaceError> {
    let failed = |source| PlaceError::Cgroup { source };
    for hierarchy in cgroup::hierarchies().map_err(failed)? {
        hierarchy.create_leaf("init").map_err(failed)?;
        hierarchy.enter(Path::new("init"), 0).map_err(failed)?;
        if hierarchy.version == Version::V2 {
            // Whoever started this process is about to end.
            let deadline = Instant::now() + STARTER_ENDS;
            while hierarchy.is_occupied().map_err(failed)? && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            hierarchy.delegate(&hierarchy.mount_point).map_err(failed)?;
        }
    }
    Ok(())
}

/// Waits for the end of a child, at most so long.
fn wait(children: &SignalFd, patience: Duration) -> Result<(), PlaceError> {
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    match poll(
        &mut [PollFd::new(children.as_fd(), PollFlags::POLLIN)],
        patience,
    ) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(PlaceError::namespace("wait for a child")(errno)),
    }
    // What the signal says is looked up from the children themselves.
    while matches!(children.read_signal(), Ok(Some(_))) {}
    Ok(())
}

/// Collects every child that ended, also those that others left to process 1.
fn collect(supervision: &mut Supervision) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(status) => {
                let Some(pid) = status.pid() else { continue };
                if supervision.ended(pid.as_raw(), Instant::now()) {
                    eprintln!("{status:?}");
                }
            }
        }
    }
}

fn start_due(
    specification: &Specification,
    supervision: &mut Supervision,
) -> Result<(), PlaceError> {
    for index in supervision.due(Instant::now()) {
        let program = &specification.programs[index];
        if !is_possible(program) {
            supervision.not_yet(index, Instant::now() + POLL);
            continue;
        }
        match start(program) {
            Ok(pid) => supervision.started(index, pid, Instant::now()),
            Err(error) => {
                eprintln!("{}: {error}", program.program.display());
                supervision.not_yet(index, Instant::now() + Duration::from_secs(1));
            }
        }
        let running = supervision.running(&specification.programs);
        let text = serde_json::to_vec(&running).unwrap_or_default();
        fs::write(RUNNING, text).map_err(PlaceError::file(Path::new(RUNNING)))?;
    }
    Ok(())
}

fn is_possible(program: &Program) -> bool {
    program
        .arguments_file
        .iter()
        .chain(&program.after_socket)
        .all(|path| path.exists())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a place's programs are started here"
)]
fn start(program: &Program) -> io::Result<i32> {
    let mut arguments = program.arguments.clone();
    if let Some(file) = &program.arguments_file {
        arguments.extend(fs::read_to_string(file)?.lines().map(str::to_owned));
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(Program::log(&program.role))?;
    let environment: BTreeMap<_, _> = program.environment.iter().cloned().collect();
    let mut command = Command::new(&program.program);
    command
        .args(arguments)
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A blocked signal would stay blocked in the program.
    let signals = SigSet::from_iter([Signal::SIGCHLD]);
    signals.thread_unblock()?;
    let child = command.spawn();
    signals.thread_block()?;
    Ok(child?.id() as i32)
}
