//! What a pod asks of a node, and its quality of service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Amounts by resource name: `cpu` in thousandths of a core, everything else in whole units.
pub type Amounts = BTreeMap<String, i64>;

/// Reads a resource list; a value that is no quantity counts as nothing (the API refuses it).
pub fn amounts(list: &BTreeMap<String, Quantity>) -> Amounts {
    list.iter()
        .map(|(name, quantity)| {
            let amount = match name.as_str() {
                "cpu" => quantity::milli_value(quantity),
                _ => quantity::value(quantity),
            };
            (name.clone(), amount.unwrap_or(0))
        })
        .collect()
}

fn add(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let sum = into.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = into.entry(name.clone()).or_default();
        *most = (*most).max(*amount);
    }
}

/// Whether requests or limits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Requests,
    Limits,
}

fn of_resources(resources: Option<&ResourceRequirements>, count: Count) -> Amounts {
    let Some(resources) = resources else {
        return Amounts::new();
    };
    let requests = resources.requests.as_ref();
    let limits = resources.limits.as_ref();
    match count {
        Count::Limits => limits.map(amounts).unwrap_or_default(),
        Count::Requests => requests.map(amounts).unwrap_or_default(),
    }
}

/// A restartable init container runs beside the containers for the rest of the pod's life.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod takes of a node: the larger of what its containers and sidecars take together
/// and of what any moment of its initialization takes; overridden by pod-level resources; plus
/// the runtime's overhead. Source: KEP-753, KEP-2837, KEP-688.
pub fn of_pod(spec: &PodSpec, count: Count) -> Amounts {
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(
            &mut running,
            &of_resources(container.resources.as_ref(), count),
        );
    }
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of_resources(container.resources.as_ref(), count);
        if is_sidecar(container) {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut starting, &moment);
        }
    }
    raise(&mut running, &starting);
    running.extend(of_resources(spec.resources.as_ref(), count));
    if let Some(overhead) = &spec.overhead {
        for (name, amount) in amounts(overhead) {
            if count == Count::Requests || running.contains_key(&name) {
                *running.entry(name).or_default() += amount;
            }
        }
    }
    running
}

/// Guaranteed, Burstable or BestEffort, by CPU and memory only.
pub fn quality_of_service(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else {
        return "BestEffort";
    };
    let each: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) => vec![Some(resources)],
        None => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|container| container.resources.as_ref())
            .collect(),
    };
    let positive = |amounts: &Amounts, name: &str| amounts.get(name).copied().filter(|a| *a > 0);
    let mut guaranteed = !each.is_empty();
    let mut best_effort = true;
    for resources in each {
        let requests = of_resources(resources, Count::Requests);
        let limits = of_resources(resources, Count::Limits);
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(&requests, name), positive(&limits, name));
            best_effort &= request.is_none() && limit.is_none();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, always: bool) -> Container {
        let requests = BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]);
        Container {
            resources: Some(ResourceRequirements {
                requests: Some(requests),
                ..Default::default()
            }),
            restart_policy: always.then(|| "Always".to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn initialization_counts_by_its_largest_moment_and_sidecars_stay() {
        let spec = PodSpec {
            containers: vec![container("100m", false), container("200m", false)],
            init_containers: Some(vec![
                container("50m", true),
                container("600m", false),
                container("10m", true),
            ]),
            ..Default::default()
        };
        assert_eq!(of_pod(&spec, Count::Requests)["cpu"], 650);
    }

    #[test]
    fn overhead_and_pod_level_resources_count() {
        let list = |cpu: &str| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]);
        let spec = PodSpec {
            containers: vec![container("100m", false)],
            resources: Some(ResourceRequirements {
                requests: Some(list("1")),
                ..Default::default()
            }),
            overhead: Some(list("250m")),
            ..Default::default()
        };
        assert_eq!(of_pod(&spec, Count::Requests)["cpu"], 1250);
    }

    #[test]
    fn a_pod_without_resources_is_best_effort() {
        let spec = PodSpec {
            containers: vec![Container::default()],
            ..Default::default()
        };
        assert_eq!(
            quality_of_service(&Pod {
                spec: Some(spec),
                ..Default::default()
            }),
            "BestEffort"
        );
    }
}
