//! JSON patch (RFC 6902), as leniently as upstream's library applies it.

use bytes::Bytes;
use serde_json::Value;

use super::{decode_error, go_kind};
use crate::response::ApiError;

/// Upstream's bound on the number of operations.
const MAX_OPERATIONS: usize = 10_000;

/// One operation, checked only when it is applied.
pub(super) type Operation = Value;

pub(super) fn decode(body: &Bytes) -> Result<Vec<Operation>, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| decode_error(&e, body))?;
    let Value::Array(operations) = value else {
        return Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            go_kind(&value)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            ),
            None,
        ));
    }
    Ok(operations)
}

/// What cannot be applied is refused without a reason, as upstream does.
pub(super) fn apply(operations: &[Operation], object: &Value) -> Result<Value, ApiError> {
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in operations {
        step(operation, &mut patched, &mut copied).ok_or_else(ApiError::unprocessable)?;
    }
    Ok(patched)
}

/// What all copies of a patch may add together: copies of copies grow without bounds.
const MAX_COPIED: usize = 3 << 20;

fn step(operation: &Operation, object: &mut Value, copied: &mut usize) -> Option<()> {
    let path = operation["path"].as_str()?;
    match operation["op"].as_str()? {
        "add" => add(object, path, operation.get("value")?.clone()),
        "remove" => remove(object, path).map(drop),
        "replace" => replace(object, path, operation.get("value")?.clone()),
        "move" => {
            let from = operation["from"].as_str()?;
            let value = remove(object, from)?;
            add(object, path, value)
        }
        "copy" => {
            let value = get(object, operation["from"].as_str()?)?.clone();
            *copied += value.to_string().len();
            if *copied > MAX_COPIED {
                return None;
            }
            add(object, path, value)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = get(object, path).unwrap_or(&Value::Null);
            (found == expected).then_some(())
        }
        _ => None,
    }
}

/// The parent's path and the last key. What stands before the first slash does not count.
fn split(path: &str) -> Option<(Vec<String>, String)> {
    let mut parts: Vec<String> = path.split('/').skip(1).map(unescape).collect();
    if parts.is_empty() {
        // Without a slash the text is a key of the object itself.
        return (!path.is_empty()).then(|| (Vec::new(), unescape(path)));
    }
    let last = parts.pop()?;
    Some((parts, last))
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

fn index(key: &str, length: usize) -> Option<usize> {
    let number: i64 = key.parse().ok()?;
    let at = if number < 0 {
        number + i64::try_from(length).ok()?
    } else {
        number
    };
    usize::try_from(at).ok().filter(|at| *at < length)
}

fn child<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(index(key, items.len())?),
        _ => None,
    }
}

fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(object);
    }
    let (parents, key) = split(path)?;
    child(
        parents
            .iter()
            .try_fold(object, |value, key| child(value, key))?,
        &key,
    )
}

fn parent<'a>(object: &'a mut Value, parents: &[String]) -> Option<&'a mut Value> {
    parents.iter().try_fold(object, |value, key| match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(items) => {
            let at = index(key, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })
}

/// What a patch puts into an object may not nest without bounds either: that of one text is
/// bounded, but a copy can be put into what it was copied from.
fn fits(path: &str, value: &Value) -> bool {
    let parents = path.split('/').count() - 1;
    let left = MAX_LEVELS.checked_sub(parents);
    left.is_some_and(|levels| !schema::check::nests_deeper(value, levels))
}

/// As many as are read from a text.
const MAX_LEVELS: usize = 127;

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    if !fits(path, &value) {
        return None;
    }
    if path.is_empty() {
        *object = value;
        return Some(());
    }
    let (parents, key) = split(path)?;
    match parent(object, &parents)? {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            // One behind the last is a place to add to.
            let at = index(&key, items.len() + 1)?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    let (parents, key) = split(path)?;
    match parent(object, &parents)? {
        Value::Object(map) => map.remove(&key),
        Value::Array(items) => {
            let at = index(&key, items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

fn replace(object: &mut Value, path: &str, value: Value) -> Option<()> {
    if !fits(path, &value) {
        return None;
    }
    if path.is_empty() {
        *object = value;
        return Some(());
    }
    let (parents, key) = split(path)?;
    match parent(object, &parents)? {
        // What is replaced need not be there: upstream's library does not look.
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) => {
            let at = index(&key, items.len())?;
            items[at] = value;
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(operations: Value, expect: Option<Value>) {
        let object = json!({"a": {"b": [1, 2]}, "c/d": "x"});
        let operations = operations.as_array().unwrap().clone();
        assert_eq!(apply(&operations, &object).ok(), expect, "{operations:?}");
    }

    #[test]
    fn copies_of_copies_do_not_nest_without_bounds() {
        let doubling = |times: usize| {
            let path = |level: usize| "/a".repeat(level);
            let steps = (0..times).map(
                |n| json!({"op": "copy", "from": "/a", "path": format!("{}/a", path(1 << n))}),
            );
            steps.collect::<Vec<_>>()
        };
        let object = json!({"a": {}});
        assert!(apply(&doubling(6), &object).is_ok());
        assert!(apply(&doubling(7), &object).is_err());
        assert!(apply(&doubling(16), &object).is_err());
    }

    #[test]
    fn operations_follow_the_rfc() {
        check(
            json!([{"op": "add", "path": "/a/b/-", "value": 3}]),
            Some(json!({"a": {"b": [1, 2, 3]}, "c/d": "x"})),
        );
        check(
            json!([{"op": "add", "path": "/a/b/0", "value": 0}]),
            Some(json!({"a": {"b": [0, 1, 2]}, "c/d": "x"})),
        );
        check(
            json!([{"op": "remove", "path": "/c~1d"}]),
            Some(json!({"a": {"b": [1, 2]}})),
        );
        check(
            json!([{"op": "replace", "path": "/a/b/1", "value": 9}]),
            Some(json!({"a": {"b": [1, 9]}, "c/d": "x"})),
        );
        check(
            json!([{"op": "move", "from": "/a/b/0", "path": "/e"}]),
            Some(json!({"a": {"b": [2]}, "c/d": "x", "e": 1})),
        );
        check(json!([{"op": "test", "path": "/c~1d", "value": "y"}]), None);
        check(json!([{"op": "remove", "path": "/none"}]), None);
        check(json!([{"op": "add", "path": "/none/x", "value": 1}]), None);
        check(json!([{"op": "add", "path": "/a/b/9", "value": 1}]), None);
    }

    #[test]
    fn a_path_without_a_slash_names_a_key_of_the_object() {
        check(
            json!([{"op": "add", "path": "e", "value": 1}]),
            Some(json!({"a": {"b": [1, 2]}, "c/d": "x", "e": 1})),
        );
    }
}
