//! Which pods of a DaemonSet to make and which to delete.
//!
//! First every node is brought to have its pod ([`manage`]); only when nothing is left to do
//! there, an update goes on ([`update`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::placement::{Fit, fit};
use crate::deployment::strategy::{Round, resolve};
use crate::framework::history::HASH_LABEL;
use crate::framework::pods::{is_available, is_ready, is_terminal, is_terminating, phase};

pub(crate) type Placed = BTreeMap<String, Vec<Arc<Pod>>>;

/// Pods to make, by node, and pods to delete.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Plan {
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Ended pods, whose replacement is slowed down if it happens again and again.
    pub ended: Vec<(String, Arc<Pod>)>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty() && self.ended.is_empty()
    }
}

/// What a decision is made of.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    pub placed: &'a Placed,
    /// The hash of the current revision.
    pub hash: &'a str,
    pub now: Timestamp,
}

impl View<'_> {
    fn min_ready(&self) -> i32 {
        self.set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }

    fn available(&self, pod: &Pod) -> bool {
        is_available(pod, self.min_ready(), self.now)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.labels()
            .get(HASH_LABEL)
            .is_some_and(|hash| hash == self.hash)
    }

    /// Nodes that should run a pod.
    fn desired(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| fit(self.set, node) == Fit::Runs)
            .count()
    }

    /// How many pods an update may have too many, and too few.
    fn bounds(&self) -> (usize, usize) {
        let desired = i32::try_from(self.desired()).unwrap_or(i32::MAX);
        let strategy = self
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let number = |value: Option<&IntOrString>, default: i32| {
            let number = match value {
                Some(value) => resolve(value, desired, Round::Up).unwrap_or(default),
                None => default,
            };
            usize::try_from(number).unwrap_or(0)
        };
        let surge = number(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = number(
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
            1,
        );
        if surge == 0 && unavailable == 0 {
            (0, 1)
        } else {
            (surge, unavailable)
        }
    }

    pub(crate) fn rolls(&self) -> bool {
        let strategy = self
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.update_strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn surges(&self) -> bool {
        self.rolls() && self.bounds().0 > 0
    }
}

/// Every node that should have a pod gets one; pods where none should be, ended ones and
/// doubles go.
pub(crate) fn manage(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let surges = view.surges();
    for node in view.nodes {
        let name = node.name_any();
        let fit = fit(view.set, node);
        match view.placed.get(&name) {
            None if fit == Fit::Runs => plan.create.push(name),
            None => {}
            Some(pods) if fit == Fit::No => {
                plan.delete
                    .extend(pods.iter().filter(|pod| !is_terminating(pod)).cloned());
            }
            Some(pods) => manage_node(view, &name, pods, surges, &mut plan),
        }
    }
    // A pod that waits for a node that has gone will wait for ever.
    for (node, pods) in view.placed {
        if !view.nodes.iter().any(|known| known.name_any() == *node) {
            let waiting = pods.iter().filter(|pod| {
                crate::framework::pods::node_name(pod).is_empty() && !is_terminating(pod)
            });
            plan.delete.extend(waiting.cloned());
        }
    }
    plan
}

fn manage_node(view: &View<'_>, node: &str, pods: &[Arc<Pod>], surges: bool, plan: &mut Plan) {
    let (ended, running): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|pod| !is_terminating(pod))
        .cloned()
        .partition(|pod| is_terminal(pod));
    plan.ended
        .extend(ended.into_iter().map(|pod| (node.to_owned(), pod)));
    if running.len() <= 1 {
        return;
    }
    if !surges {
        plan.delete.extend(running.into_iter().skip(1));
        return;
    }
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| view.is_current(pod));
    plan.delete
        .extend(new.iter().skip(1).chain(old.iter().skip(1)).cloned());
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!is_ready(old) || view.available(new))
    {
        plan.delete.push(old.clone());
    }
}

/// A node's pod of the current template, and its pod of an older one.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The pods of a node that are not on their way out: the current one and the old one. None if
/// there are several of a kind.
fn pair<'a>(view: &View<'_>, pods: &'a [Arc<Pod>]) -> Option<Pair<'a>> {
    let staying = || pods.iter().filter(|pod| !is_terminating(pod));
    let mut new = staying().filter(|pod| view.is_current(pod));
    let mut old = staying().filter(|pod| !view.is_current(pod));
    let found = (new.next(), old.next());
    (new.next().is_none() && old.next().is_none()).then_some(found)
}

/// The next step of a rolling update.
pub(crate) fn update(view: &View<'_>) -> Plan {
    if view.set.metadata.deletion_timestamp.is_some() || !view.rolls() {
        return Plan::default();
    }
    let (surge, unavailable) = view.bounds();
    if surge > 0 {
        update_by_surge(view, surge)
    } else {
        update_in_place(view, unavailable)
    }
}

/// Deletes old pods as far as enough nodes keep an available one.
fn update_in_place(view: &View<'_>, most: usize) -> Plan {
    let mut unavailable = 0;
    let (mut sick, mut candidates) = (Vec::new(), Vec::new());
    for node in view
        .nodes
        .iter()
        .filter(|node| fit(view.set, node) != Fit::No)
    {
        let no_pods = Vec::new();
        let pods = view.placed.get(&node.name_any()).unwrap_or(&no_pods);
        let runs = fit(view.set, node) == Fit::Runs;
        match pair(view, pods) {
            None | Some((Some(_), Some(_))) => unavailable += 1,
            Some((None, None)) => unavailable += usize::from(runs),
            Some((Some(new), None)) => unavailable += usize::from(!view.available(new)),
            Some((None, Some(old))) if !view.available(old) => {
                unavailable += 1;
                sick.push(old.clone());
            }
            Some((None, Some(old))) => candidates.push(old.clone()),
        }
    }
    candidates.truncate(most.saturating_sub(unavailable));
    sick.extend(candidates);
    Plan {
        delete: sick,
        ..Plan::default()
    }
}

/// Makes new pods beside old ones, and deletes an old one when its successor is available.
fn update_by_surge(view: &View<'_>, most: usize) -> Plan {
    let mut plan = Plan::default();
    let mut surging = 0;
    let mut candidates = Vec::new();
    for node in view
        .nodes
        .iter()
        .filter(|node| fit(view.set, node) == Fit::Runs)
    {
        let name = node.name_any();
        let Some(pods) = view.placed.get(&name) else {
            continue;
        };
        match pair(view, pods) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) if !view.available(old) => plan.create.push(name),
            Some((None, Some(_))) => candidates.push(name),
            Some((Some(new), Some(old))) => {
                surging += 1;
                if !view.available(old) || view.available(new) {
                    plan.delete.push(old.clone());
                }
            }
        }
    }
    candidates.truncate(most.saturating_sub(surging));
    plan.create.extend(candidates);
    plan
}

/// The status as the nodes and pods are.
pub(crate) fn status(view: &View<'_>) -> DaemonSetStatus {
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for node in view.nodes {
        let pods = view.placed.get(&node.name_any());
        if fit(view.set, node) != Fit::Runs {
            status.number_misscheduled += i32::from(pods.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pods) = pods else { continue };
        status.current_number_scheduled += 1;
        // Beside an old pod that goes, the new one counts.
        let newest_first = |pod: &&Arc<Pod>| (is_terminating(pod), phase(pod) == "Failed");
        let Some(pod) = pods.iter().min_by_key(newest_first) else {
            continue;
        };
        status.number_ready += i32::from(is_ready(pod));
        available += i32::from(view.available(pod));
        updated += i32::from(pods.iter().any(|pod| view.is_current(pod)));
    }
    let some = |count: i32| (count != 0).then_some(count);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = some(updated);
    status
}

#[cfg(test)]
mod tests;
