//! What controllers ask of pods: alive, ready, available, and which to give up first.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Annotation that lets a user say which pods of a set to give up first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether the pod has ended, well or badly.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither ended nor about to.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether and when a pod counts as available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Available,
    /// Ready, but not for long enough; the rest of the time.
    In(Duration),
    NotReady,
}

/// A pod is available once it has been ready for `min_ready_seconds`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else {
        return Availability::NotReady;
    };
    let at = since + Duration::from_secs(min_ready_seconds.unsigned_abs().into());
    match until(at, now) {
        None => Availability::Available,
        Some(rest) => Availability::In(rest),
    }
}

pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_seconds, now) == Availability::Available
}

/// How long it is until `at`; None if that is past. Never shorter than a millisecond, so
/// that a wait for it does not end early.
pub fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    let rest = at.duration_since(now);
    (rest > jiff::SignedDuration::ZERO).then(|| rest.unsigned_abs().max(Duration::from_millis(1)))
}

/// The shortest time until one of the pods becomes available by waiting alone.
pub fn next_availability<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let rests =
        pods.into_iter()
            .filter_map(|pod| match availability(pod, min_ready_seconds, now) {
                Availability::In(rest) => Some(rest),
                _ => None,
            });
    rests.min()
}

/// A pod made from a template for its controller; the server completes the name.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner_name: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The pods with those to give up first in front: unassigned before assigned, pending before
/// running, unready before ready, cheap before dear, on crowded nodes before lonely ones,
/// ready lately before ready long, often restarted before steady, young before old. Ages are
/// compared by their order of magnitude so that no single pod is always the victim.
/// `neighbours` are the related pods by node, which say how crowded a node is.
pub fn rank_for_deletion(
    pods: &[Arc<Pod>],
    neighbours: &[Arc<Pod>],
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in neighbours.iter().filter(|pod| is_active(pod)) {
        *crowd.entry(node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<Arc<Pod>> = pods.to_vec();
    ranked.sort_by(|a, b| {
        let rank = |pod: &Arc<Pod>| crowd.get(node_name(pod)).copied().unwrap_or(0);
        compare(a, b, rank(a), rank(b), now)
    });
    ranked
}

fn compare(a: &Pod, b: &Pod, rank_a: usize, rank_b: usize, now: Timestamp) -> Ordering {
    let phase_order = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    let uid = |pod: &Pod| pod.metadata.uid.clone();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| age_order(ready_since(a), now).cmp(&age_order(ready_since(b), now)))
        .then_with(|| Reverse(restarts(a)).cmp(&Reverse(restarts(b))))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            age_order(created(a), now).cmp(&age_order(created(b), now))
        })
        .then_with(|| uid(a).cmp(&uid(b)))
}

/// Young first, by the logarithm of the age; unset counts as youngest.
fn age_order(since: Option<Timestamp>, now: Timestamp) -> i32 {
    let Some(since) = since else { return -1 };
    let age = now.duration_since(since).as_nanos();
    u128::try_from(age)
        .ok()
        .and_then(u128::checked_ilog2)
        .map_or(0, |log| log.cast_signed() + 1)
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(DELETION_COST))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// The highest restart count of the pod's containers.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: impl Fn(&mut Value)) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}});
        change(&mut pod);
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().expect("a time")
    }

    #[test]
    fn each_criterion_outweighs_those_after_it() {
        let in_order = [
            pod("unassigned", |pod| pod["spec"]["nodeName"] = json!("")),
            pod("pending", |pod| pod["status"]["phase"] = json!("Pending")),
            pod("unready", |pod| pod["status"]["conditions"] = json!([])),
            pod("cheap", |pod| {
                pod["metadata"]["annotations"] = json!({DELETION_COST: "-1"})
            }),
            pod("crowded", |_| {}),
            pod("lately-ready", |pod| {
                pod["spec"]["nodeName"] = json!("n2");
                pod["status"]["conditions"][0]["lastTransitionTime"] =
                    json!("2026-01-01T00:00:59Z");
            }),
            pod("restarted", |pod| {
                pod["spec"]["nodeName"] = json!("n3");
                pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i",
                    "imageID": "i", "ready": true, "restartCount": 3}]);
            }),
            pod("steady", |pod| pod["spec"]["nodeName"] = json!("n4")),
        ];
        let mut shuffled = in_order.to_vec();
        shuffled.reverse();
        let ranked = rank_for_deletion(&shuffled, &in_order, now());
        let names = |pods: &[Arc<Pod>]| -> Vec<Option<String>> {
            pods.iter().map(|pod| pod.metadata.name.clone()).collect()
        };
        assert_eq!(names(&ranked), names(&in_order));
    }

    #[test]
    fn a_ready_pod_becomes_available_after_min_ready_seconds() {
        let ready = pod("a", |_| {});
        assert_eq!(availability(&ready, 0, now()), Availability::Available);
        assert_eq!(availability(&ready, 50, now()), Availability::Available);
        let rest = Availability::In(Duration::from_secs(10));
        assert_eq!(availability(&ready, 60, now()), rest);
        let unready = pod("b", |pod| pod["status"]["conditions"] = json!([]));
        assert_eq!(availability(&unready, 0, now()), Availability::NotReady);
    }
}
