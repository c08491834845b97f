//! The objects of one cache with their indexes; pure, changed under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::Resource;

use crate::cache::Change;
use crate::key::ObjectKey;

/// Computes the values under which an object is found.
pub(crate) type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct IndexState<K> {
    name: &'static str,
    values: IndexFn<K>,
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> IndexState<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

pub(crate) struct Store<K> {
    pub(crate) objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: Vec<IndexState<K>>,
    revision: u64,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            indexes: Vec::new(),
            revision: 0,
        }
    }
}

impl<K: Resource> Store<K> {
    /// Puts an object in, and says what that means to those who saw the state before: an
    /// object made anew under an old name is the old one's deletion first.
    pub(crate) fn apply(&mut self, mut object: K) -> Vec<Change<K>> {
        object.meta_mut().managed_fields = None;
        self.saw(&object);
        let key = ObjectKey::of(&object);
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        for index in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &new);
        }
        match old {
            Some(old) if old.meta().uid != new.meta().uid => {
                vec![Change::Deleted { old }, Change::Applied { old: None, new }]
            }
            old => vec![Change::Applied { old, new }],
        }
    }

    pub(crate) fn delete(&mut self, object: &K) -> Option<Change<K>> {
        self.saw(object);
        self.forget(&ObjectKey::of(object))
    }

    fn forget(&mut self, key: &ObjectKey) -> Option<Change<K>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            index.remove(key, &old);
        }
        Some(Change::Deleted { old })
    }

    /// A list after a broken watch: tells only what differs from what was known.
    pub(crate) fn replace(&mut self, mut new: BTreeMap<ObjectKey, K>) -> Vec<Change<K>> {
        let gone: Vec<ObjectKey> = self
            .objects
            .keys()
            .filter(|key| !new.contains_key(key))
            .cloned()
            .collect();
        let mut changes: Vec<Change<K>> = gone.iter().filter_map(|key| self.forget(key)).collect();
        new.retain(|key, object| {
            let known = self.objects.get(key);
            known.is_none_or(|known| {
                known.meta().resource_version.is_none()
                    || known.meta().resource_version != object.meta().resource_version
                    || known.meta().uid != object.meta().uid
            })
        });
        changes.extend(new.into_values().flat_map(|object| self.apply(object)));
        changes
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    fn saw(&mut self, object: &K) {
        let revision = object
            .meta()
            .resource_version
            .as_deref()
            .and_then(|text| text.parse().ok());
        self.revision = self.revision.max(revision.unwrap_or(0));
    }

    /// Adds an index over what is there and what will come; one name is one index.
    pub(crate) fn add_index(&mut self, name: &'static str, values: IndexFn<K>) -> usize {
        if let Some(slot) = self.indexes.iter().position(|index| index.name == name) {
            return slot;
        }
        let mut index = IndexState {
            name,
            values,
            entries: HashMap::new(),
        };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indexes.push(index);
        self.indexes.len() - 1
    }

    pub(crate) fn indexed(&self, slot: usize, value: &str) -> Vec<Arc<K>> {
        let Some(keys) = self
            .indexes
            .get(slot)
            .and_then(|index| index.entries.get(value))
        else {
            return Vec::new();
        };
        keys.iter()
            .filter_map(|key| self.objects.get(key).cloned())
            .collect()
    }

    pub(crate) fn index_count(&self, slot: usize, value: &str) -> usize {
        self.indexes
            .get(slot)
            .and_then(|index| index.entries.get(value))
            .map_or(0, BTreeSet::len)
    }
}
