//! The quality-of-service class of a pod.

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::containers::{self, Kind};
use crate::quantity::{ResourceList, amount};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// The class, from requests and limits of cpu and memory; those of the pod as a whole
/// count instead of the containers' where they are set.
pub fn class(pod: &Pod) -> Qos {
    if let Some(resources) = &containers::spec(pod).resources {
        return class_of(std::iter::once(Some(resources)));
    }
    let specs = containers::all(pod);
    let resources: Vec<_> = specs
        .iter()
        .filter(|spec| spec.kind != Kind::Ephemeral)
        .map(|spec| spec.container.resources.as_ref())
        .collect();
    class_of(resources.into_iter())
}

fn class_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> Qos {
    let mut best_effort = true;
    let mut guaranteed = true;
    for resources in all {
        let requests = resources.and_then(|r| r.requests.as_ref());
        let limits = resources.and_then(|r| r.limits.as_ref());
        for name in COMPUTE {
            let request = positive(requests, name);
            let limit = positive(limits, name);
            best_effort &= request.is_none() && limit.is_none();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => Qos::BestEffort,
        (false, true) => Qos::Guaranteed,
        (false, false) => Qos::Burstable,
    }
}

fn positive(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?
        .get(name)
        .map(|quantity| amount(name, quantity))
        .filter(|amount| *amount > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    #[test]
    fn classes_follow_requests_and_limits() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let cases: [(Value, Qos); 5] = [
            (json!({}), Qos::BestEffort),
            (json!({"requests": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": both}), Qos::Guaranteed),
            (json!({"limits": both, "requests": both}), Qos::Guaranteed),
            (
                json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                Qos::Burstable,
            ),
        ];
        for (resources, expected) in cases {
            let pod = pod(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}));
            assert_eq!(class(&pod), expected, "{resources}");
        }
    }
}
