//! JSON trees as CEL values and back.
//!
//! Keys are not escaped: objects are dynamic maps to policies, as they are upstream.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::objects::{Key, Map, OptionalValue};
use serde_json::{Map as JsonMap, Value as Json};

use super::{CelValue, EvaluationError};

pub fn from_json(value: &Json) -> CelValue {
    match value {
        Json::Null => CelValue::Null,
        Json::Bool(value) => CelValue::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => CelValue::Int(value),
            (None, Some(value)) => CelValue::UInt(value),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => string(text.clone()),
        Json::Array(items) => CelValue::List(Arc::new(items.iter().map(from_json).collect())),
        Json::Object(fields) => map(fields.iter().map(|(k, v)| (key(k), from_json(v)))),
    }
}

pub(super) fn string(text: impl Into<String>) -> CelValue {
    CelValue::String(Arc::new(text.into()))
}

pub(super) fn key(text: &str) -> Key {
    Key::String(Arc::new(text.to_owned()))
}

pub(super) fn map(entries: impl Iterator<Item = (Key, CelValue)>) -> CelValue {
    CelValue::Map(Map {
        map: Arc::new(entries.collect::<HashMap<_, _>>()),
    })
}

/// The keys of a map in order: what is iterated has to come out the same every time.
pub(super) fn sorted_keys(map: &Map) -> Vec<Key> {
    let mut keys: Vec<Key> = map.map.keys().cloned().collect();
    keys.sort();
    keys
}

/// A map of values by names.
pub(crate) fn object(entries: impl Iterator<Item = (String, CelValue)>) -> CelValue {
    map(entries.map(|(name, value)| (key(&name), value)))
}

pub(crate) fn list(items: impl Iterator<Item = CelValue>) -> CelValue {
    CelValue::List(Arc::new(items.collect()))
}

pub(crate) fn optional(value: Option<CelValue>) -> CelValue {
    let value = value.map_or_else(OptionalValue::none, OptionalValue::of);
    CelValue::Opaque(Arc::new(value))
}

/// What is in an optional; `None` when the value is no optional at all.
pub(super) fn as_optional(value: &CelValue) -> Option<Option<&CelValue>> {
    match value {
        CelValue::Opaque(opaque) => opaque
            .downcast_ref::<OptionalValue>()
            .map(OptionalValue::value),
        _ => None,
    }
}

pub fn to_json(value: &CelValue) -> Result<Json, EvaluationError> {
    use base64::Engine;
    Ok(match value {
        CelValue::Null => Json::Null,
        CelValue::Bool(value) => (*value).into(),
        CelValue::Int(value) => (*value).into(),
        CelValue::UInt(value) => (*value).into(),
        CelValue::Float(value) => float(*value),
        CelValue::String(text) => text.as_str().into(),
        CelValue::Bytes(bytes) => base64::engine::general_purpose::STANDARD
            .encode(bytes.as_slice())
            .into(),
        CelValue::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        CelValue::Map(map) => {
            let mut fields = JsonMap::new();
            for key in sorted_keys(map) {
                let value = map.map.get(&key).unwrap_or(&CelValue::Null);
                fields.insert(key.to_string(), to_json(value)?);
            }
            Json::Object(fields)
        }
        CelValue::Timestamp(time) => {
            let text = time.to_rfc3339();
            text.strip_suffix("+00:00")
                .map_or(text.clone(), |t| format!("{t}Z"))
                .into()
        }
        CelValue::Duration(_) => return Err(EvaluationError::NotJson("a duration")),
        CelValue::Function(..) => return Err(EvaluationError::NotJson("a function")),
        CelValue::Opaque(_) => match as_optional(value) {
            Some(Some(inner)) => to_json(inner)?,
            Some(None) => Json::Null,
            None => return Err(EvaluationError::NotJson("this type")),
        },
    })
}

/// Whole numbers are integers in JSON, as upstream's encoder writes them.
fn float(value: f64) -> Json {
    let whole = value.fract() == 0.0 && value.abs() < 9e15;
    if whole {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and small, just checked"
        )]
        let integer = value as i64;
        return integer.into();
    }
    value.into()
}

/// How much the value holds, as far as it matters for the budget.
pub(super) fn weight(value: &CelValue) -> u64 {
    match value {
        CelValue::String(text) => text.len() as u64 / 16,
        CelValue::Bytes(bytes) => bytes.len() as u64 / 16,
        CelValue::List(items) => items.len() as u64 / 4,
        CelValue::Map(map) => map.map.len() as u64 / 4,
        _ => 0,
    }
}
