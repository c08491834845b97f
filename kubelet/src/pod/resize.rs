//! Changes of a running container's resources.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

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
