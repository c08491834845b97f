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

mod applier;
pub mod backend;
pub mod config;
mod driver;
mod endpoints;
mod events;
mod flows;
mod health;
mod iptables;
mod ipvs;
mod metrics;
pub mod model;
mod nftables;
pub mod picture;
#[cfg(test)]
mod samples;
mod service;
pub mod trace;
mod tracking;
mod writer;

pub use applier::Applier;
pub use config::{Config, Mode};
pub use metrics::register;
pub use service::{FLAGS_ANNOTATION, SCHEDULER_ANNOTATION, WEIGHTS_ANNOTATION};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use backend::{Backend, BackendError};
use kernel::iptables::Variant;

/// What the proxy is given.
#[derive(Clone)]
pub struct Deps {
    pub client: kube::Client,
    pub caches: WatchCaches,
    /// Which backend to use, changing at run time; `None` keeps [`Config::mode`].
    pub mode: Option<watch::Receiver<Mode>>,
}

/// Why the proxy cannot run, or not clean up. An operator has to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the proxy's mode {mode} cannot work here: {reason}")]
    Unusable { mode: Mode, reason: String },
    #[error("the rules of the proxy's mode {mode} could not be removed: {reason}")]
    Cleanup { mode: Mode, reason: String },
}

/// Runs the proxy until shutdown. What it wrote stays in the kernel.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    driver::run(config, deps, shutdown).await
}

/// Removes everything that a mode has written on this machine, whoever wrote it. Where the
/// machine cannot do the mode, there is nothing to be removed. Blocks.
pub fn cleanup(mode: Mode, config: &Config) -> Result<(), Error> {
    let variants: &[Option<Variant>] = match (mode, config.iptables_variant) {
        (Mode::Iptables, None) => &[Some(Variant::Nft), Some(Variant::Legacy)],
        _ => &[config.iptables_variant],
    };
    if mode == Mode::Ipvs && !ipvs::is_used() {
        return Ok(());
    }
    for variant in variants {
        let config = Config {
            iptables_variant: *variant,
            ..config.clone()
        };
        match backend_of(mode, &config) {
            Ok(mut backend) => backend.cleanup().map_err(|error| Error::Cleanup {
                mode,
                reason: error.to_string(),
            })?,
            Err(error) => tracing::debug!(%mode, %error, "nothing to be removed"),
        }
    }
    Ok(())
}

/// Makes a mode's backend; fails where the machine cannot do it.
pub fn backend_of(mode: Mode, config: &Config) -> Result<Box<dyn Backend>, BackendError> {
    match mode {
        Mode::Iptables => Ok(Box::new(iptables::IptablesBackend::new(config)?)),
        Mode::Nftables => Ok(Box::new(nftables::NftablesBackend::new(
            config,
            nftables::Translation::Nftables,
        )?)),
        Mode::Ipvs => Ok(Box::new(ipvs::IpvsBackend::new(config)?)),
    }
}
