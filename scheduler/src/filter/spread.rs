//! Topology spread constraints.
//!
//! Source: KEP-895, with `minDomains` (KEP-3022), `nodeAffinityPolicy` and `nodeTaintsPolicy`
//! (KEP-3094) and `matchLabelKeys` (KEP-3243).

use std::collections::{BTreeMap, BTreeSet};

use api_rules::{selector, toleration};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::node::selects;
use super::{Plugin, Rejection};
use crate::pod::{PodInfo, merge_label_keys};
use crate::state::{ClusterState, NodeInfo};

/// One constraint with the matching pods counted in every domain.
pub(crate) struct Constraint {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    min_domains: usize,
    selector: LabelSelector,
    /// Matching pods by value of the topology label, over the nodes that count.
    pub(crate) counts: BTreeMap<String, i64>,
}

pub(super) fn required(
    state: &ClusterState,
    pod: &PodInfo,
    gone: &BTreeSet<String>,
) -> Vec<Constraint> {
    constraints(state, pod, gone, "DoNotSchedule")
}

/// The pod's constraints with the given `whenUnsatisfiable`.
pub(crate) fn constraints(
    state: &ClusterState,
    pod: &PodInfo,
    gone: &BTreeSet<String>,
    when: &str,
) -> Vec<Constraint> {
    let Some(all) = pod
        .spec()
        .and_then(|spec| spec.topology_spread_constraints.as_ref())
    else {
        return Vec::new();
    };
    let picked: Vec<_> = all
        .iter()
        .filter(|c| c.when_unsatisfiable == when)
        .collect();
    let keys: Vec<&str> = picked.iter().map(|c| c.topology_key.as_str()).collect();
    picked
        .iter()
        .map(|constraint| {
            let mut counted = Constraint::new(pod, constraint);
            for node in state.nodes.values() {
                let complete = keys.iter().all(|key| node.label(key).is_some());
                if complete && counts_node(pod, constraint, node) {
                    counted.count(pod, node, gone);
                }
            }
            counted
        })
        .collect()
}

fn counts_node(pod: &PodInfo, constraint: &TopologySpreadConstraint, node: &NodeInfo) -> bool {
    let Some(spec) = pod.spec() else { return true };
    let by_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let by_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let effects = ["NoSchedule", "NoExecute"];
    (!by_affinity || selects(spec, &node.node))
        && (!by_taints || toleration::untolerated(node.taints(), tolerations, &effects).is_none())
}

impl Constraint {
    fn new(pod: &PodInfo, constraint: &TopologySpreadConstraint) -> Self {
        let mut selector = constraint.label_selector.clone().unwrap_or_else(nothing);
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        merge_label_keys(&mut selector, &pod.pod, keys, "In");
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            selector,
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, pod: &PodInfo, node: &NodeInfo, gone: &BTreeSet<String>) {
        let Some(value) = node.label(&self.topology_key).map(str::to_owned) else {
            return;
        };
        let matching = node.pods.values().filter(|other| {
            other.key.namespace == pod.key.namespace
                && !other.is_terminating()
                && !gone.contains(&other.uid)
                && self.picks(other)
        });
        let matching = i64::try_from(matching.count()).unwrap_or(i64::MAX);
        *self.counts.entry(value).or_default() += matching;
    }

    fn picks(&self, pod: &PodInfo) -> bool {
        let empty = BTreeMap::new();
        let labels = pod.pod.metadata.labels.as_ref().unwrap_or(&empty);
        selector::label_selector_matches(&self.selector, labels)
    }

    /// The fewest pods in any domain; none where fewer domains exist than are demanded.
    fn fewest(&self) -> i64 {
        if self.counts.len() < self.min_domains {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }
}

/// A selector that picks no pod, as an absent one does here.
fn nothing() -> LabelSelector {
    let requirement = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
        key: "none".to_owned(),
        operator: "In".to_owned(),
        values: Some(Vec::new()),
    };
    LabelSelector {
        match_expressions: Some(vec![requirement]),
        match_labels: None,
    }
}

pub(super) fn filter(
    constraints: &[Constraint],
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<(), Rejection> {
    for constraint in constraints {
        let Some(value) = node.label(&constraint.topology_key) else {
            return Err(Rejection::new(
                Plugin::PodTopologySpread,
                "node(s) didn't match pod topology spread constraints (missing required label)",
                false,
            ));
        };
        let there = constraint.counts.get(value).copied().unwrap_or(0);
        let own = i64::from(constraint.picks(pod));
        if there + own - constraint.fewest() > constraint.max_skew {
            return Err(Rejection::new(
                Plugin::PodTopologySpread,
                "node(s) didn't match pod topology spread constraints",
                true,
            ));
        }
    }
    Ok(())
}
