//! Match conditions, and what expressions are told of a request.

use serde_json::{Value, json};

use super::Attributes;
use super::matching::Seen;
use crate::authz;
use crate::cel::{Activation, Authorizer, CompileError, Environment, Expression, from_json};

/// `matchConditions` of a webhook or policy, compiled.
#[derive(Debug, Default)]
pub(super) struct Conditions(Vec<Result<Expression, CompileError>>);

/// What the conditions come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Concerned,
    Skipped,
    /// No condition says no, and these could not be evaluated.
    Failed(String),
}

impl Conditions {
    pub(super) fn compile(conditions: &Value, environment: &Environment) -> Self {
        let all = conditions.as_array().into_iter().flatten();
        Conditions(
            all.map(|c| {
                Expression::compile(c["expression"].as_str().unwrap_or_default(), environment)
            })
            .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One condition that is false is enough to skip, whatever is wrong with the others.
    pub(super) fn evaluate(&self, activation: &Activation<'_>) -> Verdict {
        let mut failures = Vec::new();
        for condition in &self.0 {
            match condition {
                Ok(expression) => match expression.test(activation) {
                    Ok(true) => {}
                    Ok(false) => return Verdict::Skipped,
                    Err(error) => failures.push(format!(
                        "expression '{}' resulted in error: {error}",
                        expression.source()
                    )),
                },
                Err(error) => failures.push(error.to_string()),
            }
        }
        match failures.as_slice() {
            [] => Verdict::Concerned,
            [one] => Verdict::Failed(one.clone()),
            many => Verdict::Failed(format!("[{}]", many.join(", "))),
        }
    }
}

/// What conditions of webhooks may use.
pub(crate) fn environment() -> Environment {
    Environment::new(&["object", "oldObject", "request", "authorizer"])
}

/// The request as reviews and expressions show it: everything but the objects.
pub(super) fn describe(a: &Attributes<'_>, seen: &Seen) -> Value {
    let call = a.call;
    let sub = call.info.subresource.as_str();
    let sent = Seen::as_sent(call);
    let kind =
        |k: &schema::types::Gvk| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource = |s: &Seen| {
        let r = &s.resource;
        json!({"group": r.group, "version": r.version, "resource": r.plural})
    };
    let mut request = json!({
        "kind": kind(&seen.kind),
        "resource": resource(seen),
        "requestKind": kind(&sent.kind),
        "requestResource": resource(&sent),
        "operation": a.operation.name(),
        "userInfo": serde_json::to_value(&*call.user).unwrap_or_default(),
        "dryRun": a.dry_run,
        "options": a.options,
    });
    for (field, value) in [
        ("name", a.request_name()),
        ("namespace", a.namespace()),
        ("subResource", sub),
        ("requestSubResource", sub),
    ] {
        if !value.is_empty() {
            request[field] = value.into();
        }
    }
    request
}

/// The variables that all expressions about a request have.
pub(super) fn activation(
    a: &Attributes<'_>,
    request: &Value,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Activation<'static> {
    let call = a.call;
    let mut activation = Activation::default();
    let null = Value::Null;
    activation.set("object", from_json(object.unwrap_or(&null)));
    activation.set("oldObject", from_json(old.unwrap_or(&null)));
    let mut request = request.clone();
    // Expressions may rely on these, though reviews leave them out when they are empty.
    for field in ["name", "namespace", "subResource", "requestSubResource"] {
        if request[field].is_null() {
            request[field] = "".into();
        }
    }
    activation.set("request", from_json(&request));
    let authorizer = call.registry.authorizer.clone();
    let question = authz::Attributes {
        verb: String::new(),
        api_group: call.resource.group.to_string(),
        api_version: call.resource.version.to_string(),
        namespace: a.namespace().to_owned(),
        resource: call.resource.plural.to_string(),
        subresource: call.info.subresource.clone(),
        name: a.object_name(),
        ..authz::Attributes::default()
    };
    activation.set(
        "authorizer.requestResource",
        Authorizer::request_value(authorizer.clone(), call.user.clone(), question),
    );
    activation.set(
        "authorizer",
        Authorizer::value(authorizer, call.user.clone()),
    );
    activation
}
