//! The routed mode: a BGP-4 speaker that tells other nodes and routers where this node's pods
//! are, and puts what they tell into the kernel.
//!
//! ```text
//! Nodes, configuration --cluster--> Config --.
//! TCP --driver--> wire --> session --> speaker (rib, export) --> actions --> TCP
//!                                         '--> kernel_routes: plan, apply
//! ```
//!
//! **Invariant:** [`wire`], [`session`], [`rib`] and [`speaker`] are pure; the time is an input.
//! Only [`driver`](run) has sockets and only `kernel_routes` opens netlink.

mod cluster;
pub mod config;
mod driver;
mod kernel_routes;
pub mod rib;
pub mod session;
pub mod speaker;
pub mod wire;

pub use driver::{Deps, Error, NodeConfig, run, serve};
