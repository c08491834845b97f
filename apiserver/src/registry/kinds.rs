//! What the pipeline asks of the `schema` crate, in the pipeline's terms.

use std::borrow::Cow;

use bytes::Bytes;
use schema::table::Printer;
use schema::types::{Gvk, StructRef, root};
use schema::{check, defaults};
use serde_json::{Value, json};

use super::Registry;
use super::resource::Resource;
use super::strategy::Context;
use crate::response::{ApiError, Cause, Media};

/// A body that was read.
pub struct Decoded {
    pub value: Value,
    /// Unknown and duplicate fields.
    pub faults: Vec<String>,
}

/// Reads a body as an object of the kind, with its defaults.
pub fn decode(
    resource: &Resource,
    gvk: &Gvk,
    media: Media,
    body: &Bytes,
) -> Result<Decoded, ApiError> {
    let own = resource.gvk() == *gvk;
    let shape = if own {
        Some(resource.shape.clone())
    } else {
        root(&gvk.group, &gvk.version, &gvk.kind)
    };
    let shape = shape.ok_or_else(|| ApiError::internal(format!("no kind {}", gvk.kind)))?;
    let request = check::Request {
        body,
        format: match media {
            Media::Json => check::Format::Json,
            Media::Yaml => check::Format::Yaml,
            Media::Protobuf => check::Format::Protobuf,
            Media::Cbor => check::Format::Cbor,
        },
        expected: gvk,
        shape: &shape,
        custom: own && resource.is_custom(),
    };
    let decoded = check::decode_request(&request).map_err(ApiError::bad_request)?;
    Ok(finish(gvk, &shape, request.custom, decoded))
}

fn finish(gvk: &Gvk, shape: &StructRef, custom: bool, decoded: check::Decoded) -> Decoded {
    let mut value = decoded.value;
    if custom {
        defaults::apply_custom(&mut value, shape);
    } else {
        defaults::apply(&mut value, gvk);
        check::complete(&mut value, shape);
    }
    Decoded {
        value,
        faults: decoded.strict,
    }
}

/// A tree (of a patch's result) as an object of the kind; the error is Go's.
pub fn decode_patched(
    resource: &Resource,
    gvk: &Gvk,
    mut value: Value,
) -> Result<Decoded, check::DecodeError> {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.as_ref().into());
    }
    let decoded = check::decode_value(value, &resource.shape)?;
    Ok(finish(gvk, &resource.shape, resource.is_custom(), decoded))
}

/// DeleteOptions in a body.
pub fn decode_options(media: Media, body: &Bytes) -> Result<Value, ApiError> {
    let gvk = Gvk::new("meta.k8s.io", "v1", "DeleteOptions");
    let shape = root("", "v1", "DeleteOptions")
        .or_else(|| root("meta.k8s.io", "v1", "DeleteOptions"))
        .ok_or_else(|| ApiError::internal("no kind DeleteOptions"))?;
    let value = match media {
        Media::Protobuf => {
            schema::protobuf::decode(body).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        Media::Cbor => {
            schema::cbor::decode(body).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        Media::Yaml => {
            let text =
                std::str::from_utf8(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            check::read_yaml(text).map_err(ApiError::bad_request)?.value
        }
        Media::Json => serde_json::from_slice(body).map_err(|e| {
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
        })?,
    };
    let decoded = check::decode_value(value, &shape).map_err(|e| {
        ApiError::bad_request(format!(
            "{} in version \"v1\" cannot be handled as a DeleteOptions: {e}",
            gvk.kind
        ))
    })?;
    Ok(decoded.value)
}

/// Defaults of absent fields.
pub fn apply_defaults(resource: &Resource, value: &mut Value) {
    if resource.is_custom() {
        defaults::apply_custom(value, &resource.shape);
    } else {
        defaults::apply(value, &resource.gvk());
    }
}

/// The fields that are always written.
pub fn normalize(resource: &Resource, value: &mut Value) {
    if !resource.is_custom() {
        check::complete(value, &resource.shape);
    }
}

/// The kind's validation rules.
pub fn validate(
    resource: &Resource,
    new: &Value,
    old: Option<&Value>,
    context: &Context<'_>,
    causes: &mut Vec<Cause>,
) {
    let gvk = resource.gvk();
    if let Some(custom) = &resource.custom {
        return custom.validate(new, old, causes);
    }
    // What these write is their own rule, not a client's: a binding sets what no update may.
    if matches!(context.subresource, "binding" | "eviction") {
        return;
    }
    let (new, old) = (judged(&gvk, new), old.map(|old| judged(&gvk, old)));
    let errors = schema::validate::validate(&gvk, context.subresource, &new, old.as_deref());
    let faults = errors.list.into_iter();
    causes.extend(faults.map(|e| Cause::new(e.kind.reason(), e.message(), e.path)));
}

/// An object in the version that the rules are about.
fn judged<'a>(gvk: &Gvk, value: &'a Value) -> Cow<'a, Value> {
    let v1_autoscaler = *gvk == Gvk::new("autoscaling", "v1", "HorizontalPodAutoscaler");
    if !v1_autoscaler {
        return Cow::Borrowed(value);
    }
    let mut converted = value.clone();
    let newest = Gvk::new("autoscaling", "v2", "HorizontalPodAutoscaler");
    match schema::resources::convert(&mut converted, gvk, &newest) {
        Ok(()) => Cow::Owned(converted),
        Err(_) => Cow::Borrowed(value),
    }
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
    let Some(map) = new.as_object_mut() else {
        return;
    };
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

/// Sets the value at a JSON pointer; objects on the way are made.
pub fn set_pointer(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.trim_start_matches('/').split('/') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

/// What a bookmark shows.
pub fn bookmark_object(resource: &Resource) -> Value {
    let mut value = empty_object(resource);
    if !resource.is_custom() {
        defaults::apply_to_empty(&mut value, &resource.gvk());
    }
    value
}

/// An object of the kind with nothing in it.
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
        group => group
            .split('.')
            .next()
            .unwrap_or_default()
            .to_owned()
            .into(),
    };
    format!("*{package}.{}", resource.kind)
}

/// Stored objects in the request's version.
pub async fn convert(
    registry: &Registry,
    resource: &Resource,
    mut values: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    if let Some(custom) = &resource.custom {
        return custom
            .versions
            .read(&registry.outbound, values, &resource.gvk())
            .await;
    }
    for value in &mut values {
        schema::resources::convert(value, &resource.storage_gvk(), &resource.gvk())
            .map_err(ApiError::internal)?;
    }
    Ok(values)
}

/// An object of the request's version as it is stored.
pub async fn to_stored<'a>(
    registry: &Registry,
    resource: &Resource,
    value: &'a Value,
) -> Result<Cow<'a, Value>, ApiError> {
    // Definitions are stored as JSON, where an empty list is not the same as none.
    let as_json = resource.is_custom()
        || matches!(
            resource.group.as_ref(),
            "apiextensions.k8s.io" | "apiregistration.k8s.io"
        );
    if resource.is_stored_version() {
        if as_json || !check::has_empties(value, &resource.shape) {
            return Ok(Cow::Borrowed(value));
        }
        let mut stored = value.clone();
        check::drop_empties(&mut stored, &resource.shape);
        return Ok(Cow::Owned(stored));
    }
    let mut stored = value.clone();
    if let Some(custom) = &resource.custom {
        let converted = custom
            .versions
            .convert(&registry.outbound, vec![stored], &resource.storage_gvk())
            .await?;
        return Ok(Cow::Owned(converted.into_iter().next().unwrap_or_default()));
    }
    schema::resources::convert(&mut stored, &resource.gvk(), &resource.storage_gvk())
        .map_err(ApiError::internal)?;
    Ok(Cow::Owned(stored))
}

/// What makes the rows of a Table.
pub fn printer(resource: &Resource) -> Printer {
    match &resource.custom {
        Some(custom) => Printer::Custom(custom.columns.clone()),
        None => Printer::Builtin(resource.gvk()),
    }
}

/// The protobuf form of a built-in object, with its envelope.
pub fn to_protobuf(value: &Value) -> Option<Vec<u8>> {
    schema::protobuf::encode(value).ok()
}

/// One frame of a watch in protobuf: its length, then the event.
pub fn watch_event_protobuf(kind: &str, object: &Value) -> Option<Vec<u8>> {
    let object = schema::protobuf::encode(object).ok()?;
    let event = schema::protobuf::encode_watch_event(kind, &object);
    let mut frame = u32::try_from(event.len()).ok()?.to_be_bytes().to_vec();
    frame.extend_from_slice(&event);
    Some(frame)
}
