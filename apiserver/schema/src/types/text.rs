//! Reads the fact table `data/types.txt`.
//!
//! A line `=NAME WORD...` starts a definition, each following line is a field:
//! `name number type flags word...`. Types are a word (`string`, `quantity`, ...), `@NAME`
//! (a definition, of the same package when it has no dot), `[T]` or `{T}`. Flags: `p`
//! pointer, `v` omitted when zero, `a` always written, `s` struct by value, `r` required.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Field, Gvk, List, ListType, Map, Patch, Presence, Scalar, Struct, StructRef, Type};

/// The table is not as its importer writes it.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A field's line lacks words.
    #[error("type table: field line with too few words: {0:?}")]
    ShortLine(String),
    /// A type word that is not known.
    #[error("type table: unknown type {0:?}")]
    UnknownType(String),
    /// A reference to a definition that is not there.
    #[error("type table: no definition {0:?}")]
    UnknownReference(String),
    /// A number or a JSON value that does not parse.
    #[error("type table: {0:?} does not parse")]
    BadValue(String),
}

/// Names of all definitions, in order, with their range of lines.
pub(super) struct Index {
    pub(super) names: HashMap<&'static str, u16>,
    pub(super) blocks: Vec<&'static str>,
}

/// Finds the definitions without reading their fields.
pub(super) fn index(text: &'static str) -> Index {
    let (mut names, mut blocks) = (HashMap::new(), Vec::new());
    for block in text.split("\n=").map(|b| b.strip_prefix('=').unwrap_or(b)) {
        let end = block.find([' ', '\n']).unwrap_or(block.len());
        names.insert(&block[..end], blocks.len() as u16);
        blocks.push(block);
    }
    Index { names, blocks }
}

/// Reads one definition.
pub(super) fn parse(block: &'static str, index: &Index) -> Result<Struct, TableError> {
    let mut lines = block.lines();
    let mut head = lines.next().unwrap_or_default().split(' ');
    let name = head.next().unwrap_or_default();
    let mut out = Struct {
        name: Cow::Borrowed(name),
        ..Struct::default()
    };
    for word in head {
        match word.split_once('=').unwrap_or((word, "")) {
            ("gvk", v) => out.gvks.extend(gvk(v)),
            ("required", v) => out.required = v.split(',').map(Cow::Borrowed).collect(),
            ("map", v) => out.atomic = v == "atomic",
            ("scalar", v) => out.scalar = Some(scalar(v)?),
            ("unions", v) => out.unions = Some(json(v)?),
            _ => return Err(TableError::BadValue(word.into())),
        }
    }
    let package = name.rsplit_once('.').map_or("", |(p, _)| p);
    for line in lines.filter(|l| !l.is_empty()) {
        out.fields.push(field(line, package, index)?);
    }
    out.fields.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn gvk(text: &'static str) -> Option<Gvk> {
    let mut parts = text.splitn(3, '/');
    Some(Gvk {
        group: Cow::Borrowed(parts.next()?),
        version: Cow::Borrowed(parts.next()?),
        kind: Cow::Borrowed(parts.next()?),
    })
}

fn json(text: &str) -> Result<Value, TableError> {
    serde_json::from_str(text).map_err(|_| TableError::BadValue(text.into()))
}

/// What the words after the flags say.
#[derive(Default)]
struct Words {
    list: Option<ListType>,
    atomic_map: bool,
    item_default: Option<Value>,
    item_enum: Vec<Cow<'static, str>>,
}

fn field(line: &'static str, package: &str, index: &Index) -> Result<Field, TableError> {
    let short = || TableError::ShortLine(line.into());
    // A default may hold spaces: it is the last word.
    let (line, default) = match line.split_once(" default=") {
        Some((rest, value)) => (rest, Some(json(value)?)),
        None => (line, None),
    };
    let mut words = line.split(' ');
    let name = words.next().ok_or_else(short)?;
    let number = words.next().ok_or_else(short)?;
    let ty = words.next().ok_or_else(short)?;
    let flags = words.next().ok_or_else(short)?;
    let mut field = Field {
        name: Cow::Borrowed(name),
        number: numbers(number)?,
        ty: Type::Scalar(Scalar::Any),
        presence: presence(flags, ty),
        required: flags.contains('r'),
        nullable: false,
        default,
        patch: Patch::default(),
        enumeration: Vec::new(),
        go_type: None,
        extensions: Vec::new(),
    };
    let mut own = Words::default();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(short)?;
        match key {
            "list" => own.list = Some(list_type(value)),
            "map" if value == "granular" => field.extensions.push(("x-kubernetes-map-type", value)),
            "map" => own.atomic_map = value == "atomic",
            "patch" if value == "replace" => field
                .extensions
                .push(("x-kubernetes-patch-strategy", value)),
            "patch" => {
                field.patch.merge = value.split(',').any(|s| s == "merge");
                field.patch.retain_keys = value.split(',').any(|s| s == "retainKeys");
            }
            "key" => field.patch.merge_key = Some(Cow::Borrowed(value)),
            "enum" => field.enumeration = enumeration(value),
            "items-enum" => own.item_enum = enumeration(value),
            "items-default" => own.item_default = Some(json(value)?),
            "go" => field.go_type = Some(Cow::Borrowed(value)),
            _ => return Err(TableError::BadValue(word.into())),
        }
    }
    field.ty = parse_type(ty, package, index, &mut own)?;
    if own.list.is_some() {
        // Bytes are a list in Go.
        field.extensions.push(("x-kubernetes-list-type", "atomic"));
    }
    Ok(field)
}

/// Comma-separated values, with `~` for a space.
fn enumeration(value: &'static str) -> Vec<Cow<'static, str>> {
    let one = |v: &'static str| {
        if v.contains('~') {
            Cow::Owned(v.replace('~', " "))
        } else {
            Cow::Borrowed(v)
        }
    };
    value.split(',').map(one).collect()
}

fn numbers(word: &str) -> Result<Vec<u16>, TableError> {
    if word == "-" {
        return Ok(Vec::new());
    }
    word.split('.')
        .map(|n| n.parse().map_err(|_| TableError::BadValue(word.into())))
        .collect()
}

fn presence(flags: &str, ty: &str) -> Presence {
    let composite = ty.starts_with(['[', '{']);
    match flags.as_bytes().first() {
        Some(b'p') => Presence::Pointer,
        Some(b'n') => Presence::Nil,
        Some(b'a' | b's') => Presence::Always,
        Some(b'r') if composite => Presence::Always,
        _ => Presence::OmitEmpty,
    }
}

fn list_type(value: &'static str) -> ListType {
    match value.split_once(':') {
        Some(("map", keys)) => ListType::Map(keys.split(',').map(Cow::Borrowed).collect()),
        _ if value == "set" => ListType::Set,
        _ => ListType::Atomic,
    }
}

fn parse_type(
    word: &'static str,
    package: &str,
    index: &Index,
    own: &mut Words,
) -> Result<Type, TableError> {
    if let Some(inner) = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')) {
        let declared = own.list.is_some();
        let list_type = own.list.take().unwrap_or(ListType::Atomic);
        let (item_default, item_enum) =
            (own.item_default.take(), std::mem::take(&mut own.item_enum));
        let item = parse_type(inner, package, index, own)?;
        return Ok(Type::List(Arc::new(List {
            item,
            list_type,
            declared,
            item_default,
            item_enum,
            item_nullable: false,
        })));
    }
    if let Some(inner) = word.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
        let (atomic, value_default) = (own.atomic_map, own.item_default.take());
        let value_enum = std::mem::take(&mut own.item_enum);
        let value = parse_type(inner, package, index, own)?;
        return Ok(Type::Map(Arc::new(Map {
            value,
            atomic,
            value_default,
            value_enum,
            value_nullable: false,
        })));
    }
    if let Some(name) = word.strip_prefix('@') {
        let full = if name.contains('.') {
            name.to_owned()
        } else {
            format!("{package}.{name}")
        };
        let found = index.names.get(full.as_str()).copied();
        return found
            .map(|i| Type::Struct(StructRef::Builtin(i)))
            .ok_or(TableError::UnknownReference(full));
    }
    scalar(word).map(Type::Scalar)
}

fn scalar(word: &str) -> Result<Scalar, TableError> {
    Ok(match word {
        "string" => Scalar::String,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" | "integer" => Scalar::Int64,
        "double" | "number" => Scalar::Double,
        "bytes" => Scalar::Bytes,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "quantity" => Scalar::Quantity,
        "intstr" => Scalar::IntOrString,
        "raw" | "object" => Scalar::RawExtension,
        "fields" => Scalar::FieldsV1,
        "json" => Scalar::Json,
        "schema-or-array" => Scalar::SchemaOrArray,
        "schema-or-bool" => Scalar::SchemaOrBool,
        "schema-or-strings" => Scalar::SchemaOrStrings,
        "any" | "patch" => Scalar::Any,
        _ => return Err(TableError::UnknownType(word.into())),
    })
}
