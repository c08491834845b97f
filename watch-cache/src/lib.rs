//! One list-and-watch per kind and process, shared by every component that asks for it.
//!
//! [`WatchCaches`] is made once per process and handed to the components. The first
//! [`WatchCaches::of`] for a kind starts its watch; later calls share it. A cache is a
//! map from (namespace, name) to the object, a stream of changes, and indexes.
//!
//! **Invariant:** the map and its indexes change before the change is told, so whoever is
//! woken by a change reads at least that state. `managedFields` are not kept: nobody who
//! decides reads them, and they are a third of an object's memory.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use kube::Client;
use parking_lot::Mutex;

mod cache;
mod index;
mod key;
mod store;

pub use cache::{Cacheable, Change, WatchCache};
pub use index::{ControllerIndex, Index};
pub use key::ObjectKey;

/// The caches that were asked for, by kind and field selector.
type Started = HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>;

/// The caches of one process. Cheap to clone.
#[derive(Clone)]
pub struct WatchCaches {
    client: Client,
    caches: Arc<Mutex<Started>>,
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
