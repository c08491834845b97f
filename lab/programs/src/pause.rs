//! The process that holds a pod's namespaces open. As process 1 of a shared PID namespace it
//! also collects the children that other containers leave behind.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    if let Err(error) = signals.thread_block() {
        eprintln!("cannot block signals: {error}");
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => collect(),
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot wait for a signal: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}

/// One SIGCHLD may stand for several children.
fn collect() {
    while !matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::StillAlive) | Err(_)
    ) {}
}
