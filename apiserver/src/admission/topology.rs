//! Pods get the topology labels of the node that they are bound to.

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::registry::meta;

pub(crate) const LABELS: [&str; 2] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Puts them into the binding; whoever binds cannot choose them.
pub(super) fn mutate(a: &mut Attributes<'_>) {
    let r = &a.call.resource;
    let binds = r.group.is_empty()
        && ((r.plural == "pods" && a.call.info.subresource == "binding") || r.plural == "bindings");
    if !binds || a.operation != Operation::Create {
        return;
    }
    let registry = a.call.registry.clone();
    let Some(binding) = a.object.as_deref_mut() else {
        return;
    };
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let node = registry.lookup("", "nodes", "", node).map(|n| n.value());
    let of_node = |label: &str| {
        let labels = &node.as_ref()?["metadata"]["labels"];
        labels[label].as_str().map(Value::from)
    };
    let chosen: Vec<(&str, Option<Value>)> = LABELS
        .iter()
        .map(|label| (*label, of_node(label)))
        .collect();
    let metadata = meta::of_mut(binding);
    for (label, value) in chosen {
        match value {
            Some(value) => {
                let labels = metadata.entry("labels").or_insert_with(|| json!({}));
                labels[label] = value;
            }
            None => {
                if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                    labels.remove(label);
                }
            }
        }
    }
}
