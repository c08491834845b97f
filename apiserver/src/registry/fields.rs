//! Which fields a resource's field selectors know, and their values as text.
//!
//! Every resource knows `metadata.name` and `metadata.namespace`, which come from its key. The
//! others are extracted once, when an object enters the cache.

use std::borrow::Cow;

use serde_json::Value;

use crate::response::ApiError;

/// How the text of a field is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The value at a path, or this text when it is absent.
    Path(&'static [&'static str], &'static str),
    /// The first present of two paths.
    Either(&'static [&'static str], &'static [&'static str]),
    /// The elements' field, joined by commas.
    Each(&'static [&'static str], &'static str),
    /// The value at a JSON pointer (custom resources).
    Pointer(String),
}

/// One selectable field of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub label: Cow<'static, str>,
    pub source: Source,
}

const fn path(label: &'static str, path: &'static [&'static str]) -> Field {
    Field {
        label: Cow::Borrowed(label),
        source: Source::Path(path, ""),
    }
}

const fn or(label: &'static str, path: &'static [&'static str], absent: &'static str) -> Field {
    Field {
        label: Cow::Borrowed(label),
        source: Source::Path(path, absent),
    }
}

const POD: &[Field] = &[
    path("spec.nodeName", &["spec", "nodeName"]),
    path("spec.restartPolicy", &["spec", "restartPolicy"]),
    path("spec.schedulerName", &["spec", "schedulerName"]),
    path("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    or("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
    path("status.phase", &["status", "phase"]),
    path("status.podIP", &["status", "podIP"]),
    Field {
        label: Cow::Borrowed("status.podIPs"),
        source: Source::Each(&["status", "podIPs"], "ip"),
    },
    path("status.nominatedNodeName", &["status", "nominatedNodeName"]),
];

const EVENT: &[Field] = &[
    path("involvedObject.kind", &["involvedObject", "kind"]),
    path("involvedObject.namespace", &["involvedObject", "namespace"]),
    path("involvedObject.name", &["involvedObject", "name"]),
    path("involvedObject.uid", &["involvedObject", "uid"]),
    path(
        "involvedObject.apiVersion",
        &["involvedObject", "apiVersion"],
    ),
    path(
        "involvedObject.resourceVersion",
        &["involvedObject", "resourceVersion"],
    ),
    path("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    path("reason", &["reason"]),
    path("reportingComponent", &["reportingComponent"]),
    Field {
        label: Cow::Borrowed("source"),
        source: Source::Either(&["source", "component"], &["reportingComponent"]),
    },
    path("type", &["type"]),
];

const NODE: &[Field] = &[or(
    "spec.unschedulable",
    &["spec", "unschedulable"],
    "false",
)];
const NAMESPACE: &[Field] = &[path("status.phase", &["status", "phase"])];
const SECRET: &[Field] = &[path("type", &["type"])];
const SERVICE: &[Field] = &[
    path("spec.clusterIP", &["spec", "clusterIP"]),
    path("spec.type", &["spec", "type"]),
];
const REPLICAS: &[Field] = &[or("status.replicas", &["status", "replicas"], "0")];
const JOB: &[Field] = &[or("status.successful", &["status", "succeeded"], "0")];
const SIGNER: &[Field] = &[path("spec.signerName", &["spec", "signerName"])];
const RESOURCE_SLICE: &[Field] = &[
    path("spec.nodeName", &["spec", "nodeName"]),
    path("spec.driver", &["spec", "driver"]),
];
const IP_ADDRESS: &[Field] = &[
    path("spec.parentRef.group", &["spec", "parentRef", "group"]),
    path(
        "spec.parentRef.resource",
        &["spec", "parentRef", "resource"],
    ),
    path(
        "spec.parentRef.namespace",
        &["spec", "parentRef", "namespace"],
    ),
    path("spec.parentRef.name", &["spec", "parentRef", "name"]),
];

/// The fields beyond name and namespace.
pub fn selectable(group: &str, resource: &str) -> &'static [Field] {
    match (group, resource) {
        ("", "pods") => POD,
        ("", "events") => EVENT,
        ("", "nodes") => NODE,
        ("", "namespaces") => NAMESPACE,
        ("", "secrets") => SECRET,
        ("", "services") => SERVICE,
        ("", "replicationcontrollers") => REPLICAS,
        ("batch", "jobs") => JOB,
        ("certificates.k8s.io", "certificatesigningrequests") => SIGNER,
        ("resource.k8s.io", "resourceslices") => RESOURCE_SLICE,
        ("networking.k8s.io", "ipaddresses") => IP_ADDRESS,
        _ => &[],
    }
}

/// The selector labels of `events.k8s.io`, spelled as the core group's, in which events are kept.
const NEW_EVENT: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    (
        "regarding.resourceVersion",
        "involvedObject.resourceVersion",
    ),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];

/// The name under which a selector's field is kept, or upstream's refusal.
pub fn known_label(
    group: &str,
    resource: &str,
    label: &str,
) -> Result<Cow<'static, str>, ApiError> {
    match label {
        "metadata.name" => return Ok("metadata.name".into()),
        "metadata.namespace" => return Ok("metadata.namespace".into()),
        "name" if group.is_empty() && resource == "namespaces" => return Ok("metadata.name".into()),
        _ => {}
    }
    if group == "events.k8s.io"
        && let Some((_, kept)) = NEW_EVENT.iter().find(|(new, _)| *new == label)
    {
        return Ok((*kept).into());
    }
    let kept_group = if group == "events.k8s.io" { "" } else { group };
    let fields = selectable(kept_group, resource);
    if let Some(field) = fields.iter().find(|f| f.label == label) {
        return Ok(field.label.clone());
    }
    if fields.is_empty() {
        return Err(unknown_label(label));
    }
    Err(ApiError::bad_request(format!(
        "field label not supported: {label}"
    )))
}

fn unknown_label(label: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    ))
}

impl Field {
    /// The field's text in an object.
    pub fn text(&self, object: &Value) -> String {
        match &self.source {
            Source::Pointer(pointer) => object.pointer(pointer).map(scalar).unwrap_or_default(),
            Source::Path(path, absent) => at(object, path).map_or_else(|| (*absent).into(), scalar),
            Source::Either(first, second) => at(object, first)
                .map(scalar)
                .filter(|text| !text.is_empty())
                .or_else(|| at(object, second).map(scalar))
                .unwrap_or_default(),
            Source::Each(path, field) => at(object, path)
                .and_then(Value::as_array)
                .map(|list| {
                    list.iter()
                        .map(|v| scalar(&v[*field]))
                        .collect::<Vec<_>>()
                        .join(",")
                })
                .unwrap_or_default(),
        }
    }
}

fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
