//! Admission policies: expressions in the cluster's own objects that refuse or change writes.
//!
//! [`config`] follows policies and their bindings and compiles them once for each change,
//! [`params`] finds the objects that parametrize them, [`validating`] and [`mutating`] evaluate.

mod config;
mod mutating;
mod params;
mod validating;

use serde_json::Value;

use super::Attributes;
use super::conditions::{self, Verdict};
use super::matching::Seen;
use crate::cel::{Activation, from_json};
use crate::registry::Cacher;
use crate::response::{ApiError, Cause};
use config::{Bound, Policies as Source, Policy};
pub(crate) use config::{Compiled, MutatingSpec, ValidatingSpec, faults};

/// Both kinds of policies.
pub(super) struct Policies {
    validating: Source<ValidatingSpec>,
    mutating: Source<MutatingSpec>,
}

impl Policies {
    pub(super) fn new(cacher: &Cacher) -> Self {
        Policies {
            validating: Source::of(cacher, "validatingadmissionpolic"),
            mutating: Source::of(cacher, "mutatingadmissionpolic"),
        }
    }
}

/// Resources that are questions to the server; policies have no say in them.
fn is_question(a: &Attributes<'_>) -> bool {
    let group = a.call.resource.group.as_ref();
    matches!(group, "authentication.k8s.io" | "authorization.k8s.io")
        && a.call.resource.plural.ends_with("reviews")
}

/// What one evaluation of a policy sees.
struct View {
    request: Value,
    object: Option<Value>,
    old: Option<Value>,
    namespace: Value,
}

impl View {
    async fn of(a: &Attributes<'_>, seen: &Seen) -> Result<Self, ApiError> {
        let namespace = a.namespace();
        let found = a.call.registry.lookup("", "namespaces", "", namespace);
        Ok(View {
            request: conditions::describe(a, seen),
            object: a.object_as(seen).await?,
            old: a.old_as(seen).await?,
            namespace: found.map(|n| n.value()).unwrap_or_default(),
        })
    }

    fn activation<'p, S>(
        &self,
        a: &Attributes<'_>,
        compiled: &'p Compiled<S>,
        params: &Value,
    ) -> Activation<'p> {
        let mut activation =
            conditions::activation(a, &self.request, self.object.as_ref(), self.old.as_ref());
        activation.set("params", from_json(params));
        activation.set("namespaceObject", from_json(&self.namespace));
        activation.compose(&compiled.variables);
        activation
    }
}

/// Why a policy could not be evaluated; its failure policy decides what follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("failed to configure policy: {0}")]
    Policy(String),
    #[error("failed to configure binding: {0}")]
    Binding(String),
    /// A match condition.
    #[error("{0}")]
    Condition(String),
    #[error("expression '{source_text}' resulted in error: {why}")]
    Expression { source_text: String, why: String },
}

/// Whether the match conditions let the request through to the policy.
fn concerns<S>(compiled: &Compiled<S>, activation: &Activation<'_>) -> Result<bool, Fault> {
    match compiled.conditions.evaluate(activation) {
        Verdict::Concerned => Ok(true),
        Verdict::Skipped => Ok(false),
        Verdict::Failed(why) => Err(Fault::Condition(why)),
    }
}

/// The refusal of a policy.
fn denial<S>(
    a: &Attributes<'_>,
    kind: &str,
    policy: &Policy<S>,
    binding: Option<&Bound>,
    why: &str,
    reason: Option<&str>,
) -> ApiError {
    let message = match binding {
        Some(binding) => format!(
            "{kind} '{}' with binding '{}' denied request: {why}",
            policy.name, binding.name
        ),
        None => format!("{kind} '{}' denied request: {why}", policy.name),
    };
    let reason = reason.unwrap_or("Invalid");
    let code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    let forbidden = a.forbidden(&message);
    let details = serde_json::to_value(forbidden.details()).unwrap_or_default();
    ApiError::told(
        code,
        reason.to_owned(),
        forbidden.message().to_owned(),
        Some(&details),
    )
    .with_cause(Cause::new("", message, ""))
}
