//! All authorizers, asked one after the other.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::abac::{Abac, AbacError};
use super::node::NodeAuthorizer;
use super::rbac::{Rbac, RoleReference, Rule};
use super::webhook::{AccessWebhook, AccessWebhookConfig};
use super::{Attributes, Authorizer, Decision};
use crate::authn::{UserInfo, group};
use crate::registry::Cacher;
use crate::remote::RemoteError;

/// One authorizer of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Node,
    Rbac,
    Abac,
    Webhook,
    AlwaysAllow,
    AlwaysDeny,
}

/// Who decides, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationConfig {
    pub modes: Vec<Mode>,
    /// The policies of [`Mode::Abac`].
    pub policy_file: Option<PathBuf>,
    pub webhook: Option<AccessWebhookConfig>,
}

impl Default for AuthorizationConfig {
    fn default() -> Self {
        AuthorizationConfig {
            modes: vec![Mode::Node, Mode::Rbac],
            policy_file: None,
            webhook: None,
        }
    }
}

/// Why a configuration of authorization cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizationConfigError {
    #[error(transparent)]
    Abac(#[from] AbacError),
    #[error("the authorization webhook: {0}")]
    Webhook(#[from] RemoteError),
    #[error("the authorization mode {mode:?} needs {flag}")]
    Missing { mode: Mode, flag: &'static str },
}

enum Authority {
    Node,
    Rbac,
    Abac(Abac),
    Webhook(Box<AccessWebhook>),
    Always(Decision),
}

/// `system:masters`, then each authority in its turn; denied unless one allows.
pub struct Authorization {
    rbac: Arc<Rbac>,
    node: OnceLock<NodeAuthorizer>,
    chain: Vec<Authority>,
}

impl Authorization {
    /// Reads what the configuration names; nobody is asked yet.
    pub async fn open(config: &AuthorizationConfig) -> Result<Self, AuthorizationConfigError> {
        let mut chain = Vec::new();
        for mode in &config.modes {
            let missing = |flag| AuthorizationConfigError::Missing { mode: *mode, flag };
            let reason = String::new();
            chain.push(match mode {
                Mode::Node => Authority::Node,
                Mode::Rbac => Authority::Rbac,
                Mode::AlwaysAllow => Authority::Always(Decision::Allow { reason }),
                Mode::AlwaysDeny => Authority::Always(Decision::NoOpinion {
                    reason: "Everything is forbidden.".into(),
                }),
                Mode::Abac => {
                    let file = config.policy_file.as_deref();
                    let file = file.ok_or_else(|| missing("--authorization-policy-file"))?;
                    Authority::Abac(Abac::read(file)?)
                }
                Mode::Webhook => {
                    let webhook = config.webhook.as_ref();
                    let webhook =
                        webhook.ok_or_else(|| missing("--authorization-webhook-config-file"))?;
                    Authority::Webhook(Box::new(AccessWebhook::open(webhook).await?))
                }
            });
        }
        Ok(Authorization {
            rbac: Arc::default(),
            node: OnceLock::new(),
            chain,
        })
    }

    async fn ask(&self, who: &Authority, user: &UserInfo, attributes: &Attributes) -> Decision {
        match who {
            Authority::Node => match self.node.get() {
                Some(node) => node.authorize(user, attributes),
                None => Decision::NoOpinion {
                    reason: String::new(),
                },
            },
            Authority::Rbac => self.rbac.authorize(user, attributes).await,
            Authority::Abac(abac) => abac.authorize(user, attributes),
            Authority::Webhook(webhook) => webhook.authorize(user, attributes).await,
            Authority::Always(decision) => decision.clone(),
        }
    }

    /// Begins to follow the objects that decide. Until then only `system:masters` may anything.
    pub fn attach(&self, cacher: &Arc<Cacher>, shutdown: &CancellationToken) {
        self.rbac.follow(cacher, shutdown);
        // A second call would only follow the same objects again.
        let _ = self.node.set(NodeAuthorizer::new(cacher.clone()));
    }
}

#[async_trait]
impl Authorizer for Authorization {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.is_in(group::MASTERS) {
            return Decision::Allow {
                reason: String::new(),
            };
        }
        let mut reasons = Vec::new();
        for authority in &self.chain {
            match self.ask(authority, user, attributes).await {
                Decision::NoOpinion { reason } => reasons.push(reason),
                decided => return decided,
            }
        }
        reasons.retain(|reason| !reason.is_empty());
        Decision::NoOpinion {
            reason: reasons.join(", "),
        }
    }

    fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let granted = self.rbac.rules_of(user, namespace);
        granted
            .iter()
            .flat_map(|rules| rules.iter().cloned())
            .collect()
    }

    fn role(&self, reference: &RoleReference, namespace: &str) -> Option<Vec<Rule>> {
        self.rbac
            .role(reference, namespace)
            .map(|rules| rules.to_vec())
    }
}
