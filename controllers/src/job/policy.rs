//! What a failed pod means, and when a Job may count as successful before it is complete.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use watch_cache::ObjectKey;

use super::indexes::Indexes;

/// What the pod failure policy says of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// It counts against the back-off limit.
    Count,
    /// It does not.
    Ignore,
    FailIndex,
    /// The whole Job fails, for this reason.
    FailJob(String),
}

pub(crate) fn of_failed(job: &Job, pod: &Pod) -> Action {
    let policy = job
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy
        .map(|policy| policy.rules.as_slice())
        .unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let Some(why) = matching(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "Ignore" => Action::Ignore,
            "FailIndex" => Action::FailIndex,
            "FailJob" => Action::FailJob(format!("{why} matching FailJob rule at index {at}")),
            _ => Action::Count,
        };
    }
    Action::Count
}

fn matching(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        return exit_code(codes, pod);
    }
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        let hit = conditions
            .iter()
            .copied()
            .flatten()
            .any(|condition| condition.type_ == pattern.type_ && condition.status == wanted);
        if hit {
            return Some(format!(
                "Pod {} has condition {}",
                ObjectKey::of(pod),
                pattern.type_
            ));
        }
    }
    None
}

fn exit_code(rule: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    for container in all {
        if rule
            .container_name
            .as_ref()
            .is_some_and(|name| *name != container.name)
        {
            continue;
        }
        let ended = container
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        let Some(code) = ended.map(|ended| ended.exit_code).filter(|code| *code != 0) else {
            continue;
        };
        let listed = rule.values.contains(&code);
        let hit = match rule.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if hit {
            let (name, pod) = (&container.name, ObjectKey::of(pod));
            return Some(format!(
                "Container {name} for pod {pod} failed with exit code {code}"
            ));
        }
    }
    None
}

/// Why the Job counts as successful by its success policy.
pub(crate) fn success(job: &Job, succeeded: &Indexes, completions: i32) -> Option<String> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    for (at, rule) in policy.rules.iter().enumerate() {
        let listed = rule
            .succeeded_indexes
            .as_ref()
            .map(|text| Indexes::parse(text, completions));
        let hit = match (&listed, rule.succeeded_count) {
            (Some(listed), None) => succeeded.is_superset(listed),
            (Some(listed), Some(count)) => succeeded.overlap(listed) >= count,
            (None, Some(count)) => succeeded.total() >= count,
            (None, None) => false,
        };
        if hit {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}

/// The completion index of a pod.
pub(crate) fn index(pod: &Pod) -> Option<i32> {
    let index = pod.annotations().get(INDEX)?.parse().ok()?;
    (index >= 0).then_some(index)
}

/// How often the pod's index had failed before the pod.
pub(crate) fn failures_before(pod: &Pod) -> i32 {
    let count = pod
        .annotations()
        .get(FAILURES)
        .and_then(|count| count.parse().ok());
    count.unwrap_or(0)
}

pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(crate) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value) -> Job {
        let mut full = json!({"template": {}});
        for (key, value) in spec.as_object().expect("an object") {
            full[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": full})).expect("a Job")
    }

    fn failed(code: i32, condition: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "status": {"phase": "Failed",
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}))
        .expect("a Pod")
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let job = job(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [3]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}}]}}));
        assert_eq!(
            of_failed(&job, &failed(3, "DisruptionTarget")),
            Action::Ignore
        );
        let why =
            "Container c for pod ns/p failed with exit code 3 matching FailJob rule at index 1";
        assert_eq!(
            of_failed(&job, &failed(3, "Ready")),
            Action::FailJob(why.to_owned())
        );
        assert_eq!(of_failed(&job, &failed(1, "Ready")), Action::Count);
        assert_eq!(of_failed(&job, &failed(9, "Ready")), Action::FailIndex);
        assert_eq!(of_failed(&job, &failed(0, "Ready")), Action::Count);
    }

    #[test]
    fn a_success_policy_counts_indexes() {
        let succeeded: Indexes = [0, 2, 3].into_iter().collect();
        let check = |rule: Value| {
            success(
                &job(json!({"successPolicy": {"rules": [rule]}})),
                &succeeded,
                5,
            )
            .is_some()
        };
        assert!(check(json!({"succeededIndexes": "0,2"})));
        assert!(!check(json!({"succeededIndexes": "0-2"})));
        assert!(check(
            json!({"succeededIndexes": "0-2", "succeededCount": 2})
        ));
        assert!(check(json!({"succeededCount": 3})));
        assert!(!check(json!({"succeededCount": 4})));
        assert_eq!(success(&job(json!({})), &succeeded, 5), None);
    }
}
