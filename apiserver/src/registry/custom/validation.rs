//! Validation of custom resources by their structural schema, in upstream's words.
//!
//! What an update leaves as it was is not judged again (ratcheting), so that a schema can become
//! stricter without locking objects in.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;
use regex::Regex;
use serde_json::Value;

use crate::response::Cause;

/// Checks an object against its schema.
pub(super) fn check(schema: &Value, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if schema.is_object() {
        check_node(schema, new, old, "", true, causes);
    }
}

/// Whether an object with this fault may lack what its rules rely on.
pub(super) fn blocks_rules(fault: &Cause) -> bool {
    matches!(
        fault.reason.as_str(),
        "FieldValueNotSupported"
            | "FieldValueRequired"
            | "FieldValueTooLong"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
    )
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn invalid(field: &str, value: &str, what: &str) -> Cause {
    let text = format!("Invalid value: {value}: {field} in body {what}");
    Cause::new("FieldValueInvalid", text, field)
}

fn has_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        wanted => type_name(value) == wanted,
    }
}

fn check_node(
    schema: &Value,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    is_root: bool,
    causes: &mut Vec<Cause>,
) {
    if old == Some(new) && !is_root {
        return;
    }
    if new.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !has_type(new, wanted)
    {
        let got = type_name(new);
        causes.push(Cause::new(
            "FieldValueTypeInvalid",
            format!("Invalid value: \"{got}\": {path} in body must be of type {wanted}: \"{got}\""),
            path,
        ));
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true
        && !(new.is_string() || has_type(new, "integer"))
    {
        let got = type_name(new);
        causes.push(Cause::new(
            "FieldValueTypeInvalid",
            format!(
                "Invalid value: \"{got}\": {path} in body must be of type integer,string: \"{got}\""
            ),
            path,
        ));
        return;
    }
    check_enum(schema, new, path, causes);
    match new {
        Value::String(text) => check_string(schema, text, path, causes),
        Value::Number(_) => check_number(schema, new, path, causes),
        Value::Array(items) => check_array(schema, items, old, path, causes),
        Value::Object(_) => check_object(schema, new, old, path, is_root, causes),
        _ => {}
    }
    check_combined(schema, new, path, causes);
}

fn check_enum(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(allowed) = schema["enum"].as_array() else {
        return;
    };
    if allowed.contains(value) {
        return;
    }
    let shown: Vec<String> = allowed
        .iter()
        .map(|v| format!("\"{}\"", plain(v)))
        .collect();
    let text = format!(
        "Unsupported value: {value}: supported values: {}",
        shown.join(", ")
    );
    causes.push(Cause::new("FieldValueNotSupported", text, path));
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Patterns are compiled once; the number kept is bounded.
fn pattern(text: &str) -> Option<Regex> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Option<Regex>>>> =
        LazyLock::new(Mutex::default);
    const KEPT: usize = 4096;
    let mut compiled = COMPILED.lock();
    if let Some(known) = compiled.get(text) {
        return known.clone();
    }
    if compiled.len() >= KEPT {
        compiled.clear();
    }
    let regex = Regex::new(text).ok();
    compiled.insert(text.to_owned(), regex.clone());
    regex
}

/// The first thing that is wrong with a text, which is all that is told, and its format.
fn check_string(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    let quoted = Value::from(text).to_string();
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        let text = format!("Too long: may not be more than {max} bytes");
        causes.push(Cause::new("FieldValueTooLong", text, path));
    } else if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        causes.push(invalid(
            path,
            &quoted,
            &format!("should be at least {min} chars long"),
        ));
    } else if let Some(wanted) = schema["pattern"].as_str()
        && pattern(wanted).is_some_and(|p| !p.is_match(text))
    {
        causes.push(invalid(path, &quoted, &format!("should match '{wanted}'")));
    }
    if let Some(format) = schema["format"].as_str()
        && !has_format(format, text)
    {
        causes.push(invalid(
            path,
            &quoted,
            &format!("must be of type {format}: {quoted}"),
        ));
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.contains('/') && text.parse::<ipnetwork::IpNetwork>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "email" => text
            .split_once('@')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()),
        "uri" => text.parse::<http::Uri>().is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        _ => true,
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    let shown = value.to_string();
    if let Some(max) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > max || (exclusive && number == max) {
            let word = if exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            causes.push(invalid(
                path,
                &shown,
                &format!("should be {word} {}", schema["maximum"]),
            ));
        }
    }
    if let Some(min) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < min || (exclusive && number == min) {
            let word = if exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            causes.push(invalid(
                path,
                &shown,
                &format!("should be {word} {}", schema["minimum"]),
            ));
        }
    }
    if let Some(factor) = schema["multipleOf"].as_f64().filter(|f| *f != 0.0)
        && (number / factor).fract() != 0.0
    {
        causes.push(invalid(
            path,
            &shown,
            &format!("should be a multiple of {}", schema["multipleOf"]),
        ));
    }
}

fn check_array(
    schema: &Value,
    items: &[Value],
    old: Option<&Value>,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let count = items.len() as u64;
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| count > *max) {
        let text = format!("Too many: {count}: must have at most {max} items");
        causes.push(Cause::new("FieldValueTooMany", text, path));
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
        causes.push(invalid(
            path,
            &count.to_string(),
            &format!("should have at least {min} items"),
        ));
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let identity = |item: &Value| -> Value {
        if keys.is_empty() {
            item.clone()
        } else {
            keys.iter().map(|k| item[*k].clone()).collect()
        }
    };
    let kind = schema["x-kubernetes-list-type"].as_str();
    if matches!(kind, Some("set" | "map")) {
        let mut seen: Vec<Value> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let own = identity(item);
            if seen.contains(&own) {
                let shown = match kind {
                    Some("map") => {
                        let pairs: serde_json::Map<String, Value> = keys
                            .iter()
                            .map(|k| ((*k).to_owned(), item[*k].clone()))
                            .collect();
                        Value::Object(pairs).to_string()
                    }
                    _ => item.to_string(),
                };
                causes.push(Cause::new(
                    "FieldValueDuplicate",
                    format!("Duplicate value: {shown}"),
                    format!("{path}[{i}]"),
                ));
            } else {
                seen.push(own);
            }
        }
    }
    let before = old.and_then(Value::as_array);
    for (i, item) in items.iter().enumerate() {
        // Items of keyed lists are compared with the one of the same key, others by position.
        let was = before.and_then(|b| {
            if kind == Some("map") {
                b.iter().find(|o| identity(o) == identity(item))
            } else {
                b.get(i)
            }
        });
        check_node(
            &schema["items"],
            item,
            was,
            &format!("{path}[{i}]"),
            false,
            causes,
        );
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn check_object(
    schema: &Value,
    new: &Value,
    old: Option<&Value>,
    path: &str,
    is_root: bool,
    causes: &mut Vec<Cause>,
) {
    let Some(map) = new.as_object() else { return };
    let count = map.len() as u64;
    if let Some(max) = schema["maxProperties"].as_u64().filter(|max| count > *max) {
        let text = format!("Too many: {count}: must have at most {max} items");
        causes.push(Cause::new("FieldValueTooMany", text, path));
    }
    if let Some(min) = schema["minProperties"].as_u64().filter(|min| count < *min) {
        causes.push(invalid(
            path,
            &count.to_string(),
            &format!("should have at least {min} properties"),
        ));
    }
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !map.contains_key(required) {
            causes.push(Cause::new(
                "FieldValueRequired",
                "Required value",
                join(path, required),
            ));
        }
    }
    let properties = &schema["properties"];
    for (key, value) in map {
        // The object's own metadata has rules of its own.
        if is_root && matches!(key.as_str(), "metadata" | "apiVersion" | "kind") {
            continue;
        }
        let was = old.and_then(|o| o.get(key));
        if let Some(own) = properties.get(key) {
            check_node(own, value, was, &join(path, key), false, causes);
        } else if schema["additionalProperties"].is_object() {
            check_node(
                &schema["additionalProperties"],
                value,
                was,
                &join(path, key),
                false,
                causes,
            );
        }
    }
}

/// `allOf`, `anyOf`, `oneOf`, `not`.
fn check_combined(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let faults = |schema: &Value| {
        let mut own = Vec::new();
        check_node(schema, value, None, path, false, &mut own);
        own
    };
    let shown = match value {
        Value::Object(_) | Value::Array(_) => format!("\"{}\"", type_name(value)),
        other => other.to_string(),
    };
    let mut complain = |what: &str| {
        let text = format!("Invalid value: {shown}: \"{path}\" {what}");
        causes.push(Cause::new("FieldValueInvalid", text, path));
    };
    if let Some(all) = schema["anyOf"].as_array()
        && !all.iter().any(|s| faults(s).is_empty())
    {
        complain("must validate at least one schema (anyOf)");
    }
    if let Some(all) = schema["oneOf"].as_array() {
        let valid = all.iter().filter(|s| faults(s).is_empty()).count();
        if valid != 1 {
            let found = if valid == 0 {
                "none valid".to_owned()
            } else {
                format!("{valid} valid alternatives")
            };
            complain(&format!(
                "must validate one and only one schema (oneOf). Found {found}"
            ));
        }
    }
    if schema["not"].is_object() && faults(&schema["not"]).is_empty() {
        complain("must not validate the schema (not)");
    }
    if let Some(all) = schema["allOf"].as_array() {
        let failed: Vec<Cause> = all.iter().flat_map(&faults).collect();
        if !failed.is_empty() {
            complain("must validate all the schemas (allOf)");
            causes.extend(failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec_schema: Value, new: Value, old: Option<Value>) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": spec_schema}});
        let mut causes = Vec::new();
        let object = json!({"metadata": {"name": "x"}, "spec": new});
        let old = old.map(|o| json!({"metadata": {"name": "x"}, "spec": o}));
        check(&schema, &object, old.as_ref(), &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn faults_are_told_as_upstream_tells_them() {
        let one = |schema: Value, value: Value, expect: &str| {
            let schema = json!({"type": "object", "properties": {"a": schema}});
            assert_eq!(faults(schema, json!({"a": value}), None), [expect]);
        };
        one(
            json!({"type": "string"}),
            json!(5),
            "spec.a: Invalid value: \"integer\": spec.a in body must be of type string: \"integer\"",
        );
        one(
            json!({"type": "integer", "maximum": 3}),
            json!(5),
            "spec.a: Invalid value: 5: spec.a in body should be less than or equal to 3",
        );
        one(
            json!({"type": "string", "enum": ["x", "y"]}),
            json!("z"),
            "spec.a: Unsupported value: \"z\": supported values: \"x\", \"y\"",
        );
        one(
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            "spec.a: Invalid value: \"b\": spec.a in body should match '^a+$'",
        );
        one(
            json!({"type": "array", "maxItems": 1}),
            json!([1, 2]),
            "spec.a: Too many: 2: must have at most 1 items",
        );
        one(
            json!({"type": "array", "x-kubernetes-list-type": "set"}),
            json!(["q", "q"]),
            "spec.a[1]: Duplicate value: \"q\"",
        );
        let required = json!({"type": "object", "required": ["size"]});
        assert_eq!(
            faults(required, json!({}), None),
            ["spec.size: Required value"]
        );
    }

    #[test]
    fn what_an_update_leaves_alone_is_not_judged() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string"}}});
        let old = json!({"a": "long", "b": "1"});
        assert!(
            faults(
                schema.clone(),
                json!({"a": "long", "b": "2"}),
                Some(old.clone())
            )
            .is_empty()
        );
        assert_eq!(
            faults(schema, json!({"a": "longer", "b": "1"}), Some(old)).len(),
            1
        );
    }
}
