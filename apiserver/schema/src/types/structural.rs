//! Shapes of custom resources, from the structural schema of their definition.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::{
    Field, Gvk, List, ListType, Map, Patch, Presence, Scalar, Struct, StructRef, Type, named,
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The shape of a custom kind: its schema plus `apiVersion`, `kind` and `metadata`.
///
/// Without a schema (`schema` is `None`) every field is kept.
pub fn custom_root(gvk: &Gvk, schema: Option<&Value>) -> StructRef {
    let mut own = match schema.map(from_structural) {
        Some(Type::Struct(StructRef::Custom(s))) => Arc::unwrap_or_clone(s),
        _ => Struct {
            preserve_unknown: true,
            ..Struct::default()
        },
    };
    own.preserve_unknown |= schema.is_none();
    own.name = Cow::Owned(format!(
        "{}.{}.{}",
        reversed(&gvk.group),
        gvk.version,
        gvk.kind
    ));
    own.gvks = vec![gvk.clone()];
    add_object_fields(&mut own);
    StructRef::Custom(Arc::new(own))
}

fn reversed(group: &str) -> String {
    group.split('.').rev().collect::<Vec<_>>().join(".")
}

/// The type that a structural schema (a `JSONSchemaProps` object) describes.
pub fn from_structural(schema: &Value) -> Type {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    if flag("x-kubernetes-int-or-string") {
        return Type::Scalar(Scalar::IntOrString);
    }
    let format = schema
        .get("format")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "object" => object(schema),
        "array" => Type::List(Arc::new(list(schema))),
        "string" => Type::Scalar(Scalar::String),
        "boolean" => Type::Scalar(Scalar::Bool),
        "integer" if format == "int32" => Type::Scalar(Scalar::Int32),
        "integer" => Type::Scalar(Scalar::Int64),
        "number" => Type::Scalar(Scalar::Double),
        _ if schema.get("properties").is_some() => object(schema),
        _ => Type::Scalar(Scalar::Any),
    }
}

fn object(schema: &Value) -> Type {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let atomic = schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema
        .get("additionalProperties")
        .filter(|v| **v != Value::Bool(false));
    if let (None, Some(values)) = (properties, values) {
        return Type::Map(Arc::new(Map {
            value: from_structural(values),
            atomic,
            value_default: values.get("default").cloned(),
            value_enum: Vec::new(),
            value_nullable: nullable(values),
        }));
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let fields = properties.into_iter().flatten().map(|(name, sub)| Field {
        name: Cow::Owned(name.clone()),
        number: Vec::new(),
        ty: from_structural(sub),
        presence: Presence::Pointer,
        required: required.contains(&name.as_str()),
        nullable: nullable(sub),
        default: sub.get("default").cloned(),
        patch: Patch::default(),
        enumeration: Vec::new(),
        go_type: None,
        extensions: Vec::new(),
    });
    let mut own = Struct {
        fields: fields.collect(),
        custom: true,
        atomic,
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        ..Struct::default()
    };
    own.fields.sort_by(|a, b| a.name.cmp(&b.name));
    if own.embedded {
        add_object_fields(&mut own);
    }
    Type::Struct(StructRef::Custom(Arc::new(own)))
}

fn nullable(schema: &Value) -> bool {
    schema
        .get("nullable")
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

fn list(schema: &Value) -> List {
    let items = schema.get("items").unwrap_or(&Value::Null);
    let declared = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let keys = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array);
    let list_type = match declared {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(
            keys.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|k| Cow::Owned(k.to_owned()))
                .collect(),
        ),
        _ => ListType::Atomic,
    };
    List {
        item: from_structural(items),
        list_type,
        declared: declared.is_some(),
        item_default: items.get("default").cloned(),
        item_enum: Vec::new(),
        item_nullable: nullable(items),
    }
}

/// Every object has these, whatever its schema says of them.
fn add_object_fields(own: &mut Struct) {
    let meta = named(OBJECT_META).map_or(Type::Scalar(Scalar::Any), Type::Struct);
    own.fields
        .retain(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind" | "metadata"));
    for (name, ty) in [
        ("apiVersion", Type::Scalar(Scalar::String)),
        ("kind", Type::Scalar(Scalar::String)),
        ("metadata", meta),
    ] {
        own.fields.push(Field {
            name: Cow::Borrowed(name),
            number: Vec::new(),
            ty,
            presence: Presence::Pointer,
            required: false,
            nullable: false,
            default: None,
            patch: Patch::default(),
            enumeration: Vec::new(),
            go_type: None,
            extensions: Vec::new(),
        });
    }
    own.fields.sort_by(|a, b| a.name.cmp(&b.name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_structural_schema_becomes_a_shape() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "format": "int32", "default": 3},
            "port": {"x-kubernetes-int-or-string": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                      "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
        let root = custom_root(&Gvk::new("example.com", "v1", "Widget"), Some(&schema));
        assert_eq!(root.get().name, "com.example.v1.Widget");
        assert!(
            root.get()
                .field("metadata")
                .and_then(|f| f.ty.as_struct())
                .is_some()
        );
        let spec = root
            .get()
            .field("spec")
            .and_then(|f| f.ty.as_struct())
            .expect("a struct");
        assert_eq!(
            spec.field("size").and_then(|f| f.default.clone()),
            Some(json!(3))
        );
        assert!(spec.field("size").is_some_and(|f| f.required));
        assert!(matches!(
            spec.field("port").map(|f| &f.ty),
            Some(Type::Scalar(Scalar::IntOrString))
        ));
        assert!(matches!(
            spec.field("labels").map(|f| &f.ty),
            Some(Type::Map(_))
        ));
        let Some(Type::List(parts)) = spec.field("parts").map(|f| &f.ty) else {
            panic!("a list")
        };
        assert_eq!(parts.list_type, ListType::Map(vec!["a".into(), "b".into()]));
        assert!(
            spec.field("free")
                .and_then(|f| f.ty.as_struct())
                .is_some_and(|s| s.preserve_unknown)
        );
    }
}
