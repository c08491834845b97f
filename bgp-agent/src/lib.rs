//! The routed mode: a BGP-4 speaker that tells other nodes and routers where this node's pods
//! are, and puts what they tell into the kernel.
//!
//! ```text
//! Nodes, Services, resources --follow--.
//! a file -----------------------file---+--> topology --> Config --.
//! TCP --driver--> wire --> session --> speaker (rib, export) --> actions --> TCP
//!                                         '--> kernel_routes: plan, apply
//! UDP --bfd task--> bfd session --> speaker
//! ```
//!
//! What is in the kernel is ours by its protocol number, 203: routes to other nodes' pods and of
//! routers, and a blackhole for each pod range of this node, which keeps packets to addresses
//! that no pod has from going back to the router that they came from.
//!
//! **Invariant:** [`wire`], [`session`], [`rib`], [`speaker`], `topology` and the sessions of
//! [`bfd`] are pure; the time is an input. Only `driver` and the BFD task have sockets and only
//! `kernel_routes` opens netlink. No bytes of a peer panic.

pub mod bfd;
pub mod config;
mod driver;
mod file;
mod follow;
mod install;
mod kernel_routes;
pub mod report;
pub mod resources;
pub mod rib;
pub mod session;
pub mod speaker;
mod status;
mod topology;
pub mod wire;

pub use driver::{Error, Serving, serve};
pub use file::{FileConfig, FileError, check_file, run_file};
pub use follow::{Deps, NodeConfig, Tunnels, run, tunnels};
pub use install::install;

/// The socket that `fairlead bgp` asks where nothing else is said.
pub const CONTROL_SOCKET: &str = "/run/fairlead/bgp.sock";
