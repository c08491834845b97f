//! Warnings about valid objects: fields and kinds that are deprecated or do not do what one
//! would think. A server sends them as `Warning` headers of writes.

use std::net::IpAddr;

use serde_json::Value;

use crate::types::Gvk;
use crate::validate::{address, names};

mod nodes;
mod pod;
mod service;
mod storage;

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

/// What is questionable about an object that is new.
pub fn on_create(kind: &Gvk, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    name(kind, object, &mut out);
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("networking.k8s.io", "Ingress")
            if !object["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null() =>
        {
            let text = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
            out.push(text.into());
        }
        ("", "Pod") => pod::pod(object, "", &mut out),
        _ => common(kind, object, &mut out),
    }
    out
}

/// What is questionable about an object that is changed; `is_counted`: it has a new generation.
///
/// Of kinds with pod templates nothing is said while the generation stays; of pods, which
/// programs change much more often than people do, never.
pub fn on_update(kind: &Gvk, object: &Value, is_counted: bool) -> Vec<String> {
    let mut out = Vec::new();
    let templated = matches!(kind.group.as_ref(), "apps" | "batch")
        || (kind.group.is_empty() && kind.kind.as_ref() == "ReplicationController");
    if is_counted || !templated {
        common(kind, object, &mut out);
    }
    out
}

/// Names that pods and their hosts get.
fn name(kind: &Gvk, object: &Value, out: &mut Vec<String>) {
    let used = match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Pod") => "the Pod's hostname",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet")
        | ("batch", "Job" | "CronJob") => "Pod names and hostnames",
        _ => return,
    };
    let faults = names::label_faults(object["metadata"]["name"].as_str().unwrap_or_default());
    if !faults.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
}

fn common(kind: &Gvk, object: &Value, out: &mut Vec<String>) {
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "PodTemplate") => pod::pod(&object["template"], "template.", out),
        ("", "ReplicationController") | ("apps", "Deployment" | "DaemonSet" | "ReplicaSet") => {
            pod::pod(&object["spec"]["template"], "spec.template.", out);
        }
        ("apps", "StatefulSet") => stateful_set(object, out),
        ("batch", "Job") => job(&object["spec"], "spec", out),
        ("batch", "CronJob") => job(
            &object["spec"]["jobTemplate"]["spec"],
            "spec.jobTemplate.spec",
            out,
        ),
        ("", "Service") => service::service(object, out),
        ("", "Endpoints") => service::endpoints(object, out),
        ("discovery.k8s.io", "EndpointSlice") => service::slice(object, out),
        ("networking.k8s.io", "NetworkPolicy") => service::policy(object, out),
        ("", "PersistentVolume") => storage::volume(object, out),
        ("", "PersistentVolumeClaim") => storage::claim(object, out),
        ("storage.k8s.io", "StorageClass") => storage::class(object, out),
        ("storage.k8s.io", "CSIStorageCapacity") => storage::capacity(object, out),
        ("", "Node") => nodes::node(object, out),
        ("node.k8s.io", "RuntimeClass") => nodes::runtime_class(object, out),
        ("", "ServiceAccount") => annotation(
            object,
            "kubernetes.io/enforce-mountable-secrets",
            "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
            out,
        ),
        _ => {}
    }
}

fn annotation(object: &Value, name: &str, text: &str, out: &mut Vec<String>) {
    if !object["metadata"]["annotations"][name].is_null() {
        out.push(format!("metadata.annotations[{name}]: {text}"));
    }
}

fn stateful_set(object: &Value, out: &mut Vec<String>) {
    let spec = &object["spec"];
    pod::pod(&spec["template"], "spec.template.", out);
    for (i, claim) in items(spec, "volumeClaimTemplates") {
        storage::amounts(
            &claim["spec"],
            &format!("spec.volumeClaimTemplates[{i}]"),
            out,
        );
    }
    if spec["revisionHistoryLimit"].as_i64().is_some_and(|n| n < 0) {
        let text = "a negative value retains all historical revisions; a value >= 0 is recommended";
        out.push(format!("spec.revisionHistoryLimit: {text}"));
    }
}

/// More indexes than the status can tell of.
const MANY_COMPLETIONS: i64 = 100_000;
const MUCH_PARALLELISM: i64 = 10_000;

fn job(spec: &Value, path: &str, out: &mut Vec<String>) {
    let more = |field: &str, than: i64| spec[field].as_i64().is_some_and(|n| n > than);
    if spec["completionMode"] == "Indexed"
        && more("completions", MANY_COMPLETIONS)
        && more("parallelism", MUCH_PARALLELISM)
    {
        let text = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
        out.push(format!("{path}: {text}"));
    }
    pod::pod(&spec["template"], &format!("{path}.template."), out);
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    value[name].as_array().into_iter().flatten().enumerate()
}

/// An address that later releases will refuse, or that has another usual spelling.
fn ip(path: &str, text: &str, out: &mut Vec<String>) {
    let Some(address) = address::parse_ip(text) else {
        return;
    };
    let mapped = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    if text.parse::<IpAddr>().is_err() || mapped.is_some() {
        let instead = mapped.map_or(address, IpAddr::V4);
        out.push(format!("{path}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use \"{instead}\""));
    } else if address.is_ipv6() && address.to_string() != text {
        out.push(format!(
            "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{address}\")"
        ));
    }
}

/// A range that later releases will refuse, or that has another usual spelling.
fn cidr(path: &str, text: &str, out: &mut Vec<String>) {
    let Some((address, length)) = address::parse_cidr(text) else {
        return;
    };
    let before = out.len();
    let first = address::masked(address, length);
    // Go shows an address of IPv4 in one of IPv6 as that of IPv4.
    let range = match first {
        IpAddr::V6(v6) if length >= 96 => v6.to_ipv4_mapped().map_or_else(
            || format!("{first}/{length}"),
            |v4| format!("{v4}/{}", length - 96),
        ),
        _ => format!("{first}/{length}"),
    };
    if first != address {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        out.push(format!("{path}: CIDR value {text:?} is ambiguous in this context (should be {range:?} or \"{address}/{bits}\"?)"));
    }
    let (spelled, digits) = text.split_once('/').unwrap_or_default();
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if spelled.parse::<IpAddr>().is_err() || digits != length.to_string() || mapped {
        out.push(format!("{path}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use {range:?}"));
    }
    let canonical = format!("{address}/{length}");
    if out.len() == before && address.is_ipv6() && canonical != text {
        out.push(format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})"));
    }
}

#[cfg(test)]
mod tests;
