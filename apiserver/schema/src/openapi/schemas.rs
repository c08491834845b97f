//! Definitions, from the type table.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::describe::Descriptions;
use crate::types::{Field, Gvk, ListType, Scalar, Struct, Type, named};

/// Which OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// 2.0: no defaults, no alternatives.
    V2,
    /// 3.0
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
const GROUP_VERSIONS: &str = include_str!("../../data/group-versions.txt");

/// Fields whose reference stands alone, without a text beside it.
const BARE: [(&str, &[&str]); 2] = [
    (
        "JSONSchemaProps",
        &[
            "additionalItems",
            "additionalProperties",
            "example",
            "externalDocs",
            "items",
            "not",
        ],
    ),
    ("IngressRule", &["http"]),
];

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let prefix = if self == Self::V3 {
            "#/components/schemas/"
        } else {
            "#/definitions/"
        };
        format!("{prefix}{name}").into()
    }
}

/// Changes with the tables.
pub(super) fn fingerprint() -> [u8; 8] {
    let digest = Sha256::digest(concat!(
        include_str!("../../data/types.txt"),
        include_str!("../../data/resources.txt")
    ));
    let mut own = [0; 8];
    own.copy_from_slice(&digest[..8]);
    own
}

/// `{group, kind, version}`
pub(super) fn gvk(kind: &Gvk) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The definition of a built-in type.
pub(super) fn definition(
    name: &str,
    dialect: Dialect,
    group_version: Option<(&str, &str)>,
    texts: &Descriptions,
) -> Option<Value> {
    let shape = named(name)?;
    let shape = shape.get();
    let mut own = match shape.scalar {
        Some(scalar) => scalar_definition(scalar, dialect, name),
        None => object_definition(shape, dialect, texts),
    };
    if let Some(text) = texts.of_type(name) {
        own.insert("description".into(), text.into());
    }
    let kinds: Vec<Value> = match name.strip_prefix(META) {
        Some(kind @ ("DeleteOptions" | "WatchEvent")) => every_group(kind, dialect, group_version),
        _ => shape.gvks.iter().map(gvk).collect(),
    };
    if !kinds.is_empty() {
        own.insert("x-kubernetes-group-version-kind".into(), kinds.into());
    }
    if shape.atomic {
        own.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some(unions) = &shape.unions {
        own.insert("x-kubernetes-unions".into(), unions.clone());
    }
    Some(own.into())
}

/// Kinds that every group has: v2 lists them all, v3 its own beside the core's.
fn every_group(kind: &str, dialect: Dialect, group_version: Option<(&str, &str)>) -> Vec<Value> {
    let own = |g: &str, v: &str| gvk(&Gvk::new(g, v, kind));
    match (dialect, group_version) {
        (Dialect::V2, _) => GROUP_VERSIONS
            .lines()
            .filter_map(|l| l.split_once('/'))
            .map(|(g, v)| own(g, v))
            .collect(),
        (Dialect::V3, Some((g, v))) if !g.is_empty() => vec![own("", "v1"), own(g, v)],
        _ => vec![own("", "v1")],
    }
}

fn scalar_definition(scalar: Scalar, dialect: Dialect, name: &str) -> Map<String, Value> {
    let own = match (scalar, dialect) {
        (Scalar::Time | Scalar::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Scalar::Quantity, Dialect::V3) => {
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        (Scalar::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Scalar::IntOrString, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Scalar::IntOrString, Dialect::V2) => json!({"format": "int-or-string", "type": "string"}),
        (Scalar::RawExtension | Scalar::FieldsV1, _) => json!({"type": "object"}),
        _ if name == format!("{META}Patch") => json!({"type": "object"}),
        _ => json!({}),
    };
    match own {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn object_definition(shape: &Struct, dialect: Dialect, texts: &Descriptions) -> Map<String, Value> {
    let mut own = Map::new();
    own.insert("type".into(), "object".into());
    let properties: Map<String, Value> = shape
        .fields
        .iter()
        .map(|f| (f.name.to_string(), property(shape, f, dialect, texts)))
        .collect();
    if !properties.is_empty() {
        own.insert("properties".into(), properties.into());
    }
    if !shape.required.is_empty() {
        own.insert("required".into(), json!(shape.required));
    }
    own
}

fn property(shape: &Struct, field: &Field, dialect: Dialect, texts: &Descriptions) -> Value {
    let mut own = type_schema(&field.ty, dialect);
    if dialect == Dialect::V3 {
        let bare = BARE
            .iter()
            .any(|(s, fields)| *s == shape.short_name() && fields.contains(&field.name.as_ref()));
        if let Some(reference) = own.remove("$ref").filter(|_| !bare) {
            own.insert("allOf".into(), json!([{"$ref": reference}]));
        } else if bare && let Some(name) = definition_of(&field.ty) {
            own.insert("$ref".into(), dialect.reference(&name));
        }
        if let Some(default) = &field.default {
            own.insert("default".into(), default.clone());
        }
    }
    if let Some(text) = texts.of_field(&shape.name, &field.name) {
        own.insert("description".into(), text.into());
    }
    if !field.enumeration.is_empty() {
        own.insert("enum".into(), json!(field.enumeration));
    }
    if let Type::List(list) = &field.ty {
        list_words(list, &mut own);
    }
    if let Type::Map(map) = &field.ty
        && map.atomic
    {
        own.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    patch_words(field, &mut own);
    own.extend(
        field
            .extensions
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into())),
    );
    own.into()
}

fn list_words(list: &crate::types::List, own: &mut Map<String, Value>) {
    if !list.declared {
        return;
    }
    let kind = match &list.list_type {
        ListType::Atomic => "atomic",
        ListType::Set => "set",
        ListType::Map(keys) => {
            own.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            "map"
        }
    };
    own.insert("x-kubernetes-list-type".into(), kind.into());
}

fn patch_words(field: &Field, own: &mut Map<String, Value>) {
    let patch = &field.patch;
    let strategy = match (patch.merge, patch.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => "",
    };
    if !strategy.is_empty() {
        own.insert("x-kubernetes-patch-strategy".into(), strategy.into());
    }
    if let Some(key) = &patch.merge_key {
        own.insert("x-kubernetes-patch-merge-key".into(), key.as_ref().into());
    }
}

/// The definition that a type refers to.
fn definition_of(ty: &Type) -> Option<String> {
    let scalar = match ty {
        Type::Struct(shape) => return Some(shape.get().name.to_string()),
        Type::Scalar(scalar) => scalar,
        _ => return None,
    };
    Some(match scalar {
        Scalar::Time => format!("{META}Time"),
        Scalar::MicroTime => format!("{META}MicroTime"),
        Scalar::FieldsV1 => format!("{META}FieldsV1"),
        Scalar::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
        Scalar::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".into(),
        Scalar::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
        Scalar::Json => format!("{CRD}JSON"),
        Scalar::SchemaOrArray => format!("{CRD}JSONSchemaPropsOrArray"),
        Scalar::SchemaOrBool => format!("{CRD}JSONSchemaPropsOrBool"),
        Scalar::SchemaOrStrings => format!("{CRD}JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

fn type_schema(ty: &Type, dialect: Dialect) -> Map<String, Value> {
    let mut own = Map::new();
    if let Some(name) = definition_of(ty) {
        own.insert("$ref".into(), dialect.reference(&name));
        return own;
    }
    let (kind, format) = match ty {
        Type::List(list) => {
            let mut items = type_schema(&list.item, dialect);
            if !list.item_enum.is_empty() {
                items.insert("enum".into(), json!(list.item_enum));
            }
            own.insert("items".into(), items.into());
            ("array", None)
        }
        Type::Map(map) => {
            let mut values = type_schema(&map.value, dialect);
            if !map.value_enum.is_empty() {
                values.insert("enum".into(), json!(map.value_enum));
            }
            own.insert("additionalProperties".into(), values.into());
            ("object", None)
        }
        Type::Scalar(Scalar::Bool) => ("boolean", None),
        Type::Scalar(Scalar::Int32) => ("integer", Some("int32")),
        Type::Scalar(Scalar::Int64) => ("integer", Some("int64")),
        Type::Scalar(Scalar::Double) => ("number", Some("double")),
        Type::Scalar(Scalar::Bytes) => ("string", Some("byte")),
        _ => ("string", None),
    };
    own.insert("type".into(), kind.into());
    if let Some(format) = format {
        own.insert("format".into(), format.into());
    }
    own
}

/// Names that a schema refers to.
pub(super) fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(target) if key == "$ref" => {
                        out.extend(target.rsplit('/').next().map(str::to_owned))
                    }
                    _ => references(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|i| references(i, out)),
        _ => {}
    }
}
