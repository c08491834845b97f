//! Tokens that somebody else knows: a webhook is asked with a TokenReview.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::UserInfo;
use crate::answers::Answers;
use crate::remote::{Remote, RemoteError};

/// Who to ask, and how long answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWebhookConfig {
    /// A kubeconfig that names the server; its path is asked with POST.
    pub kubeconfig: PathBuf,
    pub cache: Duration,
}

/// See the module's documentation.
pub(super) struct TokenWebhook {
    remote: Remote,
    cache: Duration,
    answers: Answers<Option<UserInfo>>,
}

impl TokenWebhook {
    pub(super) async fn open(config: &TokenWebhookConfig) -> Result<Self, RemoteError> {
        Ok(TokenWebhook {
            remote: Remote::from_kubeconfig(&config.kubeconfig).await?,
            cache: config.cache,
            answers: Answers::default(),
        })
    }

    /// The token's user and the audiences that it is for; `None` when the webhook does not know it.
    pub(super) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<UserInfo>, RemoteError> {
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token, "audiences": audiences},
        });
        let key = question.to_string();
        if let Some(known) = self.answers.get(key.as_bytes(), Instant::now()) {
            return Ok(known);
        }
        let answer = self.remote.post(&question).await?;
        let user = read(&answer["status"], audiences);
        let now = Instant::now();
        self.answers
            .keep(key.as_bytes(), user.clone(), now, self.cache);
        Ok(user)
    }
}

/// A webhook that names audiences has to name one that was asked for.
fn read(status: &Value, audiences: &[String]) -> Option<UserInfo> {
    if status["authenticated"] != true {
        return None;
    }
    if let Some(named) = status["audiences"].as_array()
        && !named.is_empty()
        && !named.iter().any(|n| audiences.iter().any(|a| n == a))
    {
        return None;
    }
    let user: UserInfo = serde_json::from_value(status["user"].clone()).ok()?;
    (!user.name.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_user_for_our_audience_gets_in() {
        let check = |status: Value, expect: Option<&str>| {
            let user = read(&status, &["us".to_owned()]);
            assert_eq!(user.map(|u| u.name).as_deref(), expect, "{status}");
        };
        let user = json!({"username": "jane", "groups": ["dev"]});
        check(json!({"authenticated": true, "user": user}), Some("jane"));
        check(
            json!({"authenticated": true, "user": user, "audiences": ["us"]}),
            Some("jane"),
        );
        check(
            json!({"authenticated": true, "user": user, "audiences": ["them"]}),
            None,
        );
        check(json!({"authenticated": false, "user": user}), None);
        check(json!({"authenticated": "true", "user": user}), None);
        check(json!({"authenticated": true, "user": {}}), None);
        check(json!(null), None);
    }
}
