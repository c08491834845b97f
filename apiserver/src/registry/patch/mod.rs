//! The patch types. Each file is a pure function from an object and a patch to an object.

mod json;
mod merge;
mod repeats;
mod strategic;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use schema::types::StructRef;
use serde_json::Value;

pub use merge::merge;

use super::resource::Resource;
use crate::response::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
    /// Server-side apply of a configuration in CBOR.
    ApplyCbor,
}

impl PatchType {
    /// Whether it is server-side apply, in whatever encoding.
    pub fn applies(self) -> bool {
        matches!(self, PatchType::Apply | PatchType::ApplyCbor)
    }
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";

impl PatchType {
    /// From the content type. Custom resources have no strategic merge patch.
    pub fn negotiate(headers: &HeaderMap, custom: bool) -> Result<Self, ApiError> {
        let header = headers
            .get(CONTENT_TYPE)
            .and_then(|h| h.to_str().ok())
            .unwrap_or_default();
        match header.split(';').next().unwrap_or_default().trim() {
            JSON => Ok(PatchType::Json),
            MERGE => Ok(PatchType::Merge),
            STRATEGIC if !custom => Ok(PatchType::Strategic),
            APPLY => Ok(PatchType::Apply),
            APPLY_CBOR => Ok(PatchType::ApplyCbor),
            _ if custom => Err(ApiError::unsupported_media_type(&[JSON, MERGE, APPLY])),
            _ => Err(ApiError::unsupported_media_type(&[
                JSON, MERGE, STRATEGIC, APPLY,
            ])),
        }
    }
}

/// A decoded patch.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    Json(Vec<json::Operation>),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    pub fn decode(patch_type: PatchType, body: &Bytes) -> Result<Self, ApiError> {
        match patch_type {
            PatchType::Json => Ok(Patch::Json(json::decode(body)?)),
            PatchType::Merge => Ok(Patch::Merge(object(body)?)),
            PatchType::Strategic => Ok(Patch::Strategic(object(body)?)),
            PatchType::Apply => Ok(Patch::Apply(yaml(body)?)),
            PatchType::ApplyCbor => {
                let refused = |e: schema::cbor::CborError| {
                    ApiError::bad_request(format!("error decoding CBOR: {e}"))
                };
                Ok(Patch::Apply(schema::cbor::decode(body).map_err(refused)?))
            }
        }
    }

    /// The patched object; not yet checked to be one of its kind.
    pub fn apply(&self, resource: &Resource, object: &Value) -> Result<Value, ApiError> {
        self.apply_to(&resource.shape, object)
    }

    /// The same for an object of any shape.
    pub fn apply_to(&self, shape: &StructRef, object: &Value) -> Result<Value, ApiError> {
        match self {
            Patch::Json(operations) => json::apply(operations, object),
            Patch::Merge(patch) | Patch::Apply(patch) => {
                let mut merged = object.clone();
                merge(&mut merged, patch);
                Ok(merged)
            }
            Patch::Strategic(patch) => strategic::apply(shape, object, patch),
        }
    }
}

fn object(body: &Bytes) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| decode_error(&e, body))?;
    match value {
        Value::Object(_) => Ok(value),
        other => Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(&other)
        ))),
    }
}

fn yaml(body: &Bytes) -> Result<Value, ApiError> {
    let refused = |why: String| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let text = std::str::from_utf8(body).map_err(|e| refused(e.to_string()))?;
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let document = schema::check::read_yaml(text)
        .map_err(|e| refused(format!("error converting YAML to JSON: {e}")))?;
    Ok(document.value)
}

/// What strict decoding finds in an applied text: keys that stand twice.
pub(super) fn repeated_in_apply(body: &Bytes) -> Option<String> {
    // JSON is YAML, too, and read much faster.
    if repeats::has_none(body) {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    let found = schema::check::read_yaml(text).ok()?.strict_error()?;
    Some(format!(
        "error strict decoding YAML: error converting YAML to JSON: {found}"
    ))
}

/// Go's words for a JSON mistake.
fn decode_error(error: &serde_json::Error, body: &[u8]) -> ApiError {
    let told = schema::types::root("", "v1", "ConfigMap")
        .and_then(|any| schema::check::decode_json(body, &any).err())
        .map(|e| e.to_string());
    let why = told.unwrap_or_else(|| error.to_string());
    ApiError::bad_request(format!("error decoding patch: {why}"))
}

/// Keys that stand twice in a patch, as faults of the kind.
pub(super) fn repeated_keys(shape: &StructRef, patch_type: PatchType, body: &Bytes) -> Vec<String> {
    if !matches!(patch_type, PatchType::Merge | PatchType::Strategic) {
        return Vec::new();
    }
    let decoded = schema::check::decode_json(body, shape);
    let faults = decoded.map(|d| d.strict).unwrap_or_default();
    faults
        .into_iter()
        .filter(|f| f.starts_with("duplicate field"))
        .collect()
}

/// What Go calls a JSON value.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
