//! What the pipeline asks of the `schema` crate, in the pipeline's terms.

use std::borrow::Cow;

use bytes::Bytes;
use schema::types::Gvk;
use serde_json::{Value, json};

use super::Registry;
use super::resource::{Resource, split_api_version};
use super::strategy::Context;
use crate::response::{ApiError, Cause, Media};

/// A body that was read.
pub struct Decoded {
    pub value: Value,
    /// Unknown and duplicate fields.
    pub faults: Vec<String>,
}

/// Reads a body as an object of the kind.
pub fn decode(resource: &Resource, gvk: &Gvk, media: Media, body: &Bytes) -> Result<Decoded, ApiError> {
    let mut value = parse(&gvk.kind, media, body)?;
    check_kind(gvk, &mut value)?;
    decode_patched(resource, gvk, value)
}

/// A tree (of a patch's result) as an object of the kind.
pub fn decode_patched(_resource: &Resource, gvk: &Gvk, mut value: Value) -> Result<Decoded, ApiError> {
    check_kind(gvk, &mut value)?;
    Ok(Decoded { value, faults: Vec::new() })
}

fn parse(kind: &str, media: Media, body: &Bytes) -> Result<Value, ApiError> {
    let unrecognized = |why: String| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"))
    };
    match media {
        Media::Json => serde_json::from_slice(body)
            .map_err(|e| unrecognized(format!("couldn't get version/kind; json parse error: {e}"))),
        Media::Yaml => {
            let text = std::str::from_utf8(body).map_err(|e| unrecognized(format!("yaml: {e}")))?;
            serde_saphyr::from_str(text).map_err(|e| unrecognized(format!("yaml: {e}")))
        }
        Media::Protobuf => Err(unrecognized("protobuf".into())),
    }
}

/// Fills in an absent kind and apiVersion; refuses others.
fn check_kind(gvk: &Gvk, value: &mut Value) -> Result<(), ApiError> {
    let Some(map) = value.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is not an object"));
    };
    let text = |map: &serde_json::Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (version, kind) = (text(map, "apiVersion"), text(map, "kind"));
    let api_version = gvk.api_version();
    let (given_group, given_version) = split_api_version(&version);
    if (!kind.is_empty() && kind != gvk.kind) || (!version.is_empty() && version != api_version) {
        let _ = given_group;
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: the API version in the data ({version}) does not match the expected API version ({api_version})",
            if kind.is_empty() { gvk.kind.as_ref() } else { &kind },
            given_version,
            gvk.kind
        )));
    }
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), gvk.kind.as_ref().into());
    Ok(())
}

/// DeleteOptions in a body.
pub fn decode_options(media: Media, body: &Bytes) -> Result<Value, ApiError> {
    parse("DeleteOptions", media, body)
}

/// Defaults of absent fields.
pub fn apply_defaults(_resource: &Resource, _value: &mut Value) {}

/// Canonical quantities and times, no empty optional values.
pub fn normalize(_resource: &Resource, _value: &mut Value) {}

/// The kind's validation rules.
pub fn validate(
    _resource: &Resource,
    _new: &Value,
    _old: Option<&Value>,
    _context: &Context<'_>,
    _causes: &mut Vec<Cause>,
) {
}

/// A new object has no status yet.
pub fn reset_status(resource: &Resource, value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
        if !resource.is_custom() {
            map.insert("status".into(), json!({}));
        }
    }
}

/// An update of the object does not touch its status.
pub fn keep_status(_resource: &Resource, old: &Value, new: &mut Value) {
    if let Some(map) = new.as_object_mut() {
        match old.get("status") {
            Some(status) => map.insert("status".into(), status.clone()),
            None => map.remove("status"),
        };
    }
}

/// An update of the status touches nothing else but labels, annotations and their like.
pub fn keep_all_but_status(resource: &Resource, old: &Value, new: &mut Value) {
    let Some(map) = new.as_object_mut() else { return };
    map.retain(|key, _| matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
    for (key, value) in old.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "metadata" | "status") {
            map.insert(key.clone(), value.clone());
        }
    }
    if resource.is_custom()
        && let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let managed = metadata.remove("managedFields");
        let mut kept = old["metadata"].as_object().cloned().unwrap_or_default();
        if let Some(managed) = managed {
            kept.insert("managedFields".into(), managed);
        }
        *metadata = kept;
    }
}

/// An object of the kind with nothing in it (bookmarks).
pub fn empty_object(resource: &Resource) -> Value {
    let mut value = json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": {},
    });
    normalize(resource, &mut value);
    value
}

/// `*core.ConfigMap`, as upstream's messages name the kind.
pub fn go_type(resource: &Resource) -> String {
    if resource.is_custom() {
        return "*unstructured.Unstructured".into();
    }
    let package: Cow<'_, str> = match resource.group.as_ref() {
        "" => "core".into(),
        group => group.split('.').next().unwrap_or_default().to_owned().into(),
    };
    format!("*{package}.{}", resource.kind)
}

/// Stored objects in the request's version.
pub async fn convert(
    _registry: &Registry,
    resource: &Resource,
    mut values: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    if resource.is_custom() {
        for value in &mut values {
            value["apiVersion"] = resource.api_version().into();
        }
        return Ok(values);
    }
    for value in &mut values {
        schema::resources::convert(value, &resource.storage_gvk(), &resource.gvk())
            .map_err(ApiError::internal)?;
    }
    Ok(values)
}

/// An object of the request's version as it is stored.
pub async fn to_stored<'a>(
    _registry: &Registry,
    resource: &Resource,
    value: &'a Value,
) -> Result<Cow<'a, Value>, ApiError> {
    if resource.is_stored_version() {
        return Ok(Cow::Borrowed(value));
    }
    let mut stored = value.clone();
    if resource.is_custom() {
        stored["apiVersion"] = resource.storage_gvk().api_version().into();
    } else {
        schema::resources::convert(&mut stored, &resource.gvk(), &resource.storage_gvk())
            .map_err(ApiError::internal)?;
    }
    Ok(Cow::Owned(stored))
}

/// Columns and rows of a Table.
pub fn table(_resource: &Resource, values: &[Value]) -> Value {
    let rows: Vec<Value> =
        values.iter().map(|v| json!({"cells": [v["metadata"]["name"], v["metadata"]["creationTimestamp"]]})).collect();
    json!({
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0},
        ],
        "rows": rows,
    })
}

/// The protobuf form of a built-in object, with its envelope.
pub fn to_protobuf(_value: &Value) -> Option<Vec<u8>> {
    None
}

/// One frame of a watch in protobuf.
pub fn watch_event_protobuf(_kind: &str, _object: &Value) -> Option<Vec<u8>> {
    None
}
