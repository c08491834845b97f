//! How large a value of a schema can be in one request: what the estimate of a rule's cost starts
//! from.

use serde_json::Value;

/// The largest body that a server accepts.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;
/// Texts of these formats are no longer than this.
const MAX_TIME: u64 = 32;
const MAX_DATE: u64 = 12;

/// How many elements, entries or bytes a value can have; 0 for what has none.
pub(super) fn max_elements(schema: &Value) -> u64 {
    if schema["x-kubernetes-int-or-string"] == true {
        return MAX_REQUEST - 2;
    }
    match schema["type"].as_str() {
        Some("array") => schema["maxItems"].as_u64().unwrap_or_else(|| {
            // Brackets around, a comma for each.
            (MAX_REQUEST - 2) / (min_size(&schema["items"]) + 1)
        }),
        Some("object") if schema["additionalProperties"].is_object() => {
            schema["maxProperties"].as_u64().unwrap_or_else(|| {
                // An empty key with its quotes, a colon, a comma.
                (MAX_REQUEST - 2) / (min_size(&schema["additionalProperties"]) + 6)
            })
        }
        Some("string") => text(schema),
        _ => 0,
    }
}

fn text(schema: &Value) -> u64 {
    let longest = match schema["format"].as_str() {
        Some("duration" | "date-time") => return MAX_TIME,
        Some("date") => return MAX_DATE,
        _ => MAX_REQUEST - 2,
    };
    if let Some(max) = schema["maxLength"].as_u64() {
        // Characters, each of which may be four bytes; of base64, bytes.
        let bytes = if schema["format"] == "byte" { 1 } else { 4 };
        return max.saturating_mul(bytes);
    }
    let allowed = schema["enum"].as_array().into_iter().flatten();
    let allowed = allowed.filter_map(Value::as_str).map(|t| t.len() as u64);
    allowed.max().unwrap_or(longest)
}

/// The least that a value takes in a request.
pub(super) fn min_size(schema: &Value) -> u64 {
    match schema["type"].as_str() {
        Some("boolean") => 4,
        Some("integer" | "number") => 1,
        Some("object") if !schema["additionalProperties"].is_object() => {
            let required = schema["required"].as_array().into_iter().flatten();
            let fields = required.filter_map(Value::as_str).filter_map(|name| {
                let own = schema["properties"].get(name)?;
                // With a default it can be left out.
                own["default"]
                    .is_null()
                    .then(|| name.len() as u64 + min_size(own) + 4)
            });
            2 + fields.sum::<u64>()
        }
        Some(_) => 2,
        None => 1,
    }
}

/// How many values of at least this size fit into a request.
pub(super) fn most(schema: &Value) -> u64 {
    MAX_REQUEST / (min_size(schema) + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_limited_is_limited_by_the_request() {
        let check =
            |schema: Value, expect: u64| assert_eq!(max_elements(&schema), expect, "{schema}");
        check(json!({"type": "string"}), 3_145_726);
        check(json!({"type": "string", "maxLength": 10}), 40);
        check(json!({"type": "string", "enum": ["a", "bcd"]}), 3);
        check(json!({"type": "string", "format": "date-time"}), 32);
        check(
            json!({"type": "array", "items": {"type": "string"}}),
            1_048_575,
        );
        check(
            json!({"type": "array", "maxItems": 5, "items": {"type": "string"}}),
            5,
        );
        let entries = json!({"type": "object", "additionalProperties": {"type": "string"}});
        check(entries, 393_215);
        check(json!({"type": "integer"}), 0);
    }

    #[test]
    fn required_fields_take_their_room() {
        let schema = json!({"type": "object", "required": ["ab", "d"], "properties": {
            "ab": {"type": "boolean"}, "d": {"type": "string", "default": ""}}});
        assert_eq!(min_size(&schema), 2 + 2 + 4 + 4);
    }
}
