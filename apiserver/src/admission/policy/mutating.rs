//! MutatingAdmissionPolicy: expressions whose values are applied to the object.

use serde_json::Value;

use super::super::matching::Seen;
use super::super::webhook::Reinvocation;
use super::config::{Bound, Compiled, MutatingSpec, Mutation, Policy};
use super::{Attributes, Fault, Policies, View, concerns, denial, is_question, params};
use crate::cel::{Activation, Expression, to_json};
use crate::registry::managed;
use crate::registry::patch::Patch;
use crate::response::ApiError;

const KIND: &str = "MutatingAdmissionPolicy";

impl Policies {
    pub(in crate::admission) async fn mutate(
        &self,
        a: &mut Attributes<'_>,
        state: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        let policies = self.mutating.now();
        // There is nothing to change about what has no object.
        if policies.is_empty() || is_question(a) || a.object.is_none() {
            return Ok(());
        }
        for policy in policies.iter() {
            apply_policy(policy, a, state).await?;
        }
        Ok(())
    }
}

async fn apply_policy(
    policy: &Policy<MutatingSpec>,
    a: &mut Attributes<'_>,
    state: &mut Reinvocation,
) -> Result<(), ApiError> {
    let Some(seen) = policy.criteria.matches(a)? else {
        return Ok(());
    };
    let compiled = match &policy.compiled {
        Ok(compiled) => compiled,
        Err(why) => return settle(policy, a, None, &Fault::Policy(why.clone())),
    };
    for binding in &policy.bindings {
        if binding.criteria.matches(a)?.is_none() {
            continue;
        }
        let all = match params::find(a, policy, binding).await {
            Ok(all) => all,
            Err(fault) => {
                settle(policy, a, Some(binding), &fault)?;
                continue;
            }
        };
        for (at, param) in all.iter().enumerate() {
            let id = format!("policy/{}/{}/{at}", policy.name, binding.name);
            if state.skips(&id) {
                continue;
            }
            match mutate_once(compiled, a, &seen, param).await? {
                Ok(None) => {}
                Ok(Some(changed)) => {
                    if changed {
                        state.changed();
                    }
                    state.asked(&id, compiled.spec.reinvoked);
                }
                Err(fault) => settle(policy, a, Some(binding), &fault)?,
            }
        }
    }
    Ok(())
}

/// A fault refuses the request, unless the policy wants to be passed over.
fn settle(
    policy: &Policy<MutatingSpec>,
    a: &Attributes<'_>,
    binding: Option<&Bound>,
    fault: &Fault,
) -> Result<(), ApiError> {
    if policy.fails_open {
        tracing::debug!(policy = policy.name, %fault, "a mutating policy was passed over");
        return Ok(());
    }
    Err(denial(a, KIND, policy, binding, &fault.to_string(), None))
}

/// All mutations of a policy with one parameter; whether the object changed, or `None` when the
/// policy is not concerned. A policy that fails halfway changes nothing.
async fn mutate_once(
    compiled: &Compiled<MutatingSpec>,
    a: &mut Attributes<'_>,
    seen: &Seen,
    param: &Value,
) -> Result<Result<Option<bool>, Fault>, ApiError> {
    let before = a.object.as_deref().cloned();
    let mut changed = false;
    for (at, mutation) in compiled.spec.mutations.iter().enumerate() {
        let view = View::of(a, seen).await?;
        let made = {
            let activation = view.activation(a, compiled, param);
            if at == 0 {
                match concerns(compiled, &activation) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Ok(None)),
                    Err(fault) => return Ok(Err(fault)),
                }
            }
            let Some(object) = &view.object else {
                return Ok(Ok(None));
            };
            mutated(mutation, &activation, object, seen)
        };
        let outcome = match made {
            Ok(made) if Some(&made) == view.object.as_ref() => Ok(()),
            Ok(made) => {
                changed = true;
                let replaced = a.replace_object(made, seen).await;
                replaced.map_err(|error| Fault::Condition(error.message().to_owned()))
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = outcome {
            if let (Some(object), Some(before)) = (a.object.as_deref_mut(), before) {
                *object = before;
            }
            return Ok(Err(fault));
        }
    }
    Ok(Ok(Some(changed)))
}

/// The object after one mutation.
fn mutated(
    mutation: &Mutation,
    activation: &Activation<'_>,
    object: &Value,
    seen: &Seen,
) -> Result<Value, Fault> {
    let shape = &seen.resource.shape;
    match mutation {
        Mutation::Apply(expression) => {
            let mut configuration = evaluated(expression, activation)?;
            let wrong = |why: String| Fault::Expression {
                source_text: expression.source().to_owned(),
                why,
            };
            let Some(map) = configuration.as_object_mut() else {
                return Err(wrong(
                    "unexpected evaluation result: apply configuration must be an Object".into(),
                ));
            };
            for field in ["apiVersion", "kind"] {
                map.insert(field.into(), object[field].clone());
            }
            if !map.get("metadata").is_some_and(Value::is_object) {
                map.remove("metadata");
            }
            managed::merge_configuration(shape, object, &configuration)
                .map_err(|error| wrong(error.to_string()))
        }
        Mutation::Patch(expression) => {
            let operations = evaluated(expression, activation)?;
            let wrong = |why: &str| Fault::Expression {
                source_text: expression.source().to_owned(),
                why: why.to_owned(),
            };
            let Value::Array(operations) = operations else {
                return Err(wrong("JSONPatch expression must be a list of JSONPatch"));
            };
            Patch::Json(operations)
                .apply_to(shape, object)
                .map_err(|_| wrong("the JSON patch cannot be applied to the object"))
        }
    }
}

fn evaluated(expression: &Expression, activation: &Activation<'_>) -> Result<Value, Fault> {
    expression
        .evaluate(activation)
        .and_then(|value| to_json(&value))
        .map_err(|error| Fault::Expression {
            source_text: expression.source().to_owned(),
            why: error.to_string(),
        })
}
