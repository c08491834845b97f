//! Volumes, claims and classes.

use serde_json::Value;

use super::{annotation, items, nodes};
use crate::quantity;

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const CLASS_TEXT: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";

/// Sources of volumes that do nothing any more, and under which name they are told.
pub(super) const SOURCES: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
];

pub(super) fn volume(object: &Value, out: &mut Vec<String>) {
    annotation(object, CLASS, CLASS_TEXT, out);
    let spec = &object["spec"];
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        out.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
             Instead, the recommended approach is to use dynamic provisioning."
                .into(),
        );
    }
    for (i, term) in items(&spec["nodeAffinity"]["required"], "nodeSelectorTerms") {
        let path = format!("spec.nodeAffinity.required.nodeSelectorTerms[{i}]");
        nodes::term(term, true, &path, out);
    }
    for (source, shown, text) in SOURCES {
        if spec[source].is_object() && source != "gitRepo" {
            out.push(format!("spec.{shown}: {text}"));
        }
    }
}

pub(super) fn claim(object: &Value, out: &mut Vec<String>) {
    annotation(object, CLASS, CLASS_TEXT, out);
    amounts(&object["spec"], "spec", out);
}

/// Parts of bytes that a claim asks for.
pub(super) fn amounts(spec: &Value, path: &str, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        fraction(
            &spec["resources"][list],
            "storage",
            &format!("{path}.resources.{list}"),
            out,
        );
    }
}

/// An amount of bytes that is not whole.
pub(super) fn fraction(list: &Value, name: &str, path: &str, out: &mut Vec<String>) {
    if let Some(amount) = list[name].as_str()
        && quantity::is_fractional(amount)
    {
        out.push(format!(
            "{path}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"
        ));
    }
}

pub(super) fn class(object: &Value, out: &mut Vec<String>) {
    for (i, topology) in items(object, "allowedTopologies") {
        for (j, expression) in items(topology, "matchLabelExpressions") {
            let key = expression["key"].as_str().unwrap_or_default();
            if let Some(text) = nodes::deprecated(key) {
                out.push(format!(
                    "allowedTopologies[{i}].matchLabelExpressions[{j}].key: {key} is {text}"
                ));
            }
        }
    }
}

pub(super) fn capacity(object: &Value, out: &mut Vec<String>) {
    let topology = &object["nodeTopology"];
    for (i, expression) in items(topology, "matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        if let Some(text) = nodes::deprecated(key) {
            out.push(format!(
                "nodeTopology.matchExpressions[{i}].key: {key} is {text}"
            ));
        }
    }
    for key in topology["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k)
    {
        if let Some(text) = nodes::deprecated(key) {
            out.push(format!("nodeTopology.matchLabels.{key}: {text}"));
        }
    }
}
