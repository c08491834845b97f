//! NetworkPolicy: from API objects to verdicts in the kernel.
//!
//! ```text
//! API objects --api--> model --index--> Desired --plan--> nftables transaction --kernel--> table
//!                        ^
//! CNI ADD --gate--> attachment (waits until its rules are committed)
//! ```
//!
//! A packet's path through our table `inet fairlead-policy`, in the hook `forward` (after Service
//! translation, so that real back ends are judged), `input` (pod to its own node) and `output` (what
//! IPVS sends on):
//!
//! 1. replies of a tracked connection are accepted; everything in the original direction is judged
//!    anew, so a changed policy takes effect on established connections at once;
//! 2. from a pod: the map `egress` sends it to the chain of the pod's set of policies, which goes on
//!    to 3 when one allows it and drops otherwise; an interface that is not in the map passes nothing;
//! 3. to a pod: the same with the map `ingress`.
//!
//! Pods that the same policies select share a chain; rules that select the same peers share a set. A
//! pod that appears adds elements and touches no rule. Traffic from the node itself to its own pods
//! is always allowed, and no NetworkPolicy keeps a pod from its own node, as the API says.
//!
//! **Invariant:** [`model`], [`index`] and [`plan`] are pure; only `kernel_table` opens
//! netlink. The first transaction of a process holds the complete rules and replaces what was there.

pub mod api;
mod caches;
mod cluster_policy;
pub mod connections;
mod definition;
mod driver;
pub mod flows;
mod gate;
pub mod index;
mod kernel_table;
mod learning;
mod metrics;
pub mod model;
pub mod plan;
mod pod_view;
pub mod probe;
mod render;
mod report;
mod slipped;
pub mod snapshot;
pub mod verdict;

pub use definition::{definition, install};
pub use driver::{Config, Deps, Error, FLOWS_SOCKET, run};
pub use learning::Answered;
pub use metrics::register;
pub use report::report;
