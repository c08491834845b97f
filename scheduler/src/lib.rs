//! The scheduler: which node each pod runs on.
//!
//! A pod's walk: a change in the pod cache puts it into [`queue::Queue`]; [`driver`] pops it,
//! [`schedule::schedule`] picks a node from [`state::ClusterState`] (pure), the pod is assumed on
//! that node and bound through the API in a task of its own. A pod that fits nowhere waits until
//! an event that could help it ([`queue::ClusterEvent`]); [`preemption`] looks for room that
//! less important pods take.
//!
//! **Invariant:** everything but [`run`], [`driver`], [`api`] and [`metrics`] is pure: no clock, no I/O.

pub mod api;
mod driver;
pub mod filter;
pub mod metrics;
pub mod pod;
pub mod preemption;
pub mod queue;
mod run;
pub mod schedule;
pub mod score;
pub mod state;
mod volume_limits;
pub mod volumes;

pub use metrics::register;
pub use run::{Config, Deps, Error, LEASE_NAME, run};
