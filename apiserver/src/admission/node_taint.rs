//! A new node takes no pods until it is ready.

use serde_json::{Value, json};

use super::Attributes;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn mutate(a: &mut Attributes<'_>) {
    if !a.is_create_of("", "nodes") {
        return;
    }
    let Some(node) = a.object.as_deref_mut() else {
        return;
    };
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    let mut taints: Vec<Value> = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if !taints
        .iter()
        .any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule")
    {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
    node["spec"]["taints"] = taints.into();
}
