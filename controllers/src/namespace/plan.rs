//! What is left in a namespace, told as conditions, and when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::discovery::ApiResource;

use super::FINALIZER_ESTIMATE;

pub(crate) const FINALIZER: &str = "kubernetes";

/// Objects of one kind that have not gone yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub label: String,
    pub count: usize,
    pub finalizers: BTreeMap<String, usize>,
    /// How long they may take.
    pub estimate: Duration,
}

impl Left {
    pub(crate) fn of<K: Resource>(label: String, objects: &[K], now: Timestamp) -> Self {
        let mut finalizers = BTreeMap::new();
        let mut estimate = Duration::ZERO;
        for object in objects {
            let meta = object.meta();
            for finalizer in meta.finalizers.iter().flatten() {
                *finalizers.entry(finalizer.clone()).or_default() += 1;
                estimate = estimate.max(FINALIZER_ESTIMATE);
            }
            let ends = meta.deletion_timestamp.as_ref().map(|time| time.0);
            let rest = ends.map_or(jiff::SignedDuration::ZERO, |ends| ends.duration_since(now));
            estimate = estimate.max(Duration::try_from(rest).unwrap_or_default());
        }
        Self {
            label,
            count: objects.len(),
            finalizers,
            estimate,
        }
    }
}

/// Everything that an attempt to empty the namespace met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub discovery_failed: Option<String>,
    pub failures: Vec<String>,
    pub left: Vec<Left>,
}

impl Findings {
    /// None if the namespace is empty, else how long until another attempt.
    pub(crate) fn wait(&self) -> Option<Duration> {
        if self.discovery_failed.is_some() || !self.failures.is_empty() {
            return Some(Duration::from_secs(5));
        }
        let longest = self.left.iter().map(|left| left.estimate).max()?;
        Some(longest / 2 + Duration::from_secs(1))
    }
}

/// `pods.`, `deployments.apps`: as the messages name a resource.
pub(crate) fn label(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

/// Whether our part is done, whatever finalizers others have.
pub(crate) fn is_finalized(namespace: &Namespace) -> bool {
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_ref());
    !finalizers.is_some_and(|finalizers| finalizers.iter().any(|name| name == FINALIZER))
}

/// The namespace with its phase as Terminating, unless it is that already.
pub(crate) fn terminating(namespace: &Namespace) -> Option<Namespace> {
    let mut told = namespace.clone();
    let status = told.status.get_or_insert_default();
    if status.phase.as_deref() == Some("Terminating") {
        return None;
    }
    status.phase = Some("Terminating".to_owned());
    Some(told)
}

/// The namespace with its conditions as found; None if they say that already.
pub(crate) fn conditions(
    namespace: &Namespace,
    findings: &Findings,
    now: Timestamp,
) -> Option<Namespace> {
    let mut told = namespace.clone();
    let status = told.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    for (kind, problem) in problems(findings) {
        let fresh = to_condition(kind, problem, now);
        let known = conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind);
        match known {
            Some(known) => {
                let same = known.status == fresh.status
                    && known.reason == fresh.reason
                    && known.message == fresh.message;
                if !same {
                    let since = known.last_transition_time.clone();
                    let flipped = known.status != fresh.status;
                    *known = fresh;
                    if !flipped {
                        known.last_transition_time = since;
                    }
                }
            }
            None => conditions.push(fresh),
        }
    }
    (told.status != namespace.status).then_some(told)
}

type Problem = Option<(&'static str, String)>;

fn problems(findings: &Findings) -> [(&'static str, Problem); 5] {
    let remaining = || {
        let list: Vec<String> = findings
            .left
            .iter()
            .map(|left| format!("{} has {} resource instances", left.label, left.count))
            .collect();
        format!("Some resources are remaining: {}", list.join(", "))
    };
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in findings.left.iter().flat_map(|left| &left.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let finalizing = || {
        let list: Vec<String> = finalizers
            .iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"))
            .collect();
        format!(
            "Some content in the namespace has finalizers remaining: {}",
            list.join(", ")
        )
    };
    let failed = || {
        let list = findings.failures.join(", ");
        format!(
            "Failed to delete all resource types, {} remaining: {list}",
            findings.failures.len()
        )
    };
    let discovery = findings.discovery_failed.clone();
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery.map(|error| {
                (
                    "DiscoveryFailed",
                    format!("Discovery failed for some groups: {error}"),
                )
            }),
        ),
        ("NamespaceDeletionGroupVersionParsingFailure", None),
        (
            "NamespaceDeletionContentFailure",
            (!findings.failures.is_empty()).then(|| ("ContentDeletionFailed", failed())),
        ),
        (
            "NamespaceContentRemaining",
            (!findings.left.is_empty()).then(|| ("SomeResourcesRemain", remaining())),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then(|| ("SomeFinalizersRemain", finalizing())),
        ),
    ]
}

fn to_condition(kind: &str, problem: Problem, now: Timestamp) -> NamespaceCondition {
    let (reason, message) = problem.clone().unwrap_or_else(|| {
        let (reason, message) = match kind {
            "NamespaceDeletionDiscoveryFailure" => (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            "NamespaceDeletionGroupVersionParsingFailure" => (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            "NamespaceDeletionContentFailure" => (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            "NamespaceContentRemaining" => ("ContentRemoved", "All content successfully removed"),
            _ => (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        };
        (reason, message.to_owned())
    });
    NamespaceCondition {
        type_: kind.to_owned(),
        status: if problem.is_some() { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn pods() -> Vec<Pod> {
        let pod = |value| serde_json::from_value(value).expect("a Pod");
        vec![
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}})),
            pod(json!({"metadata": {"finalizers": ["example.com/f"]}})),
        ]
    }

    #[test]
    fn an_empty_namespace_needs_no_wait_and_a_full_one_waits_half_its_estimate() {
        assert_eq!(Findings::default().wait(), None);
        let left = vec![Left::of("pods.".to_owned(), &pods(), now())];
        let findings = Findings {
            left,
            ..Findings::default()
        };
        assert_eq!(findings.wait(), Some(Duration::from_secs(16)));
        let failed = Findings {
            failures: vec!["x".to_owned()],
            ..Findings::default()
        };
        assert!(failed.wait().is_some());
    }

    #[test]
    fn what_remains_is_told_and_told_once() {
        let left = vec![Left::of("pods.".to_owned(), &pods(), now())];
        let findings = Findings {
            left,
            ..Findings::default()
        };
        let told = conditions(&Namespace::default(), &findings, now()).expect("news");
        assert!(conditions(&told, &findings, now()).is_none());
        let condition = |kind: &str| {
            let all = told
                .status
                .as_ref()
                .and_then(|s| s.conditions.clone())
                .unwrap_or_default();
            all.into_iter()
                .find(|condition| condition.type_ == kind)
                .expect("told")
        };
        let remaining = condition("NamespaceContentRemaining");
        assert_eq!(remaining.status, "True");
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(condition("NamespaceFinalizersRemaining").status, "True");
        assert_eq!(condition("NamespaceDeletionContentFailure").status, "False");
    }
}
