//! How many replicas a measured load asks for. Pure.
//!
//! Pods that are not ready, or that have no measurement, are counted so that they never make
//! a change larger: as idle when the load asks for more, as fully used when it asks for less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::framework::pods::{condition, is_terminating, phase};

/// A deviation from the target below this part changes nothing.
pub(crate) const TOLERANCE: f64 = 0.1;
/// For so long a new pod's CPU usage may be that of its start.
const CPU_START: Duration = Duration::from_secs(300);
/// A pod that was last not ready so soon after its start has never been ready.
const FIRST_READINESS: Duration = Duration::from_secs(30);

/// One pod's measurement, in thousandths of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub value: i64,
    pub taken: Timestamp,
    pub window: Duration,
}

pub(crate) type Samples = BTreeMap<String, Sample>;

/// How the pods of a target stand to their measurements.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    pub ready: usize,
    pub unready: Vec<String>,
    pub missing: Vec<String>,
    pub ignored: Vec<String>,
}

/// `cpu`: whether the measurement is CPU usage, which is not believed while a pod starts.
pub(crate) fn group(pods: &[Arc<Pod>], samples: &Samples, cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        if is_terminating(pod) || phase(pod) == "Failed" {
            groups.ignored.push(name);
        } else if phase(pod) == "Pending" {
            groups.unready.push(name);
        } else if let Some(sample) = samples.get(&name) {
            if cpu && is_starting(pod, sample, now) {
                groups.unready.push(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.push(name);
        }
    }
    groups
}

fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else {
        return true;
    };
    let turned = ready.last_transition_time.as_ref().map(|time| time.0);
    let unready = ready.status == "False";
    if started.0 + CPU_START > now {
        let measured_before = turned.is_some_and(|turned| sample.taken < turned + sample.window);
        return unready || measured_before;
    }
    unready && turned.is_some_and(|turned| started.0 + FIRST_READINESS > turned)
}

/// What a metric is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target<'a> {
    /// A percentage of what the pods request, by pod.
    Utilization {
        percent: i64,
        requests: &'a BTreeMap<String, i64>,
    },
    /// An average over the pods.
    Average(i64),
}

/// What came of a metric over pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub replicas: i32,
    /// The average in percent of the requests, where that is the target.
    pub utilization: Option<i64>,
    /// The average per pod.
    pub average: i64,
}

/// Why no number of replicas comes of a metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    Metrics,
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    Request {
        resource: String,
        container: String,
        pod: String,
    },
    #[error("no pods returned by selector while calculating replica count")]
    Pods,
    #[error("no metrics returned matched known pods")]
    Match,
}

fn is_tolerated(ratio: f64, tolerance: f64) -> bool {
    (ratio - 1.0).abs() <= tolerance
}

fn ceil(number: f64) -> i32 {
    // A saturating cast is what is wanted of an absurd load.
    number.ceil() as i32
}

/// (ratio to the target, utilization, average)
fn ratio(samples: &Samples, target: Target<'_>) -> Result<(f64, Option<i64>, i64), NoAnswer> {
    let count = i64::try_from(samples.len()).unwrap_or(i64::MAX);
    if count == 0 {
        return Err(NoAnswer::Metrics);
    }
    let sum: i64 = samples.values().map(|sample| sample.value).sum();
    match target {
        Target::Average(wanted) => {
            let average = sum / count;
            Ok((average as f64 / wanted.max(1) as f64, None, average))
        }
        Target::Utilization { percent, requests } => {
            let known =
                |(pod, sample): (&String, &Sample)| Some((sample.value, *requests.get(pod)?));
            let (used, requested) = samples
                .iter()
                .filter_map(known)
                .fold((0_i64, 0_i64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            if requested == 0 {
                return Err(NoAnswer::Match);
            }
            let utilization = used.saturating_mul(100) / requested;
            let ratio = utilization as f64 / percent.max(1) as f64;
            Ok((ratio, Some(utilization), sum / count))
        }
    }
}

/// The replicas that a metric of each pod asks for.
pub(crate) fn of_pods(
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    target: Target<'_>,
    cpu: bool,
    tolerance: f64,
    now: Timestamp,
) -> Result<Answer, NoAnswer> {
    if pods.is_empty() {
        return Err(NoAnswer::Pods);
    }
    let groups = group(pods, &samples, cpu, now);
    for name in groups.ignored.iter().chain(&groups.unready) {
        samples.remove(name);
    }
    let (first, utilization, average) = ratio(&samples, target)?;
    let answer = |replicas: i32| Answer {
        replicas,
        utilization,
        average,
    };
    let grows_with_unready = !groups.unready.is_empty() && first > 1.0;
    if !grows_with_unready && groups.missing.is_empty() {
        if is_tolerated(first, tolerance) {
            return Ok(answer(current));
        }
        return Ok(answer(ceil(first * groups.ready as f64)));
    }
    assume(&mut samples, &groups, first, target, now);
    let (second, _, _) = ratio(&samples, target)?;
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    if is_tolerated(second, tolerance) || turned {
        return Ok(answer(current));
    }
    let replicas = ceil(second * samples.len() as f64);
    let against = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    Ok(answer(if against { current } else { replicas }))
}

/// Fills in what is not known about pods, against the direction of the change.
fn assume(samples: &mut Samples, groups: &Groups, ratio: f64, target: Target<'_>, now: Timestamp) {
    let sample = |value: i64| Sample {
        value,
        taken: now,
        window: Duration::ZERO,
    };
    let full = |pod: &String| match target {
        Target::Average(wanted) => wanted,
        Target::Utilization { percent, requests } => {
            requests.get(pod).copied().unwrap_or(0) * percent.max(100) / 100
        }
    };
    for pod in &groups.missing {
        if ratio < 1.0 {
            samples.insert(pod.clone(), sample(full(pod)));
        } else if ratio > 1.0 {
            samples.insert(pod.clone(), sample(0));
        }
    }
    if !groups.unready.is_empty() && ratio > 1.0 {
        for pod in &groups.unready {
            samples.insert(pod.clone(), sample(0));
        }
    }
}

/// The replicas that one value for all pods together asks for.
pub(crate) fn of_value(current: i32, ready: usize, usage: i64, target: i64, tolerance: f64) -> i32 {
    let ratio = usage as f64 / target.max(1) as f64;
    if current == 0 {
        return ceil(ratio);
    }
    if is_tolerated(ratio, tolerance) {
        return current;
    }
    ceil(ratio * ready as f64)
}

/// The replicas among which a value has to be divided.
pub(crate) fn of_share(current: i32, usage: i64, target: i64, tolerance: f64) -> i32 {
    let ratio = usage as f64 / (target.max(1) as f64 * f64::from(current));
    if is_tolerated(ratio, tolerance) {
        return current;
    }
    ceil(usage as f64 / target.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    fn pod(name: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "namespace": "ns"},
            "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": status,
                    "lastTransitionTime": "2026-01-01T00:00:10Z"}]}});
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let sample = |value| Sample {
            value,
            taken: now(),
            window: Duration::from_secs(60),
        };
        values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), sample(*value)))
            .collect()
    }

    /// Three pods that request 1000 each, measured so; the answer's replicas for 50 percent.
    #[track_caller]
    fn check(pods: &[Arc<Pod>], values: &[(&str, i64)], expect: Result<i32, NoAnswer>) {
        let requests: BTreeMap<String, i64> =
            pods.iter().map(|pod| (pod.name_any(), 1000)).collect();
        let target = Target::Utilization {
            percent: 50,
            requests: &requests,
        };
        let current = i32::try_from(pods.len()).expect("few");
        let answer = of_pods(
            current,
            pods,
            samples(values),
            target,
            true,
            TOLERANCE,
            now(),
        );
        assert_eq!(answer.map(|answer| answer.replicas), expect);
    }

    #[test]
    fn utilization_is_brought_to_its_target() {
        let pods = ["a", "b", "c"].map(|name| pod(name, "Running", true));
        check(&pods, &[("a", 900), ("b", 900), ("c", 900)], Ok(6));
        check(&pods, &[("a", 520), ("b", 500), ("c", 540)], Ok(3));
        check(&pods, &[("a", 100), ("b", 200), ("c", 100)], Ok(1));
        check(&pods, &[], Err(NoAnswer::Metrics));
        check(&[], &[], Err(NoAnswer::Pods));
    }

    #[test]
    fn pods_that_are_not_known_make_no_change_larger() {
        let all = ["a", "b", "c"].map(|name| pod(name, "Running", true));
        // Idle on the way up: (900 + 900 + 0) / 3000 is 60 percent of 50, 1.2 times three.
        check(&all, &[("a", 900), ("b", 900)], Ok(4));
        // Full on the way down: (100 + 100 + 1000) / 3000 is 40 percent of 50.
        check(&all, &[("a", 100), ("b", 100)], Ok(3));
        let starting = [pod("a", "Running", true), pod("b", "Pending", false)];
        check(&starting, &[("a", 600)], Ok(2));
        check(&starting, &[("a", 100)], Ok(1));
        let never_ready = [pod("a", "Running", true), pod("b", "Running", false)];
        check(&never_ready, &[("a", 100), ("b", 5000)], Ok(1));
    }

    #[test]
    fn one_value_for_all_is_compared_or_divided() {
        assert_eq!(of_value(3, 3, 20_000, 10_000, TOLERANCE), 6);
        assert_eq!(of_value(3, 3, 10_500, 10_000, TOLERANCE), 3);
        assert_eq!(of_value(0, 0, 25_000, 10_000, TOLERANCE), 3);
        assert_eq!(of_share(3, 50_000, 10_000, TOLERANCE), 5);
        assert_eq!(of_share(5, 51_000, 10_000, TOLERANCE), 5);
    }
}
