//! Warnings about valid objects: fields and kinds that are deprecated or do not do what one
//! would think. A server sends them as `Warning` headers of writes.

use std::collections::HashSet;

use serde_json::Value;

use crate::quantity;
use crate::types::Gvk;

/// A kind that is deprecated as a whole; said with every answer.
pub fn deprecated_kind(kind: &Gvk) -> Option<&'static str> {
    match (
        kind.group.as_ref(),
        kind.version.as_ref(),
        kind.kind.as_ref(),
    ) {
        ("", "v1", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// What is questionable about an object that is written; `old` is what it was before.
pub fn of(kind: &Gvk, object: &Value, old: Option<&Value>) -> Vec<String> {
    let own = collect(kind, object);
    match old {
        // Only what the change brings in.
        Some(old) => {
            let before: HashSet<String> = collect(kind, old).into_iter().collect();
            own.into_iter().filter(|w| !before.contains(w)).collect()
        }
        None => own,
    }
}

fn collect(kind: &Gvk, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let template = match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Pod") => Some(("", "")),
        ("", "PodTemplate") => Some(("/template", "template.")),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job") => Some(("/spec/template", "spec.template.")),
        ("batch", "CronJob") => Some((
            "/spec/jobTemplate/spec/template",
            "spec.jobTemplate.spec.template.",
        )),
        _ => None,
    };
    if let Some((pointer, path)) = template
        && let Some(pod) = object.pointer(pointer)
    {
        self::pod(pod, path, &mut out);
    }
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Service") => service(object, &mut out),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => volume_objects(object, &mut out),
        ("", "ServiceAccount") => annotation(
            object,
            "kubernetes.io/enforce-mountable-secrets",
            "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
            &mut out,
        ),
        ("", "Node")
            if object["spec"]["externalID"]
                .as_str()
                .is_some_and(|t| !t.is_empty()) =>
        {
            out.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".into(),
            );
        }
        ("networking.k8s.io", "Ingress")
            if !object["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null() =>
        {
            let text = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
            out.push(text.into());
        }
        _ => {}
    }
    out
}

fn annotation(object: &Value, name: &str, text: &str, out: &mut Vec<String>) {
    if !object["metadata"]["annotations"][name].is_null() {
        out.push(format!("metadata.annotations[{name}]: {text}"));
    }
}

fn service(object: &Value, out: &mut Vec<String>) {
    if object["spec"]["externalIPs"]
        .as_array()
        .is_some_and(|l| !l.is_empty())
    {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .into(),
        );
    }
    if object["spec"]["type"] == "ExternalName"
        && object["spec"]["externalName"]
            .as_str()
            .is_some_and(|n| n.parse::<std::net::IpAddr>().is_ok())
    {
        out.push("spec.externalName: value looks like an IP address, not a DNS name".into());
    }
}

fn volume_objects(object: &Value, out: &mut Vec<String>) {
    let text = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    annotation(object, "volume.beta.kubernetes.io/storage-class", text, out);
    if object["spec"]["persistentVolumeReclaimPolicy"] == "Recycle" {
        out.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
             Instead, the recommended approach is to use dynamic provisioning."
                .into(),
        );
    }
    for (source, text) in VOLUME_SOURCES {
        if object["spec"][source].is_object() && *source != "gitRepo" {
            out.push(format!("spec.{source}: {text}"));
        }
    }
}

/// Sources of volumes that do nothing any more.
const VOLUME_SOURCES: &[(&str, &str)] = &[
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Labels of nodes that have a successor.
const NODE_LABELS: [(&str, &str, &str); 6] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "v1.17",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "v1.17",
        "topology.kubernetes.io/zone",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "v1.17",
        "node.kubernetes.io/instance-type",
    ),
    (
        "node-role.kubernetes.io/master",
        "v1.20",
        "node-role.kubernetes.io/control-plane",
    ),
];

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value[name].as_array().into_iter().flatten().enumerate()
}

/// A pod or a pod template; `path` leads to it and ends with a dot.
fn pod(pod: &Value, path: &str, out: &mut Vec<String>) {
    let spec = &pod["spec"];
    for (label, since, instead) in NODE_LABELS.iter().take(5) {
        if !spec["nodeSelector"][*label].is_null() {
            out.push(format!("{path}spec.nodeSelector[{label}]: deprecated since {since}; use \"{instead}\" instead"));
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets") {
        if secret["name"].as_str().unwrap_or_default().is_empty() {
            out.push(format!(
                "{path}spec.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints") {
        let own = format!("{path}spec.topologySpreadConstraints[{i}]");
        if let Some((label, since, instead)) = NODE_LABELS
            .iter()
            .find(|(l, _, _)| constraint["topologyKey"] == *l)
        {
            out.push(format!(
                "{own}.topologyKey: {label} is deprecated since {since}; use \"{instead}\" instead"
            ));
        }
        if constraint["labelSelector"].is_null() {
            out.push(format!(
                "{own}.labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
    affinity(spec, path, out);
    for (i, volume) in items(spec, "volumes") {
        self::volume(volume, &format!("{path}spec.volumes[{i}]"), out);
    }
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|s| s < 0)
    {
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{path}spec.terminationGracePeriodSeconds: {text}"));
    }
    for list in ["initContainers", "containers"] {
        for (i, own) in items(spec, list) {
            container(own, &format!("{path}spec.{list}[{i}]"), out);
        }
    }
}

fn affinity(spec: &Value, path: &str, out: &mut Vec<String>) {
    for name in ["podAffinity", "podAntiAffinity"] {
        let own = &spec["affinity"][name];
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(own, required).filter(|(_, t)| t["labelSelector"].is_null()) {
            let _ = term;
            let place = format!("{path}spec.affinity.{name}.{required}[{i}]");
            out.push(format!(
                "{place}.labelSelector: a null labelSelector results in matching no pod"
            ));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, _) in
            items(own, preferred).filter(|(_, t)| t["podAffinityTerm"]["labelSelector"].is_null())
        {
            let place = format!("{path}spec.affinity.{name}.{preferred}[{i}].podAffinityTerm");
            out.push(format!(
                "{place}.labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
}

fn volume(volume: &Value, path: &str, out: &mut Vec<String>) {
    for (source, text) in VOLUME_SOURCES {
        if volume[*source].is_object() {
            // The name in the message is Go's.
            let shown = if *source == "storageos" {
                "storageOS"
            } else {
                source
            };
            out.push(format!("{path}.{shown}: {text}"));
        }
    }
    if volume["projected"].is_object() {
        let empty = |source: &Value| {
            source
                .as_object()
                .is_none_or(|s| s.values().all(Value::is_null))
        };
        let name = volume["name"].as_str().unwrap_or_default();
        for _ in items(&volume["projected"], "sources").filter(|(_, s)| empty(s)) {
            out.push(format!(
                "volume \"{name}\" (Projected) has no sources provided"
            ));
        }
    }
}

fn container(own: &Value, path: &str, out: &mut Vec<String>) {
    for (list, resource) in [
        ("limits", "ephemeral-storage"),
        ("limits", "memory"),
        ("requests", "ephemeral-storage"),
        ("requests", "memory"),
    ] {
        if let Some(amount) = own["resources"][list][resource].as_str()
            && quantity::is_fractional(amount)
        {
            out.push(format!(
                "{path}.resources.{list}[{resource}]: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
    let mut names = HashSet::new();
    for (i, env) in items(own, "env") {
        let name = env["name"].as_str().unwrap_or_default();
        // A variable may build on the one before it.
        let builds_on = env["value"]
            .as_str()
            .is_some_and(|v| v.contains(&format!("$({name})")));
        if !names.insert(name) && !builds_on {
            out.push(format!("{path}.env[{i}]: hides previous definition of \"{name}\", which may be dropped when using apply"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn warnings(group: &str, kind: &str, object: Value) -> Vec<String> {
        of(&Gvk::new(group, "v1", kind), &object, None)
    }

    #[test]
    fn a_template_is_looked_at_like_a_pod() {
        let spec = json!({"topologySpreadConstraints": [{"topologyKey": "x"}], "volumes": [{"name": "v", "rbd": {}}],
            "containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "1500m"}}}]});
        let own = warnings(
            "apps",
            "Deployment",
            json!({"spec": {"template": {"spec": spec}}}),
        );
        assert_eq!(
            own,
            [
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.template.spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ]
        );
        assert!(warnings("", "Pod", json!({"spec": {"containers": [{"name": "c"}]}})).is_empty());
    }

    #[test]
    fn deprecated_annotations_and_kinds_are_named() {
        let ingress = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}});
        assert_eq!(warnings("networking.k8s.io", "Ingress", ingress).len(), 1);
        assert!(deprecated_kind(&Gvk::new("", "v1", "Endpoints")).is_some());
        assert!(deprecated_kind(&Gvk::new("", "v1", "Pod")).is_none());
    }
}
