//! CEL rules of a schema: whether they compile.

use kube_cel::compile_schema;
use serde_json::Value;

use super::schema::children;
use super::{Faults, list, text};

const RULES: &str = "x-kubernetes-validations";
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

pub(super) fn check(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    let own = list(&schema[RULES]);
    for (i, rule) in own.iter().enumerate() {
        check_rule(rule, &format!("{path}.{RULES}[{i}]"), faults);
    }
    if !own.is_empty() {
        check_compiled(schema, path, faults);
    }
    for (below, name) in children(map) {
        check(below, &format!("{path}.{name}"), faults);
    }
}

fn check_rule(rule: &Value, path: &str, faults: &mut Faults<'_>) {
    if text(&rule["rule"]).trim().is_empty() {
        faults.required(&format!("{path}.rule"), "rule is not specified");
    }
    let message = text(&rule["message"]);
    if rule["message"].is_string() && message.trim().is_empty() {
        faults.invalid(
            &format!("{path}.message"),
            &rule["message"],
            "message must be non-empty if specified",
        );
    } else if message.contains('\n') {
        faults.invalid(
            &format!("{path}.message"),
            &rule["message"],
            "message must not contain line breaks",
        );
    } else if text(&rule["rule"]).contains('\n') && message.is_empty() {
        faults.required(
            &format!("{path}.message"),
            "message must be specified if rule contains line breaks",
        );
    }
    if let Some(reason) = rule["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        faults.one_of(&format!("{path}.reason"), &rule["reason"], &REASONS);
    }
}

/// The rules of this node alone.
fn check_compiled(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let mut alone = schema.clone();
    if let Some(map) = alone.as_object_mut() {
        map.retain(|key, _| key == RULES || key == "type");
    }
    let compiled = compile_schema(&alone);
    for (i, rule) in compiled.validations.iter().enumerate() {
        let declared = &schema[RULES][i];
        if let Err(error) = rule
            && !text(&declared["rule"]).trim().is_empty()
        {
            faults.invalid(
                &format!("{path}.{RULES}[{i}].rule"),
                &declared["rule"],
                &format!("compilation failed: {error}"),
            );
        }
    }
}
