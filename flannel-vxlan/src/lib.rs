//! The overlay: pods of different nodes reach each other through VXLAN, as Flannel does it.
//!
//! # What it owns in the kernel
//!
//! * the devices `flannel.1` (IPv4 underlay) and `flannel-v6.1` (IPv6 underlay) and everything
//!   on them: addresses, routes, neighbours, FDB entries;
//! * routes with protocol number 202 (also those without a tunnel, with direct routing);
//! * the nftables table `inet fairlead-masquerade`;
//! * `/etc/cni/net.d/10-fairlead.conflist` and `/run/flannel/subnet.env`.
//!
//! # A packet's path
//!
//! For every remote node and family there is exactly one of each:
//!
//! 1. a route to its pods: via the first address of its pod range, on the link of the device;
//! 2. a neighbour entry: that address has the Ethernet address of the remote device;
//! 3. an FDB entry: frames to that Ethernet address go to the remote node's own address.
//!
//! So a packet to a remote pod is routed to the device, gets an Ethernet header without asking
//! anybody, is put into UDP and sent to the node. There, the outer headers come off and the
//! host's route to the pod does the rest. Nothing is learnt from traffic.
//!
//! # Who decides what
//!
//! [`config`] is what an operator says. [`annotations`] reads and writes what nodes say about
//! themselves, in Flannel's own words. [`underlay`] picks the node's address. [`desired`]
//! makes of the nodes what is to be; [`plan`](mod@plan) compares it with what is. [`kernel`]
//! reads and writes; [`driver`] waits for changes, of nodes and of the kernel.
//! [`node_network`] is what the overlay and the routed mode have in common. [`reach`] is for a
//! server's machine that is no node.
//!
//! **Invariants:** nothing is deleted before the first full list of nodes; nothing is touched
//! that is not ours; a plan for what is already there is empty, so a restart loses no packet.

pub mod annotations;
pub mod config;
pub mod conflicts;
pub mod desired;
pub mod doctor;
pub mod driver;
pub mod kernel;
pub mod model;
pub mod node_network;
pub mod plan;
pub mod reach;
pub mod underlay;

pub use config::{Config, Underlay};
pub use driver::{Deps, Error, run};
pub use kernel::sweep;
