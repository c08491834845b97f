//! One list-and-watch per kind and process, shared by every component that asks for it.
//!
//! [`WatchCaches`] is made once per process and handed to the components. The first
//! [`WatchCaches::of`] for a kind starts its watch; later calls share it. A cache is a
//! map from (namespace, name) to the object, and a stream of changed keys.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many changes a subscriber may lag behind before it is told to look at everything.
const BACKLOG: usize = 4096;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to an object. `old` is what the cache held before.
#[derive(Debug, Clone)]
pub enum Change<K> {
    Applied { old: Option<Arc<K>>, new: Arc<K> },
    Deleted { old: Arc<K> },
}

impl<K: Resource> Change<K> {
    pub fn key(&self) -> ObjectKey {
        match self {
            Change::Applied { new, .. } => ObjectKey::of(new.as_ref()),
            Change::Deleted { old } => ObjectKey::of(old.as_ref()),
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

/// The caches of one process. Cheap to clone.
#[derive(Clone)]
pub struct WatchCaches {
    client: Client,
    caches: Arc<Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>>,
}

impl WatchCaches {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            caches: Arc::default(),
        }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Every object of the kind, in all namespaces.
    pub fn of<K: Cacheable>(&self) -> WatchCache<K> {
        self.selected("")
    }

    /// The objects that a field selector picks, such as `spec.nodeName=NODE`.
    pub fn selected<K: Cacheable>(&self, field_selector: &str) -> WatchCache<K> {
        let mut caches = self.caches.lock();
        let slot = caches
            .entry((TypeId::of::<K>(), field_selector.to_owned()))
            .or_insert_with(|| {
                Box::new(WatchCache::<K>::start(self.client.clone(), field_selector))
            });
        slot.downcast_ref::<WatchCache<K>>()
            .expect("the key holds the type's id")
            .clone()
    }
}

struct Shared<K> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<K>>>,
    changes: broadcast::Sender<Change<K>>,
    synced: watch::Receiver<bool>,
    _stop: DropGuard,
}

/// The objects of one kind as last seen. Cheap to clone; the watch ends with the last clone.
pub struct WatchCache<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WatchCache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Cacheable> WatchCache<K> {
    /// Starts a watch of its own; components use [`WatchCaches::of`].
    pub fn start(client: Client, field_selector: &str) -> Self {
        let stop = CancellationToken::new();
        let (synced_sender, synced) = watch::channel(false);
        let (changes, _) = broadcast::channel(BACKLOG);
        let shared = Arc::new(Shared {
            objects: RwLock::default(),
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
            let mut listing: Option<BTreeMap<ObjectKey, Arc<K>>> = None;
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
        self.shared.objects.read().get(key).cloned()
    }

    /// Every object, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().values().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = ObjectKey::new(namespace, "");
        self.shared
            .objects
            .read()
            .range(start..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn len(&self) -> usize {
        self.shared.objects.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        listing: &mut Option<BTreeMap<ObjectKey, Arc<K>>>,
        synced: &watch::Sender<bool>,
    ) {
        match event {
            Event::Apply(object) => self.apply(ObjectKey::of(&object), Arc::new(object)),
            Event::Delete(object) => self.delete(&ObjectKey::of(&object)),
            Event::Init => *listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let new = listing.get_or_insert_default();
                new.insert(ObjectKey::of(&object), Arc::new(object));
            }
            Event::InitDone => {
                self.replace(listing.take().unwrap_or_default());
                synced.send_replace(true);
            }
        }
    }

    fn apply(&self, key: ObjectKey, new: Arc<K>) {
        let old = self.objects.write().insert(key, new.clone());
        let _ = self.changes.send(Change::Applied { old, new });
    }

    fn delete(&self, key: &ObjectKey) {
        let old = self.objects.write().remove(key);
        if let Some(old) = old {
            let _ = self.changes.send(Change::Deleted { old });
        }
    }

    /// A list after a broken watch: tells only what differs from what was known.
    fn replace(&self, new: BTreeMap<ObjectKey, Arc<K>>) {
        let gone: Vec<ObjectKey> = self
            .objects
            .read()
            .keys()
            .filter(|key| !new.contains_key(key))
            .cloned()
            .collect();
        for key in &gone {
            self.delete(key);
        }
        for (key, object) in new {
            let known = self
                .objects
                .read()
                .get(&key)
                .map(|old| old.meta().resource_version.clone());
            if known.as_ref() != Some(&object.meta().resource_version) || known == Some(None) {
                self.apply(key, object);
            }
        }
    }
}
