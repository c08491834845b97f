//! The core group, pods aside.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Object, has, object, object_or_new, objects, pod, set, text};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "Pod" => pod::pod(map),
        "PodTemplate" => {
            if let Some(template) = object_or_new(map, "template") {
                pod::template(template);
            }
        }
        "ReplicationController" => replication_controller(map),
        "Service" => service(map),
        "PersistentVolumeClaim" => pod::claim(map),
        "PersistentVolume" => persistent_volume(map),
        "Secret" => secret(map),
        "Namespace" => namespace(map),
        "Node" => node(map),
        "Endpoints" => {
            for subset in objects(map, "subsets") {
                for port in objects(subset, "ports") {
                    set(port, "protocol", "TCP");
                }
            }
        }
        "LimitRange" => {
            if let Some(spec) = object(map, "spec") {
                objects(spec, "limits").for_each(limit_range_item);
            }
        }
        _ => {}
    }
}

fn replication_controller(map: &mut Object) {
    let labels = map
        .get("spec")
        .map(|s| s["template"]["metadata"]["labels"].clone())
        .filter(Value::is_object);
    if let Some(labels) = labels {
        if let Some(spec) = object(map, "spec") {
            set(spec, "selector", labels.clone());
        }
        if let Some(meta) = object_or_new(map, "metadata") {
            set(meta, "labels", labels);
        }
    }
    if let Some(spec) = object_or_new(map, "spec") {
        set(spec, "replicas", 1);
        if let Some(template) = object(spec, "template") {
            pod::template(template);
        }
    }
}

fn service(map: &mut Object) {
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    set(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let client = object_or_new(spec, "sessionAffinityConfig")
                .and_then(|c| object_or_new(c, "clientIP"));
            if let Some(client) = client {
                set(client, "timeoutSeconds", 10800);
            }
        }
        _ => {}
    }
    set(spec, "type", "ClusterIP");
    for port in objects(spec, "ports") {
        set(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|t| t == &json!(0) || t == &json!("")) {
            let number = port.get("port").cloned().unwrap_or(0.into());
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|l| !l.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = object(map, "status").and_then(|s| object(s, "loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|b| objects(b, "ingress")) {
            if !text(ingress, "ip").is_empty() {
                set(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn persistent_volume(map: &mut Object) {
    if let Some(spec) = object_or_new(map, "spec") {
        set(spec, "persistentVolumeReclaimPolicy", "Retain");
        set(spec, "volumeMode", "Filesystem");
        pod::volume_source(spec);
    }
    if let Some(status) = object_or_new(map, "status") {
        set(status, "phase", "Pending");
    }
}

/// `stringData` is only written: its texts become data.
fn secret(map: &mut Object) {
    if let Some(Value::Object(texts)) = map.remove("stringData")
        && let Some(data) = object_or_new(map, "data")
    {
        for (name, value) in texts {
            let raw = value.as_str().unwrap_or_default();
            data.insert(
                name,
                base64::engine::general_purpose::STANDARD.encode(raw).into(),
            );
        }
    }
    set(map, "type", "Opaque");
}

fn namespace(map: &mut Object) {
    let name = map
        .get("metadata")
        .map(|m| m["name"].clone())
        .filter(|n| n.as_str().is_some_and(|n| !n.is_empty()));
    if let Some(name) = name
        && let Some(labels) =
            object_or_new(map, "metadata").and_then(|m| object_or_new(m, "labels"))
    {
        labels.insert("kubernetes.io/metadata.name".into(), name);
    }
    if let Some(status) = object_or_new(map, "status") {
        set(status, "phase", "Active");
    }
}

fn node(map: &mut Object) {
    if let Some(status) = object(map, "status")
        && let Some(capacity) = status.get("capacity").cloned()
        && !has(status, "allocatable")
    {
        status.insert("allocatable".into(), capacity);
    }
    if let Some(spec) = object(map, "spec") {
        let (one, list) = (text(spec, "podCIDR").to_owned(), spec.get("podCIDRs"));
        let first = list.and_then(|l| l[0].as_str()).unwrap_or_default();
        // The older field has the last word.
        if !one.is_empty() && one != first {
            spec.insert("podCIDRs".into(), vec![one].into());
        } else if one.is_empty() && !first.is_empty() {
            let first = first.to_owned();
            spec.insert("podCIDR".into(), first.into());
        }
    }
}

/// For containers: limits from the maximum, requests from the limits, then the minimum.
fn limit_range_item(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let Some(amounts) = item
            .get(from)
            .and_then(Value::as_object)
            .filter(|a| !a.is_empty())
            .cloned()
        else {
            continue;
        };
        if let Some(target) = object_or_new(item, to) {
            for (name, amount) in amounts {
                set(target, &name, amount);
            }
        }
    }
}
