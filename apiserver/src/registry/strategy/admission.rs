//! Webhook configurations and admission policies: their expressions have to compile.

use serde_json::Value;

use super::Context;
use crate::admission::{MutatingSpec, ValidatingSpec, condition_environment, policy_faults};
use crate::cel::{CompileError, Environment, Expression};
use crate::response::Cause;

/// Match conditions of the webhooks. What was there before is not judged again.
pub(super) fn webhooks(new: &Value, old: Option<&Value>, _: &Context<'_>, causes: &mut Vec<Cause>) {
    let environment = condition_environment();
    let before = old.map(|o| &o["webhooks"]);
    let all = new["webhooks"].as_array().into_iter().flatten();
    for (at, webhook) in all.enumerate() {
        let conditions = &webhook["matchConditions"];
        let known = before
            .and_then(Value::as_array)
            .is_some_and(|b| b.iter().any(|w| w["matchConditions"] == *conditions));
        if !known {
            let field = format!("webhooks[{at}].matchConditions");
            self::conditions(conditions, &environment, &field, causes);
        }
    }
}

fn conditions(conditions: &Value, environment: &Environment, field: &str, causes: &mut Vec<Cause>) {
    let all = conditions.as_array().into_iter().flatten();
    for (at, condition) in all.enumerate() {
        compile(
            &condition["expression"],
            environment,
            &format!("{field}[{at}].expression"),
            causes,
        );
    }
}

fn compile(expression: &Value, environment: &Environment, field: &str, causes: &mut Vec<Cause>) {
    let source = expression.as_str().unwrap_or_default();
    // That it is missing is told elsewhere.
    if source.trim().is_empty() {
        return;
    }
    if let Err(error) = Expression::compile_to(source, environment, &["bool"]) {
        causes.push(fault(field, source, &error));
    }
}

fn fault(field: &str, source: &str, error: &CompileError) -> Cause {
    let shown = crate::registry::meta::quote(source);
    Cause::new(
        "FieldValueInvalid",
        format!("Invalid value: {shown}: {error}"),
        field,
    )
}

/// Faults of expressions that are there; that one is missing is told elsewhere.
fn told(faults: &[(String, String, CompileError)]) -> impl Iterator<Item = Cause> {
    let there = faults
        .iter()
        .filter(|(_, source, _)| !source.trim().is_empty());
    there.map(|(field, source, error)| fault(field, source, error))
}

/// Expressions of a validating policy. A policy whose specification stays is not judged again.
pub(super) fn validating_policy(
    new: &Value,
    old: Option<&Value>,
    _: &Context<'_>,
    causes: &mut Vec<Cause>,
) {
    if old.is_none_or(|old| old["spec"] != new["spec"]) {
        let faults = policy_faults::<ValidatingSpec>(new);
        causes.extend(told(&faults));
    }
}

/// Expressions of a mutating policy.
pub(super) fn mutating_policy(
    new: &Value,
    old: Option<&Value>,
    _: &Context<'_>,
    causes: &mut Vec<Cause>,
) {
    if old.is_none_or(|old| old["spec"] != new["spec"]) {
        let faults = policy_faults::<MutatingSpec>(new);
        causes.extend(told(&faults));
    }
}
