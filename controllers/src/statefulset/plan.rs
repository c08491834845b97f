//! The next steps of a StatefulSet. Ordered sets take one step at a time and wait for each
//! to be healthy; parallel sets take all at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pods::{ordinal, revision};
use crate::deployment::strategy::{Round, resolve};
use crate::framework::pods::{is_available, is_ready, is_terminal, is_terminating, phase};

/// A step.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Make the pod of an ordinal, from the current or the update revision.
    Create { ordinal: i32, current: bool },
    /// Delete a pod that ended; it is made again under its name.
    Recreate(Arc<Pod>),
    /// Delete a pod that is too many.
    Condemn(Arc<Pod>),
    /// Delete a pod of an old revision.
    Update(Arc<Pod>),
}

#[derive(Debug)]
pub(crate) struct View<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    /// The names of the revisions.
    pub current: &'a str,
    pub update: &'a str,
    pub now: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    pub status: StatefulSetStatus,
}

pub(crate) fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

pub(crate) fn first_ordinal(set: &StatefulSet) -> i32 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
}

fn last_ordinal(set: &StatefulSet) -> i32 {
    let replicas = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    first_ordinal(set).saturating_add(replicas)
}

impl View<'_> {
    fn ordered(&self) -> bool {
        spec(self.set).pod_management_policy.as_deref() != Some("Parallel")
    }

    fn available(&self, pod: &Pod) -> bool {
        let min_ready = self
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds);
        is_available(pod, min_ready.unwrap_or(0), self.now)
    }

    fn healthy(&self, pod: &Pod) -> bool {
        phase(pod) == "Running" && is_ready(pod) && !is_terminating(pod) && self.available(pod)
    }

    fn rolls(&self) -> bool {
        let strategy = spec(self.set).update_strategy.unwrap_or_default();
        strategy.type_.as_deref() != Some("OnDelete")
    }

    fn partition(&self) -> i32 {
        let strategy = spec(self.set).update_strategy.unwrap_or_default();
        strategy
            .rolling_update
            .and_then(|rolling| rolling.partition)
            .unwrap_or(0)
    }

    fn max_unavailable(&self) -> usize {
        let spec = spec(self.set);
        let strategy = spec.update_strategy.unwrap_or_default();
        let wish = strategy
            .rolling_update
            .and_then(|rolling| rolling.max_unavailable);
        let total = spec.replicas.unwrap_or(1);
        let most = wish
            .and_then(|wish| resolve(&wish, total, Round::Down))
            .unwrap_or(1);
        usize::try_from(most).unwrap_or(1).max(1)
    }

    /// The pods that should be, by ordinal, and those too many with the highest first.
    fn sort(&self) -> (BTreeMap<i32, Arc<Pod>>, Vec<Arc<Pod>>) {
        let name = self.set.name_any();
        let wanted = first_ordinal(self.set)..last_ordinal(self.set);
        let (mut replicas, mut condemned) = (BTreeMap::new(), Vec::new());
        for pod in self.pods {
            match ordinal(&name, &pod.name_any()) {
                Some(at) if wanted.contains(&at) => drop(replicas.insert(at, pod.clone())),
                Some(at) => condemned.push((at, pod.clone())),
                None => {}
            }
        }
        condemned.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        (
            replicas,
            condemned.into_iter().map(|(_, pod)| pod).collect(),
        )
    }
}

pub(crate) fn plan(view: &View<'_>) -> Plan {
    let (replicas, condemned) = view.sort();
    let mut status = status(view);
    let mut ops = Vec::new();
    if view.set.metadata.deletion_timestamp.is_none() {
        ops = steps(view, &replicas, &condemned);
    }
    complete(view, &mut status);
    Plan { ops, status }
}

fn steps(view: &View<'_>, replicas: &BTreeMap<i32, Arc<Pod>>, condemned: &[Arc<Pod>]) -> Vec<Op> {
    let mut ops = Vec::new();
    for at in first_ordinal(view.set)..last_ordinal(view.set) {
        let step = match replicas.get(&at) {
            None => Some(Op::Create {
                ordinal: at,
                current: wants_current(view, at),
            }),
            Some(pod) if is_terminal(pod) && !is_terminating(pod) => {
                Some(Op::Recreate(pod.clone()))
            }
            Some(_) => None,
        };
        let waits = replicas.get(&at).is_none_or(|pod| !view.healthy(pod));
        ops.extend(step);
        if view.ordered() && waits {
            return ops;
        }
    }
    let unhealthy = replicas
        .values()
        .chain(condemned.iter().rev())
        .find(|pod| !view.healthy(pod))
        .map(|pod| pod.name_any());
    for pod in condemned {
        if is_terminating(pod) {
            if view.ordered() {
                return ops;
            }
            continue;
        }
        // An ordered set shrinks only while it is healthy, or by its sick pod itself.
        let sick = !view.healthy(pod) && unhealthy.as_ref() != Some(&pod.name_any());
        if view.ordered() && sick {
            return ops;
        }
        ops.push(Op::Condemn(pod.clone()));
        if view.ordered() {
            return ops;
        }
    }
    if ops.is_empty() && condemned.is_empty() && view.rolls() {
        ops = update(view, replicas);
    }
    ops
}

/// A pod below the partition keeps to the revision from before the update.
fn wants_current(view: &View<'_>, at: i32) -> bool {
    view.rolls() && at < first_ordinal(view.set).saturating_add(view.partition())
}

/// The highest pods of an old revision go, as many as may be unavailable.
fn update(view: &View<'_>, replicas: &BTreeMap<i32, Arc<Pod>>) -> Vec<Op> {
    let lowest = first_ordinal(view.set).saturating_add(view.partition());
    let sick = replicas.values().filter(|pod| !view.healthy(pod)).count();
    let mut room = view.max_unavailable().saturating_sub(sick);
    let mut ops = Vec::new();
    for pod in replicas.range(lowest..).rev().map(|(_, pod)| pod) {
        let outdated = revision(pod) != view.update;
        if outdated && !is_terminating(pod) {
            // A sick pod of an old revision cannot get well by waiting.
            if !view.healthy(pod) {
                ops.push(Op::Update(pod.clone()));
            } else if room > 0 {
                room -= 1;
                ops.push(Op::Update(pod.clone()));
            }
            if view.max_unavailable() == 1 {
                return ops;
            }
        } else if !view.healthy(pod) && view.max_unavailable() == 1 {
            return ops;
        }
    }
    ops
}

fn status(view: &View<'_>) -> StatefulSetStatus {
    let old = view.set.status.clone().unwrap_or_default();
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    let mut replicas = 0;
    for pod in view.pods {
        replicas += 1;
        if phase(pod) == "Running" && is_ready(pod) {
            ready += 1;
            available += i32::from(view.available(pod));
        }
        if !is_terminating(pod) {
            current += i32::from(revision(pod) == view.current);
            updated += i32::from(revision(pod) == view.update);
        }
    }
    let some = |count: i32| (count != 0).then_some(count);
    StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(view.current.to_owned()),
        update_revision: Some(view.update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    }
}

/// When all pods are updated and ready, the update revision is the current one.
fn complete(view: &View<'_>, status: &mut StatefulSetStatus) {
    let all = Some(status.replicas).filter(|all| *all != 0);
    if view.rolls() && status.updated_replicas == all && status.ready_replicas == all {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

#[cfg(test)]
mod tests;
