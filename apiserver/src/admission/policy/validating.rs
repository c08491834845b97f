//! ValidatingAdmissionPolicy: expressions that have to be true.

use serde_json::{Value, json};

use super::config::{Bound, Compiled, Policy, ValidatingSpec, Validation};
use super::{Attributes, Fault, Policies, View, concerns, denial, is_question, params};
use crate::audit;
use crate::cel::{Activation, CelValue};
use crate::response::ApiError;

const KIND: &str = "ValidatingAdmissionPolicy";
/// Longer messages of expressions are not shown.
const MAX_MESSAGE: usize = 5 * 1024;
/// Longer values of audit annotations are cut.
const MAX_ANNOTATION: usize = 10 * 1024;

/// Something that is not as the policy wants it.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    message: String,
    reason: Option<String>,
    /// Position among the validations.
    index: usize,
}

impl Policies {
    pub(in crate::admission) async fn validate(&self, a: &Attributes<'_>) -> Result<(), ApiError> {
        let policies = self.validating.now();
        if policies.is_empty() || is_question(a) {
            return Ok(());
        }
        let mut refusal = None;
        let mut recorded = Vec::new();
        for policy in policies.iter() {
            let refused = judge(policy, a, &mut recorded).await?;
            refusal = refusal.or(refused);
        }
        if !recorded.is_empty() {
            audit::annotate(
                "validation.policy.admission.k8s.io/validation_failure",
                Value::Array(recorded).to_string(),
            );
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// Evaluates a policy with all its bindings; the first refusal, if any.
async fn judge(
    policy: &Policy<ValidatingSpec>,
    a: &Attributes<'_>,
    recorded: &mut Vec<Value>,
) -> Result<Option<ApiError>, ApiError> {
    let Some(seen) = policy.criteria.matches(a)? else {
        return Ok(None);
    };
    let mut refusal = None;
    let refuse = |fault: &Fault, binding: Option<&Bound>| {
        (!policy.fails_open).then(|| denial(a, KIND, policy, binding, &fault.to_string(), None))
    };
    let compiled = match &policy.compiled {
        Ok(compiled) => compiled,
        Err(why) => return Ok(refuse(&Fault::Policy(why.clone()), None)),
    };
    let view = View::of(a, &seen).await?;
    for binding in &policy.bindings {
        if binding.criteria.matches(a)?.is_none() {
            continue;
        }
        let all = match params::find(a, policy, binding).await {
            Ok(all) => all,
            Err(fault) => {
                let own = matches!(fault, Fault::Binding(_)).then_some(binding);
                refusal = refusal.or_else(|| refuse(&fault, own));
                continue;
            }
        };
        for param in all {
            let activation = view.activation(a, compiled, &param);
            let failures = match concerns(compiled, &activation) {
                Ok(true) => evaluate(policy, compiled, &activation),
                Ok(false) => continue,
                Err(fault) if policy.fails_open => {
                    tracing::debug!(policy = policy.name, %fault, "a match condition failed");
                    continue;
                }
                Err(fault) => vec![Failure {
                    message: fault.to_string(),
                    reason: None,
                    index: 0,
                }],
            };
            for failure in failures {
                let refused = consequences(a, policy, binding, &failure, recorded);
                refusal = refusal.or(refused);
            }
        }
    }
    Ok(refusal)
}

/// What a failure leads to, as the binding wants it.
fn consequences(
    a: &Attributes<'_>,
    policy: &Policy<ValidatingSpec>,
    binding: &Bound,
    failure: &Failure,
    recorded: &mut Vec<Value>,
) -> Option<ApiError> {
    if binding.warns {
        a.call.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
            policy.name, binding.name, failure.message
        ));
    }
    if binding.audits {
        let actions = [
            ("Deny", binding.denies),
            ("Warn", binding.warns),
            ("Audit", binding.audits),
        ];
        let actions: Vec<&str> = actions
            .iter()
            .filter(|(_, on)| *on)
            .map(|(n, _)| *n)
            .collect();
        recorded.push(json!({
            "message": failure.message,
            "policy": policy.name,
            "binding": binding.name,
            "expressionIndex": failure.index,
            "validationActions": actions,
        }));
    }
    let reason = failure.reason.as_deref();
    binding
        .denies
        .then(|| denial(a, KIND, policy, Some(binding), &failure.message, reason))
}

/// Evaluates the validations, and what is to be recorded.
fn evaluate(
    policy: &Policy<ValidatingSpec>,
    compiled: &Compiled<ValidatingSpec>,
    activation: &Activation<'_>,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (index, validation) in compiled.spec.validations.iter().enumerate() {
        let fault = match validation.expression.test(activation) {
            Ok(true) => continue,
            Ok(false) => None,
            Err(_) if policy.fails_open => continue,
            Err(error) => Some(Fault::Expression {
                source_text: validation.expression.source().to_owned(),
                why: error.to_string(),
            }),
        };
        failures.push(match fault {
            Some(fault) => Failure {
                message: fault.to_string(),
                reason: None,
                index,
            },
            None => Failure {
                message: message(validation, activation),
                reason: validation.reason.clone(),
                index,
            },
        });
    }
    annotate(policy, compiled, activation);
    failures
}

/// The expression's message, else the fixed one, else the expression itself.
fn message(validation: &Validation, activation: &Activation<'_>) -> String {
    let told = validation.message_expression.as_ref();
    if let Some(Ok(CelValue::String(text))) = told.map(|e| e.evaluate(activation)) {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
            return text.to_owned();
        }
    }
    match validation.message.trim() {
        "" => format!(
            "failed expression: {}",
            validation.expression.source().trim()
        ),
        message => message.to_owned(),
    }
}

fn annotate(
    policy: &Policy<ValidatingSpec>,
    compiled: &Compiled<ValidatingSpec>,
    activation: &Activation<'_>,
) {
    for (key, expression) in &compiled.spec.annotations {
        match expression.evaluate(activation) {
            Ok(CelValue::String(text)) => {
                let mut end = text.len().min(MAX_ANNOTATION);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                audit::annotate(format!("{}/{key}", policy.name), text[..end].trim());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(policy = policy.name, key, %error, "no audit annotation");
            }
        }
    }
}
