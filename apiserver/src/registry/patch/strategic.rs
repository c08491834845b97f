//! Strategic merge patch: lists are merged by the keys that the schema names.
//!
//! Directives: `$patch: replace|delete|merge`, `$retainKeys`, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD`.

use std::cmp::Ordering;

use schema::types::{Field, Struct, StructRef, Type};
use serde_json::{Map, Value};

use crate::response::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why a patch cannot be merged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StrategicError {
    #[error("unable to find api field in struct {shape} for the json field {field:?}")]
    UnknownField { shape: String, field: String },
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey { item: String, key: String },
    #[error("an item of a list with the merge key {key} is no map, or has an unknown directive")]
    Directive { key: String },
    #[error("merging lists cannot yet be specified in the patch")]
    MergeList,
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    #[error("invalid patch format of retainKeys")]
    Retain,
    #[error("invalid patch format of primitive list")]
    Primitives,
    #[error("invalid patch format of setElementOrder list")]
    Order,
}

type Result<T> = std::result::Result<T, StrategicError>;

/// The object with the patch merged in.
pub(super) fn apply(
    shape: &StructRef,
    object: &Value,
    patch: &Value,
) -> std::result::Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(ApiError::unprocessable());
    };
    let merged = merge_map(original.clone(), patch, Level::Struct(shape.get()));
    merged.map(Value::Object).map_err(|error| match error {
        // Upstream tells of these as of faults of its own; clients know them so.
        StrategicError::NoMergeKey { .. }
        | StrategicError::MergeList
        | StrategicError::UnknownDirective { .. } => {
            ApiError::new(500, "", error.to_string(), None)
        }
        other => ApiError::bad_request(other.to_string()),
    })
}

/// What is known of a map's entries.
#[derive(Clone, Copy)]
enum Level<'a> {
    Struct(&'a Struct),
    Map(&'a Type),
    /// Free content: merged as JSON.
    Free,
}

impl<'a> Level<'a> {
    fn of(ty: &'a Type) -> Self {
        match ty {
            Type::Struct(shape) => Level::Struct(shape.get()),
            Type::Map(map) => Level::Map(&map.value),
            _ => Level::Free,
        }
    }

    fn field(&self, name: &str) -> Option<&'a Field> {
        match self {
            Level::Struct(shape) => shape.field(name),
            _ => None,
        }
    }

    fn ty(&self, name: &str) -> Option<&'a Type> {
        match self {
            Level::Struct(shape) => shape.field(name).map(|f| &f.ty),
            Level::Map(ty) => Some(ty),
            Level::Free => None,
        }
    }
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    level: Level<'_>,
) -> Result<Map<String, Value>> {
    let mut patch = patch.clone();
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            return Ok(without_directives(patch));
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(other) => {
            let directive = other.as_str().unwrap_or_default().to_owned();
            let mut shown = vec![format!("{DIRECTIVE}:{directive}")];
            shown.extend(
                patch
                    .iter()
                    .map(|(k, v)| format!("{k}:{}", v.as_str().unwrap_or_default())),
            );
            let map = format!("map[{}]", shown.join(" "));
            return Err(StrategicError::UnknownDirective { directive, map });
        }
    }
    if let Some(retain) = patch.remove(RETAIN) {
        let keys = retain.as_array().ok_or(StrategicError::Retain)?;
        let kept = |key: &String| key.starts_with('$') || keys.iter().any(|k| k == key);
        if !patch.keys().all(kept) {
            return Err(StrategicError::Retain);
        }
        original.retain(|key, _| keys.iter().any(|k| k == key));
    }
    let orders = take_prefixed(&mut patch, ORDER);
    if orders.iter().any(|(_, order)| !order.is_array()) {
        return Err(StrategicError::Order);
    }
    for (field, values) in take_prefixed(&mut patch, DELETE_FROM) {
        let gone = values.as_array().ok_or(StrategicError::Primitives)?;
        if let Some(list) = original.get_mut(&field).and_then(Value::as_array_mut) {
            list.retain(|item| !gone.contains(item));
        }
    }
    for (field, value) in &patch {
        if value.is_null() {
            original.remove(field);
            continue;
        }
        let order = orders.iter().find(|(f, _)| f == field).map(|(_, v)| v);
        let merged = merge_field(original.remove(field), field, value, order, level)?;
        if let Some(merged) = merged {
            original.insert(field.clone(), merged);
        }
    }
    for (field, order) in orders.iter().filter(|(f, _)| !patch.contains_key(f)) {
        if let Some(Value::Array(items)) = original.remove(field) {
            let sorted = in_order(
                items,
                &[],
                order.as_array().map_or(&[], Vec::as_slice),
                key_of(level, field),
            );
            original.insert(field.clone(), Value::Array(sorted));
        }
    }
    Ok(original)
}

fn key_of<'a>(level: Level<'a>, field: &str) -> Option<&'a str> {
    level
        .field(field)
        .and_then(|f| f.patch.merge_key.as_deref())
}

fn take_prefixed(map: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let keys: Vec<String> = map
        .keys()
        .filter(|k| k.starts_with(prefix))
        .cloned()
        .collect();
    keys.into_iter()
        .filter_map(|key| {
            map.remove(&key)
                .map(|value| (key[prefix.len()..].to_owned(), value))
        })
        .collect()
}

fn merge_field(
    original: Option<Value>,
    name: &str,
    patch: &Value,
    order: Option<&Value>,
    level: Level<'_>,
) -> Result<Option<Value>> {
    if let Level::Struct(shape) = level
        && shape.field(name).is_none()
        && !shape.preserve_unknown
        && (patch.is_object() || patch.is_array())
        && original.as_ref().is_some_and(|o| same_kind(o, patch))
    {
        return Err(StrategicError::UnknownField {
            shape: shape.go_name(),
            field: name.to_owned(),
        });
    }
    let ty = level.ty(name);
    match (original, patch) {
        (Some(Value::Object(original)), Value::Object(patch)) => {
            let below = ty.map_or(Level::Free, Level::of);
            let deletes = patch.get(DIRECTIVE).is_some_and(|d| d == "delete");
            let merged = merge_map(original, patch, below)?;
            Ok((!deletes || !merged.is_empty()).then_some(Value::Object(merged)))
        }
        (Some(Value::Array(original)), Value::Array(patch)) => {
            merge_list(original, patch, order, level.field(name)).map(|l| Some(Value::Array(l)))
        }
        // A directive for what is not there does nothing.
        (_, Value::Object(patch))
            if matches!(
                patch.get(DIRECTIVE).and_then(Value::as_str),
                Some("delete" | "replace")
            ) =>
        {
            Ok(None)
        }
        (_, Value::Object(patch)) => {
            let below = ty.map_or(Level::Free, Level::of);
            merge_map(Map::new(), patch, below).map(|m| Some(Value::Object(m)))
        }
        (_, Value::Array(patch)) => {
            merge_list(Vec::new(), patch, order, level.field(name)).map(|l| Some(Value::Array(l)))
        }
        (_, other) => Ok(Some(other.clone())),
    }
}

fn same_kind(a: &Value, b: &Value) -> bool {
    (a.is_object() && b.is_object()) || (a.is_array() && b.is_array())
}

fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    let directive = |k: &str| {
        k == DIRECTIVE || k == RETAIN || k.starts_with(DELETE_FROM) || k.starts_with(ORDER)
    };
    map.into_iter().filter(|(k, _)| !directive(k)).collect()
}

fn merge_list(
    original: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
    field: Option<&Field>,
) -> Result<Vec<Value>> {
    let merges = field.is_some_and(|f| f.patch.merge);
    if !merges {
        return Ok(patch
            .iter()
            .filter(|i| !is_directive(i))
            .map(clean)
            .collect());
    }
    let key = field.and_then(|f| f.patch.merge_key.as_deref());
    // Without an order of its own the patch leads.
    let order: &[Value] = order.and_then(Value::as_array).map_or(patch, Vec::as_slice);
    let Some(key) = key else {
        // Primitives: a union.
        let mut merged = original.clone();
        for item in patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, &original, order, None));
    };
    let item_level = match field.map(|f| &f.ty) {
        Some(Type::List(list)) => Level::of(&list.item),
        _ => Level::Free,
    };
    if patch
        .iter()
        .any(|item| item.get(DIRECTIVE).is_some_and(|d| d == "replace"))
    {
        return Ok(patch
            .iter()
            .filter(|i| !is_directive(i))
            .map(clean)
            .collect());
    }
    let mut merged = original.clone();
    let odd = || StrategicError::Directive {
        key: key.to_owned(),
    };
    for item in patch {
        let map = item.as_object().ok_or_else(odd)?;
        let value = map.get(key).ok_or_else(|| StrategicError::NoMergeKey {
            item: item.to_string(),
            key: key.to_owned(),
        })?;
        match map.get(DIRECTIVE).and_then(Value::as_str) {
            Some("delete") => {
                merged.retain(|m| m.get(key) != Some(value));
                continue;
            }
            Some("merge") => return Err(StrategicError::MergeList),
            None => {}
            Some(_) => return Err(odd()),
        }
        match merged.iter().position(|m| m.get(key) == Some(value)) {
            Some(at) => {
                let old = merged[at].as_object().cloned().unwrap_or_default();
                merged[at] = Value::Object(merge_map(old, map, item_level)?);
            }
            None => merged.push(Value::Object(merge_map(Map::new(), map, item_level)?)),
        }
    }
    Ok(in_order(merged, &original, order, Some(key)))
}

fn is_directive(item: &Value) -> bool {
    item.as_object()
        .is_some_and(|m| m.contains_key(DIRECTIVE) && m.len() == 1)
        || item.get(DIRECTIVE).is_some_and(|d| d == "delete")
}

fn clean(item: &Value) -> Value {
    match item {
        Value::Object(map) => {
            let mut map = map.clone();
            map.remove(DIRECTIVE);
            Value::Object(map)
        }
        other => other.clone(),
    }
}

/// Items of the order list stand in its order; the others keep their places among them, as they
/// stood on the server.
fn in_order(items: Vec<Value>, server: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| key.map_or_else(|| item.clone(), |k| item[k].clone());
    let wanted: Vec<Value> = order
        .iter()
        .map(|o| {
            key.filter(|_| o.is_object())
                .map_or_else(|| o.clone(), |k| o[k].clone())
        })
        .collect();
    let place = |item: &Value| wanted.iter().position(|w| *w == identity(item));
    let (mut listed, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|i| place(i).is_some());
    listed.sort_by_key(|item| place(item));
    let at_server = |item: &Value| server.iter().position(|s| identity(s) == identity(item));
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let (mut l, mut o) = (listed.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let take_other = match (l.peek(), o.peek()) {
            (None, None) => return out,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(listed), Some(other)) => match (at_server(listed), at_server(other)) {
                (Some(a), Some(b)) => b.cmp(&a) == Ordering::Less,
                _ => false,
            },
        };
        out.extend(if take_other { o.next() } else { l.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: (&str, &str), object: Value, patch: Value, expect: Value) {
        let shape = schema::types::root(kind.0, "v1", kind.1).expect("a built-in kind");
        assert_eq!(apply(&shape, &object, &patch).unwrap(), expect);
    }

    #[test]
    fn containers_are_merged_by_name_and_deleted_by_directive() {
        check(
            ("", "Pod"),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "a", "$patch": "delete"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c"}]}}),
        );
    }

    #[test]
    fn an_order_list_decides_the_order() {
        check(
            ("", "Pod"),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "x"}]}}),
        );
    }

    #[test]
    fn retained_keys_remove_the_others() {
        check(
            ("apps", "Deployment"),
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
    }

    #[test]
    fn finalizers_are_a_set_from_which_values_can_be_deleted() {
        check(
            ("", "ConfigMap"),
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}),
            // What the server does not know yet comes first.
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        );
    }
}
