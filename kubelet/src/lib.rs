//! The kubelet: runs the pods of one node.
//!
//! ```text
//!            API server
//!   pods ▼        ▲ status, events, Lease, Node
//!  ┌──────────────┴────────────┐
//!  │ manager: one worker a pod │──── plan (pure, crate::pod)
//!  └──┬─────────┬──────────┬───┘
//!     ▼         ▼          ▼
//!  runtime   volumes    cgroups        server :10250  ◀── logs, exec, port-forward
//! ```
//!
//! Invariants:
//!
//! - [`pod`] decides and does nothing else: no I/O, no clock.
//! - What the kubelet has to know after a restart is in the API, in the runtime (labels and
//!   annotations of containers) or in the file system; a kubelet that is killed leaves
//!   containers running and the next one takes them over.
//! - A pod leaves the API only when nothing of it runs and its volumes are down.
//! - Nothing of another program is touched: only sandboxes and containers with a pod's
//!   labels, cgroups below `kubepods`, files below the kubelet's root.

pub mod bootstrap;
mod cgroups;
mod config;
mod context;
mod csi;
mod events;
mod housekeeping;
mod images;
mod logs;
mod manager;
mod metrics;
mod mirrors;
mod node;
mod objects;
pub mod pod;
mod probes;
pub mod quantity;
mod run;
pub mod runtime;
pub mod server;
mod static_pods;
#[cfg(test)]
mod testing;
mod tokens;
mod volumes;
mod worker;

pub use config::{Config, EvictionThresholds, ImageCollection};
pub use metrics::Metrics;
pub use run::{Beside, Deps, Error, run};

/// The release of Kubernetes whose behaviour this follows.
pub const VERSION: &str = "v1.36.0+fairlead";
