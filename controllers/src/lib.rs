//! The controllers: they move what is towards what was asked for.
//!
//! Every controller is a folder with a pure part that decides over snapshots (`plan`, `sync`
//! decisions; no tokio, no client) and a thin part that reads caches and writes through
//! `kube::Client`. [`framework`] has the queue, the runtime and what they share.
//!
//! **Invariants:** a sync is safe to run again after any failure; one key is worked on by one
//! worker at a time; nothing polls, timers exist only where semantics need them; controllers
//! know each other only through objects.

mod admissionpolicy;
mod bootstraptokens;
mod certificates;
mod clusterrole;
pub mod config;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
pub mod framework;
mod garbage;
mod job;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod nodettl;
mod podautoscaler;
mod podgc;
mod quota;
mod registry;
mod replicaset;
mod resourceclaim;
mod serviceaccount;
mod servicecidr;
mod statefulset;
mod tainteviction;
mod volumes;

use std::sync::Arc;

use kube::Client;
use leader_election::{LeaseConfig, lead};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watch_cache::WatchCaches;

pub use config::{Config, NodeHealth, Selection, Signer, UnknownController};
pub use framework::metrics::register;
use framework::{Context, Recorder};

/// What the process hands in.
#[derive(Clone)]
pub struct Deps {
    pub client: Client,
    pub caches: WatchCaches,
}

/// A fault at start that an operator has to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A range is too small for the nodes' ranges, or there are two of one family.
    #[error("cluster CIDR {cidr}: {reason}")]
    ClusterCidr { cidr: String, reason: &'static str },
    /// The CA that should sign certificates cannot be read.
    #[error("the signing CA cannot be used: {reason}")]
    SigningCa { reason: String },
}

/// Runs the selected controllers until shutdown, while this process holds the Lease.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    nodeipam::pools(&config)?;
    if let Some(signer) = &config.signer {
        certificates::Authority::new(signer).map_err(|error| Error::SigningCa {
            reason: error.to_string(),
        })?;
    }
    let config = Arc::new(config);
    let lease = LeaseConfig::new(config::LEASE_NAME, &config.identity);
    let elect = config.leader_elect;
    let work = |term: CancellationToken| term_of_office(config.clone(), deps.clone(), term);
    if elect {
        lead(deps.client.clone(), lease, shutdown, work).await;
    } else {
        work(shutdown).await;
    }
    Ok(())
}

/// Runs the controllers until the token is cancelled.
async fn term_of_office(config: Arc<Config>, deps: Deps, term: CancellationToken) {
    let tasks = TaskTracker::new();
    let (recorder, write_events) = Recorder::new(deps.client.clone());
    let context = Context {
        client: deps.client,
        caches: deps.caches,
        recorder,
        config,
        shutdown: term.clone(),
        tasks: tasks.clone(),
    };
    context.spawn(write_events);
    for entry in registry::CONTROLLERS {
        if context
            .config
            .controllers
            .enables(entry.name, entry.on_by_default)
        {
            (entry.start)(&context);
        }
    }
    term.cancelled().await;
    tasks.close();
    tasks.wait().await;
}
