//! From a changed object to the objects that care.

use kube::Resource;
use watch_cache::{Change, ObjectKey};

use super::owners;

/// The controllers of kind `O` that the object has, and had before the change.
pub fn owner_keys<O, K>(change: &Change<K>) -> Vec<ObjectKey>
where
    O: Resource<DynamicType = ()>,
    K: Resource,
{
    let key = |object: &K| {
        let owner = owners::controller_of_kind::<O>(object)?;
        Some(ObjectKey::new(
            object.meta().namespace.clone().unwrap_or_default(),
            &owner.name,
        ))
    };
    let mut keys: Vec<ObjectKey> = match change {
        Change::Applied { old, new } => old
            .iter()
            .filter_map(|old| key(old))
            .chain(key(new))
            .collect(),
        Change::Deleted { old } => key(old).into_iter().collect(),
    };
    keys.dedup();
    keys
}

/// The object, if it is there and nobody controls it.
pub fn orphan<K: Resource>(change: &Change<K>) -> Option<&K> {
    match change {
        Change::Applied { new, .. } if owners::controller(new.as_ref()).is_none() => Some(new),
        _ => None,
    }
}

/// Whether the labels are new or differ from before.
pub fn labels_changed<K: Resource>(change: &Change<K>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => {
            old.meta().labels != new.meta().labels
                || old.meta().owner_references != new.meta().owner_references
        }
        _ => true,
    }
}
