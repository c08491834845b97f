//! Which pods are garbage, and why.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::framework::pods;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its node does not exist.
    Orphaned,
    /// Deleted before it had a node, so no kubelet will end it.
    Unscheduled,
    /// Deleted on a node that is declared dead.
    OutOfService,
    /// One of too many that have ended.
    Surplus,
}

impl Reason {
    /// What the pod's DisruptionTarget condition says, where the pod had a node.
    pub(crate) fn message(self) -> Option<&'static str> {
        match self {
            Reason::Orphaned => Some("PodGC: node no longer exists"),
            Reason::OutOfService => Some("PodGC: node is out of service"),
            Reason::Unscheduled | Reason::Surplus => None,
        }
    }
}

pub(crate) fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn judge(pod: &Pod, node: Option<&Node>) -> Option<Reason> {
    let terminating = pods::is_terminating(pod);
    match (pods::node_name(pod), node) {
        ("", _) => terminating.then_some(Reason::Unscheduled),
        (_, None) => Some(Reason::Orphaned),
        (_, Some(node)) => (terminating && is_out_of_service(node) && !is_ready(node))
            .then_some(Reason::OutOfService),
    }
}

/// The oldest ended pods beyond the threshold; zero means no limit.
pub(crate) fn surplus(mut pods: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 {
        return Vec::new();
    }
    pods.retain(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod));
    pods.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
    let surplus = pods.len().saturating_sub(threshold);
    pods.truncate(surplus);
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(node: &str, phase: &str, going: bool) -> Pod {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase}});
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).expect("a Pod")
    }

    fn node(taints: Value, ready: &str) -> Node {
        serde_json::from_value(json!({"spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a Node")
    }

    #[test]
    fn pods_that_nobody_else_deletes_are_garbage() {
        let healthy = node(json!([]), "True");
        let taints = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        let dead = node(taints.clone(), "Unknown");
        let back = node(taints, "True");
        let cases = [
            (pod("n", "Running", false), Some(&healthy), None),
            (pod("n", "Running", true), Some(&healthy), None),
            (pod("n", "Running", false), None, Some(Reason::Orphaned)),
            (pod("", "Pending", false), None, None),
            (pod("", "Pending", true), None, Some(Reason::Unscheduled)),
            (
                pod("n", "Running", true),
                Some(&dead),
                Some(Reason::OutOfService),
            ),
            (pod("n", "Running", false), Some(&dead), None),
            (pod("n", "Running", true), Some(&back), None),
        ];
        for (pod, node, expect) in cases {
            assert_eq!(judge(&pod, node), expect, "{pod:?}");
        }
    }

    #[test]
    fn only_ended_pods_beyond_the_threshold_go_and_the_oldest_first() {
        let pods: Vec<Arc<Pod>> = (0..5)
            .map(|n| {
                let mut pod = pod("n", if n == 0 { "Running" } else { "Failed" }, false);
                pod.metadata.name = Some(format!("p{n}"));
                Arc::new(pod)
            })
            .collect();
        let names = |threshold| -> Vec<String> {
            surplus(pods.clone(), threshold)
                .iter()
                .map(|pod| pod.name_any())
                .collect()
        };
        assert_eq!(names(2), ["p1", "p2"]);
        assert!(names(4).is_empty());
        assert!(names(0).is_empty());
    }
}
