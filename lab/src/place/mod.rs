//! A machine of the lab, from the inside.
//!
//! ```text
//! fairlead lab up ── starts ─→ fairlead lab-place SPEC   joins the network namespace, unshares
//!                                │                       mount, UTS, IPC, PID; enters its cgroup
//!                                └ starts ─→ fairlead lab-init SPEC   process 1: mounts,
//!                                              │                      then looks after programs
//!                                              ├ containerd
//!                                              └ fairlead join | fairlead server
//! ```
//!
//! Two programs, since who unshares a PID namespace is not in it, only its children are.

mod init;
mod mounts;
mod specification;
mod start;
mod supervision;

pub use init::run as init;
pub use specification::{Program, RUNNING, Running, Specification};
pub use start::{PlaceError, run as start};
