//! Defaults of custom resources: those that their schema declares, nothing else.

use serde_json::Value;

use crate::types::{Struct, StructRef, Type};

/// Sets the defaults of a custom resource, on writes and on reads.
///
/// A `null` of a field that may not be `null` and has a default counts as absent.
pub fn apply_custom(object: &mut Value, shape: &StructRef) {
    in_struct(object, shape.get());
}

fn in_struct(value: &mut Value, shape: &Struct) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for field in &shape.fields {
        if let Some(default) = &field.default {
            let current = map.get(field.name.as_ref());
            if current.is_none_or(|v| v.is_null() && !field.nullable) {
                map.insert(field.name.to_string(), default.clone());
            }
        }
        if let Some(inner) = map.get_mut(field.name.as_ref()) {
            in_type(inner, &field.ty);
        }
    }
}

fn in_type(value: &mut Value, ty: &Type) {
    match ty {
        Type::Struct(StructRef::Custom(shape)) => in_struct(value, shape),
        Type::List(list) => {
            for item in value.as_array_mut().into_iter().flatten() {
                if item.is_null()
                    && !list.item_nullable
                    && let Some(default) = &list.item_default
                {
                    *item = default.clone();
                }
                in_type(item, &list.item);
            }
        }
        Type::Map(map) => {
            for (_, item) in value.as_object_mut().into_iter().flatten() {
                if item.is_null()
                    && !map.value_nullable
                    && let Some(default) = &map.value_default
                {
                    *item = default.clone();
                }
                in_type(item, &map.value);
            }
        }
        _ => {}
    }
}
