//! Nodes, and labels of nodes that have a successor.

use serde_json::Value;

use super::{cidr, items};
use crate::validate::names;

const LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// What is to be said of a label of nodes.
pub(super) fn deprecated(label: &str) -> Option<&'static str> {
    let found = LABELS.iter().find(|(own, _)| *own == label);
    found.map(|(_, text)| *text)
}

/// A term of a node selector; `values`: whether values that no label has are told, too.
pub(super) fn term(term: &Value, values: bool, path: &str, out: &mut Vec<String>) {
    for (i, expression) in items(term, "matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        let path = format!("{path}.matchExpressions[{i}]");
        if let Some(text) = deprecated(key) {
            out.push(format!("{path}.key: {key} is {text}"));
        }
        for (j, value) in items(expression, "values").filter(|_| values) {
            let value = value.as_str().unwrap_or_default();
            for fault in names::label_value_faults(value) {
                out.push(format!("{path}.values[{j}]: {value} is invalid, {fault}"));
            }
        }
    }
}

pub(super) fn node(object: &Value, out: &mut Vec<String>) {
    let spec = &object["spec"];
    if spec["configSource"].is_object() {
        let text = "the podSpec.configSource field is deprecated and no longer has any effect";
        out.push(format!("spec.configSource: {text}"));
    }
    if spec["externalID"].as_str().is_some_and(|t| !t.is_empty()) {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
    }
    for (i, own) in items(spec, "podCIDRs") {
        let text = own.as_str().unwrap_or_default();
        cidr(&format!("spec.podCIDRs[{i}]"), text, out);
    }
}

pub(super) fn runtime_class(object: &Value, out: &mut Vec<String>) {
    let selector = object["scheduling"]["nodeSelector"].as_object();
    for key in selector.into_iter().flatten().map(|(k, _)| k) {
        if let Some(text) = deprecated(key) {
            out.push(format!("scheduling.nodeSelector: {text}"));
        }
    }
}
