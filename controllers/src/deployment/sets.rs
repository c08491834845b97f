//! The ReplicaSets of a Deployment: which is the new one, and what their annotations say.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// A ReplicaSet with the size that this sync gives it.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub object: Arc<ReplicaSet>,
    pub replicas: i32,
}

impl Set {
    pub(crate) fn new(object: Arc<ReplicaSet>) -> Self {
        let replicas = object
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        Self { object, replicas }
    }

    pub(crate) fn name(&self) -> String {
        self.object.name_any()
    }

    pub(crate) fn available(&self) -> i32 {
        self.object
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0)
    }

    pub(crate) fn number(&self, annotation: &str) -> Option<i32> {
        self.object.annotations().get(annotation)?.parse().ok()
    }

    pub(crate) fn revision(&self) -> i64 {
        let revision = self.object.annotations().get(REVISION);
        revision
            .and_then(|revision| revision.parse().ok())
            .unwrap_or(0)
    }
}

/// The ReplicaSets of a Deployment, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sets {
    pub new: Option<Set>,
    pub old: Vec<Set>,
}

impl Sets {
    /// The new set is the oldest one with the Deployment's template, so that a rollback finds
    /// the set that it goes back to.
    pub(crate) fn of(deployment: &Deployment, mut objects: Vec<Arc<ReplicaSet>>) -> Self {
        objects.sort_by_cached_key(|set| {
            (set.creation_timestamp().map(|time| time.0), set.name_any())
        });
        let template = spec(deployment).template.clone();
        let position = objects.iter().position(|set| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            own.is_some_and(|own| same_template(own, &template))
        });
        let new = position.map(|at| Set::new(objects.remove(at)));
        Self {
            new,
            old: objects.into_iter().map(Set::new).collect(),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    pub(crate) fn active(&self) -> impl Iterator<Item = &Set> {
        self.all().filter(|set| set.replicas > 0)
    }

    pub(crate) fn replicas(&self) -> i32 {
        self.all().map(|set| set.replicas).sum()
    }

    pub(crate) fn available(&self) -> i32 {
        self.all().map(Set::available).sum()
    }

    /// The revision that the new set should have: one more than that of any old set.
    pub(crate) fn next_revision(&self) -> i64 {
        self.old.iter().map(Set::revision).max().unwrap_or(0) + 1
    }
}

pub(crate) fn spec(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

/// Templates are the same if nothing but the hash label differs.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta
        .annotations
        .take()
        .filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    template
}

/// The annotations of a ReplicaSet as the Deployment wants them: inherited ones, and the
/// revision, which only grows.
pub(crate) fn annotations(
    deployment: &Deployment,
    old: &BTreeMap<String, String>,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut new = old.clone();
    for (name, value) in deployment.annotations() {
        if !NOT_INHERITED.contains(&name.as_str()) {
            new.insert(name.clone(), value.clone());
        }
    }
    let known: i64 = old
        .get(REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if known < revision
        && let Some(before) = new.insert(REVISION.to_owned(), revision.to_string())
    {
        let history = new.entry(REVISION_HISTORY.to_owned()).or_default();
        let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
        if !before.is_empty() && !revisions.contains(&before.as_str()) {
            revisions.push(&before);
        }
        *history = revisions.join(",");
    }
    new
}
