//! One step of a Deployment: what to do to its ReplicaSets, and its status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::sets::{
    DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, Set, Sets, annotations, spec,
};
use super::status::{self, PROGRESSING};
use super::strategy::{self, Bounds};
use crate::framework::hash;
use crate::framework::owners::controller_of;

/// A change to a ReplicaSet.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(Box<ReplicaSet>),
    /// A merge patch of the set as it was read.
    Change {
        set: Arc<ReplicaSet>,
        patch: Value,
        scaled: Option<(i32, i32)>,
    },
    Delete(Arc<ReplicaSet>),
}

/// The operations of one sync and what the Deployment says afterwards.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    /// The revision annotation, where it has to change.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub check_after: Option<Duration>,
}

/// What is known of the Deployment's pods beyond its sets' counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldPods {
    /// Whether pods of old sets still run or are on their way out.
    pub running: bool,
}

/// Decides the next step. Repeated after every change, the steps end in the wanted state.
pub(crate) fn plan(
    deployment: &Deployment,
    objects: Vec<Arc<ReplicaSet>>,
    old_pods: impl FnOnce(&[Set]) -> OldPods,
    now: Timestamp,
) -> Result<Plan, serde_json::Error> {
    let sets = Sets::of(deployment, objects);
    let bounds = Bounds::of(deployment);
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = status::calculate(deployment, &sets, bounds, now);
        return Ok(Plan {
            status,
            ..Plan::default()
        });
    }
    if let Some(status) = status::note_pause(deployment, now) {
        return Ok(Plan {
            status,
            ..Plan::default()
        });
    }
    let paused = spec(deployment).paused == Some(true);
    if paused || strategy::is_scaling(bounds, &sets) {
        return Ok(resize(deployment, &sets, bounds, paused, now));
    }
    let step = Step {
        deployment,
        sets: &sets,
        bounds,
        now,
    };
    if bounds.recreate {
        step.recreate(old_pods)
    } else {
        step.rolling()
    }
}

/// A change of scale, and the only thing that happens to a paused Deployment.
fn resize(
    deployment: &Deployment,
    sets: &Sets,
    bounds: Bounds,
    paused: bool,
    now: Timestamp,
) -> Plan {
    let before = deployment
        .status
        .as_ref()
        .and_then(|status| status.replicas)
        .unwrap_or(0);
    let sizes = strategy::scale(bounds, sets, before);
    let mut ops: Vec<Op> = sizes
        .iter()
        .filter_map(|(set, to)| sized(bounds, set, *to))
        .collect();
    if paused && ops.is_empty() {
        ops = clean_up(deployment, sets);
    }
    let status = status::calculate(deployment, sets, bounds, now);
    Plan {
        ops,
        status,
        ..Plan::default()
    }
}

/// The change that gives a set its size and lets it remember the Deployment's.
fn sized(bounds: Bounds, set: &Set, to: i32) -> Option<Op> {
    let told = set.number(DESIRED_REPLICAS) == Some(bounds.wanted)
        && set.number(MAX_REPLICAS) == Some(bounds.max_replicas());
    if set.replicas == to && told {
        return None;
    }
    let patch = json!({
        "metadata": {"annotations": {
            DESIRED_REPLICAS: bounds.wanted.to_string(),
            MAX_REPLICAS: bounds.max_replicas().to_string(),
        }},
        "spec": {"replicas": to},
    });
    let scaled = (set.replicas != to).then_some((set.replicas, to));
    Some(Op::Change {
        set: set.object.clone(),
        patch,
        scaled,
    })
}

/// Old sets without pods beyond the history limit, oldest revision first.
fn clean_up(deployment: &Deployment, sets: &Sets) -> Vec<Op> {
    let Some(limit) = spec(deployment).revision_history_limit else {
        return Vec::new();
    };
    let mut old: Vec<&Set> = sets
        .old
        .iter()
        .filter(|set| set.object.metadata.deletion_timestamp.is_none())
        .collect();
    old.sort_by_key(|set| set.revision());
    let surplus = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.into_iter()
        .take(surplus)
        .filter(|set| {
            let status = set.object.status.clone().unwrap_or_default();
            status.replicas == 0
                && set.replicas == 0
                && set.object.metadata.generation <= status.observed_generation
        })
        .map(|set| Op::Delete(set.object.clone()))
        .collect()
}

struct Step<'a> {
    deployment: &'a Deployment,
    sets: &'a Sets,
    bounds: Bounds,
    now: Timestamp,
}

impl Step<'_> {
    fn rolling(&self) -> Result<Plan, serde_json::Error> {
        if let Some(plan) = self.ensure_new()? {
            return Ok(plan);
        }
        let sizes = strategy::roll(self.bounds, self.sets);
        let resized = sizes
            .iter()
            .filter_map(|(set, to)| sized(self.bounds, set, *to))
            .collect();
        Ok(self.rollout(resized))
    }

    /// All old pods end before the first new one is made.
    fn recreate(
        &self,
        old_pods: impl FnOnce(&[Set]) -> OldPods,
    ) -> Result<Plan, serde_json::Error> {
        let down: Vec<Op> = self
            .sets
            .old
            .iter()
            .filter(|set| set.replicas > 0)
            .filter_map(|set| sized(self.bounds, set, 0))
            .collect();
        if !down.is_empty() || old_pods(&self.sets.old).running {
            return Ok(self.rollout(down));
        }
        if let Some(plan) = self.ensure_new()? {
            return Ok(plan);
        }
        let up = self
            .sets
            .new
            .as_ref()
            .filter(|set| set.replicas != self.bounds.wanted);
        let up = up.and_then(|set| sized(self.bounds, set, self.bounds.wanted));
        Ok(self.rollout(up.into_iter().collect()))
    }

    /// The step's operations with the status of a rollout; a complete one is cleaned up.
    fn rollout(&self, mut ops: Vec<Op>) -> Plan {
        let status = status::rollout(self.deployment, self.sets, self.bounds, self.now);
        if ops.is_empty() && status::is_complete(self.deployment, &status, self.bounds) {
            ops = clean_up(self.deployment, self.sets);
        }
        let check_after = status::deadline_check(self.deployment, &status, self.bounds, self.now);
        Plan {
            ops,
            status,
            check_after,
            revision: self.revision(),
        }
    }

    /// The Deployment's revision is its new set's.
    fn revision(&self) -> Option<String> {
        let revision = self
            .sets
            .new
            .as_ref()?
            .object
            .annotations()
            .get(REVISION)?
            .clone();
        (self.deployment.annotations().get(REVISION) != Some(&revision)).then_some(revision)
    }

    /// Makes the new set, or brings its metadata up to date. None if it is as it should be.
    fn ensure_new(&self) -> Result<Option<Plan>, serde_json::Error> {
        let revision = self.sets.next_revision();
        let Some(new) = &self.sets.new else {
            let set = self.new_set(revision)?;
            let mut status = status::calculate(self.deployment, self.sets, self.bounds, self.now);
            if spec(self.deployment)
                .progress_deadline_seconds
                .is_some_and(|s| s != i32::MAX)
            {
                let message = format!("Created new replica set \"{}\"", set.name_any());
                let reason = "NewReplicaSetCreated";
                let created = status::condition(PROGRESSING, "True", reason, message, self.now);
                status::set(&mut status, created);
            }
            let revision = set.annotations().get(REVISION).cloned();
            let ops = vec![Op::Create(Box::new(set))];
            return Ok(Some(Plan {
                ops,
                status,
                revision,
                check_after: None,
            }));
        };
        let wanted = annotations(self.deployment, new.object.annotations(), revision);
        let min_ready = spec(self.deployment).min_ready_seconds.unwrap_or(0);
        let known = new
            .object
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        if wanted == *new.object.annotations() && min_ready == known {
            return Ok(None);
        }
        let patch = json!({
            "metadata": {"annotations": wanted}, "spec": {"minReadySeconds": min_ready}});
        let mut plan = self.rollout(Vec::new());
        plan.ops = vec![Op::Change {
            set: new.object.clone(),
            patch,
            scaled: None,
        }];
        plan.revision = wanted
            .get(REVISION)
            .cloned()
            .filter(|revision| self.deployment.annotations().get(REVISION) != Some(revision));
        Ok(Some(plan))
    }

    fn new_set(&self, revision: i64) -> Result<ReplicaSet, serde_json::Error> {
        let spec = spec(self.deployment);
        let collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|s| s.collision_count);
        let hash = hash::of(&spec.template, collisions)?;
        let mut template = spec.template;
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector
            .match_labels
            .get_or_insert_default()
            .insert(HASH_LABEL.to_owned(), hash.clone());
        let mut notes = annotations(self.deployment, &Default::default(), revision);
        notes.insert(DESIRED_REPLICAS.to_owned(), self.bounds.wanted.to_string());
        notes.insert(
            MAX_REPLICAS.to_owned(),
            self.bounds.max_replicas().to_string(),
        );
        Ok(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.name_any())),
                namespace: self.deployment.namespace(),
                labels: Some(labels),
                annotations: Some(notes),
                owner_references: Some(vec![controller_of(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(self.bounds.new_size(self.sets)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        })
    }
}

#[cfg(test)]
mod tests;
