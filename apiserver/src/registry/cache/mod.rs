//! The watch cache: every object of the store in memory, current to the newest commit.
//!
//! One task follows the store's commits ([`feed`]). Each resource has a [`ResourceCache`]: an
//! ordered map of objects, a ring of recent events and the watchers. Reads are served from here;
//! a consistent read first waits until the cache has seen the store's newest revision, which the
//! embedded store knows without input or output.
//!
//! **Invariant:** `applied` is raised only after a commit is in the maps and in every watcher's
//! queue, so whoever sees `applied >= R` sees everything up to R.

mod event;
mod feed;
mod resource;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use storage::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use event::{Delivery, Event, EventKind, Filter, LateFilter};
pub use resource::{ResourceCache, Snapshot, WatchError, Watching};

use crate::response::ApiError;

/// How long a read waits for a revision that the cache has not seen.
const WAIT: Duration = Duration::from_secs(3);

/// The caches of all resources. One per server.
pub struct Cacher {
    store: Arc<dyn Store>,
    /// By `GROUP/RESOURCE`.
    caches: RwLock<BTreeMap<String, Arc<ResourceCache>>>,
    applied: watch::Sender<u64>,
}

impl Cacher {
    /// Loads everything and follows the store until shutdown.
    pub async fn start(
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, storage::StoreError> {
        let cacher = Arc::new(Cacher {
            store: store.clone(),
            caches: RwLock::default(),
            applied: watch::Sender::new(0),
        });
        let revision = feed::load(&cacher).await?;
        let commits = store.watch(PREFIX, revision).await?;
        tokio::spawn(feed::follow(cacher.clone(), commits, shutdown));
        Ok(cacher)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The cache of a resource; made when it is first asked for.
    pub fn resource(&self, group: &str, resource: &str) -> Arc<ResourceCache> {
        let name = format!("{}/{resource}", key_group(group));
        if let Some(cache) = self.caches.read().get(&name) {
            return cache.clone();
        }
        let mut caches = self.caches.write();
        let made = || Arc::new(ResourceCache::new(group, resource, *self.applied.borrow()));
        caches.entry(name).or_insert_with(made).clone()
    }

    fn all(&self) -> Vec<Arc<ResourceCache>> {
        self.caches.read().values().cloned().collect()
    }

    /// The newest revision that every cache shows.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until the cache shows everything that was committed before the call.
    pub async fn consistent(&self) -> Result<u64, ApiError> {
        let newest = self.store.revision().await?;
        self.at_least(newest).await?;
        Ok(newest)
    }

    /// Waits until the cache shows `revision`; refuses what does not come within a while.
    pub async fn at_least(&self, revision: u64) -> Result<(), ApiError> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let waited = tokio::time::timeout(WAIT, applied.wait_for(|a| *a >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApiError::too_large_resource_version(
                revision,
                self.applied(),
            )),
        }
    }

    /// Resolves when `applied` has been raised beyond `revision`.
    pub async fn beyond(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives in self.
        let _ = applied.wait_for(|a| *a > revision).await;
    }
}

/// Where all keys begin.
pub const PREFIX: &str = "/registry/";

/// The core group has no name; its keys need one.
pub fn key_group(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}

/// The key of an object; an empty namespace is a cluster-scoped one.
pub fn object_key(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let group = key_group(group);
    if namespace.is_empty() {
        format!("{PREFIX}{group}/{resource}/{name}")
    } else {
        format!("{PREFIX}{group}/{resource}/{namespace}/{name}")
    }
}
