//! Volumes and claims in use are not removed under their pods.

use serde_json::Value;

use super::Attributes;
use crate::registry::meta;

pub(super) fn mutate(a: &mut Attributes<'_>) {
    let finalizer = if a.is_create_of("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if a.is_create_of("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else if a.is_create_of("storage.k8s.io", "volumeattributesclasses") {
        "kubernetes.io/vac-protection"
    } else {
        return;
    };
    if let Some(object) = a.object.as_deref_mut() {
        let finalizers = meta::of_mut(object)
            .entry("finalizers")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(all) = finalizers.as_array_mut()
            && !all.iter().any(|f| f == finalizer)
        {
            all.push(finalizer.into());
        }
    }
}
