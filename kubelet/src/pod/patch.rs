//! What to write so that the API's status of a pod becomes the kubelet's.
//!
//! Others write to the status, too: controllers add conditions. A strategic merge patch of
//! exactly what differs leaves theirs alone.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};

/// Conditions that the kubelet takes away again.
const TRANSIENT: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The patch of the pod with this uid, or `None` when the API's status says the same already.
pub fn between(pod: &Pod, uid: &str, wanted: &PodStatus) -> Option<Value> {
    let present = pod.status.clone().unwrap_or_default();
    let present = serde_json::to_value(present).unwrap_or_default();
    let wanted = serde_json::to_value(wanted).unwrap_or_default();
    let mut status = Map::new();
    for (key, value) in wanted.as_object()? {
        let before = &present[key];
        match key.as_str() {
            "conditions" => {
                let changed = conditions(before, value);
                if !changed.is_empty() {
                    status.insert(key.clone(), Value::Array(changed));
                }
            }
            "podIPs" | "hostIPs" if before != value => {
                status.insert(key.clone(), replaced(before, value));
            }
            _ if before != value => {
                status.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

fn of_type<'a>(list: &'a Value, kind: &Value) -> Option<&'a Value> {
    list.as_array()?
        .iter()
        .find(|condition| condition["type"] == *kind)
}

/// The conditions that differ, and those of ours that are over.
fn conditions(before: &Value, wanted: &Value) -> Vec<Value> {
    let mut changed: Vec<Value> = wanted
        .as_array()
        .into_iter()
        .flatten()
        .filter(|condition| of_type(before, &condition["type"]) != Some(condition))
        .map(|condition| cleared(of_type(before, &condition["type"]), condition))
        .collect();
    for kind in TRANSIENT {
        let kind = json!(kind);
        if of_type(before, &kind).is_some() && of_type(wanted, &kind).is_none() {
            changed.push(json!({"$patch": "delete", "type": kind}));
        }
    }
    changed
}

/// A condition with nothing left over of what it said before.
fn cleared(before: Option<&Value>, condition: &Value) -> Value {
    let mut condition = condition.clone();
    if let Some(map) = condition.as_object_mut() {
        for field in ["reason", "message"] {
            if before.is_some_and(|before| !before[field].is_null()) {
                map.entry(field).or_insert(Value::Null);
            }
        }
    }
    condition
}

/// A list of addresses without those that were there before.
fn replaced(before: &Value, wanted: &Value) -> Value {
    let wanted = wanted.as_array().cloned().unwrap_or_default();
    let stale = before
        .as_array()
        .into_iter()
        .flatten()
        .filter(|old| !wanted.contains(old));
    let stale = stale.map(|old| json!({"$patch": "delete", "ip": old["ip"]}));
    Value::Array(wanted.iter().cloned().chain(stale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn check(present: Value, wanted: Value, expected: Option<Value>) {
        let pod = pod(json!({"spec": {"containers": []}, "status": present}));
        let wanted: PodStatus = serde_json::from_value(wanted).unwrap();
        let expected = expected.map(|status| json!({"metadata": {"uid": "u1"}, "status": status}));
        assert_eq!(between(&pod, "u1", &wanted), expected);
    }

    #[test]
    fn only_what_differs_is_written() {
        let ready = json!({"type": "Ready", "status": "True"});
        let theirs = json!({"type": "x/y", "status": "True"});
        check(
            json!({"phase": "Running"}),
            json!({"phase": "Running"}),
            None,
        );
        check(
            json!({"phase": "Pending"}),
            json!({"phase": "Running"}),
            Some(json!({"phase": "Running"})),
        );
        check(
            json!({"conditions": [theirs, {"type": "Ready", "status": "False", "reason": "r"}]}),
            json!({"conditions": [ready]}),
            Some(json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]})),
        );
        check(
            json!({"conditions": [theirs, ready]}),
            json!({"conditions": [ready]}),
            None,
        );
    }

    #[test]
    fn old_addresses_and_finished_resizes_are_taken_away() {
        check(
            json!({"podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"podIPs": [{"ip": "10.0.0.2"}]}),
            Some(json!({"podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]})),
        );
        check(
            json!({"conditions": [{"type": "PodResizePending", "status": "True"}]}),
            json!({"conditions": []}),
            Some(json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]})),
        );
    }
}
