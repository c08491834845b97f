//! Somebody else decides: a webhook is asked with a SubjectAccessReview.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Attributes, Decision, SelectorRequirement};
use crate::answers::Answers;
use crate::authn::UserInfo;
use crate::remote::{Remote, RemoteError};

/// Who to ask, and how long answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessWebhookConfig {
    /// A kubeconfig that names the server; its path is asked with POST.
    pub kubeconfig: PathBuf,
    pub cache_allowed: Duration,
    pub cache_denied: Duration,
}

/// See the module's documentation.
pub(super) struct AccessWebhook {
    remote: Remote,
    cache_allowed: Duration,
    cache_denied: Duration,
    answers: Answers<Decision>,
}

impl AccessWebhook {
    pub(super) async fn open(config: &AccessWebhookConfig) -> Result<Self, RemoteError> {
        Ok(AccessWebhook {
            remote: Remote::from_kubeconfig(&config.kubeconfig).await?,
            cache_allowed: config.cache_allowed,
            cache_denied: config.cache_denied,
            answers: Answers::default(),
        })
    }

    /// Who cannot be asked has no opinion, which is no permission.
    pub(super) async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let question = review(user, attributes);
        let key = question.to_string();
        if let Some(known) = self.answers.get(key.as_bytes(), Instant::now()) {
            return known;
        }
        let answer = match self.remote.post(&question).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, "the authorization webhook gave no answer");
                return Decision::NoOpinion {
                    reason: String::new(),
                };
            }
        };
        let decision = read(&answer["status"]);
        let lifetime = if decision.is_allowed() {
            self.cache_allowed
        } else {
            self.cache_denied
        };
        self.answers
            .keep(key.as_bytes(), decision.clone(), Instant::now(), lifetime);
        decision
    }
}

fn review(user: &UserInfo, a: &Attributes) -> Value {
    let mut spec = json!({"user": user.name});
    let mut set = |key: &str, value: Value| {
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !empty {
            spec[key] = value;
        }
    };
    set("uid", user.uid.as_str().into());
    set("groups", json!(user.groups));
    set("extra", json!(user.extra));
    if a.is_resource_request() {
        set("resourceAttributes", resource(a));
    } else {
        set(
            "nonResourceAttributes",
            json!({"path": a.path, "verb": a.verb}),
        );
    }
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": spec,
    })
}

fn resource(a: &Attributes) -> Value {
    let mut map = serde_json::Map::new();
    for (key, value) in [
        ("namespace", &a.namespace),
        ("verb", &a.verb),
        ("group", &a.api_group),
        ("version", &a.api_version),
        ("resource", &a.resource),
        ("subresource", &a.subresource),
        ("name", &a.name),
    ] {
        if !value.is_empty() {
            map.insert(key.into(), value.as_str().into());
        }
    }
    for (key, selector) in [
        ("fieldSelector", &a.field_selector),
        ("labelSelector", &a.label_selector),
    ] {
        if !selector.is_empty() {
            let requirements: Vec<Value> = selector.iter().map(requirement).collect();
            map.insert(key.into(), json!({"requirements": requirements}));
        }
    }
    Value::Object(map)
}

fn requirement(r: &SelectorRequirement) -> Value {
    let mut value = json!({"key": r.key, "operator": r.operator});
    if !r.values.is_empty() {
        value["values"] = json!(r.values);
    }
    value
}

fn read(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, false) => Decision::Allow { reason },
        (false, true) => Decision::Deny { reason },
        // Both at once says nothing.
        _ => Decision::NoOpinion { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_has_what_the_request_has() {
        let mut a = Attributes::resource("list", "", "pods", "n", "");
        a.label_selector.push(SelectorRequirement {
            key: "app".into(),
            operator: "In".into(),
            values: vec!["a".into()],
        });
        let user = UserInfo::new("jane", ["dev"]);
        assert_eq!(
            review(&user, &a)["spec"],
            json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {
                "verb": "list", "resource": "pods", "namespace": "n",
                "labelSelector": {"requirements": [{"key": "app", "operator": "In", "values": ["a"]}]}}})
        );
    }

    #[test]
    fn only_a_clear_yes_allows() {
        assert!(read(&json!({"allowed": true})).is_allowed());
        assert!(!read(&json!({"allowed": true, "denied": true})).is_allowed());
        assert!(!read(&json!({"allowed": "yes"})).is_allowed());
        assert!(!read(&json!(null)).is_allowed());
        let denied = read(&json!({"denied": true, "reason": "no"}));
        assert!(matches!(denied, Decision::Deny { reason } if reason == "no"));
    }
}
