//! Whole clusters in the lab, driven as people drive them: by the command line and kubectl.
//!
//! A suite is one program that starts a lab once, runs its cases against it, several at a time,
//! and removes the lab. For a test runner a suite is one test; its output tells the cases.
//!
//! ```text
//! cargo test -p cluster-tests --test cluster            every case
//! cargo test -p cluster-tests --test cluster -- dns     those with dns in their name
//! ```
//!
//! `KEEP=1` leaves the lab running, `LAB=NAME` uses one that runs already. `NETWORK=bgp` and
//! `PROXY=nftables` make the lab of any suite one with these modes.

pub mod api;
pub mod clients;
pub mod cluster;
pub mod command;
pub mod harness;
pub mod objects;
pub mod pods;
pub mod server;
pub mod site;
