//! Counters of the scheduler, under upstream's names.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Counts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waiting {
    queue: &'static str,
}

/// How an attempt to schedule a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Result {
    Scheduled,
    Unschedulable,
    Error,
}

impl Result {
    fn name(self) -> &'static str {
        match self {
            Result::Scheduled => "scheduled",
            Result::Unschedulable => "unschedulable",
            Result::Error => "error",
        }
    }
}

struct Metrics {
    attempts: Family<Attempt, Counter>,
    deciding: Histogram,
    pending: Family<Waiting, Gauge>,
    preemptions: Counter,
    victims: Histogram,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    attempts: Family::default(),
    deciding: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
    pending: Family::default(),
    preemptions: Counter::default(),
    victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
});

pub(crate) fn attempted(result: Result) {
    let result = result.name();
    METRICS.attempts.get_or_create(&Attempt { result }).inc();
}

pub(crate) fn decided(took: Duration) {
    METRICS.deciding.observe(took.as_secs_f64());
}

pub(crate) fn preempted(victims: usize) {
    METRICS.preemptions.inc();
    METRICS.victims.observe(victims as f64);
}

pub(crate) fn pending(counts: Counts) {
    let each = [
        ("active", counts.active),
        ("backoff", counts.backoff),
        ("unschedulable", counts.unschedulable),
        ("gated", counts.gated),
    ];
    for (queue, count) in each {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        METRICS.pending.get_or_create(&Waiting { queue }).set(count);
    }
}

/// Adds the scheduler's metrics to a registry.
pub fn register(registry: &mut Registry) {
    let scheduler = registry.sub_registry_with_prefix("scheduler");
    scheduler.register(
        "schedule_attempts",
        "Attempts to schedule pods, by their result",
        METRICS.attempts.clone(),
    );
    scheduler.register(
        "scheduling_algorithm_duration_seconds",
        "Time to decide on one pod",
        METRICS.deciding.clone(),
    );
    scheduler.register(
        "pending_pods",
        "Pods that wait, by the part of the queue they are in",
        METRICS.pending.clone(),
    );
    scheduler.register(
        "preemption_attempts",
        "Times that pods were evicted for a more important one",
        METRICS.preemptions.clone(),
    );
    scheduler.register(
        "preemption_victims",
        "Pods evicted at a time",
        METRICS.victims.clone(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_that_dashboards_ask_for() {
        let mut registry = Registry::default();
        register(&mut registry);
        attempted(Result::Scheduled);
        pending(Counts {
            active: 1,
            ..Counts::default()
        });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for name in [
            "scheduler_schedule_attempts_total{result=\"scheduled\"}",
            "scheduler_pending_pods{queue=\"active\"}",
            "scheduler_preemption_attempts_total",
        ] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }
}
