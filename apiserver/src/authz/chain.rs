//! All authorizers, asked one after the other.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::node::NodeAuthorizer;
use super::rbac::{Rbac, RoleReference, Rule};
use super::{Attributes, Authorizer, Decision};
use crate::authn::{UserInfo, group};
use crate::registry::Cacher;

/// `system:masters`, then the Node authorizer, then RBAC; denied unless one allows.
#[derive(Default)]
pub struct Authorization {
    rbac: Arc<Rbac>,
    node: OnceLock<NodeAuthorizer>,
}

impl Authorization {
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
        if let Some(node) = self.node.get() {
            match node.authorize(user, attributes) {
                Decision::NoOpinion { reason } => reasons.push(reason),
                decided => return decided,
            }
        }
        match self.rbac.authorize(user, attributes).await {
            Decision::NoOpinion { reason } => reasons.push(reason),
            decided => return decided,
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
