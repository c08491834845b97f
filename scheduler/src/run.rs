//! Starts the scheduler: it waits for its Lease, so that of several processes one decides.

use leader_election::{LeaseConfig, lead};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use crate::driver;

/// The Lease's name, upstream's.
pub const LEASE_NAME: &str = "kube-scheduler";

#[derive(Debug, Clone)]
pub struct Config {
    /// The `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
    /// Whether to decide only while holding the Lease.
    pub leader_elect: bool,
    /// Who this process is in the election; two processes must never share an identity.
    pub identity: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            leader_elect: true,
            identity: format!("fairlead_{}", uuid::Uuid::new_v4()),
        }
    }
}

/// What the process hands in. Cheap to clone.
#[derive(Clone)]
pub struct Deps {
    pub client: kube::Client,
    pub caches: WatchCaches,
}

/// Faults that end the scheduler; API errors do not, they are retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("scheduler: the watch caches ended, restart the process")]
    CachesEnded,
}

/// Schedules pods until `shutdown`, while this process holds the Lease.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    if !config.leader_elect {
        return driver::schedule_pods(&config, &deps, shutdown).await;
    }
    let lease = LeaseConfig::new(LEASE_NAME, &config.identity);
    let stop = shutdown.child_token();
    let fault = Mutex::new(None);
    lead(deps.client.clone(), lease, stop.clone(), |term| async {
        if let Err(error) = driver::schedule_pods(&config, &deps, term).await {
            *fault.lock() = Some(error);
            stop.cancel();
        }
    })
    .await;
    fault.into_inner().map_or(Ok(()), Err)
}
