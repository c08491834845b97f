//! CEL rules of a schema: whether they compile, and whether what they can cost is bounded.

use serde_json::Value;

use super::schema::children;
use super::{Faults, list, text};
use crate::cel::{CompileError, Expression};
use crate::registry::custom::rules::{Limits, TotalCost, environment, judge};

const RULES: &str = "x-kubernetes-validations";
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// Judges the rules of a version's schema.
pub(super) fn check(schema: &Value, path: &str, faults: &mut Faults<'_>) {
    let mut walk = Walk {
        faults: &mut *faults,
        total: TotalCost::default(),
    };
    walk.node(schema, path, Limits::root(), None);
    for (path, text) in walk.total.faults(path) {
        faults.forbidden(&path, &text);
    }
}

struct Walk<'a, 'f> {
    faults: &'a mut Faults<'f>,
    total: TotalCost,
}

impl Walk<'_, '_> {
    /// `uncorrelated`: the list on the way whose items have no identity, so that nobody knows what
    /// they were before.
    fn node(&mut self, schema: &Value, path: &str, limits: Limits, uncorrelated: Option<&str>) {
        let Some(map) = schema.as_object() else {
            return;
        };
        for (i, rule) in list(&schema[RULES]).iter().enumerate() {
            let path = format!("{path}.{RULES}[{i}]");
            check_rule(rule, &path, self.faults);
            self.expression(rule, "rule", schema, &path, limits, uncorrelated);
            self.expression(rule, "messageExpression", schema, &path, limits, None);
        }
        for (below, name) in children(map) {
            let loses = name == "items" && schema["x-kubernetes-list-type"] != "map";
            let uncorrelated = uncorrelated.or(loses.then_some(path));
            let limits = limits.below(schema, &name);
            self.node(below, &format!("{path}.{name}"), limits, uncorrelated);
        }
    }

    fn expression(
        &mut self,
        rule: &Value,
        field: &str,
        schema: &Value,
        path: &str,
        limits: Limits,
        uncorrelated: Option<&str>,
    ) {
        let Some(source) = rule[field].as_str().filter(|s| !s.trim().is_empty()) else {
            return;
        };
        let path = format!("{path}.{field}");
        let compiled = match Expression::compile(source, &environment()) {
            Ok(compiled) => compiled,
            Err(error) => {
                self.faults.shown(&path, &shown(rule), &error.to_string());
                return;
            }
        };
        let (wanted, why) = match field {
            "rule" => ("bool", "cel expression must evaluate to a bool"),
            _ => ("string", "messageExpression must evaluate to a string"),
        };
        if compiled.value_type().is_some_and(|own| own != wanted) {
            self.faults.shown(&path, &shown(rule), why);
            return;
        }
        let (cost, undefined) = judge(&compiled, schema, limits);
        if let Some(name) = undefined {
            let error = CompileError::undefined_field(&name, source);
            self.faults.shown(&path, &shown(rule), &error.to_string());
            return;
        }
        if let Some(fault) = self.total.observe(field, &path, cost) {
            self.faults.forbidden(&path, &fault);
        }
        if let Some(list) = uncorrelated.filter(|_| compiled.mentions("oldSelf")) {
            let why = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
            );
            self.faults.invalid(&path, &rule[field], &why);
        }
    }
}
/// A rule as Go shows it: all fields in the order of the type, under the names that they have in
/// its code.
fn shown(rule: &Value) -> String {
    let text = |key: &str| Value::from(text(&rule[key]));
    let parts = [
        ("Rule", text("rule")),
        ("Message", text("message")),
        ("MessageExpression", text("messageExpression")),
        ("Reason", rule["reason"].clone()),
        ("FieldPath", text("fieldPath")),
        ("OptionalOldSelf", rule["optionalOldSelf"].clone()),
    ];
    let parts = parts.map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", parts.join(","))
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// What a rule says besides its expressions.
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
