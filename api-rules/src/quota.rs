//! What objects use of what a ResourceQuota limits.
//!
//! The API server refuses by it what exceeds a quota, and the quota controller sums it up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};

use crate::quantity::nanos;
use crate::requests::quality_of_service;

/// Billionths of a unit.
pub const NANO: i128 = 1_000_000_000;

/// Amounts in billionths by resource name, as quotas name them.
pub type Usage = BTreeMap<String, i128>;

/// A count as an amount.
pub fn whole(count: usize) -> i128 {
    i128::try_from(count).unwrap_or(0).saturating_mul(NANO)
}

/// Adds to an amount, saturating.
pub fn add(usage: &mut Usage, name: &str, amount: i128) {
    let sum = usage.entry(name.to_owned()).or_default();
    *sum = sum.saturating_add(amount);
}

/// What a pod uses while it has not ended.
pub fn of_pod(pod: &Pod) -> Usage {
    let mut usage = Usage::new();
    let Some(spec) = &pod.spec else {
        return usage;
    };
    add(&mut usage, "pods", NANO);
    for (name, amount) in amounts(spec, Kind::Requests) {
        if is_native(&name) {
            add(&mut usage, &name, amount);
        }
        add(&mut usage, &format!("requests.{name}"), amount);
    }
    for (name, amount) in amounts(spec, Kind::Limits) {
        if is_native(&name) {
            add(&mut usage, &format!("limits.{name}"), amount);
        }
    }
    usage
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

/// What a service uses.
pub fn of_service(service: &Service) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "services", NANO);
    add(&mut usage, "count/services", NANO);
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    match spec.type_.as_deref() {
        Some("NodePort") => add(&mut usage, "services.nodeports", whole(ports.len())),
        Some("LoadBalancer") => {
            add(&mut usage, "services.loadbalancers", NANO);
            let numbered = if spec.allocate_load_balancer_node_ports == Some(false) {
                ports
                    .iter()
                    .filter(|port| port.node_port.unwrap_or(0) != 0)
                    .count()
            } else {
                ports.len()
            };
            add(&mut usage, "services.nodeports", whole(numbered));
        }
        _ => {}
    }
    usage
}

/// What a claim uses.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage = Usage::new();
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
        add(&mut usage, &format!("{prefix}persistentvolumeclaims"), NANO);
        add(&mut usage, &format!("{prefix}requests.storage"), size);
    }
    add(&mut usage, "count/persistentvolumeclaims", NANO);
    usage
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

/// Whether the quota is about objects other than pods, too.
pub fn is_unscoped(quota: &ResourceQuota) -> bool {
    requirements(quota).is_empty()
}

/// Whether the pod is one of those that the quota is about.
pub fn in_scope(quota: &ResourceQuota, pod: &Pod) -> bool {
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
pub fn write(amount: i128, like: &str) -> String {
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
