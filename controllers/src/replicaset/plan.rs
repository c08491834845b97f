//! How many pods to make or which to give up, and what the status counts.

use std::sync::Arc;

use api_rules::selector::map_matches;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::kinds::ReplicaOwner;
use crate::framework::pods;

/// Pods that are made or given up in one sync.
const BURST: usize = 500;

/// The counting part of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: i32,
}

/// What one sync does: make some pods, or give some up, never both.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
}

pub(crate) fn plan<O: ReplicaOwner>(
    owner: &O,
    owned: &[Arc<Pod>],
    neighbours: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let active: Vec<Arc<Pod>> = owned
        .iter()
        .filter(|pod| pods::is_active(pod))
        .cloned()
        .collect();
    let wanted = usize::try_from(owner.desired().replicas).unwrap_or(0);
    if active.len() < wanted {
        return Plan {
            create: (wanted - active.len()).min(BURST),
            delete: Vec::new(),
        };
    }
    let surplus = (active.len() - wanted).min(BURST);
    let mut delete = pods::rank_for_deletion(&active, neighbours, now);
    delete.truncate(surplus);
    Plan { create: 0, delete }
}

pub(crate) fn count<O: ReplicaOwner>(owner: &O, owned: &[Arc<Pod>], now: Timestamp) -> Counts {
    let mut counts = Counts::default();
    let min_ready_seconds = owner.desired().min_ready_seconds;
    let template = owner
        .template()
        .and_then(|template| template.metadata.as_ref());
    let labels = template
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    for pod in owned {
        if pods::is_terminating(pod) && !pods::is_terminal(pod) {
            counts.terminating += 1;
        }
        if !pods::is_active(pod) {
            continue;
        }
        counts.replicas += 1;
        let pod_labels = pod.metadata.labels.clone().unwrap_or_default();
        counts.fully_labeled += i32::from(map_matches(&labels, &pod_labels));
        counts.ready += i32::from(pods::is_ready(pod));
        counts.available += i32::from(pods::is_available(pod, min_ready_seconds, now));
    }
    counts
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::json;

    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "rs", "namespace": "ns", "uid": "u", "generation": 2},
            "spec": {"replicas": replicas, "minReadySeconds": 10,
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a", "v": "1"}},
                    "spec": {"containers": []}}}}))
        .expect("a ReplicaSet")
    }

    fn pod(name: &str, phase: &str, ready_at: Option<&str>, going: bool) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "a", "v": "1"}},
            "status": {"phase": phase}});
        if let Some(at) = ready_at {
            pod["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        }
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().expect("a time")
    }

    #[test]
    fn missing_pods_are_made_and_surplus_pods_given_up() {
        let pods = vec![
            pod("running", "Running", Some("2026-01-01T00:00:00Z"), false),
            pod("pending", "Pending", None, false),
            pod("failed", "Failed", None, false),
            pod("going", "Running", None, true),
        ];
        for (wanted, create, delete) in [
            (2, 0, vec![]),
            (5, 3, vec![]),
            (1, 0, vec!["pending"]),
            (900, 500, vec![]),
        ] {
            let plan = plan(&set(wanted), &pods, &pods, now());
            assert_eq!(plan.create, create, "{wanted}");
            let names: Vec<_> = plan
                .delete
                .iter()
                .filter_map(|pod| pod.metadata.name.as_deref())
                .collect();
            assert_eq!(names, delete, "{wanted}");
        }
    }

    #[test]
    fn the_counts_tell_ready_from_available_and_leave_out_what_ended() {
        let pods = vec![
            pod("available", "Running", Some("2026-01-01T00:00:00Z"), false),
            pod("ready", "Running", Some("2026-01-01T00:00:55Z"), false),
            pod("failed", "Failed", None, false),
            pod("going", "Running", None, true),
        ];
        let expect = Counts {
            replicas: 2,
            fully_labeled: 2,
            ready: 2,
            available: 1,
            terminating: 1,
        };
        assert_eq!(count(&set(2), &pods, now()), expect);
    }
}
