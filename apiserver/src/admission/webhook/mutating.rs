//! Mutating webhooks, one after the other: each sees what those before it made of the object.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::config::Hook;
use super::endpoint::Endpoint;
use super::error::{CallError, denied};
use super::review::{self, Answer};
use super::{Attributes, Invocation, Webhooks, invocation};
use crate::audit;
use crate::registry::patch::{Patch, PatchType};
use crate::response::ApiError;

/// Who is asked a second time, and whether there is a second time at all.
#[derive(Debug, Default)]
pub(in crate::admission) struct Reinvocation {
    /// This is the second round.
    pub(in crate::admission) again: bool,
    /// Somebody changed the object: everything that is built in runs again.
    pub(in crate::admission) needed: bool,
    /// Asked already, and willing to be asked again.
    willing: BTreeSet<String>,
    /// To be asked again.
    due: BTreeSet<String>,
    /// The object after the last of the first round.
    left: Option<Value>,
}

impl Reinvocation {
    /// The object was changed after these were asked.
    pub(in crate::admission) fn changed(&mut self) {
        self.due.append(&mut self.willing);
        self.needed = true;
    }

    pub(in crate::admission) fn asked(&mut self, id: &str, willing: bool) {
        if willing {
            self.willing.insert(id.to_owned());
        }
    }

    pub(in crate::admission) fn skips(&self, id: &str) -> bool {
        self.again && !self.due.contains(id)
    }

    /// The second round begins; built-in plugins may have changed the object since the first.
    pub(in crate::admission) fn resume(&mut self, object: Option<&Value>) {
        if self.again && self.left.as_ref() != object {
            self.due.append(&mut self.willing);
        }
    }

    pub(in crate::admission) fn pause(&mut self, object: Option<&Value>) {
        // Only whoever is asked again wants to know what changed.
        if !self.again && !self.willing.is_empty() {
            self.left = object.cloned();
        }
    }
}

/// How asking one webhook went wrong.
enum Failure {
    /// It could not be asked; the failure policy decides.
    Call(CallError),
    /// It was, and this is the end of the request.
    Final(ApiError),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Failure::Call(error)
    }
}

impl Webhooks {
    pub(in crate::admission) async fn mutate(
        &self,
        a: &mut Attributes<'_>,
        state: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        let hooks = self.mutating.now();
        for (position, hook) in hooks.iter().enumerate() {
            if state.skips(&hook.id) {
                continue;
            }
            let Some(invocation) = invocation(hook, a).await? else {
                continue;
            };
            let changed = match self.ask(hook, a, &invocation, position, state.again).await {
                Ok(changed) => changed,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Call(error)) if hook.fails_open => {
                    tracing::warn!(webhook = hook.name, %error, "a mutating webhook was passed over");
                    let key = format!(
                        "failed-open.mutation.webhook.admission.k8s.io/round_{}_index_{position}",
                        u8::from(state.again)
                    );
                    audit::annotate(key, hook.name.clone());
                    false
                }
                Err(Failure::Call(error)) => return Err(error.refusal(&hook.name)),
            };
            if changed {
                state.changed();
            }
            state.asked(&hook.id, hook.reinvoked);
        }
        Ok(())
    }

    /// Asks one webhook and does as it says; whether the object changed.
    async fn ask(
        &self,
        hook: &Hook,
        a: &mut Attributes<'_>,
        invocation: &Invocation,
        position: usize,
        again: bool,
    ) -> Result<bool, Failure> {
        let uid = Uuid::new_v4().to_string();
        let endpoint = Endpoint::of(&hook.server, &a.call.registry, hook.timeout.as_secs())
            .map_err(|(url, why)| CallError::Request(format!("Post {url:?}: {why}")))?;
        let question = review::question(&uid, invocation);
        let body = self
            .pool
            .post(&endpoint, &hook.server.authorities, question, hook.timeout)
            .await?;
        let reply = review::read(&uid, &body, true)?;
        for (key, value) in reply.audit {
            audit::annotate(format!("{}/{key}", hook.name), value);
        }
        for warning in reply.warnings {
            a.call.warn(warning);
        }
        let allowed = match reply.answer {
            Answer::Allowed(allowed) => allowed,
            Answer::Denied(status) => return Err(Failure::Final(denied(&hook.name, &status))),
        };
        let changed = match allowed.patch {
            None => false,
            Some(patch) => apply(hook, a, invocation, patch)
                .await
                .map_err(Failure::Final)?,
        };
        let round = u8::from(again);
        let told =
            json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        audit::annotate(
            format!("mutation.webhook.admission.k8s.io/round_{round}_index_{position}"),
            told.to_string(),
        );
        Ok(changed)
    }
}

/// Applies a webhook's patch to the object as the webhook saw it.
async fn apply(
    hook: &Hook,
    a: &mut Attributes<'_>,
    invocation: &Invocation,
    patch: Vec<u8>,
) -> Result<bool, ApiError> {
    let Some(object) = &invocation.object else {
        return Err(ApiError::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        )));
    };
    let patch = Patch::decode(PatchType::Json, &Bytes::from(patch))
        .map_err(|error| ApiError::internal(error.message()))?;
    let shape = invocation.seen.resource.shape.clone();
    let patched = patch
        .apply_to(&shape, object)
        .map_err(|error| ApiError::internal(error.message()))?;
    if patched == *object {
        return Ok(false);
    }
    a.replace_object(patched, &invocation.seen).await?;
    Ok(true)
}
