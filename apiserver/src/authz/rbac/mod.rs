//! Role-based access control, from an index in memory that follows the store.

mod escalation;
mod index;
mod rule;
mod subject;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use escalation::{EscalationError, uncovered};
pub use index::{Binding, Index, RoleReference};
pub use rule::Rule;
pub use subject::Subject;

use super::{Attributes, Authorizer, Decision};
use crate::authn::UserInfo;
use crate::registry::Cacher;
use crate::registry::cache::{Delivery, EventKind, Filter, ResourceCache};

/// The API group of all four kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = [
    "roles",
    "clusterroles",
    "rolebindings",
    "clusterrolebindings",
];

/// Answers from the index.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// Loads the index and keeps it current until shutdown.
    pub fn follow(self: &Arc<Self>, cacher: &Arc<Cacher>, shutdown: &CancellationToken) {
        for resource in RESOURCES {
            let cache = cacher.resource(GROUP, resource);
            let queue = self.load(resource, &cache, cacher.applied());
            let follower = Follower {
                rbac: self.clone(),
                cacher: cacher.clone(),
                cache,
                resource,
                shutdown: shutdown.clone(),
            };
            tokio::spawn(follower.run(queue));
        }
    }

    fn load(
        &self,
        resource: &'static str,
        cache: &ResourceCache,
        applied: u64,
    ) -> mpsc::Receiver<Delivery> {
        let watching = cache.watch_from_now(Arc::new(Filter::default()), true, applied);
        let mut index = self.index.write();
        index.clear(resource);
        for delivery in watching.initial {
            index.put(resource, &delivery.object.value());
        }
        watching.queue
    }

    fn apply(&self, resource: &'static str, delivery: &Delivery) {
        let mut index = self.index.write();
        match delivery.kind {
            EventKind::Added | EventKind::Modified => {
                index.put(resource, &delivery.object.value());
            }
            EventKind::Deleted => {
                index.remove(
                    resource,
                    delivery.object.namespace(),
                    delivery.object.name(),
                );
            }
        }
    }

    /// The rules that a user has in a namespace, cluster-wide ones included.
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Arc<[Rule]>> {
        let index = self.index.read();
        let mut rules = Vec::new();
        index.visit(user, namespace, |granted, _| {
            rules.push(granted.clone());
            false
        });
        rules
    }

    /// The rules of a role; `None` when there is no such role.
    pub fn role(&self, reference: &RoleReference, namespace: &str) -> Option<Arc<[Rule]>> {
        self.index.read().role(reference, namespace)
    }

    /// Reads what is in a write of the bootstrap at once, not when its event comes.
    pub fn put(&self, resource: &'static str, object: &serde_json::Value) {
        self.index.write().put(resource, object);
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let index = self.index.read();
        let mut reason = None;
        index.visit(user, &attributes.namespace, |rules, describe| {
            if rules.iter().any(|rule| rule.allows(attributes)) {
                reason = Some(format!("RBAC: allowed by {}", describe()));
            }
            reason.is_some()
        });
        match reason {
            Some(reason) => Decision::Allow { reason },
            None => Decision::NoOpinion {
                reason: String::new(),
            },
        }
    }
}

/// One resource's task.
struct Follower {
    rbac: Arc<Rbac>,
    cacher: Arc<Cacher>,
    cache: Arc<ResourceCache>,
    resource: &'static str,
    shutdown: CancellationToken,
}

impl Follower {
    async fn run(self, mut queue: mpsc::Receiver<Delivery>) {
        while let Some(next) = self.shutdown.run_until_cancelled(queue.recv()).await {
            match next {
                Some(delivery) => self.rbac.apply(self.resource, &delivery),
                // Too slow for the queue, or the cache was loaded anew.
                None => {
                    queue = self
                        .rbac
                        .load(self.resource, &self.cache, self.cacher.applied())
                }
            }
        }
    }
}
