//! Which of the nodes that fit is best: each scorer gives 0 to 100, weighted as upstream does.

use std::collections::{BTreeSet, HashMap};

use api_rules::{selector, toleration};
use k8s_openapi::api::core::v1::Toleration;

use crate::filter::{self, SpreadConstraint};
use crate::pod::{AffinityTerm, PodInfo};
use crate::state::{ClusterState, NodeInfo};

const MOST: i64 = 100;
const WEIGHT_TAINT_TOLERATION: i64 = 3;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_POD_AFFINITY: i64 = 2;
const WEIGHT_SPREAD: i64 = 2;

/// Below this an image's pull is not worth a thought; above the other it counts fully.
const IMAGE_FLOOR: i64 = 23 * 1024 * 1024;
const IMAGE_CEILING: i64 = 1000 * 1024 * 1024;

/// The total score of each node, in the order given.
pub fn score(state: &ClusterState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    let each = |score: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|n| score(n)).collect();
    add(1, each(&|node| least_allocated(pod, node)));
    add(1, each(&|node| balanced(pod, node)));
    add(1, image_locality(state, pod, nodes));
    let intolerable: Vec<i64> = each(&|node| intolerable_preferences(pod, node));
    add(WEIGHT_TAINT_TOLERATION, inverted(normalized(intolerable)));
    let preferred: Vec<i64> = each(&|node| preferred_node(pod, node));
    add(WEIGHT_NODE_AFFINITY, normalized(preferred));
    add(WEIGHT_POD_AFFINITY, ranged(pod_affinity(state, pod, nodes)));
    add(WEIGHT_SPREAD, inverted(ranged(spread(state, pod, nodes))));
    totals
}

/// Scales so that the largest is 100.
fn normalized(scores: Vec<i64>) -> Vec<i64> {
    let largest = scores.iter().copied().max().unwrap_or(0);
    if largest == 0 {
        return scores;
    }
    scores
        .into_iter()
        .map(|score| score * MOST / largest)
        .collect()
}

/// Scales so that the smallest is 0 and the largest is 100.
fn ranged(scores: Vec<i64>) -> Vec<i64> {
    let smallest = scores.iter().copied().min().unwrap_or(0);
    let largest = scores.iter().copied().max().unwrap_or(0);
    if largest == smallest {
        return vec![0; scores.len()];
    }
    scores
        .into_iter()
        .map(|score| (score - smallest) * MOST / (largest - smallest))
        .collect()
}

fn inverted(scores: Vec<i64>) -> Vec<i64> {
    scores.into_iter().map(|score| MOST - score).collect()
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free = |have: i64, taken: i64, want: i64| {
        if have <= 0 || taken + want > have {
            0
        } else {
            (have - taken - want) * MOST / have
        }
    };
    let (have, taken, want) = (
        &node.allocatable,
        &node.scored_requested,
        &pod.scored_requests,
    );
    let cpu = free(have.milli_cpu, taken.milli_cpu, want.milli_cpu);
    let memory = free(have.memory, taken.memory, want.memory);
    i64::midpoint(cpu, memory)
}

/// Prefers nodes on which CPU and memory are used in equal parts.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let part = |have: i64, taken: i64, want: i64| {
        if have <= 0 {
            1.0
        } else {
            ((taken + want) as f64 / have as f64).min(1.0)
        }
    };
    let (have, taken, want) = (&node.allocatable, &node.requested, &pod.requests);
    let cpu = part(have.milli_cpu, taken.milli_cpu, want.milli_cpu);
    let memory = part(have.memory, taken.memory, want.memory);
    let deviation = (cpu - memory).abs() / 2.0;
    ((1.0 - deviation) * MOST as f64) as i64
}

fn image_locality(state: &ClusterState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let Some(spec) = pod.spec() else {
        return vec![0; nodes.len()];
    };
    let images: Vec<String> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .filter_map(|container| container.image.as_deref().map(normalized_image))
        .collect();
    let total = i64::try_from(state.nodes.len().max(1)).unwrap_or(i64::MAX);
    let holders: HashMap<&String, i64> = images
        .iter()
        .map(|image| {
            let with = state
                .nodes
                .values()
                .filter(|node| node.images.contains_key(image));
            (image, i64::try_from(with.count()).unwrap_or(i64::MAX))
        })
        .collect();
    let ceiling = IMAGE_CEILING * i64::try_from(images.len().max(1)).unwrap_or(1);
    let score = |node: &&NodeInfo| {
        let there: i64 = images
            .iter()
            .filter_map(|image| Some(node.images.get(image)? * holders[image] / total))
            .sum();
        let there = there.clamp(IMAGE_FLOOR, ceiling);
        (there - IMAGE_FLOOR) * MOST / (ceiling - IMAGE_FLOOR)
    };
    nodes.iter().map(score).collect()
}

/// With the tag that a name without one means.
fn normalized_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

fn intolerable_preferences(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let tolerations = pod
        .spec()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    let applies =
        |t: &&Toleration| matches!(t.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
    let tolerations: Vec<&Toleration> = tolerations.iter().filter(applies).collect();
    let intolerable = node.taints().iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !tolerations
                .iter()
                .any(|toleration| toleration::tolerates(toleration, taint))
    });
    i64::try_from(intolerable.count()).unwrap_or(i64::MAX)
}

fn preferred_node(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let preferred = pod
        .spec()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|own| {
            own.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    preferred
        .into_iter()
        .flatten()
        .filter(|term| selector::node_selector_term_matches(&term.preference, &node.node))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// Preferred terms of the pod about placed pods, and of placed pods about the pod.
fn pod_affinity(state: &ClusterState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut domains: HashMap<(&str, &str), i64> = HashMap::new();
    let own_terms = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
    for (node, other) in state.pods() {
        let mut count = |term: &AffinityTerm, about: &PodInfo, weight: i64| {
            if !filter::term_matches(term, about, &state.namespaces) {
                return;
            }
            let labels = node.labels();
            let found = labels.and_then(|labels| labels.get_key_value(&term.topology_key));
            if let Some((key, value)) = found {
                *domains.entry((key, value)).or_default() += weight;
            }
        };
        if own_terms {
            pod.preferred_affinity
                .iter()
                .for_each(|t| count(t, other, t.weight));
            pod.preferred_anti_affinity
                .iter()
                .for_each(|t| count(t, other, -t.weight));
        }
        other
            .preferred_affinity
            .iter()
            .for_each(|t| count(t, pod, t.weight));
        other
            .preferred_anti_affinity
            .iter()
            .for_each(|t| count(t, pod, -t.weight));
        other
            .required_affinity
            .iter()
            .for_each(|t| count(t, pod, 1));
    }
    let score = |node: &&NodeInfo| {
        domains
            .iter()
            .filter(|((k, v), _)| node.label(k) == Some(*v))
            .map(|(_, w)| *w)
            .sum()
    };
    nodes.iter().map(score).collect()
}

/// How crowded each node's domains are: by the pod's own soft constraints, or, where it has no
/// constraint at all, by pods of the same controller on the node and in its zone.
fn spread(state: &ClusterState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let has_own = pod
        .spec()
        .and_then(|spec| spec.topology_spread_constraints.as_ref())
        .is_some_and(|constraints| !constraints.is_empty());
    if has_own {
        let constraints = filter_soft(state, pod);
        return nodes
            .iter()
            .map(|node| crowding(&constraints, node))
            .collect();
    }
    let Some(owner) = pod.controller() else {
        return vec![0; nodes.len()];
    };
    let mut zones: HashMap<&str, i64> = HashMap::new();
    let mut on_node: HashMap<&str, i64> = HashMap::new();
    for (node, other) in state.pods() {
        let same = other
            .controller()
            .is_some_and(|theirs| theirs.uid == owner.uid);
        if same && !other.is_terminating() {
            *on_node.entry(&node.name).or_default() += 1;
            *zones
                .entry(node.label(ZONE).unwrap_or_default())
                .or_default() += 1;
        }
    }
    let score = |node: &&NodeInfo| {
        let own = on_node.get(node.name.as_str()).copied().unwrap_or(0);
        let zone = node
            .label(ZONE)
            .and_then(|zone| zones.get(zone))
            .copied()
            .unwrap_or(0);
        own * 2 + zone
    };
    nodes.iter().map(score).collect()
}

const ZONE: &str = "topology.kubernetes.io/zone";

fn filter_soft(state: &ClusterState, pod: &PodInfo) -> Vec<SpreadConstraint> {
    filter::soft_spread(state, pod, &BTreeSet::new())
}

fn crowding(constraints: &[SpreadConstraint], node: &NodeInfo) -> i64 {
    constraints
        .iter()
        .map(|constraint| match node.label(&constraint.topology_key) {
            // A node outside every domain is the last choice.
            None => i64::from(i32::MAX),
            Some(value) => {
                let there = constraint.counts.get(value).copied().unwrap_or(0);
                there * 10 + constraint.max_skew - 1
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_scaled_between_their_ends() {
        assert_eq!(ranged(vec![2, 4, 6]), [0, 50, 100]);
        assert_eq!(ranged(vec![7, 7]), [0, 0]);
        assert_eq!(normalized(vec![0, 5, 10]), [0, 50, 100]);
        assert_eq!(inverted(vec![0, 40]), [100, 60]);
    }

    #[test]
    fn an_image_name_without_a_tag_means_latest() {
        assert_eq!(normalized_image("nginx"), "nginx:latest");
        assert_eq!(
            normalized_image("host:5000/nginx"),
            "host:5000/nginx:latest"
        );
        assert_eq!(normalized_image("nginx:1.2"), "nginx:1.2");
        assert_eq!(normalized_image("nginx@sha256:00"), "nginx@sha256:00");
    }
}
