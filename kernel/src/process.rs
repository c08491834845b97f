//! Work that goes on after this process has ended.

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// Runs the work in a process of its own, which nobody waits for and which holds none of the
/// caller's standard streams: who waits for their end is not kept waiting. Open sockets are
/// shared with it, so that closing them, too, costs the caller nothing.
///
/// A caller with several threads does the work itself: a copy of it could find a lock held by
/// a thread that was not copied.
pub fn detach(work: impl FnOnce()) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        work();
        return Ok(());
    }
    // SAFETY: there is no other thread, so the child finds everything as it was left.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            let _ = setsid();
            leave_standard_streams();
            work();
            // SAFETY: ends the process at once; nothing of the parent's is run twice.
            unsafe { libc::_exit(0) }
        }
    }
}

fn leave_standard_streams() {
    if let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
        // Below 3 it is one of the three and stays.
        if null.as_raw_fd() <= 2 {
            std::mem::forget(null);
        }
    }
}
