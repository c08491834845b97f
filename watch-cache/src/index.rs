//! Objects by a value computed from them: the node of a pod, the owner of an object.

use std::sync::Arc;

use kube::Resource;

use crate::cache::{Cacheable, WatchCache};

/// An index of a cache. Cheap to clone; holds the cache.
pub struct Index<K> {
    pub(crate) cache: WatchCache<K>,
    pub(crate) slot: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            slot: self.slot,
        }
    }
}

impl<K: Cacheable> Index<K> {
    /// The objects under this value, ordered by namespace and name.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.cache.shared.store.read().indexed(self.slot, value)
    }

    pub fn count(&self, value: &str) -> usize {
        self.cache.shared.store.read().index_count(self.slot, value)
    }
}

/// The objects by the uid of their controlling owner.
pub struct ControllerIndex<K>(Index<K>);

impl<K> Clone for ControllerIndex<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Cacheable> ControllerIndex<K> {
    pub(crate) fn of(cache: &WatchCache<K>) -> Self {
        Self(cache.index("controller", |object: &K| vec![controller_value(object)]))
    }

    /// The objects whose controlling owner has this uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.0.get(uid)
    }

    /// The objects of a namespace that nobody controls.
    pub fn uncontrolled(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.get(&format!("/{namespace}"))
    }

    /// What a controller looks at: its own objects and those it may adopt.
    pub fn claimable(&self, namespace: &str, uid: &str) -> Vec<Arc<K>> {
        let mut found = self.controlled_by(uid);
        found.extend(self.uncontrolled(namespace));
        found
    }
}

fn controller_value<K: Resource>(object: &K) -> String {
    let owners = object
        .meta()
        .owner_references
        .as_deref()
        .unwrap_or_default();
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid.clone(),
        None => format!(
            "/{}",
            object.meta().namespace.as_deref().unwrap_or_default()
        ),
    }
}
