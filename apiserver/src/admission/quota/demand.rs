//! What an object needs of quotas.

use std::collections::{BTreeMap, BTreeSet};

use api_rules::quota::{NANO, Usage, in_scope, is_unscoped, of_claim, of_pod, of_service};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use serde_json::Value;

use super::super::{Attributes, Operation};

/// Kinds that have a name of their own in quotas, besides `count/...`.
const NAMED: [&str; 4] = [
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// If a quota limits these, each container has to say how much it wants.
const STATED: [&str; 6] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];

/// See the module's documentation.
pub(super) struct Demand {
    /// What is needed beyond what the object had before.
    pub(super) more: Usage,
    kind: Kind,
}

enum Kind {
    Pod(Box<Pod>),
    Service,
    Claim,
    Other,
}

impl Demand {
    /// `None` for objects that no quota counts.
    pub(super) fn of(a: &Attributes<'_>) -> Option<Self> {
        let object = a.object.as_deref()?;
        let r = &a.call.resource;
        let mut own = match (r.group.as_ref(), r.plural.as_ref()) {
            ("", "pods") => Self::of_pod(object)?,
            ("", "services") => Demand {
                more: of_service(&typed::<Service>(object)?),
                kind: Kind::Service,
            },
            ("", "persistentvolumeclaims") => Demand {
                more: of_claim(&typed::<PersistentVolumeClaim>(object)?),
                kind: Kind::Claim,
            },
            (group, plural) => Self::of_count(group, plural),
        };
        if a.operation == Operation::Update {
            let before = match &own.kind {
                Kind::Pod(_) => Self::of_pod(a.old?)?.more,
                Kind::Service => of_service(&typed(a.old?)?),
                Kind::Claim => of_claim(&typed(a.old?)?),
                Kind::Other => return None,
            };
            for (name, amount) in before {
                if let Some(own) = own.more.get_mut(&name) {
                    *own = own.saturating_sub(amount).max(0);
                }
            }
        }
        Some(own)
    }

    pub(super) fn of_pod(object: &Value) -> Option<Self> {
        let pod: Pod = typed(object)?;
        let mut more = of_pod(&pod);
        more.insert("count/pods".into(), NANO);
        Some(Demand {
            more,
            kind: Kind::Pod(Box::new(pod)),
        })
    }

    fn of_count(group: &str, plural: &str) -> Self {
        let name = if group.is_empty() {
            format!("count/{plural}")
        } else {
            format!("count/{plural}.{group}")
        };
        let mut more = Usage::from([(name, NANO)]);
        if group.is_empty() && NAMED.contains(&plural) {
            more.insert(plural.to_owned(), NANO);
        }
        Demand {
            more,
            kind: Kind::Other,
        }
    }

    pub(super) fn is_in_scope(&self, quota: &ResourceQuota) -> bool {
        match &self.kind {
            Kind::Pod(pod) => in_scope(quota, pod),
            _ => is_unscoped(quota),
        }
    }

    /// Whether objects like this one can use what this name limits.
    pub(super) fn is_about(&self, limit: &str) -> bool {
        match &self.kind {
            Kind::Pod(_) => {
                matches!(
                    limit,
                    "pods" | "count/pods" | "cpu" | "memory" | "ephemeral-storage"
                ) || (limit.starts_with("requests.") && !limit.ends_with("requests.storage"))
                    || limit.starts_with("limits.")
                    || limit.starts_with("hugepages-")
            }
            Kind::Service => limit.starts_with("services") || limit == "count/services",
            Kind::Claim => {
                limit.ends_with("persistentvolumeclaims") || limit.ends_with("requests.storage")
            }
            Kind::Other => self.more.contains_key(limit),
        }
    }

    /// Whether every container says what it wants of what is limited.
    pub(super) fn states_what(&self, limited: &[&str]) -> Result<(), String> {
        let Kind::Pod(pod) = &self.kind else {
            return Ok(());
        };
        let Some(spec) = &pod.spec else {
            return Ok(());
        };
        if spec.resources.is_some() {
            // Stated for the pod as a whole.
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        for container in containers {
            for limit in limited.iter().filter(|l| STATED.contains(*l)) {
                let (list, resource) = match limit.split_once('.') {
                    Some((list, resource)) => (list, resource),
                    None => ("requests", *limit),
                };
                let resources = container.resources.as_ref();
                let amounts = resources.and_then(|r| match list {
                    "limits" => r.limits.as_ref(),
                    _ => r.requests.as_ref(),
                });
                if !amounts.is_some_and(|a| a.contains_key(resource)) {
                    missing.entry(limit).or_default().insert(&container.name);
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = missing
            .into_iter()
            .map(|(limit, names)| {
                let names: Vec<&str> = names.into_iter().collect();
                format!("{limit} for: {}", names.join(","))
            })
            .collect();
        Err(format!("must specify {}", told.join("; ")))
    }
}

fn typed<T: serde::de::DeserializeOwned>(object: &Value) -> Option<T> {
    serde_json::from_value(object.clone()).ok()
}
