//! The other kinds of the core group.

use serde_json::{Value, json};

use super::Context;
use crate::registry::meta;

/// A namespace begins active, and its content goes before it does.
pub(super) fn create_namespace(namespace: &mut Value, _: &Context<'_>) {
    namespace["status"] = json!({"phase": "Active"});
    if !namespace["spec"].is_object() {
        namespace["spec"] = json!({});
    }
    let finalizers = &mut namespace["spec"]["finalizers"];
    let mut all = finalizers.as_array().cloned().unwrap_or_default();
    if !all.iter().any(|f| f == "kubernetes") {
        all.push("kubernetes".into());
    }
    *finalizers = all.into();
}

/// Only `finalize` changes a namespace's own finalizers, and nothing else.
pub(super) fn update_namespace(new: &mut Value, old: &Value, context: &Context<'_>) {
    if context.subresource == "finalize" {
        new["status"] = old["status"].clone();
        return;
    }
    match old["spec"].get("finalizers") {
        Some(finalizers) => {
            if !new["spec"].is_object() {
                new["spec"] = json!({});
            }
            new["spec"]["finalizers"] = finalizers.clone();
        }
        None => {
            if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("finalizers");
            }
        }
    }
}

pub(super) fn create_volume(volume: &mut Value, _: &Context<'_>) {
    volume["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": meta::now()});
}

/// The moment of a volume's last change of phase.
pub(super) fn volume_status(new: &mut Value, old: &Value, _: &Context<'_>) {
    let (before, after) = (&old["status"], &new["status"]);
    if !after.is_object() {
        return;
    }
    if before["phase"] != after["phase"]
        && before["lastPhaseTransitionTime"] == after["lastPhaseTransitionTime"]
    {
        new["status"]["lastPhaseTransitionTime"] = meta::now().into();
    } else if after.get("lastPhaseTransitionTime").is_none()
        && let Some(time) = before.get("lastPhaseTransitionTime")
    {
        new["status"]["lastPhaseTransitionTime"] = time.clone();
    }
}

pub(super) fn create_claim(claim: &mut Value, _: &Context<'_>) {
    claim["status"] = json!({"phase": "Pending"});
    let source = &claim["spec"]["dataSource"];
    let known = matches!(
        (
            source["apiGroup"].as_str().unwrap_or_default(),
            source["kind"].as_str().unwrap_or_default()
        ),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    // What an old field cannot stand for is passed over, as before there was a new one.
    if source.is_object()
        && !known
        && let Some(spec) = claim["spec"].as_object_mut()
    {
        spec.remove("dataSource");
    }
}

/// A node comes with its status: the kubelet writes both at once.
pub(super) fn create_node(_: &mut Value, _: &Context<'_>) {}
