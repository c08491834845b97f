//! Pools of pod addresses, as Calico's users know them: which node has which block of which
//! pool, and which addresses a pod may get.
//!
//! # Who decides what
//!
//! The CNI plugin picks an address, alone and under its own lock, out of ranges that it is
//! given. Which ranges these are, it asks this crate over a socket ([`gate`]) at each ADD.
//! [`plan`] answers from plain data: the pools, what Pod and Namespace ask for ([`wish`]), and the
//! blocks that the node has. When the node's blocks are full, a step comes first: a block is
//! claimed, one of a node that is gone is adopted, or another node is asked for an address.
//! [`driver`] takes those steps through the API.
//!
//! # Whose a block is
//!
//! An `IPAMBlock` object is the only record. Its name comes from its range, so of two nodes that
//! create it one wins and the other is told (409); every later change carries the version that
//! was read, so of two that change it one wins. An address that is lent leaves its owner's
//! plugin *before* the object says so, and a block leaves its node's plugin before the object is
//! deleted: whoever is killed in between leaves addresses that nobody gives, never one that two
//! give.
//!
//! A node publishes its blocks and borrowed addresses in [`model::BLOCKS_ANNOTATION`] of its
//! Node before a pod gets an address of them. Both network modes make routes of that.

pub mod driver;
pub mod gate;
pub mod model;
pub mod plan;
pub mod ranges;
pub mod resources;
pub mod selector;
pub mod span;
pub mod wish;

pub use driver::{Config, Deps, LocalAddresses, Ranges, ranges, run};

/// Where the CNI plugin asks.
pub const SOCKET: &str = "/run/fairlead/pools.sock";
