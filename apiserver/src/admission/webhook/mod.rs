//! Admission webhooks: servers that change or refuse writes.
//!
//! [`config`] follows the configurations, [`review`] makes the question and reads the answer,
//! [`client`] carries it, [`mutating`] and [`validating`] decide who is asked and what follows.
//!
//! **Invariant:** what a webhook answers is bounded in size and time, and what it makes of an
//! object is decoded like a request of a client: defaults are filled in, and fields that the
//! kind does not have are dropped.

mod client;
mod config;
mod endpoint;
mod error;
mod mutating;
mod review;
mod validating;

use crate::registry::Cacher;
use crate::response::ApiError;

use super::Attributes;
use super::conditions::{self, Verdict};
use super::matching::Seen;
use config::{Hook, Hooks};
pub(super) use mutating::Reinvocation;

/// Both kinds of webhooks.
pub(super) struct Webhooks {
    mutating: Hooks,
    validating: Hooks,
    pool: client::Pool,
}

impl Webhooks {
    pub(super) fn new(cacher: &Cacher) -> Self {
        Webhooks {
            mutating: Hooks::of(cacher, "mutatingwebhookconfigurations"),
            validating: Hooks::of(cacher, "validatingwebhookconfigurations"),
            pool: client::Pool::default(),
        }
    }
}

/// What is sent to a webhook.
struct Invocation {
    seen: Seen,
    /// The review's `request`, without the objects.
    request: serde_json::Value,
    object: Option<serde_json::Value>,
    old: Option<serde_json::Value>,
}

/// Decides whether the webhook is called, and with what.
async fn invocation(hook: &Hook, a: &Attributes<'_>) -> Result<Option<Invocation>, ApiError> {
    let Some(seen) = hook.criteria.matches(a)? else {
        return Ok(None);
    };
    let request = conditions::describe(a, &seen);
    let object = a.object_as(&seen).await?;
    let old = a.old_as(&seen).await?;
    if !hook.conditions.is_empty() {
        let activation = conditions::activation(a, &request, object.as_ref(), old.as_ref());
        match hook.conditions.evaluate(&activation) {
            Verdict::Concerned => {}
            Verdict::Skipped => return Ok(None),
            Verdict::Failed(_) if hook.fails_open => return Ok(None),
            Verdict::Failed(why) => return Err(a.forbidden(&why)),
        }
    }
    if a.dry_run && !hook.allows_dry_run {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(ApiError::bad_request(why));
    }
    Ok(Some(Invocation {
        seen,
        request,
        object,
        old,
    }))
}
