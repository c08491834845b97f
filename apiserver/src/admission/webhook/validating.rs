//! Validating webhooks, all at once: the first refusal counts.

use futures::future::join_all;
use uuid::Uuid;

use super::config::Hook;
use super::endpoint::Endpoint;
use super::error::{CallError, denied};
use super::review::{self, Answer};
use super::{Attributes, Invocation, Webhooks, invocation};
use crate::audit;
use crate::response::ApiError;

impl Webhooks {
    pub(in crate::admission) async fn validate(&self, a: &Attributes<'_>) -> Result<(), ApiError> {
        let hooks = self.validating.now();
        if hooks.is_empty() {
            return Ok(());
        }
        let mut calls = Vec::new();
        for (position, hook) in hooks.iter().enumerate() {
            if let Some(invocation) = invocation(hook, a).await? {
                calls.push(self.judge(hook, a, invocation, position));
            }
        }
        join_all(calls).await.into_iter().collect()
    }

    async fn judge(
        &self,
        hook: &Hook,
        a: &Attributes<'_>,
        invocation: Invocation,
        position: usize,
    ) -> Result<(), ApiError> {
        match self.question(hook, a, &invocation).await {
            Ok(Answer::Allowed(_)) => Ok(()),
            Ok(Answer::Denied(status)) => Err(denied(&hook.name, &status)),
            Err(error) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, %error, "a validating webhook was passed over");
                let key = format!(
                    "failed-open.validating.webhook.admission.k8s.io/round_0_index_{position}"
                );
                audit::annotate(key, hook.name.clone());
                Ok(())
            }
            Err(error) => Err(error.refusal(&hook.name)),
        }
    }

    async fn question(
        &self,
        hook: &Hook,
        a: &Attributes<'_>,
        invocation: &Invocation,
    ) -> Result<Answer, CallError> {
        let uid = Uuid::new_v4().to_string();
        let endpoint = Endpoint::of(&hook.server, &a.call.registry, hook.timeout.as_secs())
            .map_err(|(url, why)| CallError::Request(format!("Post {url:?}: {why}")))?;
        let question = review::question(&uid, invocation);
        let body = self
            .pool
            .post(&endpoint, &hook.server.authorities, question, hook.timeout)
            .await?;
        let reply = review::read(&uid, &body, false)?;
        for (key, value) in reply.audit {
            audit::annotate(format!("{}/{key}", hook.name), value);
        }
        for warning in reply.warnings {
            a.call.warn(warning);
        }
        Ok(reply.answer)
    }
}
