//! Decoding: bytes or a value against a shape, as strictly as upstream and in its words.
//!
//! A built-in kind is decoded the way Go decodes into a struct: unknown fields are dropped
//! and reported, `null` reads as absent, leaves get their canonical form (quantities,
//! times), and what an encoder would leave out is left out. A custom kind keeps whatever
//! its schema allows, `null` included; its types are judged later, by validation.
//!
//! [`complete`] adds the fields that are always written. It comes last, after defaults.

mod complete;
mod decode;
mod go;
mod request;
mod scalars;
mod syntax;
mod yaml;

use serde::de::DeserializeSeed as _;
use serde_json::Value;

use crate::types::{StructRef, Type};

pub use complete::{complete, drop_empties, has_empties};
pub(crate) use decode::is_empty;
pub use request::{Format, Request, decode_request};
pub(crate) use scalars::{micro_time, time};
pub use yaml::{Document, read_yaml};

use decode::{Context, Node};

/// Why a body or a value is not an object of its kind. The text is what clients see after
/// `Pod in version "v1" cannot be handled as a Pod: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A value of another type than the field's.
    #[error("{0}")]
    Type(String),
    /// A leaf whose text does not parse.
    #[error("{0}")]
    Leaf(String),
}

/// A decoded object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Known fields only.
    pub value: Value,
    /// `unknown field "..."` and `duplicate field "..."`, in the order of the text.
    pub strict: Vec<String>,
}

impl Decoded {
    /// The error of `fieldValidation=Strict`, if there is something to report.
    pub fn strict_error(&self) -> Option<String> {
        (!self.strict.is_empty())
            .then(|| format!("strict decoding error: {}", self.strict.join(", ")))
    }
}

/// How deep an object may be. Upstream reads ten thousand levels, of which nothing else does
/// as many: what has more than 127 of them cannot be read by most clients, and an object is
/// also written in a list, and its fields once more in `managedFields`.
pub const MAX_NESTING: usize = 100;

/// Whether more than so many objects and lists stand in one another.
pub fn nests_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(map) => levels == 0 || map.values().any(|v| nests_deeper(v, levels - 1)),
        Value::Array(list) => levels == 0 || list.iter().any(|v| nests_deeper(v, levels - 1)),
        _ => false,
    }
}

/// The metadata does not count, which tells of the fields of all others.
fn is_too_deep(object: &Value) -> bool {
    object.as_object().is_some_and(|map| {
        let mut content = map.iter().filter(|(key, _)| *key != "metadata");
        content.any(|(_, value)| nests_deeper(value, MAX_NESTING - 1))
    })
}

/// Decodes a JSON text. Invalid UTF-8 is replaced as Go does it.
pub fn decode_json(body: &[u8], shape: &StructRef) -> Result<Decoded, DecodeError> {
    let text = String::from_utf8_lossy(body);
    let mut input = serde_json::Deserializer::from_str(&text);
    let ty = Type::Struct(shape.clone());
    let mut cx = Context::default();
    let node = Node::root(&mut cx, &ty);
    let value = node
        .deserialize(&mut input)
        .and_then(|v| input.end().map(|()| v));
    finish(cx, value, || syntax::error(text.as_bytes()))
}

/// Decodes a value, for example the result of a patch.
pub fn decode_value(value: Value, shape: &StructRef) -> Result<Decoded, DecodeError> {
    let ty = Type::Struct(shape.clone());
    let mut cx = Context::default();
    let result = Node::root(&mut cx, &ty).deserialize(value);
    finish(cx, result, || None)
}

/// What Go says of a text that is no JSON object; `None` for one.
pub(crate) fn map_fault(text: &[u8]) -> Option<String> {
    if let Some(fault) = syntax::error(text) {
        return Some(fault);
    }
    let kind = match serde_json::from_slice(text).unwrap_or_default() {
        Value::Object(_) | Value::Null => return None,
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    let target = "Go value of type map[string]interface {}";
    Some(format!("json: cannot unmarshal {kind} into {target}"))
}

fn finish(
    cx: Context,
    result: Result<Option<Value>, serde_json::Error>,
    syntax: impl FnOnce() -> Option<String>,
) -> Result<Decoded, DecodeError> {
    if let Some(abort) = cx.abort {
        return Err(abort);
    }
    match result {
        Ok(value) => match cx.saved {
            Some(error) => Err(error),
            None if value.as_ref().is_some_and(is_too_deep) => {
                Err(DecodeError::Syntax("exceeded max depth".into()))
            }
            None => Ok(Decoded {
                value: value.unwrap_or(Value::Null),
                strict: cx.strict,
            }),
        },
        Err(error) => Err(DecodeError::Syntax(
            syntax().unwrap_or_else(|| error.to_string()),
        )),
    }
}

#[cfg(test)]
mod tests;
