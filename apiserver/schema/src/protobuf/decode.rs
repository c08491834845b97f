//! Kubernetes protobuf to JSON value.

use serde_json::{Map, Value};

use super::wire::{Raw, Reader, WireError};
use super::{MAGIC, special};
use crate::check::is_empty;
use crate::types::{Field, Presence, Scalar, Struct, StructRef, Type, named, root};

const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
const MAX_DEPTH: usize = 100;

/// Why bytes are not an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf at all.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    /// A kind that has no message here.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apiVersion` of the envelope.
        api_version: String,
        /// `kind` of the envelope.
        kind: String,
    },
    /// A message that is not well-formed.
    #[error("{0}")]
    Wire(String),
    /// Text that is not UTF-8.
    #[error("string field contains invalid UTF-8")]
    Utf8,
    /// Nested deeper than any kind of the API.
    #[error("exceeded max depth")]
    Depth,
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        Self::Wire(error.to_string())
    }
}

/// The shape of a kind that has a protobuf form.
pub(super) fn message_of(api_version: &str, kind: &str) -> Option<StructRef> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    root(group, version, kind).or_else(|| match kind {
        // Registered in every group.
        "DeleteOptions" | "Status" | "WatchEvent" => root("", "v1", kind),
        _ => None,
    })
}

/// Decodes an object with its envelope; `apiVersion` and `kind` are those of the envelope.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(envelope);
    while let Some(field) = reader.next()? {
        match field {
            (1, Raw::Bytes(meta)) => {
                let mut inner = Reader::new(meta);
                while let Some(field) = inner.next()? {
                    match field {
                        (1, Raw::Bytes(b)) => api_version = text(b)?.into(),
                        (2, Raw::Bytes(b)) => kind = text(b)?.into(),
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    let Some(shape) = message_of(&api_version, &kind) else {
        return Err(DecodeError::UnknownKind { api_version, kind });
    };
    let mut object = read_struct(shape.get(), raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(object.into())
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)
}

fn read_struct(
    shape: &Struct,
    message: &[u8],
    depth: usize,
) -> Result<Map<String, Value>, DecodeError> {
    let mut out = Map::new();
    read_level(shape, message, &mut Vec::new(), &mut out, depth)?;
    // What Go would not write for a zero value is not there.
    for field in &shape.fields {
        if field.presence == Presence::OmitEmpty
            && out
                .get(field.name.as_ref())
                .is_some_and(|v| omitted(field, v))
        {
            out.remove(field.name.as_ref());
        }
    }
    Ok(out)
}

fn omitted(field: &Field, value: &Value) -> bool {
    let struct_leaf = matches!(
        field.ty,
        Type::Scalar(Scalar::IntOrString | Scalar::Quantity | Scalar::RawExtension)
    );
    is_empty(value) && !struct_leaf
}

/// Reads the fields of a message, or of one that is inlined at `path`.
fn read_level(
    shape: &Struct,
    message: &[u8],
    path: &mut Vec<u16>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    let mut reader = Reader::new(message);
    while let Some((number, raw)) = reader.next()? {
        path.push(number);
        if let Some(field) = shape.fields.iter().find(|f| f.number == *path) {
            read_field(field, raw, out, depth)?;
        } else if let Raw::Bytes(inner) = raw
            && shape
                .fields
                .iter()
                .any(|f| f.number.len() > path.len() && f.number.starts_with(path))
        {
            read_level(shape, inner, path, out, depth + 1)?;
        }
        path.pop();
    }
    Ok(())
}

fn read_field(
    field: &Field,
    raw: Raw<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    let name = field.name.as_ref();
    match &field.ty {
        Type::List(list) => {
            let item = read_value(&list.item, raw, depth)?.unwrap_or(Value::Null);
            match out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(items) => items.push(item),
                other => *other = Value::Array(vec![item]),
            }
        }
        Type::Map(map) => {
            let Raw::Bytes(entry) = raw else {
                return Ok(());
            };
            let (mut key, mut value) = (String::new(), None);
            let mut reader = Reader::new(entry);
            while let Some((number, raw)) = reader.next()? {
                match (number, raw) {
                    (1, Raw::Bytes(b)) => key = text(b)?.into(),
                    (2, raw) => value = read_map_value(&map.value, raw, depth)?,
                    _ => {}
                }
            }
            let value = value.map_or_else(
                || read_value(&map.value, Raw::Bytes(b""), depth).map(Option::unwrap_or_default),
                Ok,
            )?;
            if let Value::Object(entries) =
                out.entry(name).or_insert_with(|| Value::Object(Map::new()))
            {
                entries.insert(key, value);
            }
        }
        ty => {
            if let Some(value) = read_value(ty, raw, depth)? {
                out.insert(name.into(), value);
            }
        }
    }
    Ok(())
}

/// A list as a map's value is a message with the items in field 1.
fn read_map_value(ty: &Type, raw: Raw<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
    let (Type::List(list), Raw::Bytes(message)) = (ty, raw) else {
        return read_value(ty, raw, depth);
    };
    let mut items = Vec::new();
    let mut reader = Reader::new(message);
    while let Some((number, raw)) = reader.next()? {
        if number == 1 {
            items.push(read_value(&list.item, raw, depth)?.unwrap_or(Value::Null));
        }
    }
    Ok(Some(items.into()))
}

fn read_value(ty: &Type, raw: Raw<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match (ty, raw) {
        (Type::Struct(shape), Raw::Bytes(message)) => {
            read_struct(shape.get(), message, depth + 1)?.into()
        }
        (Type::Scalar(Scalar::String), Raw::Bytes(b)) => text(b)?.into(),
        (Type::Scalar(Scalar::Bytes), Raw::Bytes(b)) => special::from_bytes(b),
        (Type::Scalar(Scalar::Bool), Raw::Varint(v)) => (v != 0).into(),
        (Type::Scalar(Scalar::Int32), Raw::Varint(v)) => i64::from(v as i32).into(),
        (Type::Scalar(Scalar::Int64), Raw::Varint(v)) => (v as i64).into(),
        (Type::Scalar(Scalar::Double), Raw::Fixed64(v)) => f64::from_bits(v).into(),
        (
            Type::Scalar(
                s @ (Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings),
            ),
            Raw::Bytes(b),
        ) => read_schema(*s, b, depth)?,
        (Type::Scalar(s), Raw::Bytes(b)) => return Ok(special::read(*s, b)?),
        _ => return Err(DecodeError::Wire(WireError::Tag.to_string())),
    }))
}

/// The union types of a JSON schema.
fn read_schema(scalar: Scalar, message: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let Some(schema) = named(JSON_SCHEMA) else {
        return Ok(Value::Null);
    };
    let (mut single, mut items, mut allows) = (None, Vec::<Value>::new(), false);
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        match (scalar, field) {
            (Scalar::SchemaOrBool, (1, Raw::Varint(v))) => allows = v != 0,
            (Scalar::SchemaOrBool, (2, Raw::Bytes(b))) | (_, (1, Raw::Bytes(b))) => {
                single = Some(read_struct(schema.get(), b, depth + 1)?);
            }
            (Scalar::SchemaOrArray, (2, Raw::Bytes(b))) => {
                items.push(read_struct(schema.get(), b, depth + 1)?.into())
            }
            (_, (2, Raw::Bytes(b))) => items.push(text(b)?.into()),
            _ => {}
        }
    }
    Ok(match (single, scalar) {
        (Some(schema), _) => schema.into(),
        (None, Scalar::SchemaOrBool) => allows.into(),
        (None, _) => items.into(),
    })
}
