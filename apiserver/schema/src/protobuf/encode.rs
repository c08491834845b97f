//! JSON value to Kubernetes protobuf.
//!
//! Fields are written in the order of their numbers and map entries in the order of their
//! keys, and fields that are values in Go are written even when they are zero, so that the
//! bytes are those of the upstream encoder.

use serde_json::Value;

use super::MAGIC;
use super::special;
use super::wire::Writer;
use crate::types::{Field, Presence, Scalar, Struct, Type, named};

const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Why an object has no protobuf form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A custom resource, or a kind without message (`Table`).
    #[error(
        "object {api_version}, Kind={kind} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NoMessage {
        /// The object's `apiVersion`.
        api_version: String,
        /// The object's `kind`.
        kind: String,
    },
}

/// Encodes an object of a built-in kind (or a list) with its envelope.
pub fn encode(object: &Value) -> Result<Vec<u8>, EncodeError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let shape =
        super::decode::message_of(api_version, kind).ok_or_else(|| EncodeError::NoMessage {
            api_version: api_version.into(),
            kind: kind.into(),
        })?;
    let mut w = Writer {
        out: Vec::with_capacity(256),
    };
    w.out.extend_from_slice(&MAGIC);
    w.message(1, |w| {
        w.bytes(1, api_version.as_bytes());
        w.bytes(2, kind.as_bytes());
        Ok(())
    })?;
    w.message(2, |w| {
        write_struct(w, shape.get(), object);
        Ok(())
    })?;
    w.bytes(3, b"");
    w.bytes(4, b"");
    Ok(w.out)
}

/// A watch event around an object that is already encoded, as it stands in a watch's frame
/// (four bytes of big-endian length come first on the wire).
pub fn encode_watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut inner = Writer::default();
    inner.bytes(1, object);
    let mut w = Writer::default();
    w.bytes(1, event_type.as_bytes());
    w.bytes(2, &inner.out);
    w.out
}

/// A field beside its value, at a depth of inlined messages.
type Entry<'a> = (&'a Field, &'a Value);

fn write_struct(w: &mut Writer, shape: &Struct, value: &Value) {
    let mut entries: Vec<Entry<'_>> = shape
        .fields
        .iter()
        .filter(|f| !f.number.is_empty())
        .map(|f| (f, value.get(f.name.as_ref()).unwrap_or(&Value::Null)))
        .collect();
    entries.sort_by(|a, b| a.0.number.cmp(&b.0.number));
    write_level(w, &entries, 0);
}

/// Writes fields whose number paths agree up to `depth`.
fn write_level(w: &mut Writer, entries: &[Entry<'_>], depth: usize) {
    let mut at = 0;
    while let Some((field, value)) = entries.get(at) {
        let number = field.number[depth];
        if field.number.len() == depth + 1 {
            write_field(w, number, field, value);
            at += 1;
            continue;
        }
        let same = entries[at..]
            .iter()
            .take_while(|(f, _)| f.number[depth] == number)
            .count();
        let mut inner = Writer::default();
        write_level(&mut inner, &entries[at..at + same], depth + 1);
        // A list that is a message of its own (`Verbs`) is absent where it is empty.
        if same > 1 || !matches!(value, Value::Array(items) if items.is_empty()) {
            w.bytes(number, &inner.out);
        }
        at += same;
    }
}

fn write_field(w: &mut Writer, number: u16, field: &Field, value: &Value) {
    let pointer = matches!(field.presence, Presence::Pointer | Presence::Nil);
    if value.is_null()
        && (pointer
            || matches!(
                field.ty,
                Type::List(_) | Type::Map(_) | Type::Scalar(Scalar::Bytes)
            ))
    {
        return;
    }
    write_value(w, number, &field.ty, value);
}

fn message(w: &mut Writer, number: u16, fill: impl FnOnce(&mut Writer)) {
    let mut inner = Writer::default();
    fill(&mut inner);
    w.bytes(number, &inner.out);
}

fn write_value(w: &mut Writer, number: u16, ty: &Type, value: &Value) {
    match ty {
        Type::Struct(shape) => message(w, number, |w| write_struct(w, shape.get(), value)),
        Type::List(list) => {
            for item in value.as_array().into_iter().flatten() {
                write_value(w, number, &list.item, item);
            }
        }
        Type::Map(map) => {
            let mut entries: Vec<(&String, &Value)> =
                value.as_object().into_iter().flatten().collect();
            entries.sort_by_key(|(k, _)| *k);
            for (key, item) in entries {
                message(w, number, |w| {
                    w.bytes(1, key.as_bytes());
                    match &map.value {
                        // A list as a map's value is a message with the items in field 1.
                        Type::List(_) => message(w, 2, |w| write_value(w, 1, &map.value, item)),
                        inner => write_value(w, 2, inner, item),
                    }
                });
            }
        }
        Type::Scalar(scalar) => write_scalar(w, number, *scalar, value),
    }
}

fn write_scalar(w: &mut Writer, number: u16, scalar: Scalar, value: &Value) {
    match scalar {
        Scalar::String => w.bytes(number, value.as_str().unwrap_or_default().as_bytes()),
        Scalar::Bool => w.int(number, i64::from(value.as_bool().unwrap_or(false))),
        Scalar::Int32 | Scalar::Int64 => w.int(number, value.as_i64().unwrap_or(0)),
        Scalar::Double => w.double(number, value.as_f64().unwrap_or(0.0)),
        Scalar::Bytes => w.bytes(number, &special::to_bytes(value)),
        Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
            message(w, number, |w| write_schema(w, scalar, value));
        }
        _ => message(w, number, |w| special::write(w, scalar, value)),
    }
}

/// The union types of a JSON schema.
fn write_schema(w: &mut Writer, scalar: Scalar, value: &Value) {
    let Some(schema) = named(JSON_SCHEMA) else {
        return;
    };
    let single =
        |w: &mut Writer, number| message(w, number, |w| write_struct(w, schema.get(), value));
    match (scalar, value) {
        (Scalar::SchemaOrBool, Value::Bool(b)) => w.int(1, i64::from(*b)),
        (Scalar::SchemaOrBool, Value::Object(_)) => {
            w.int(1, 1);
            single(w, 2);
        }
        (_, Value::Object(_)) => single(w, 1),
        (Scalar::SchemaOrArray, Value::Array(items)) => {
            for item in items {
                message(w, 2, |w| write_struct(w, schema.get(), item));
            }
        }
        (_, Value::Array(items)) => {
            for item in items {
                w.bytes(2, item.as_str().unwrap_or_default().as_bytes());
            }
        }
        _ => {}
    }
}
