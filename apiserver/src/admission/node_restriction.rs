//! NodeRestriction: a node's kubelet changes itself and its own pods, and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Attributes, Operation};
use crate::registry::meta;
use crate::response::ApiError;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// Labels of the reserved domains that a kubelet may set on its node.
const OWN_LABELS: [&str; 12] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    let user = a.call.user.clone();
    let Some(node) = user.node_name() else {
        return Ok(());
    };
    if a.call.internal {
        return Ok(());
    }
    let r = &a.call.resource;
    let sub = a.call.info.subresource.as_str();
    let outcome = match (r.group.as_ref(), r.plural.as_ref(), sub) {
        ("", "pods", "") => pod(a, node),
        ("", "pods", "status") => pod_status(a, node),
        ("", "pods", "eviction") => eviction(a, node),
        ("", "nodes", "" | "status") => own_node(a, node),
        ("", "serviceaccounts", "token") => token(a, node),
        ("coordination.k8s.io", "leases", "") => lease(a, node),
        ("storage.k8s.io", "csinodes", "") if object_name(a) != node => {
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        ("resource.k8s.io", "resourceslices", "") => slice(a, node),
        _ => Ok(()),
    };
    outcome.map_err(|why| a.forbidden(&why))
}

type Outcome = Result<(), String>;

fn object_name(a: &Attributes<'_>) -> String {
    if a.name.is_empty() {
        a.object_name()
    } else {
        a.name.clone()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn pod(a: &Attributes<'_>, node: &str) -> Outcome {
    match a.operation {
        Operation::Create => create_pod(a.object.as_deref().unwrap_or(&Value::Null), node),
        Operation::Delete if a.old.is_some_and(|old| old["spec"]["nodeName"] == node) => Ok(()),
        Operation::Delete => Err(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        operation => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.name()
        )),
    }
}

/// A mirror of a pod that the kubelet runs by itself; it refers to nothing in the cluster.
fn create_pod(pod: &Value, node: &str) -> Outcome {
    let spec = &pod["spec"];
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if spec["nodeName"] != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let of_node = owners.is_some_and(|owners| {
        matches!(owners.as_slice(), [owner] if owner["apiVersion"] == "v1"
            && owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true)
    });
    if owners.is_some_and(|o| !o.is_empty()) && !of_node {
        return Err(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Err(format!(
            "node {node:?} can not create pods that reference a service account"
        ));
    }
    match referenced(pod) {
        Some(what) => Err(format!(
            "node {node:?} can not create pods that reference {what}"
        )),
        None => Ok(()),
    }
}

/// A kind of object that the pod refers to by name.
fn referenced(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let has = |value: &Value| value.as_array().is_some_and(|a| !a.is_empty());
    if has(&spec["imagePullSecrets"]) {
        return Some("secrets");
    }
    if has(&spec["resourceClaims"]) {
        return Some("resourceclaims");
    }
    let mut kinds = BTreeSet::new();
    collect(spec, &mut kinds);
    kinds.into_iter().next()
}

fn collect(value: &Value, kinds: &mut BTreeSet<&'static str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match key.as_str() {
                    _ if value.is_null() => {}
                    "secretKeyRef" | "secretRef" | "secret" | "secretName" => {
                        kinds.insert("secrets");
                    }
                    "configMapKeyRef" | "configMapRef" | "configMap" => {
                        kinds.insert("configmaps");
                    }
                    "persistentVolumeClaim" => {
                        kinds.insert("persistentvolumeclaims");
                    }
                    "serviceAccountToken" => {
                        kinds.insert("serviceaccounts");
                    }
                    "clusterTrustBundle" => {
                        kinds.insert("clustertrustbundles");
                    }
                    _ => collect(value, kinds),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, kinds)),
        _ => {}
    }
}

fn pod_status(a: &Attributes<'_>, node: &str) -> Outcome {
    let (Some(old), Some(new)) = (a.old, a.object.as_deref()) else {
        return Ok(());
    };
    if old["spec"]["nodeName"] != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if old["metadata"]["labels"] != new["metadata"]["labels"] {
        return Err(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    Ok(())
}

fn eviction(a: &Attributes<'_>, node: &str) -> Outcome {
    if a.operation != Operation::Create {
        return Err(format!("unexpected operation {}", a.operation.name()));
    }
    let registry = &a.call.registry;
    let pod = registry.lookup("", "pods", a.call.namespace(), &a.call.info.name);
    match pod {
        Some(pod) if pod.value()["spec"]["nodeName"] != node => Err(format!(
            "node {node:?} can only evict pods with spec.nodeName set to itself"
        )),
        _ => Ok(()),
    }
}

fn own_node(a: &Attributes<'_>, node: &str) -> Outcome {
    let name = object_name(a);
    if name != node {
        return Err(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ));
    }
    let null = Value::Null;
    let (new, old) = (a.object.as_deref().unwrap_or(&null), a.old.unwrap_or(&null));
    let list = |labels: BTreeSet<String>| labels.into_iter().collect::<Vec<_>>().join(", ");
    match a.operation {
        Operation::Create => {
            let forbidden = forbidden(&new["metadata"]["labels"], &null);
            if !forbidden.is_empty() {
                return Err(format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    list(forbidden)
                ));
            }
            if !new["spec"]["configSource"].is_null() {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            Ok(())
        }
        Operation::Update => {
            let taints = |o: &Value| o["spec"]["taints"].as_array().cloned().unwrap_or_default();
            if taints(new) != taints(old) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let owners = |o: &Value| o["metadata"]["ownerReferences"].clone();
            if owners(new) != owners(old) {
                return Err(format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                ));
            }
            let forbidden = forbidden(&new["metadata"]["labels"], &old["metadata"]["labels"]);
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!(
                "is not allowed to modify labels: {}",
                list(forbidden)
            ))
        }
        _ => Ok(()),
    }
}

/// Labels in reserved domains that differ and are not the kubelet's to set.
fn forbidden(new: &Value, old: &Value) -> BTreeSet<String> {
    let keys = |labels: &Value| -> Vec<String> {
        let map = labels.as_object();
        map.into_iter().flatten().map(|(k, _)| k.clone()).collect()
    };
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).collect();
    let changed = all.into_iter().filter(|key| new[key] != old[key]);
    changed.filter(|key| is_reserved(key)).collect()
}

fn is_reserved(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return false;
    };
    let within = |root: &str| domain == root || domain.ends_with(&format!(".{root}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    (within("kubernetes.io") || within("k8s.io"))
        && !OWN_LABELS.contains(&label)
        && !OWN_DOMAINS.iter().any(|own| within(own))
}

/// Tokens are for pods that run on the node.
fn token(a: &Attributes<'_>, node: &str) -> Outcome {
    let Some(request) = a.object.as_deref() else {
        return Ok(());
    };
    let bound = &request["spec"]["boundObjectRef"];
    if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || text(&bound["name"]).is_empty() {
        return Err("node requested token not bound to a pod".into());
    }
    let uid = text(&bound["uid"]);
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let registry = &a.call.registry;
    let pod = registry.lookup("", "pods", a.call.namespace(), text(&bound["name"]));
    let Some(pod) = pod.map(|p| p.value()) else {
        // The handler tells that there is none.
        return Ok(());
    };
    if meta::text(&pod, "uid") != uid {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    Ok(())
}

fn lease(a: &Attributes<'_>, node: &str) -> Outcome {
    if a.call.namespace() != LEASES {
        return Err(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    if object_name(a) != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn slice(a: &Attributes<'_>, node: &str) -> Outcome {
    let own = |slice: Option<&Value>| slice.is_none_or(|s| s["spec"]["nodeName"] == node);
    if own(a.object.as_deref()) && own(a.old) {
        return Ok(());
    }
    Err("can only create ResourceSlice with the same NodeName as the requesting node".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reserved_labels_are_told_from_others() {
        for (label, expect) in [
            ("example.com/a", false),
            ("plain", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("kubelet.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("sub.node-restriction.kubernetes.io/x", true),
            ("k8s.io/x", true),
        ] {
            assert_eq!(is_reserved(label), expect, "{label}");
        }
        let changed = forbidden(
            &json!({"k8s.io/a": "1", "k8s.io/b": "1"}),
            &json!({"k8s.io/a": "1", "k8s.io/c": ""}),
        );
        assert_eq!(
            changed.into_iter().collect::<Vec<_>>(),
            ["k8s.io/b", "k8s.io/c"]
        );
    }

    #[test]
    fn mirror_pods_refer_to_nothing() {
        let pod = |spec: Value| json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": spec});
        for (spec, expect) in [
            (json!({"nodeName": "n"}), None),
            (
                json!({"nodeName": "m"}),
                Some("spec.nodeName set to itself"),
            ),
            (
                json!({"nodeName": "n", "serviceAccountName": "x"}),
                Some("a service account"),
            ),
            (
                json!({"nodeName": "n", "volumes": [{"name": "a", "secret": {"secretName": "s"}}]}),
                Some("secrets"),
            ),
            (
                json!({"nodeName": "n", "containers": [{"env": [{"valueFrom": {"configMapKeyRef": {}}}]}]}),
                Some("configmaps"),
            ),
            (
                json!({"nodeName": "n", "volumes": [{"hostPath": {}}]}),
                None,
            ),
        ] {
            let outcome = create_pod(&pod(spec.clone()), "n").err();
            assert_eq!(outcome.is_some(), expect.is_some(), "{spec}");
            assert!(
                outcome
                    .unwrap_or_default()
                    .contains(expect.unwrap_or_default())
            );
        }
        assert!(create_pod(&json!({"spec": {"nodeName": "n"}}), "n").is_err());
    }
}
