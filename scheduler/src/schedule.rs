//! One decision: the best node for a pod, or why there is none.

use std::collections::{BTreeMap, BTreeSet};

use crate::filter::{Cycle, Plugin, Rejection};
use crate::pod::PodInfo;
use crate::score;
use crate::state::{ClusterState, NodeInfo};

/// From this many nodes on, not every node that fits is looked for.
const SAMPLE_FROM: usize = 100;

/// Why a pod fits nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoFit {
    pub nodes: usize,
    pub rejections: BTreeMap<String, Rejection>,
}

impl NoFit {
    /// The filters that refused at least one node: what has to change for the pod to fit.
    pub fn plugins(&self) -> BTreeSet<Plugin> {
        self.rejections
            .values()
            .map(|rejection| rejection.plugin)
            .collect()
    }

    /// In upstream's words: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) ...`.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self
            .rejections
            .values()
            .flat_map(|rejection| &rejection.reasons)
        {
            *counts.entry(reason).or_default() += 1;
        }
        let mut reasons: Vec<String> = counts
            .into_iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort();
        format!(
            "0/{} nodes are available: {}.",
            self.nodes,
            reasons.join(", ")
        )
    }
}

/// How many fitting nodes are enough to choose from: all of up to a hundred, then a falling
/// part of the cluster, as upstream does it.
fn enough(nodes: usize) -> usize {
    if nodes < SAMPLE_FROM {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SAMPLE_FROM)
}

/// The name of the node for the pod. `turn` is another number for each decision: it decides
/// where the search begins and which of equally good nodes is taken.
pub fn schedule(state: &ClusterState, pod: &PodInfo, turn: u64) -> Result<String, NoFit> {
    let cycle = Cycle::new(state, pod);
    let nodes: Vec<&NodeInfo> = state.nodes.values().collect();
    let mut no_fit = NoFit {
        nodes: nodes.len(),
        rejections: BTreeMap::new(),
    };
    if let Some(node) = pod.nominated_node().and_then(|name| state.nodes.get(name))
        && cycle.filter(node).is_ok()
    {
        return Ok(node.name.clone());
    }
    let wanted = enough(nodes.len());
    let start = start_index(turn, nodes.len());
    let mut fitting = Vec::new();
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        match cycle.filter(node) {
            Ok(()) => fitting.push(*node),
            Err(rejection) => {
                no_fit.rejections.insert(node.name.clone(), rejection);
            }
        }
        if fitting.len() >= wanted {
            break;
        }
    }
    match fitting.as_slice() {
        [] => Err(no_fit),
        [only] => Ok(only.name.clone()),
        several => Ok(best(state, pod, several, turn)),
    }
}

fn start_index(turn: u64, nodes: usize) -> usize {
    if nodes == 0 {
        return 0;
    }
    // A large odd factor spreads successive turns over the nodes.
    let spread = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    usize::try_from(spread).unwrap_or(0) % nodes
}

fn best(state: &ClusterState, pod: &PodInfo, fitting: &[&NodeInfo], turn: u64) -> String {
    let scores = score::score(state, pod, fitting);
    let top = scores.iter().copied().max().unwrap_or(0);
    let tied: Vec<&NodeInfo> = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| **score == top)
        .map(|(node, _)| *node)
        .collect();
    tied[start_index(turn ^ 0x5DEE_CE66, tied.len())]
        .name
        .clone()
}

#[cfg(test)]
mod tests;
