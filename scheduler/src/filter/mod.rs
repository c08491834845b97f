//! Which nodes a pod can run on, and why not on the others.

mod affinity;
mod node;
mod ports;
mod resources;
mod spread;

use std::collections::BTreeSet;

use crate::pod::PodInfo;
use crate::state::{ClusterState, NodeInfo};
use crate::{volume_limits, volumes};

pub use affinity::term_matches;
pub(crate) use spread::Constraint as SpreadConstraint;

/// The pod's spread constraints that may be violated, for scoring.
pub(crate) fn soft_spread(
    state: &ClusterState,
    pod: &PodInfo,
    gone: &BTreeSet<String>,
) -> Vec<SpreadConstraint> {
    spread::constraints(state, pod, gone, "ScheduleAnyway")
}

/// The filter that refused a node, under the name that upstream's plugin has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    DynamicResources,
    InterPodAffinity,
    NodeAffinity,
    NodeName,
    NodePorts,
    NodeResourcesFit,
    NodeUnschedulable,
    NodeVolumeLimits,
    PodTopologySpread,
    TaintToleration,
    VolumeBinding,
    VolumeRestrictions,
}

/// Why a node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: Plugin,
    /// Each reason is counted by itself in the message for the pod.
    pub reasons: Vec<String>,
    /// Whether evicting other pods from the node could help.
    pub preemptible: bool,
}

impl Rejection {
    pub(crate) fn new(plugin: Plugin, reason: impl Into<String>, preemptible: bool) -> Self {
        Self {
            plugin,
            reasons: vec![reason.into()],
            preemptible,
        }
    }
}

/// What one pod's filters need of the whole cluster, counted once for all nodes.
pub struct Cycle<'a> {
    pub state: &'a ClusterState,
    pub pod: &'a PodInfo,
    affinity: affinity::Counts,
    spread: Vec<spread::Constraint>,
    /// Uids of placed pods that have a claim which only one pod may use, and this one wants.
    holders: BTreeSet<String>,
}

impl<'a> Cycle<'a> {
    pub fn new(state: &'a ClusterState, pod: &'a PodInfo) -> Self {
        Self::without(state, pod, &BTreeSet::new())
    }

    /// The same as if the pods with these uids were not there.
    pub fn without(state: &'a ClusterState, pod: &'a PodInfo, gone: &BTreeSet<String>) -> Self {
        Self {
            state,
            pod,
            affinity: affinity::Counts::new(state, pod, gone),
            spread: spread::required(state, pod, gone),
            holders: volumes::holders(state, pod, gone),
        }
    }

    /// Whether the pod can run on the node, the pods nominated to it considered.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let nominated: Vec<_> = self
            .state
            .nominated
            .values()
            .filter(|(on, other)| {
                *on == node.name
                    && other.uid != self.pod.uid
                    && other.priority >= self.pod.priority
                    && !node.pods.contains_key(&other.uid)
            })
            .collect();
        if !nominated.is_empty() {
            let mut fuller = node.clone();
            for (_, other) in nominated {
                fuller.add_pod(other.clone());
            }
            self.filter_as_is(&fuller)?;
        }
        self.filter_as_is(node)
    }

    /// The same with exactly the pods that the given node has.
    pub fn filter_as_is(&self, info: &NodeInfo) -> Result<(), Rejection> {
        node::unschedulable(self.pod, info)?;
        node::name(self.pod, info)?;
        node::taints(self.pod, info)?;
        node::affinity(self.pod, info)?;
        ports::filter(self.pod, info)?;
        resources::filter(self.pod, info)?;
        node::devices(self.pod)?;
        volumes::filter(&self.state.volumes, self.pod, info)?;
        volumes::filter_holders(&self.holders, info)?;
        volume_limits::filter(&self.state.volumes, self.pod, info)?;
        spread::filter(&self.spread, self.pod, info)?;
        self.affinity.filter(self.pod, info)
    }
}
