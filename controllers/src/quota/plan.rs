//! What a namespace uses of what a quota limits. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::quota::{
    Usage, add, in_scope, is_unscoped, of_claim, of_pod, of_service, whole, write,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::framework::pods::{is_terminal, is_terminating};

/// Everything that a namespace holds and a quota may count.
#[derive(Default)]
pub(crate) struct Contents {
    pub pods: Vec<Arc<Pod>>,
    pub services: Vec<Arc<Service>>,
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Objects of other kinds, by the resource name that counts them.
    pub objects: BTreeMap<String, usize>,
}

/// The usage of every resource that the quota limits.
pub(crate) fn used(
    quota: &ResourceQuota,
    contents: &Contents,
    now: Timestamp,
) -> BTreeMap<String, Quantity> {
    let hard = quota
        .spec
        .as_ref()
        .and_then(|spec| spec.hard.clone())
        .unwrap_or_default();
    let mut usage = Usage::new();
    for pod in contents
        .pods
        .iter()
        .filter(|pod| counts(pod, now) && in_scope(quota, pod))
    {
        merge(&mut usage, of_pod(pod));
    }
    let pods_exist = contents
        .pods
        .iter()
        .filter(|pod| in_scope(quota, pod))
        .count();
    add(&mut usage, "count/pods", whole(pods_exist));
    if is_unscoped(quota) {
        for service in &contents.services {
            merge(&mut usage, of_service(service));
        }
        for claim in &contents.claims {
            merge(&mut usage, of_claim(claim));
        }
        for (name, count) in &contents.objects {
            add(&mut usage, name, whole(*count));
        }
    }
    hard.into_iter()
        .map(|(name, limit)| {
            let amount = usage.get(&name).copied().unwrap_or(0);
            let text = write(amount, &limit.0);
            (name, Quantity(text))
        })
        .collect()
}

/// A pod that has ended uses nothing, nor does one that should be gone by now.
fn counts(pod: &Pod, now: Timestamp) -> bool {
    if is_terminal(pod) {
        return false;
    }
    let Some(deleted) = &pod.metadata.deletion_timestamp else {
        return true;
    };
    is_terminating(pod) && now <= deleted.0
}

fn merge(usage: &mut Usage, more: Usage) {
    for (name, amount) in more {
        add(usage, &name, amount);
    }
}

#[cfg(test)]
mod tests {
    use api_rules::quota::NANO;
    use serde_json::{Value, json};

    use super::*;

    fn quota(hard: &[&str], scopes: Value) -> ResourceQuota {
        let hard: BTreeMap<_, _> = hard.iter().map(|name| ((*name).to_owned(), "10")).collect();
        serde_json::from_value(json!({"spec": {"hard": hard, "scopes": scopes}})).expect("a quota")
    }

    fn pod(requests: Value, deadline: Option<i64>, phase: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase},
            "spec": {"activeDeadlineSeconds": deadline,
                "containers": [{"name": "c", "resources": {"requests": requests}}]}});
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn of(quota: &ResourceQuota, contents: &Contents) -> BTreeMap<String, String> {
        let used = used(quota, contents, Timestamp::UNIX_EPOCH);
        used.into_iter()
            .map(|(name, quantity)| (name, quantity.0))
            .collect()
    }

    #[test]
    fn pods_count_with_their_requests_until_they_end() {
        let contents = Contents {
            pods: vec![
                pod(
                    json!({"cpu": "1500m", "memory": "1Gi", "example.com/gpu": "2"}),
                    None,
                    "Running",
                ),
                pod(json!({"cpu": "500m"}), None, "Pending"),
                pod(json!({"cpu": "7"}), None, "Succeeded"),
            ],
            ..Contents::default()
        };
        let used = of(
            &quota(
                &[
                    "pods",
                    "cpu",
                    "requests.memory",
                    "requests.example.com/gpu",
                    "count/pods",
                ],
                json!(null),
            ),
            &contents,
        );
        assert_eq!(used["pods"], "2");
        assert_eq!(used["count/pods"], "3");
        assert_eq!(used["cpu"], "2");
        assert_eq!(used["requests.memory"], "1073741824");
        assert_eq!(used["requests.example.com/gpu"], "2");
    }

    #[test]
    fn scopes_choose_the_pods() {
        let contents = Contents {
            pods: vec![
                pod(json!({"cpu": "1"}), None, "Running"),
                pod(json!({}), Some(60), "Running"),
                pod(json!({}), None, "Running"),
            ],
            ..Contents::default()
        };
        let count = |scope: &str| of(&quota(&["pods"], json!([scope])), &contents)["pods"].clone();
        assert_eq!(count("Terminating"), "1");
        assert_eq!(count("NotTerminating"), "2");
        assert_eq!(count("BestEffort"), "2");
        assert_eq!(count("NotBestEffort"), "1");
    }

    #[test]
    fn services_claims_and_other_objects_are_counted() {
        let service =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        let claim = json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "5Gi"}}}});
        let contents = Contents {
            services: vec![Arc::new(
                serde_json::from_value(service).expect("a Service"),
            )],
            claims: vec![Arc::new(serde_json::from_value(claim).expect("a claim"))],
            objects: [("configmaps".to_owned(), 4)].into(),
            ..Contents::default()
        };
        let names = [
            "services",
            "services.nodeports",
            "services.loadbalancers",
            "configmaps",
            "persistentvolumeclaims",
            "fast.storageclass.storage.k8s.io/requests.storage",
        ];
        let used = of(&quota(&names, json!(null)), &contents);
        let values: Vec<&str> = names.iter().map(|name| used[*name].as_str()).collect();
        assert_eq!(values, ["1", "2", "1", "4", "1", "5368709120"]);
    }

    #[test]
    fn amounts_are_written_like_the_limit() {
        assert_eq!(write(3 * 1024 * 1024 * NANO, "1Gi"), "3Mi");
        assert_eq!(write(1500 * NANO / 1000, "2"), "1500m");
        assert_eq!(write(2000 * NANO, "5"), "2k");
        assert_eq!(write(0, "1Gi"), "0");
    }
}
