//! One schema of a definition: what OpenAPI v3 and Kubernetes allow in it.

use serde_json::{Map, Value};

use super::{Faults, list, rules, structural, text};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Keywords that JSON schema has and definitions have not.
const UNSUPPORTED: [&str; 6] = [
    "$ref",
    "additionalItems",
    "definitions",
    "dependencies",
    "id",
    "patternProperties",
];

/// The deepest schema that is walked.
const MAX_DEPTH: usize = 100;

/// All faults of a version's schema.
pub(super) fn check(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let before = faults.0.len();
    if schema["nullable"] == true {
        faults.forbidden(
            &format!("{path}.nullable"),
            "nullable cannot be true at the root",
        );
    }
    node(schema, path, 0, faults);
    structural::check(schema, path, faults);
    if faults.0.len() == before {
        structural::check_defaults(schema, path, faults);
    }
    if faults.0.len() == before {
        rules::check(schema, path, faults);
    }
}

fn node(schema: &Value, path: &str, depth: usize, faults: &mut Faults<'_>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if depth > MAX_DEPTH {
        faults.forbidden(path, "the schema is nested too deeply");
        return;
    }
    let field = |name: &str| format!("{path}.{name}");
    for name in UNSUPPORTED {
        if map.contains_key(name) {
            faults.forbidden(&field(name), &format!("{name} is not supported"));
        }
    }
    if schema["uniqueItems"] == true {
        faults.forbidden(
            &field("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let declared = text(&schema["type"]);
    if declared == "null" {
        faults.forbidden(
            &field("type"),
            "type cannot be set to null, use nullable as an alternative",
        );
    } else if !declared.is_empty() && !TYPES.contains(&declared) {
        faults.one_of(&field("type"), &schema["type"], &TYPES);
    }
    if schema["items"].is_array() {
        faults.forbidden(
            &field("items"),
            "items must be a schema object and not an array",
        );
    }
    additional(schema, path, depth == 0, faults);
    extensions(schema, path, faults);
    for (below, name) in children(map) {
        node(below, &format!("{path}.{name}"), depth + 1, faults);
    }
}

/// The schemas right below this one, with their paths.
pub(super) fn children(map: &Map<String, Value>) -> Vec<(&Value, String)> {
    let mut all = Vec::new();
    for key in ["items", "additionalProperties", "not"] {
        if let Some(own @ Value::Object(_)) = map.get(key) {
            all.push((own, key.to_owned()));
        }
    }
    for (name, own) in map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        all.push((own, format!("properties[{name}]")));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, own) in map
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            all.push((own, format!("{key}[{i}]")));
        }
    }
    all
}

fn additional(schema: &Value, path: &str, is_root: bool, faults: &mut Faults<'_>) {
    let own = &schema["additionalProperties"];
    let path = format!("{path}.additionalProperties");
    if own.is_null() {
        return;
    }
    if schema["properties"]
        .as_object()
        .is_some_and(|p| !p.is_empty())
    {
        faults.forbidden(
            &path,
            "additionalProperties and properties are mutual exclusive",
        );
    }
    if is_root {
        faults.forbidden(&path, "additionalProperties cannot be used at the root");
    } else if *own == false {
        faults.forbidden(&path, "additionalProperties cannot be set to false");
    }
}

fn extensions(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let field = |name: &str| format!("{path}.{name}");
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        faults.invalid(
            &field("x-kubernetes-preserve-unknown-fields"),
            &Value::Bool(false),
            "must be true or undefined",
        );
    }
    let mut typed = |key: &str, wanted: &str, allowed: &[&str]| {
        let own = &schema[key];
        if own.is_null() {
            return;
        }
        let why = format!("must be {wanted} if {key} is specified");
        if text(&schema["type"]).is_empty() {
            faults.required(&field("type"), &why);
        } else if schema["type"] != wanted {
            faults.invalid(&field("type"), &schema["type"], &why);
        }
        if !allowed.contains(&text(own)) {
            faults.one_of(&field(key), own, allowed);
        }
    };
    typed("x-kubernetes-map-type", "object", &["atomic", "granular"]);
    typed("x-kubernetes-list-type", "array", &["atomic", "map", "set"]);
    keyed_list(schema, path, faults);
    set(schema, path, faults);
}

const KEYS: &str = "x-kubernetes-list-map-keys";
const LIST: &str = "x-kubernetes-list-type";

fn keyed_list(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let keys = list(&schema[KEYS]);
    let is_map = schema[LIST] == "map";
    if !is_map {
        if !keys.is_empty() {
            let why = format!("must be map if {KEYS} is non-empty");
            if schema[LIST].is_null() {
                faults.required(&format!("{path}.{LIST}"), &why);
            } else {
                faults.invalid(&format!("{path}.{LIST}"), &schema[LIST], &why);
            }
        }
        return;
    }
    if keys.is_empty() {
        faults.required(
            &format!("{path}.{KEYS}"),
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
    let items = &schema["items"];
    if !items.is_object() {
        faults.required(
            &format!("{path}.items"),
            "must have a schema if x-kubernetes-list-type is map",
        );
        return;
    }
    if items["type"] != "object" {
        faults.invalid(
            &format!("{path}.items.type"),
            &items["type"],
            "must be object if parent array's x-kubernetes-list-type is map",
        );
    }
    for key in keys.iter().map(text) {
        list_key(items, key, schema, path, faults);
    }
}

fn list_key(items: &Value, key: &str, schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let own = &items["properties"][key];
    if !own.is_object() {
        faults.invalid(
            &format!("{path}.{KEYS}"),
            &schema[KEYS],
            "entries must all be names of item properties",
        );
        return;
    }
    let path = format!("{path}.items.properties[{key}]");
    if matches!(text(&own["type"]), "array" | "object") {
        faults.invalid(
            &format!("{path}.type"),
            &own["type"],
            "must be a scalar type if parent array's x-kubernetes-list-type is map",
        );
    }
    let required = list(&items["required"]).iter().any(|r| r == key);
    if !required && own["default"].is_null() {
        faults.required(
            &format!("{path}.default"),
            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        );
    }
    if own["nullable"] == true {
        faults.forbidden(
            &format!("{path}.nullable"),
            "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        );
    }
}

fn set(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let items = &schema["items"];
    if schema[LIST] != "set" || !items.is_object() {
        return;
    }
    if items["nullable"] == true {
        faults.forbidden(
            &format!("{path}.items.nullable"),
            "cannot be nullable when x-kubernetes-list-type is \"set\"",
        );
    }
    let atomic = |key: &str, faults: &mut Faults<'_>| {
        let own = &items[key];
        if *own != "atomic" && !(own.is_null() && key == LIST) {
            faults.invalid(
                &format!("{path}.items.{key}"),
                own,
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            );
        }
    };
    match text(&items["type"]) {
        "object" => atomic("x-kubernetes-map-type", faults),
        "array" => atomic(LIST, faults),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(property: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"a": property}});
        let mut causes = Vec::new();
        check(&schema, "s", &mut Faults(&mut causes));
        let told = causes.into_iter();
        told.map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn schemas_are_judged_as_upstream_judges_them() {
        let one = |property: Value, expect: &str| assert_eq!(faults(property), [expect]);
        assert_eq!(faults(json!({"type": "string"})), Vec::<String>::new());
        one(
            json!({"type": "nope"}),
            "s.properties[a].type: Unsupported value: \"nope\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        );
        one(
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            "s.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
        one(
            json!({"type": "string", "default": 1}),
            "s.properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
        );
        one(
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "1 > 0 ? 1 : 2"}]}),
            "s.properties[a].x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"1 \\u003e 0 ? 1 : 2\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: cel expression must evaluate to a bool",
        );
        one(
            json!({"type": "array"}),
            "s.properties[a].items: Required value: must be specified",
        );
        one(
            json!({"type": "string", "pattern": "("}),
            "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        );
        one(
            json!({"description": "no type"}),
            "s.properties[a].type: Required value: must not be empty for specified object fields",
        );
        assert!(faults(json!({"x-kubernetes-int-or-string": true})).is_empty());
        assert!(faults(json!({"x-kubernetes-preserve-unknown-fields": true})).is_empty());
        assert_eq!(
            faults(
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "string"}})
            ),
            [
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
                "s.properties[a].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
            ]
        );
    }

    #[test]
    fn a_deep_schema_is_refused_and_not_walked() {
        let mut deep = json!({"type": "string"});
        for _ in 0..MAX_DEPTH + 5 {
            deep = json!({"type": "object", "properties": {"x": deep}});
        }
        assert!(!faults(deep).is_empty());
    }
}
