//! Where a pod's cgroup is and what it is held to.

use k8s_openapi::api::core::v1::Pod;

use super::qos::{self, Qos};
use super::resources::{self, Side};

/// The limits of a pod as a whole. `None` where a container has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLimits {
    pub cpu_shares: i64,
    pub cpu_quota: Option<i64>,
    pub memory: Option<i64>,
    /// By the kernel's page size name.
    pub hugepages: Vec<(String, u64)>,
    pub pids: Option<i64>,
}

/// The cgroup of all pods of a class, relative to the hierarchy's root.
pub fn class_path(root: &str, class: Qos) -> String {
    let root = root.trim_matches('/');
    let base = if root.is_empty() {
        "/kubepods".to_owned()
    } else {
        format!("/{root}/kubepods")
    };
    match class {
        Qos::Guaranteed => base,
        Qos::Burstable => format!("{base}/burstable"),
        Qos::BestEffort => format!("{base}/besteffort"),
    }
}

/// A pod's cgroup.
pub fn pod_path(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("{}/pod{uid}", class_path(root, qos::class(pod)))
}

/// What the pod's cgroup is held to.
pub fn limits(pod: &Pod, pids: Option<i64>) -> PodLimits {
    let cpu = resources::of_pod(pod, Side::Requests, "cpu").unwrap_or(0);
    let limit =
        |resource| resources::of_pod(pod, Side::Limits, resource).filter(|limit| *limit > 0);
    let hugepages = resources::names(pod)
        .iter()
        .filter(|name| name.starts_with("hugepages-"))
        .filter_map(|name| {
            let size = crate::quantity::nanos(name.strip_prefix("hugepages-")?)? / 1_000_000_000;
            let bytes = resources::of_pod(pod, Side::Limits, name)?;
            Some((resources::page_size_name(size), u64::try_from(bytes).ok()?))
        })
        .collect();
    PodLimits {
        cpu_shares: resources::shares(cpu),
        cpu_quota: limit("cpu").map(resources::quota),
        memory: limit("memory"),
        hugepages,
        pids,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn classes_have_their_places() {
        let best_effort = pod(json!({"spec": {"containers": [{"name": "c"}]}}));
        assert_eq!(pod_path("", &best_effort), "/kubepods/besteffort/podu1");
        assert_eq!(
            pod_path("/lab/n1/", &best_effort),
            "/lab/n1/kubepods/besteffort/podu1"
        );
    }

    #[test]
    fn one_container_without_a_limit_leaves_the_pod_without() {
        let pod = pod(json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"memory": "64Mi", "cpu": "1"}}},
            {"name": "b", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "1"}}},
        ]}}));
        let limits = limits(&pod, None);
        assert_eq!(limits.memory, Some(128 << 20));
        assert_eq!(limits.cpu_quota, None);
        assert_eq!(limits.cpu_shares, 2048);
    }
}
