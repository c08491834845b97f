//! Changes of a running container's resources.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::containers::{Kind, Spec};
use super::memory::Memory;
use crate::quantity::{ResourceList, amount};

const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Whether the pod asks for other resources than the container was given.
pub fn is_wanted(spec: &Spec<'_>, memory: &Memory) -> bool {
    if !matches!(spec.kind, Kind::Main | Kind::Sidecar) {
        return false;
    }
    let Some(given) = memory.allocated.get(spec.name()) else {
        return false;
    };
    !is_same(given, &wanted(&spec.container))
}

/// The resources that a container asks for.
pub fn wanted(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// Whether two sets mean the same for what can be resized.
pub fn is_same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.iter().all(|name| {
        read(a.requests.as_ref(), name) == read(b.requests.as_ref(), name)
            && read(a.limits.as_ref(), name) == read(b.limits.as_ref(), name)
    })
}

/// Whether the change needs a restart by the container's own policy.
pub fn needs_restart(container: &Container, given: &ResourceRequirements) -> bool {
    let wanted = wanted(container);
    container.resize_policy.iter().flatten().any(|policy| {
        let name = policy.resource_name.as_str();
        let changed = read(given.requests.as_ref(), name) != read(wanted.requests.as_ref(), name)
            || read(given.limits.as_ref(), name) != read(wanted.limits.as_ref(), name);
        policy.restart_policy == "RestartContainer" && changed
    })
}

/// The pod with other resources in its containers.
pub fn with_resources(pod: &Pod, resources: impl Fn(&Container) -> ResourceRequirements) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        let containers = spec.init_containers.iter_mut().flatten();
        for container in containers.chain(&mut spec.containers) {
            container.resources = Some(resources(container));
        }
    }
    pod
}

/// What leaves room for both: the kernel wants the limit of a pod never below the limits of
/// its containers, whichever of them changes first.
pub fn roomiest(a: &ResourceRequirements, b: &ResourceRequirements) -> ResourceRequirements {
    let larger = |a: &Option<ResourceList>, b: &Option<ResourceList>| {
        let (a, b) = (a.as_ref()?, b.as_ref()?);
        let both = a.iter().filter_map(|(name, quantity)| {
            let other = b.get(name)?;
            let larger = amount(name, quantity) >= amount(name, other);
            let larger = if larger { quantity } else { other };
            Some((name.clone(), larger.clone()))
        });
        Some(both.collect::<ResourceList>())
    };
    ResourceRequirements {
        limits: larger(&a.limits, &b.limits),
        ..b.clone()
    }
}

fn read(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).map(|quantity| amount(name, quantity))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
        serde_json::from_value(json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}}))
            .expect("well-formed")
    }

    #[test]
    fn equal_quantities_in_other_words_are_no_change() {
        assert!(is_same(
            &resources("100m", "1Gi"),
            &resources("0.1", "1024Mi")
        ));
        assert!(!is_same(
            &resources("100m", "1Gi"),
            &resources("200m", "1Gi")
        ));
    }

    #[test]
    fn a_limit_that_one_side_does_not_have_is_no_limit() {
        let (small, large) = (resources("100m", "1Gi"), resources("200m", "2Gi"));
        assert_eq!(roomiest(&small, &large), large);
        assert_eq!(roomiest(&large, &small).limits, large.limits);
        let none = ResourceRequirements::default();
        assert_eq!(roomiest(&small, &none).limits, None);
    }

    #[test]
    fn only_the_resources_with_the_policy_need_a_restart() {
        let container = Container {
            name: "c".into(),
            resources: Some(resources("200m", "1Gi")),
            resize_policy: serde_json::from_value(json!([
                {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            ]))
            .expect("well-formed"),
            ..Container::default()
        };
        assert!(!needs_restart(&container, &resources("100m", "1Gi")));
        assert!(needs_restart(&container, &resources("200m", "2Gi")));
    }
}
