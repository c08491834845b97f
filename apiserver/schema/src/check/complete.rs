//! Fields that an encoder always writes.

use serde_json::{Map, Value};

use crate::types::{Field, Presence, Scalar, Struct, StructRef, Type, named};

const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Adds what Go's encoder writes for absent fields of a built-in kind: `{}` for structs by
/// value, `null` for required lists, zeros of required leaves. Custom kinds have none.
pub fn complete(value: &mut Value, shape: &StructRef) {
    complete_struct(value, shape.get());
}

/// Whether the object has empty lists or maps where its stored form has none: the encoding
/// upstream stores built-in kinds in does not tell the two apart.
pub fn has_empties(value: &Value, shape: &StructRef) -> bool {
    let Some(map) = value.as_object() else {
        return false;
    };
    shape.get().fields.iter().any(|field| {
        map.get(field.name.as_ref())
            .is_some_and(|inner| is_written_empty(field, inner) || any_empties(inner, &field.ty))
    })
}

fn any_empties(value: &Value, ty: &Type) -> bool {
    match (ty, value) {
        (Type::Struct(shape), _) => has_empties(value, shape),
        (Type::List(list), Value::Array(items)) => items.iter().any(|i| any_empties(i, &list.item)),
        (Type::Map(map), Value::Object(entries)) => {
            entries.values().any(|i| any_empties(i, &map.value))
        }
        _ => false,
    }
}

fn is_written_empty(field: &Field, value: &Value) -> bool {
    field.presence == Presence::Always
        && match (&field.ty, value) {
            (Type::List(_), Value::Array(items)) => items.is_empty(),
            (Type::Map(_), Value::Object(entries)) => entries.is_empty(),
            _ => false,
        }
}

/// Makes those empty lists and maps `null`.
pub fn drop_empties(value: &mut Value, shape: &StructRef) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for field in &shape.get().fields {
        if let Some(inner) = map.get_mut(field.name.as_ref()) {
            if is_written_empty(field, inner) {
                *inner = Value::Null;
            } else {
                drop_in(inner, &field.ty);
            }
        }
    }
}

fn drop_in(value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(shape), value) => drop_empties(value, shape),
        (Type::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|i| drop_in(i, &list.item));
        }
        (Type::Map(map), Value::Object(entries)) => {
            entries.values_mut().for_each(|i| drop_in(i, &map.value));
        }
        _ => {}
    }
}

fn complete_struct(value: &mut Value, shape: &Struct) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for field in &shape.fields {
        match map.get_mut(field.name.as_ref()) {
            Some(inner) => complete_type(inner, &field.ty),
            None => {
                if let Some(mut zero) = written_zero(field) {
                    complete_type(&mut zero, &field.ty);
                    map.insert(field.name.to_string(), zero);
                }
            }
        }
    }
}

fn complete_type(value: &mut Value, ty: &Type) {
    match ty {
        Type::Struct(shape) => complete_struct(value, shape.get()),
        Type::List(list) => {
            for item in value.as_array_mut().into_iter().flatten() {
                complete_type(item, &list.item);
            }
        }
        Type::Map(map) => {
            for (_, item) in value.as_object_mut().into_iter().flatten() {
                complete_type(item, &map.value);
            }
        }
        Type::Scalar(Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings) => {
            let Some(schema) = named(JSON_SCHEMA) else {
                return;
            };
            match value {
                Value::Object(_) => complete_struct(value, schema.get()),
                Value::Array(items) => items
                    .iter_mut()
                    .for_each(|i| complete_struct(i, schema.get())),
                _ => {}
            }
        }
        Type::Scalar(_) => {}
    }
}

/// What is written for a field that is absent.
fn written_zero(field: &Field) -> Option<Value> {
    let leaf_struct = match field.ty {
        // Structs of their own in Go: "omit when empty" does not see them.
        Type::Scalar(Scalar::Quantity) => Some(Value::from("0")),
        Type::Scalar(Scalar::IntOrString) => Some(0.into()),
        Type::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::RawExtension) => Some(Value::Null),
        _ => None,
    };
    match (field.presence, leaf_struct) {
        (Presence::Pointer, _) => None,
        (Presence::Nil, _) => Some(Value::Null),
        (_, Some(zero)) if field.name != "creationTimestamp" => Some(zero),
        (Presence::OmitEmpty, _) => None,
        (Presence::Always, _) => Some(match &field.ty {
            Type::Struct(_) => Value::Object(Map::new()),
            Type::List(_) | Type::Map(_) => Value::Null,
            Type::Scalar(Scalar::Bool) => false.into(),
            Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => 0.into(),
            Type::Scalar(Scalar::String) => "".into(),
            Type::Scalar(_) => Value::Null,
        }),
    }
}
