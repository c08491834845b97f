//! Claims get the default storage class, ingresses the default ingress class.

use serde_json::Value;

use super::Attributes;
use crate::response::ApiError;

const OLD_STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_STORAGE: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const OLD_INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_INGRESS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn mutate(a: &mut Attributes<'_>) -> Result<(), ApiError> {
    if a.is_create_of("", "persistentvolumeclaims") {
        storage(a);
    } else if a.is_create_of("networking.k8s.io", "ingresses") {
        ingress(a)?;
    }
    Ok(())
}

fn is_default(class: &Value, annotations: &[&str]) -> bool {
    annotations
        .iter()
        .any(|key| class["metadata"]["annotations"][*key] == "true")
}

/// The newest of the default classes; of equally old ones the first by name.
fn storage(a: &mut Attributes<'_>) {
    let Some(claim) = a.object.as_deref() else {
        return;
    };
    let chosen = claim["spec"]
        .get("storageClassName")
        .is_some_and(|c| !c.is_null())
        || !claim["metadata"]["annotations"][OLD_STORAGE_CLASS].is_null();
    if chosen {
        return;
    }
    let classes = a.call.registry.list("storage.k8s.io", "storageclasses", "");
    let mut defaults: Vec<Value> = classes
        .iter()
        .map(|c| c.value())
        .filter(|c| is_default(c, &DEFAULT_STORAGE))
        .collect();
    let key = |c: &Value, field: &str| c["metadata"][field].as_str().unwrap_or_default().to_owned();
    defaults.sort_by(|x, y| {
        key(y, "creationTimestamp")
            .cmp(&key(x, "creationTimestamp"))
            .then_with(|| key(x, "name").cmp(&key(y, "name")))
    });
    if let (Some(class), Some(claim)) = (defaults.first(), a.object.as_deref_mut()) {
        claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
    }
}

fn ingress(a: &mut Attributes<'_>) -> Result<(), ApiError> {
    let Some(ingress) = a.object.as_deref() else {
        return Ok(());
    };
    let chosen = ingress["spec"]["ingressClassName"].is_string()
        || !ingress["metadata"]["annotations"][OLD_INGRESS_CLASS].is_null();
    if chosen {
        return Ok(());
    }
    let classes = a
        .call
        .registry
        .list("networking.k8s.io", "ingressclasses", "");
    let mut defaults: Vec<Value> = classes
        .iter()
        .map(|c| c.value())
        .filter(|c| is_default(c, &[DEFAULT_INGRESS]))
        .collect();
    defaults.sort_by_key(|c| std::cmp::Reverse(c["metadata"]["creationTimestamp"].to_string()));
    if let (Some(class), Some(ingress)) = (defaults.first(), a.object.as_deref_mut()) {
        ingress["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
    }
    Ok(())
}
