//! Room for an important pod by the eviction of less important ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_rules::selector;
use k8s_openapi::jiff::Timestamp;

use crate::filter::Cycle;
use crate::pod::PodInfo;
use crate::schedule::NoFit;
use crate::state::{ClusterState, NodeInfo};

/// At most this many nodes are weighed against each other.
const CANDIDATES: usize = 100;

/// The reason of the condition that an evicted pod gets.
pub const REASON: &str = "PreemptionByScheduler";

/// The node to clear and the pods to evict from it.
#[derive(Debug, Clone)]
pub struct Preemption {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// Why nothing was found, in upstream's words.
pub fn nothing_found(no_fit: &NoFit) -> String {
    let nodes = no_fit.nodes;
    let rejections = no_fit.rejections.values();
    let unhelped = rejections
        .filter(|rejection| !rejection.preemptible)
        .count();
    let mut parts = Vec::new();
    if nodes > unhelped {
        parts.push(format!(
            "{} No preemption victims found for incoming pod",
            nodes - unhelped
        ));
    }
    if unhelped > 0 {
        parts.push(format!(
            "{unhelped} Preemption is not helpful for scheduling"
        ));
    }
    format!(
        "preemption: 0/{nodes} nodes are available: {}.",
        parts.join(", ")
    )
}

/// Whether the pod may evict others now: its policy allows it, and no victim of an earlier
/// preemption for it is still on its way out of a node that the pod may still get.
pub fn allowed(state: &ClusterState, pod: &PodInfo, no_fit: &NoFit) -> bool {
    let policy = pod
        .spec()
        .and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return false;
    }
    let nominated = pod.nominated_node().and_then(|name| state.nodes.get(name));
    nominated.is_none_or(|node| {
        let lost = no_fit
            .rejections
            .get(&node.name)
            .is_some_and(|rejection| !rejection.preemptible);
        lost || !node
            .pods
            .values()
            .any(|other| other.priority < pod.priority && is_leaving_for_another(other))
    })
}

/// Whether a pod is on its way out because a scheduler evicted it.
fn is_leaving_for_another(pod: &PodInfo) -> bool {
    let status = pod.pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    pod.is_terminating()
        && conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some(REASON)
        })
}

/// Less important pods that wait for room on the node, which the given pod gets.
pub fn displaced(state: &ClusterState, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
    let nominated = state.nominated.values();
    nominated
        .filter(|(on, other)| on == node && other.priority < pod.priority)
        .map(|(_, other)| other.clone())
        .collect()
}

/// The best node to clear for the pod.
pub fn find(state: &ClusterState, pod: &PodInfo, no_fit: &NoFit) -> Option<Preemption> {
    no_fit
        .rejections
        .iter()
        .filter(|(_, rejection)| rejection.preemptible)
        .filter_map(|(name, _)| clear(state, pod, state.nodes.get(name)?))
        .take(CANDIDATES)
        .min_by_key(rank)
}

/// Smaller is better: fewer violated budgets, a less important most important victim, less
/// importance in all, fewer victims, and victims that started later.
fn rank(preemption: &Preemption) -> (usize, i32, i64, usize, std::cmp::Reverse<Option<Timestamp>>) {
    let victims = &preemption.victims;
    let highest = victims
        .iter()
        .map(|victim| victim.priority)
        .max()
        .unwrap_or(i32::MIN);
    let sum = victims
        .iter()
        .map(|victim| i64::from(victim.priority) - i64::from(i32::MIN))
        .sum();
    let earliest = victims
        .iter()
        .filter(|victim| victim.priority == highest)
        .filter_map(|v| started(v))
        .min();
    (
        preemption.violations,
        highest,
        sum,
        victims.len(),
        std::cmp::Reverse(earliest),
    )
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    Some(pod.pod.status.as_ref()?.start_time.as_ref()?.0)
}

/// Takes every less important pod off the node, then puts back what still fits beside the
/// newcomer: pods whose budget would be violated first, important ones first.
fn clear(state: &ClusterState, pod: &PodInfo, node: &NodeInfo) -> Option<Preemption> {
    let mut bare = node.clone();
    let mut gone = BTreeSet::new();
    let mut lower: Vec<Arc<PodInfo>> = node
        .pods
        .values()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return None;
    }
    for victim in &lower {
        bare.remove_pod(&victim.uid);
        gone.insert(victim.uid.clone());
    }
    if !fits(state, pod, &bare, &gone) {
        return None;
    }
    lower.sort_by_key(|victim| (std::cmp::Reverse(victim.priority), started(victim)));
    let (guarded, free): (Vec<_>, Vec<_>) = lower
        .into_iter()
        .partition(|victim| violates_budget(state, victim));
    let mut victims = Vec::new();
    let mut violations = 0;
    for (candidate, is_guarded) in guarded
        .into_iter()
        .map(|v| (v, true))
        .chain(free.into_iter().map(|v| (v, false)))
    {
        gone.remove(&candidate.uid);
        bare.add_pod(candidate.clone());
        if fits(state, pod, &bare, &gone) {
            continue;
        }
        bare.remove_pod(&candidate.uid);
        gone.insert(candidate.uid.clone());
        violations += usize::from(is_guarded);
        victims.push(candidate);
    }
    Some(Preemption {
        node: node.name.clone(),
        victims,
        violations,
    })
}

fn fits(state: &ClusterState, pod: &PodInfo, node: &NodeInfo, gone: &BTreeSet<String>) -> bool {
    Cycle::without(state, pod, gone).filter_as_is(node).is_ok()
}

fn violates_budget(state: &ClusterState, pod: &PodInfo) -> bool {
    let empty = selector::Labels::new();
    let labels = pod.pod.metadata.labels.as_ref().unwrap_or(&empty);
    state.budgets.iter().any(|budget| {
        budget.metadata.namespace.as_deref() == Some(&pod.key.namespace)
            && budget
                .status
                .as_ref()
                .is_some_and(|status| status.disruptions_allowed.unwrap_or(0) <= 0)
            && budget
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref())
                .is_some_and(|wanted| selector::label_selector_matches(wanted, labels))
    })
}
