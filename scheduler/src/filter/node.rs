//! What the node itself demands, and what the pod demands of the node itself.

use api_rules::{selector, toleration};
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};

use super::{Plugin, Rejection};
use crate::pod::PodInfo;
use crate::state::NodeInfo;

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

pub(super) fn unschedulable(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    if !info.is_unschedulable() {
        return Ok(());
    }
    let taint = Taint {
        key: UNSCHEDULABLE_TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    let tolerations = pod
        .spec()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    match toleration::untolerated(&[taint], tolerations, &["NoSchedule"]) {
        None => Ok(()),
        Some(_) => Err(Rejection::new(
            Plugin::NodeUnschedulable,
            "node(s) were unschedulable",
            false,
        )),
    }
}

pub(super) fn name(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    match pod.node_name() {
        Some(wanted) if wanted != info.name => Err(Rejection::new(
            Plugin::NodeName,
            "node(s) didn't match the requested node name",
            false,
        )),
        _ => Ok(()),
    }
}

pub(super) fn taints(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    let tolerations = pod
        .spec()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    match toleration::untolerated(info.taints(), tolerations, &["NoSchedule", "NoExecute"]) {
        None => Ok(()),
        Some(taint) => {
            let value = taint.value.as_deref().unwrap_or_default();
            let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
            Err(Rejection::new(Plugin::TaintToleration, reason, false))
        }
    }
}

pub(super) fn affinity(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    if pod.spec().is_none_or(|spec| selects(spec, &info.node)) {
        return Ok(());
    }
    Err(Rejection::new(
        Plugin::NodeAffinity,
        "node(s) didn't match Pod's node affinity/selector",
        false,
    ))
}

/// Whether the pod's node selector and required node affinity pick the node.
pub(crate) fn selects(spec: &PodSpec, node: &Node) -> bool {
    let empty = selector::Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let by_map = spec
        .node_selector
        .as_ref()
        .is_none_or(|map| selector::map_matches(map, labels));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|own| {
            own.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    by_map && required.is_none_or(|terms| selector::node_selector_matches(terms, node))
}

/// Devices are allocated by nobody yet: a pod that claims some waits instead of running without.
pub(super) fn devices(pod: &PodInfo) -> Result<(), Rejection> {
    let claims = pod.spec().and_then(|spec| spec.resource_claims.as_ref());
    if claims.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let reason = "cannot allocate all claims";
    Err(Rejection::new(Plugin::DynamicResources, reason, false))
}
