//! Defaults that the type table declares, and quantities that are rounded.

use serde_json::Value;

use crate::quantity;
use crate::types::{Presence, Scalar, Struct, Type};

/// Sets declared defaults, everywhere in the object.
pub(super) fn declared(value: &mut Value, shape: &Struct) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for field in &shape.fields {
        if let Some(inner) = map.get_mut(field.name.as_ref()) {
            in_type(inner, &field.ty);
        } else if let Some(default) = field.default.as_ref().filter(|d| !is_zero(d)) {
            map.insert(field.name.to_string(), default.clone());
        } else if field.presence == Presence::Always
            && let Type::Struct(inner) = &field.ty
        {
            // A struct by value is there, with what it declares.
            let mut empty = Value::Object(serde_json::Map::new());
            declared(&mut empty, inner.get());
            if empty.as_object().is_some_and(|o| !o.is_empty()) {
                map.insert(field.name.to_string(), empty);
            }
        }
    }
}

fn in_type(value: &mut Value, ty: &Type) {
    match ty {
        Type::Struct(shape) => declared(value, shape.get()),
        Type::List(list) => value
            .as_array_mut()
            .into_iter()
            .flatten()
            .for_each(|v| in_type(v, &list.item)),
        Type::Map(map) if matches!(map.value, Type::Scalar(Scalar::Quantity)) => {
            // Amounts of resources are never finer than a thousandth.
            for (_, amount) in value.as_object_mut().into_iter().flatten() {
                if let Some(rounded) = amount
                    .as_str()
                    .and_then(|t| quantity::round_up_to_milli(t).ok())
                {
                    *amount = rounded.into();
                }
            }
        }
        Type::Map(map) => {
            value
                .as_object_mut()
                .into_iter()
                .flatten()
                .for_each(|(_, v)| in_type(v, &map.value));
        }
        Type::Scalar(_) => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Object(o) => o.is_empty(),
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        _ => true,
    }
}
