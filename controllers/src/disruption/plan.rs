//! How many of a budget's pods may go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::deployment::strategy::{Round, resolve};
use crate::framework::pods::{is_ready, is_terminating, until};

/// An eviction that has led to no deletion after this time is forgotten.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the wanted sizes of the pods' controllers have to be known.
pub(crate) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let Some(spec) = &budget.spec else {
        return false;
    };
    spec.max_unavailable.is_some() || matches!(&spec.min_available, Some(IntOrString::String(_)))
}

/// The status, and when an eviction is to be forgotten. `scale` is how many pods their
/// controllers want, where that counts.
pub(crate) fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let expected = if needs_scale(budget) { scale } else { count };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let most = resolve(most, expected, Round::Up).unwrap_or(0);
            (expected - most).max(0)
        }
        (None, Some(least)) => resolve(least, expected, Round::Up).unwrap_or(expected),
        (None, None) => 0,
    };
    let (disrupted, wait) = disrupted(budget, pods, now);
    let healthy = pods.iter().filter(|pod| {
        is_ready(pod) && !is_terminating(pod) && !disrupted.contains_key(&pod.name_any())
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 {
        0
    } else {
        (healthy - desired).max(0)
    };
    let mut status = PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        conditions: budget
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone()),
    };
    let (value, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    tell(&mut status, budget, value, reason, String::new(), now);
    (status, wait)
}

/// The status of a budget that cannot be computed: nothing may go.
pub(crate) fn failed(
    budget: &PodDisruptionBudget,
    why: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.observed_generation = budget.metadata.generation;
    tell(&mut status, budget, "False", "SyncFailed", why, now);
    status
}

fn tell(
    status: &mut PodDisruptionBudgetStatus,
    budget: &PodDisruptionBudget,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions
        .iter()
        .position(|known| known.type_ == "DisruptionAllowed");
    let known = known.map(|at| conditions.remove(at));
    let since = known.filter(|known| known.status == value);
    conditions.push(Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: budget.metadata.generation,
        last_transition_time: since.map_or(Time(now), |known| known.last_transition_time),
    });
}

/// Pods whose eviction was granted and who are not on their way out yet.
fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let told = budget
        .status
        .as_ref()
        .and_then(|status| status.disrupted_pods.clone());
    let mut wait: Option<Duration> = None;
    let mut kept = BTreeMap::new();
    for (name, since) in told.unwrap_or_default() {
        let there = pods
            .iter()
            .any(|pod| pod.name_any() == name && !is_terminating(pod));
        let left = until(since.0 + PATIENCE, now);
        if let Some(left) = left.filter(|_| there) {
            wait = wait.into_iter().chain([left]).min();
            kept.insert(name, since);
        }
    }
    (kept, wait)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().expect("a time")
    }

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 1}, "spec": spec,
            "status": {"disruptedPods": disrupted}}),
        )
        .expect("a budget")
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |n: usize| {
            let status = if n < ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": format!("p{n}")},
                "status": {"conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(pod).expect("a Pod"))
        };
        (0..ready + unready).map(pod).collect()
    }

    #[test]
    fn the_budget_is_what_is_healthy_beyond_what_must_be() {
        // spec, ready, unready, scale -> allowed, desired, expected
        let cases = [
            (json!({"minAvailable": 2}), 3, 0, 0, (1, 2, 3)),
            (json!({"minAvailable": 3}), 3, 0, 0, (0, 3, 3)),
            (json!({"minAvailable": "50%"}), 3, 0, 5, (0, 3, 5)),
            (json!({"maxUnavailable": 1}), 3, 0, 3, (1, 2, 3)),
            (json!({"maxUnavailable": 1}), 2, 1, 3, (0, 2, 3)),
            (json!({"maxUnavailable": "34%"}), 3, 0, 3, (2, 1, 3)),
            (json!({"maxUnavailable": 0}), 3, 0, 3, (0, 3, 3)),
            (json!({"minAvailable": 0}), 0, 0, 0, (0, 0, 0)),
        ];
        for (spec, ready, unready, scale, expect) in cases {
            let (status, _) = status(
                &budget(spec.clone(), json!({})),
                &pods(ready, unready),
                scale,
                now(),
            );
            let got = (
                status.disruptions_allowed,
                status.desired_healthy,
                status.expected_pods,
            );
            assert_eq!(
                got,
                (Some(expect.0), Some(expect.1), Some(expect.2)),
                "{spec}"
            );
        }
    }

    #[test]
    fn a_granted_eviction_counts_until_the_pod_goes_or_time_passes() {
        let recent = budget(
            json!({"minAvailable": 1}),
            json!({"p0": "2026-01-01T00:09:00Z"}),
        );
        let (told, wait) = status(&recent, &pods(3, 0), 0, now());
        assert_eq!(
            (told.current_healthy, told.disruptions_allowed),
            (Some(2), Some(1))
        );
        assert_eq!(wait, Some(Duration::from_secs(60)));
        let old = budget(
            json!({"minAvailable": 1}),
            json!({"p0": "2026-01-01T00:07:00Z"}),
        );
        assert_eq!(
            status(&old, &pods(3, 0), 0, now()).0.current_healthy,
            Some(3)
        );
    }

    #[test]
    fn the_condition_keeps_its_time_while_it_says_the_same() {
        let mut it = budget(json!({"minAvailable": 1}), json!({}));
        let first = status(&it, &pods(3, 0), 0, now()).0;
        it.status = Some(first.clone());
        let later = now() + Duration::from_secs(60);
        assert_eq!(
            status(&it, &pods(3, 0), 0, later).0.conditions,
            first.conditions
        );
    }
}
