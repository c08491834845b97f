//! Pods: initial status, what may change, QoS class.

use std::cmp::Ordering;

use schema::quantity;
use serde_json::{Value, json};

use super::Context;
use crate::registry::meta;

/// A new pod waits to be scheduled.
pub(super) fn prepare_create(pod: &mut Value, _: &Context<'_>) {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    let gated = pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|g| !g.is_empty());
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": meta::now(),
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod["status"] = status;
}

/// The status of a pod says nothing about its specification or owners.
pub(super) fn prepare_status(new: &mut Value, old: &Value, _: &Context<'_>) {
    let owners = old["metadata"].get("ownerReferences").cloned();
    let metadata = meta::of_mut(new);
    match owners {
        Some(owners) => metadata.insert("ownerReferences".into(), owners),
        None => metadata.remove("ownerReferences"),
    };
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
        && !status.contains_key("qosClass")
        && let Some(class) = old["status"].get("qosClass")
    {
        status.insert("qosClass".into(), class.clone());
    }
}

/// Ephemeral containers and sizes have subresources of their own and change nowhere else.
pub(super) fn prepare_update(new: &mut Value, old: &Value, context: &Context<'_>) {
    match context.subresource {
        "ephemeralcontainers" => {
            let added = new["spec"].get("ephemeralContainers").cloned();
            let mut spec = old["spec"].clone();
            set_or_remove(&mut spec, "ephemeralContainers", added);
            new["spec"] = spec;
        }
        "resize" => {
            let mut spec = old["spec"].clone();
            for list in ["containers", "initContainers"] {
                take_sizes(&mut spec[list], &new["spec"][list]);
            }
            if let Some(resources) = new["spec"].get("resources") {
                spec["resources"] = resources.clone();
            }
            drop_null(&mut spec, "initContainers");
            new["spec"] = spec;
        }
        _ => {}
    }
}

fn drop_null(map: &mut Value, key: &str) {
    if let Some(map) = map.as_object_mut()
        && map.get(key).is_some_and(Value::is_null)
    {
        map.remove(key);
    }
}

fn set_or_remove(map: &mut Value, key: &str, value: Option<Value>) {
    let Some(map) = map.as_object_mut() else {
        return;
    };
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

fn take_sizes(old: &mut Value, new: &Value) {
    for container in old.as_array_mut().into_iter().flatten() {
        let same = |n: &&Value| n["name"] == container["name"];
        let found = new.as_array().into_iter().flatten().find(same);
        if let Some(found) = found {
            for key in ["resources", "resizePolicy"] {
                if let Some(value) = found.get(key) {
                    container[key] = value.clone();
                }
            }
        }
    }
}

const CLASS_RESOURCES: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let own = &spec["resources"];
    let claims_any = |r: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            CLASS_RESOURCES
                .iter()
                .any(|name| is_positive(r[*kind].get(*name)))
        })
    };
    if claims_any(own) {
        return if is_guaranteed(own) {
            "Guaranteed"
        } else {
            "Burstable"
        };
    }
    let containers = ["containers", "initContainers"].into_iter();
    let all: Vec<&Value> = containers
        .flat_map(|list| spec[list].as_array().into_iter().flatten())
        .collect();
    if !all.iter().any(|c| claims_any(&c["resources"])) {
        return "BestEffort";
    }
    if all.iter().all(|c| is_guaranteed(&c["resources"])) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn is_positive(amount: Option<&Value>) -> bool {
    let Some(text) = amount.and_then(Value::as_str) else {
        return false;
    };
    quantity::compare(text, "0").is_ok_and(|order| order == Ordering::Greater)
}

/// Limits for CPU and memory, and requests that are the same or default to them.
fn is_guaranteed(resources: &Value) -> bool {
    CLASS_RESOURCES.iter().all(|name| {
        let limit = resources["limits"].get(*name);
        let request = resources["requests"].get(*name);
        let (Some(limit_text), true) = (limit.and_then(Value::as_str), is_positive(limit)) else {
            return false;
        };
        request.and_then(Value::as_str).is_none_or(|r| {
            quantity::compare(r, limit_text).is_ok_and(|order| order == Ordering::Equal)
        })
    })
}

/// The pod template of a workload; null when it has none.
pub fn template(object: &Value) -> &Value {
    match object["kind"].as_str() {
        Some("CronJob") => &object["spec"]["jobTemplate"]["spec"]["template"],
        Some("PodTemplate") => &object["template"],
        _ => &object["spec"]["template"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: Value, expect: &str) {
        let pod = json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod), expect);
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "0"}}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        );
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        );
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
            "Burstable",
        );
    }
}
