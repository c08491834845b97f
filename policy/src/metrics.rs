//! What the agent counts.

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::Direction;

/// The counters of this process.
pub(crate) struct Metrics {
    pub(crate) write_duration: Histogram,
    pub(crate) failures: Counter,
    pub(crate) repairs: Counter,
    pub(crate) endpoints: Gauge,
    dropped_ingress: Counter,
    dropped_egress: Counter,
    accepted_ingress: Counter,
    accepted_egress: Counter,
}

impl Metrics {
    pub(crate) fn logged(&self, direction: Direction, accepted: bool) -> &Counter {
        match (direction, accepted) {
            (Direction::Ingress, false) => &self.dropped_ingress,
            (Direction::Egress, false) => &self.dropped_egress,
            (Direction::Ingress, true) => &self.accepted_ingress,
            (Direction::Egress, true) => &self.accepted_egress,
        }
    }
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    write_duration: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
    failures: Counter::default(),
    repairs: Counter::default(),
    endpoints: Gauge::default(),
    dropped_ingress: Counter::default(),
    dropped_egress: Counter::default(),
    accepted_ingress: Counter::default(),
    accepted_egress: Counter::default(),
});

pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Adds the agent's metrics to a registry.
pub fn register(registry: &mut Registry) {
    let m = metrics();
    registry.register(
        "fairlead_policy_write_duration_seconds",
        "Time from a batch of changes to its rules in the kernel",
        m.write_duration.clone(),
    );
    registry.register(
        "fairlead_policy_write_failures",
        "Transactions that the kernel refused",
        m.failures.clone(),
    );
    registry.register(
        "fairlead_policy_repairs",
        "Times that somebody else changed our table",
        m.repairs.clone(),
    );
    registry.register(
        "fairlead_policy_endpoints",
        "Interfaces of pods that have rules",
        m.endpoints.clone(),
    );
    registry.register(
        "fairlead_policy_logged_drops_ingress",
        "Logged packets that were dropped on their way to a pod",
        m.dropped_ingress.clone(),
    );
    registry.register(
        "fairlead_policy_logged_drops_egress",
        "Logged packets that were dropped on their way from a pod",
        m.dropped_egress.clone(),
    );
    registry.register(
        "fairlead_policy_logged_accepts_ingress",
        "Logged connections that were accepted on their way to a pod, while that is asked for",
        m.accepted_ingress.clone(),
    );
    registry.register(
        "fairlead_policy_logged_accepts_egress",
        "Logged connections that were accepted on their way from a pod, while that is asked for",
        m.accepted_egress.clone(),
    );
}
