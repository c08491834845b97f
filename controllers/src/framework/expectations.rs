//! What a controller has written and its cache has not shown yet.
//!
//! A controller that counts its children in a cache must not count before the cache shows
//! what it did itself, or it makes too many. Every write's resourceVersion is noted; the
//! cache is fresh enough once it has seen that revision. Deletions are noted by uid, since
//! an immediate deletion answers without a revision.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kube::Resource;
use parking_lot::Mutex;
use watch_cache::{Cacheable, ObjectKey, WatchCache};

/// After this long the cache counts as fresh whatever it shows.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Pending {
    revision: u64,
    deleting: BTreeMap<ObjectKey, Option<String>>,
    since: Option<Instant>,
}

/// The writes of one controller per object it works for, about children of one kind.
#[derive(Debug, Default)]
pub struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Expectations {
    /// The child was created or changed; this is the server's answer.
    pub fn wrote<K: Resource>(&self, owner: &ObjectKey, child: &K, now: Instant) {
        let revision = child
            .meta()
            .resource_version
            .as_deref()
            .and_then(|text| text.parse().ok());
        let mut pending = self.pending.lock();
        let pending = pending.entry(owner.clone()).or_default();
        pending.revision = pending.revision.max(revision.unwrap_or(0));
        pending.since = Some(now);
    }

    /// The child was told to go.
    pub fn deleted<K: Resource>(&self, owner: &ObjectKey, child: &K, now: Instant) {
        let mut pending = self.pending.lock();
        let pending = pending.entry(owner.clone()).or_default();
        pending
            .deleting
            .insert(ObjectKey::of(child), child.meta().uid.clone());
        pending.since = Some(now);
    }

    /// Whether the cache shows all that was written for this owner. If not, the time until
    /// waiting ends; the child's event wakes the owner before that.
    pub fn fresh<K: Cacheable>(
        &self,
        owner: &ObjectKey,
        cache: &WatchCache<K>,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut all = self.pending.lock();
        let Some(pending) = all.get_mut(owner) else {
            return Ok(());
        };
        pending.deleting.retain(|key, uid| {
            cache.get_key(key).is_some_and(|child| {
                child.meta().uid == *uid && child.meta().deletion_timestamp.is_none()
            })
        });
        let waited = now.saturating_duration_since(pending.since.unwrap_or(now));
        let seen = cache.revision() >= pending.revision && pending.deleting.is_empty();
        if seen || waited >= PATIENCE {
            all.remove(owner);
            return Ok(());
        }
        Err(PATIENCE - waited)
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.pending.lock().remove(owner);
    }
}
