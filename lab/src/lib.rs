//! Clusters of several nodes on one machine, for people and for tests.
//!
//! A lab is a switch (a network namespace with a bridge), a place for the server and a place for
//! each node. A place is what a machine would be: a network namespace with one interface on the
//! switch, and mount, UTS, PID and cgroup namespaces whose process 1 is [`place::init`], which
//! runs the place's programs and starts them again when they end, as systemd would. Ending
//! process 1 ends everything in the place: this is how a node is stopped and a lab removed.
//!
//! The machine itself is on the switch too, so it reaches every node and every NodePort.
//!
//! ```text
//!  this machine            switch              fairlead-LAB-server   fairlead-LAB-node1 ...
//!  labN 10.199.N.1 ──── host┐
//!                           bridge ─ server ── eth0 10.199.N.2
//!                                  └ node1 ─────────────────────── eth0 10.199.N.11
//! ```
//!
//! What a lab owns is recognised by name, so that [`down`] removes it without a memory:
//! network namespaces `fairlead-LAB-*`, cgroups `fairlead-labs/LAB`, the directories
//! `/run/fairlead-labs/LAB` and `/var/lib/fairlead-labs/LAB`.

pub mod cgroup;
mod down;
mod error;
mod fault;
pub mod image;
mod inspect;
mod launch;
pub mod network;
pub mod place;
pub mod process;
mod ready;
pub mod registry;
pub mod runtime;
pub mod state;
pub mod topology;
mod up;

pub use down::run as down;
pub use error::LabError;
pub use fault::{cut, heal, start, stop};
pub use inspect::{LabStatus, ProcessStatus, exec, exists, list, load, status};
pub use launch::Settings;
pub use up::{Options, Progress, run as up};
