//! One kind's list-and-watch: the task that feeds the store, and the ways to read it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::index::{ControllerIndex, Index};
use crate::key::ObjectKey;
use crate::store::Store;

/// How many changes a subscriber may lag behind before it is told to look at everything.
const BACKLOG: usize = 4096;

/// What happened to an object. `old` is what the cache held before.
#[derive(Debug, Clone)]
pub enum Change<K> {
    Applied { old: Option<Arc<K>>, new: Arc<K> },
    Deleted { old: Arc<K> },
}

impl<K: Resource> Change<K> {
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.object().as_ref())
    }
}

impl<K> Change<K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Applied { new, .. } => new,
            Change::Deleted { old } => old,
        }
    }
}

/// The kinds that a cache can hold.
pub trait Cacheable:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Cacheable for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

pub(crate) struct Shared<K> {
    pub(crate) store: RwLock<Store<K>>,
    changes: broadcast::Sender<Change<K>>,
    synced: watch::Receiver<bool>,
    _stop: DropGuard,
}

/// The objects of one kind as last seen. Cheap to clone; the watch ends with the last clone.
pub struct WatchCache<K> {
    pub(crate) shared: Arc<Shared<K>>,
}

impl<K> Clone for WatchCache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Cacheable> WatchCache<K> {
    /// Starts a watch of its own; components use [`crate::WatchCaches::of`].
    pub fn start(client: Client, field_selector: &str) -> Self {
        let stop = CancellationToken::new();
        let (synced_sender, synced) = watch::channel(false);
        let (changes, _) = broadcast::channel(BACKLOG);
        let shared = Arc::new(Shared {
            store: RwLock::default(),
            changes,
            synced,
            _stop: stop.clone().drop_guard(),
        });
        let weak = Arc::downgrade(&shared);
        let config = match field_selector {
            "" => watcher::Config::default(),
            fields => watcher::Config::default().fields(fields),
        };
        tokio::spawn(async move {
            let events = watcher::watcher(Api::<K>::all(client), config).default_backoff();
            let mut events = std::pin::pin!(events);
            let mut listing: BTreeMap<ObjectKey, K> = BTreeMap::new();
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.try_next() => event,
                };
                let Some(shared) = weak.upgrade() else { return };
                match event {
                    Ok(Some(event)) => shared.handle(event, &mut listing, &synced_sender),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "watch failed, it is tried again");
                    }
                }
            }
        });
        Self { shared }
    }

    /// The changes as a stream of the component's own updates; `lost` stands for changes that came
    /// faster than they were read. Ends with the cache.
    pub fn updates<U: Send + 'static>(
        &self,
        wrap: fn(Change<K>) -> U,
        lost: fn() -> U,
    ) -> BoxStream<'static, U> {
        let next = move |mut receiver: broadcast::Receiver<Change<K>>| async move {
            match receiver.recv().await {
                Ok(change) => Some((wrap(change), receiver)),
                Err(RecvError::Lagged(_)) => Some((lost(), receiver)),
                Err(RecvError::Closed) => None,
            }
        };
        futures::stream::unfold(self.subscribe(), next).boxed()
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.clone();
        // The sender lives as long as the watch task, which ends only when nobody holds the cache.
        let _ = synced.wait_for(|done| *done).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.store.read().objects.get(key).cloned()
    }

    /// Every object, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.store.read().objects.values().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = ObjectKey::new(namespace, "");
        self.shared
            .store
            .read()
            .objects
            .range(start..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn len(&self) -> usize {
        self.shared.store.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest resourceVersion that the cache has seen on an object or its deletion. A
    /// writer that got revision R from the server sees its own write here once this is R.
    pub fn revision(&self) -> u64 {
        self.shared.store.read().revision()
    }

    /// An index kept with the cache. The same name gives the same index, with the function
    /// that was given first.
    pub fn index(
        &self,
        name: &'static str,
        values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) -> Index<K> {
        let slot = self.shared.store.write().add_index(name, Box::new(values));
        Index {
            cache: self.clone(),
            slot,
        }
    }

    /// The objects by their controlling owner.
    pub fn by_controller(&self) -> ControllerIndex<K> {
        ControllerIndex::of(self)
    }

    /// The changes from now on. Subscribe first, then read [`WatchCache::list`]: nothing is
    /// missed. `RecvError::Lagged` means that changes were lost: look at the whole list.
    pub fn subscribe(&self) -> broadcast::Receiver<Change<K>> {
        self.shared.changes.subscribe()
    }
}

impl<K: Cacheable> Shared<K> {
    fn handle(
        &self,
        event: Event<K>,
        listing: &mut BTreeMap<ObjectKey, K>,
        synced: &watch::Sender<bool>,
    ) {
        match event {
            Event::Apply(object) => {
                let changes = self.store.write().apply(object);
                self.tell(changes);
            }
            Event::Delete(object) => {
                let change = self.store.write().delete(&object);
                self.tell(change);
            }
            Event::Init => listing.clear(),
            Event::InitApply(object) => {
                listing.insert(ObjectKey::of(&object), object);
            }
            Event::InitDone => {
                let changes = self.store.write().replace(std::mem::take(listing));
                self.tell(changes);
                synced.send_replace(true);
            }
        }
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change<K>>) {
        for change in changes {
            let _ = self.changes.send(change);
        }
    }
}

#[cfg(test)]
mod tests;
