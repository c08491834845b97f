//! The rules that make a schema structural: every field has a type, told outside of the logical
//! junctors; and its defaults are values of it.

use serde_json::{Value, json};

use super::schema::children;
use super::{Faults, text};
use crate::registry::custom::validation;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

const ANY_NUMBER_OR_TEXT: &str = "x-kubernetes-int-or-string";
const KEEPS: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const MAX_DEPTH: usize = 100;

pub(super) fn check(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    invariants(schema, Level::Root, path, 0, faults);
    for (below, name) in junctors(schema) {
        values_only(below, &format!("{path}.{name}"), 0, faults);
    }
}

fn invariants(schema: &Value, level: Level, path: &str, depth: usize, faults: &mut Faults<'_>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if depth > MAX_DEPTH {
        return;
    }
    if schema["type"] == "array" && schema["items"].is_null() {
        faults.required(&format!("{path}.items"), "must be specified");
    }
    check_type(schema, level, path, faults);
    check_pattern(schema, path, faults);
    if schema[EMBEDDED] == true {
        embedded(schema, path, faults);
    }
    if (level == Level::Root || schema[EMBEDDED] == true) && schema["properties"].is_object() {
        metadata(&schema["properties"], path, faults);
    }
    for (below, name) in children(map) {
        let level = match name.as_str() {
            "items" | "additionalProperties" => Level::Item,
            own if own.starts_with("properties[") => Level::Field,
            _ => continue,
        };
        let path = format!("{path}.{name}");
        invariants(below, level, &path, depth + 1, faults);
        for (inner, name) in junctors(below) {
            values_only(inner, &format!("{path}.{name}"), 0, faults);
        }
    }
}

fn check_pattern(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let pattern = text(&schema["pattern"]);
    let Err(regex::Error::Syntax(fault)) = regex::Regex::new(pattern) else {
        return;
    };
    let why = fault.rsplit("error: ").next().unwrap_or_default();
    let from = |c: char| pattern.find(c).map_or(pattern, |at| &pattern[at..]);
    // In Go's words, where they are known.
    let why = match why.trim() {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{}`", from('[')),
        "repetition operator missing expression" => {
            let operator: String = pattern.chars().take(1).collect();
            format!("missing argument to repetition operator: `{operator}`")
        }
        other => format!("{other}: `{pattern}`"),
    };
    faults.invalid(
        &format!("{path}.pattern"),
        &schema["pattern"],
        &format!("must be a valid regular expression, but isn't: error parsing regexp: {why}"),
    );
}

fn check_type(schema: &Value, level: Level, path: &str, faults: &mut Faults<'_>) {
    let declared = text(&schema["type"]);
    let path = format!("{path}.type");
    match level {
        Level::Root if declared.is_empty() => {
            faults.required(&path, "must not be empty at the root");
        }
        Level::Root if declared != "object" => {
            faults.invalid(&path, &schema["type"], "must be object at the root");
        }
        Level::Root => {}
        _ if schema[ANY_NUMBER_OR_TEXT] == true && !declared.is_empty() => {
            faults.invalid(
                &path,
                &schema["type"],
                "must be empty if x-kubernetes-int-or-string is true",
            );
        }
        _ if schema[ANY_NUMBER_OR_TEXT] == true || schema[KEEPS] == true => {}
        _ if declared.is_empty() => {
            let place = if level == Level::Item {
                "array items"
            } else {
                "object fields"
            };
            faults.required(&path, &format!("must not be empty for specified {place}"));
        }
        _ => {}
    }
}

fn embedded(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    if schema["type"] != "object" {
        faults.invalid(
            &format!("{path}.type"),
            &schema["type"],
            "must be object if x-kubernetes-embedded-resource is true",
        );
    }
    let empty = schema["properties"]
        .as_object()
        .is_none_or(|p| p.is_empty());
    if empty && schema[KEEPS] != true {
        faults.required(
            &format!("{path}.properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn metadata(properties: &Value, path: &str, faults: &mut Faults<'_>) {
    for key in ["apiVersion", "kind"] {
        let own = &properties[key];
        if own.is_object() && own["type"] != "string" {
            faults.invalid(
                &format!("{path}.properties[{key}].type"),
                &own["type"],
                "must be string",
            );
        }
    }
    let Some(own) = properties["metadata"].as_object() else {
        return;
    };
    let path = format!("{path}.properties[metadata]");
    if own.get("type").is_some_and(|t| t != "object") {
        faults.invalid(&format!("{path}.type"), &own["type"], "must be object");
    }
    let fields = own.get("properties").and_then(Value::as_object);
    let named = |key: &String| matches!(key.as_str(), "name" | "generateName");
    let more = fields.is_some_and(|f| !f.keys().all(named));
    let known = ["type", "description", "properties"];
    if more || own.keys().any(|k| !known.contains(&k.as_str())) {
        faults.forbidden(
            &path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn junctors(schema: &Value) -> Vec<(&Value, String)> {
    let Some(map) = schema.as_object() else {
        return Vec::new();
    };
    let mut all = children(map);
    all.retain(|(_, name)| {
        name == "not"
            || ["allOf[", "anyOf[", "oneOf["]
                .iter()
                .any(|j| name.starts_with(j))
    });
    all
}

/// Inside of junctors only values are judged; what a field is was told before.
fn values_only(schema: &Value, path: &str, depth: usize, faults: &mut Faults<'_>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if depth > MAX_DEPTH {
        return;
    }
    check_pattern(schema, path, faults);
    for (key, why) in [
        ("type", "must be empty to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("nullable", "must be false to be structural"),
        (KEEPS, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
    ] {
        // An integer or a text is told by its types.
        let allowed = key == "type" && is_int_or_string_branch(schema, path);
        if map.contains_key(key) && !allowed {
            faults.forbidden(&format!("{path}.{key}"), why);
        }
    }
    for (below, name) in children(map) {
        values_only(below, &format!("{path}.{name}"), depth + 1, faults);
    }
}

fn is_int_or_string_branch(schema: &Value, path: &str) -> bool {
    path.contains("anyOf[") && matches!(text(&schema["type"]), "integer" | "string")
}

/// Whether each default is a value of its schema, with nothing that would be pruned.
pub(super) fn check_defaults(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if let Some(default) = map.get("default").filter(|d| !d.is_null()) {
        let path = format!("{path}.default");
        let mut own = Vec::new();
        validation::check(
            &json!({"properties": {"": schema}}),
            &json!({"": default}),
            None,
            &mut own,
        );
        for mut cause in own {
            // The default stands at no field of an object.
            let inner = cause.field.trim_start_matches('.').to_owned();
            cause.field = if inner.is_empty() {
                path.clone()
            } else {
                format!("{path}.{inner}")
            };
            faults.0.push(cause);
        }
    }
    for (below, name) in children(map) {
        check_defaults(below, &format!("{path}.{name}"), faults);
    }
}
