//! What a namespace uses of what a quota limits. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::quantity::nanos;
use api_rules::requests::quality_of_service;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::framework::pods::{is_terminal, is_terminating};

const NANO: i128 = 1_000_000_000;

/// Amounts in billionths by resource name, with what is summed up written in binary units.
pub(crate) type Usage = BTreeMap<String, i128>;

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
        add_pod(&mut usage, pod);
    }
    let pods_exist = contents
        .pods
        .iter()
        .filter(|pod| in_scope(quota, pod))
        .count();
    add(&mut usage, "count/pods", whole(pods_exist));
    if is_unscoped(quota) {
        for service in &contents.services {
            add_service(&mut usage, service);
        }
        for claim in &contents.claims {
            add_claim(&mut usage, claim);
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

fn whole(count: usize) -> i128 {
    i128::try_from(count).unwrap_or(0).saturating_mul(NANO)
}

fn add(usage: &mut Usage, name: &str, amount: i128) {
    let sum = usage.entry(name.to_owned()).or_default();
    *sum = sum.saturating_add(amount);
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

fn add_pod(usage: &mut Usage, pod: &Pod) {
    let Some(spec) = &pod.spec else { return };
    add(usage, "pods", NANO);
    for (name, amount) in amounts(spec, Kind::Requests) {
        if is_native(&name) {
            add(usage, &name, amount);
        }
        add(usage, &format!("requests.{name}"), amount);
    }
    for (name, amount) in amounts(spec, Kind::Limits) {
        if is_native(&name) {
            add(usage, &format!("limits.{name}"), amount);
        }
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/')
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Requests,
    Limits,
}

/// What the pod asks for, exactly: the sum of its containers, or more for its initialization.
fn amounts(spec: &PodSpec, kind: Kind) -> Usage {
    let of = |resources: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| -> Usage {
        let list = resources.and_then(|resources| match kind {
            Kind::Requests => resources.requests.as_ref(),
            Kind::Limits => resources.limits.as_ref(),
        });
        list.into_iter()
            .flatten()
            .map(|(name, quantity)| (name.clone(), nanos(&quantity.0).unwrap_or(0)))
            .collect()
    };
    let mut total = Usage::new();
    for container in &spec.containers {
        for (name, amount) in of(container.resources.as_ref()) {
            add(&mut total, &name, amount);
        }
    }
    let mut sidecars = Usage::new();
    let mut starting = Usage::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container.resources.as_ref());
        let mut moment = sidecars.clone();
        for (name, amount) in &own {
            add(&mut moment, name, *amount);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            for (name, amount) in &own {
                add(&mut total, name, *amount);
            }
            sidecars = moment.clone();
        }
        for (name, amount) in moment {
            let most = starting.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in starting {
        let most = total.entry(name).or_default();
        *most = (*most).max(amount);
    }
    total.extend(of(spec.resources.as_ref()));
    for (name, quantity) in spec.overhead.iter().flatten() {
        if kind == Kind::Requests || total.contains_key(name) {
            add(&mut total, name, nanos(&quantity.0).unwrap_or(0));
        }
    }
    total
}

fn add_service(usage: &mut Usage, service: &Service) {
    add(usage, "services", NANO);
    add(usage, "count/services", NANO);
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    match spec.type_.as_deref() {
        Some("NodePort") => add(usage, "services.nodeports", whole(ports.len())),
        Some("LoadBalancer") => {
            add(usage, "services.loadbalancers", NANO);
            let numbered = if spec.allocate_load_balancer_node_ports == Some(false) {
                ports
                    .iter()
                    .filter(|port| port.node_port.unwrap_or(0) != 0)
                    .count()
            } else {
                ports.len()
            };
            add(usage, "services.nodeports", whole(numbered));
        }
        _ => {}
    }
}

fn add_claim(usage: &mut Usage, claim: &PersistentVolumeClaim) {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec
        .resources
        .and_then(|resources| resources.requests)
        .unwrap_or_default();
    let size = requests
        .get("storage")
        .map_or(0, |size| nanos(&size.0).unwrap_or(0));
    let class = spec.storage_class_name.unwrap_or_default();
    let mut prefixes = vec![String::new()];
    if !class.is_empty() {
        prefixes.push(format!("{class}.storageclass.storage.k8s.io/"));
    }
    for prefix in prefixes {
        add(usage, &format!("{prefix}persistentvolumeclaims"), NANO);
        add(usage, &format!("{prefix}requests.storage"), size);
    }
    add(usage, "count/persistentvolumeclaims", NANO);
}

fn requirements(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else {
        return Vec::new();
    };
    let plain = spec
        .scopes
        .iter()
        .flatten()
        .map(|scope| ScopedResourceSelectorRequirement {
            scope_name: scope.clone(),
            operator: "Exists".to_owned(),
            values: None,
        });
    let selected = spec
        .scope_selector
        .iter()
        .flat_map(|s| s.match_expressions.iter().flatten());
    plain.chain(selected.cloned()).collect()
}

fn is_unscoped(quota: &ResourceQuota) -> bool {
    requirements(quota).is_empty()
}

/// Whether the pod is one of those that the quota is about.
pub(crate) fn in_scope(quota: &ResourceQuota, pod: &Pod) -> bool {
    requirements(quota).iter().all(|requirement| {
        let spec = pod.spec.as_ref();
        let limited = spec
            .and_then(|spec| spec.active_deadline_seconds)
            .is_some_and(|s| s >= 0);
        match requirement.scope_name.as_str() {
            "Terminating" => limited,
            "NotTerminating" => !limited,
            "BestEffort" => quality_of_service(pod) == "BestEffort",
            "NotBestEffort" => quality_of_service(pod) != "BestEffort",
            "PriorityClass" => of_priority(requirement, spec),
            "CrossNamespacePodAffinity" => crosses_namespaces(spec),
            _ => false,
        }
    })
}

fn of_priority(requirement: &ScopedResourceSelectorRequirement, spec: Option<&PodSpec>) -> bool {
    let class = spec
        .and_then(|spec| spec.priority_class_name.clone())
        .unwrap_or_default();
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => values.contains(&class),
        "NotIn" => !values.contains(&class),
        _ => false,
    }
}

fn crosses_namespaces(spec: Option<&PodSpec>) -> bool {
    let Some(affinity) = spec.and_then(|spec| spec.affinity.as_ref()) else {
        return false;
    };
    let near = affinity.pod_affinity.iter().flat_map(|affinity| {
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        let wished = affinity
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        required.chain(wished.map(|term| &term.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        let wished = affinity
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        required.chain(wished.map(|term| &term.pod_affinity_term))
    });
    near.chain(far).any(|term| {
        term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|n| !n.is_empty())
    })
}

/// An amount in the form of another quantity: binary units if that has them.
pub(crate) fn write(amount: i128, like: &str) -> String {
    if amount % NANO != 0 {
        let milli = amount / 1_000_000 + i128::from(amount % 1_000_000 != 0);
        return format!("{milli}m");
    }
    let whole = amount / NANO;
    let (base, units): (i128, &[&str]) = if like.ends_with('i') {
        (1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    } else {
        (1000, &["", "k", "M", "G", "T", "P", "E"])
    };
    let (mut value, mut unit) = (whole, 0);
    while value != 0 && value % base == 0 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{value}{}", units[unit])
}

#[cfg(test)]
mod tests {
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
