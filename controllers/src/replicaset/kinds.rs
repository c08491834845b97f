//! What ReplicaSets and ReplicationControllers have in common, as one trait.

use api_rules::selector::{label_selector_matches, map_matches};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use super::plan::Counts;
use crate::framework::Error;
use crate::framework::act::Object;

/// How many pods are wanted, and when one counts as available.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desired {
    pub replicas: i32,
    pub min_ready_seconds: i32,
}

/// Why the wanted number of pods was not reached.
#[derive(Debug)]
pub(crate) struct Failure {
    pub reason: &'static str,
    pub error: Error,
}

impl Failure {
    pub(crate) fn create(error: Error) -> Self {
        Self {
            reason: "FailedCreate",
            error,
        }
    }

    pub(crate) fn delete(error: Error) -> Self {
        Self {
            reason: "FailedDelete",
            error,
        }
    }
}

/// A kind that keeps a number of pods of one template.
pub(crate) trait ReplicaOwner:
    Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
    fn desired(&self) -> Desired;
    fn selects(&self, pod: &Pod) -> bool;
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The object with its status as it should be; None if it is that already.
    fn with_status(
        &self,
        counts: Counts,
        failure: Option<&Failure>,
        now: Timestamp,
    ) -> Option<Self>;
}

impl ReplicaOwner for ReplicaSet {
    fn desired(&self) -> Desired {
        let spec = self.spec.as_ref();
        Desired {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
        }
    }

    fn selects(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        self.spec.as_ref().is_some_and(|spec| {
            spec.selector != Default::default() && label_selector_matches(&spec.selector, &labels)
        })
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn with_status(
        &self,
        counts: Counts,
        failure: Option<&Failure>,
        now: Timestamp,
    ) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        let known = conditions
            .iter()
            .position(|condition| condition.type_ == "ReplicaFailure");
        match (failure, known) {
            (Some(failure), None) => conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.error.message()),
                last_transition_time: Some(Time(now)),
            }),
            (None, Some(at)) => drop(conditions.remove(at)),
            _ => {}
        }
        let new = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        };
        (self.status.as_ref() != Some(&new)).then(|| Self {
            status: Some(new),
            ..self.clone()
        })
    }
}

impl ReplicaOwner for ReplicationController {
    fn desired(&self) -> Desired {
        let spec = self.spec.as_ref();
        Desired {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
        }
    }

    fn selects(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && map_matches(selector, &labels))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn with_status(
        &self,
        counts: Counts,
        failure: Option<&Failure>,
        now: Timestamp,
    ) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        let known = conditions
            .iter()
            .position(|condition| condition.type_ == "ReplicaFailure");
        match (failure, known) {
            (Some(failure), None) => conditions.push(ReplicationControllerCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.error.message()),
                last_transition_time: Some(Time(now)),
            }),
            (None, Some(at)) => drop(conditions.remove(at)),
            _ => {}
        }
        let new = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: self.metadata.generation,
            conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        };
        (self.status.as_ref() != Some(&new)).then(|| Self {
            status: Some(new),
            ..self.clone()
        })
    }
}

/// A count that the API leaves out when it is zero.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_written_only_when_it_differs() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "rs", "namespace": "ns", "generation": 2},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}}}))
        .expect("a ReplicaSet");
        let counts = Counts {
            replicas: 1,
            ready: 1,
            ..Counts::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let written = set.with_status(counts, None, now).expect("a first status");
        assert!(written.with_status(counts, None, now).is_none());
        let reason = "quota".to_owned();
        let failure = Failure::create(Error::Invalid {
            object: "o".into(),
            field: "f",
            reason,
        });
        let failed = written
            .with_status(counts, Some(&failure), now)
            .expect("a condition");
        assert!(failed.with_status(counts, Some(&failure), now).is_none());
        assert_eq!(
            failed.with_status(counts, None, now).expect("none").status,
            written.status
        );
    }
}
