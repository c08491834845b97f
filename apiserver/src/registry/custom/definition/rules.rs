//! CEL rules of a schema: whether they compile.

use kube_cel::compile_schema;
use serde_json::Value;

use super::schema::children;
use super::{Faults, list, text};
use crate::cel;

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
    let mut readable = true;
    for (i, rule) in own.iter().enumerate() {
        let path = format!("{path}.{RULES}[{i}]");
        check_rule(rule, &path, faults);
        for field in ["rule", "messageExpression"] {
            if let Some(Err(error)) = rule[field].as_str().map(cel::check_rule) {
                faults.invalid(&format!("{path}.{field}"), &rule[field], &error.to_string());
                readable = false;
            }
        }
    }
    // What cannot be parsed safely is not parsed.
    if readable && !own.is_empty() {
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
    let Some(compiled) = cel::on_large_stack(|| compile_schema(&alone)) else {
        return;
    };
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
