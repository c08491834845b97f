//! What the proxy counts.

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The counters of this process.
pub(crate) struct Metrics {
    pub(crate) sync_duration: Histogram,
    pub(crate) changes: Counter,
    pub(crate) failures: Counter,
    pub(crate) refused: Counter,
    pub(crate) repairs: Counter,
    pub(crate) flows_deleted: Counter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    sync_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
    changes: Counter::default(),
    failures: Counter::default(),
    refused: Counter::default(),
    repairs: Counter::default(),
    flows_deleted: Counter::default(),
});

pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Adds the proxy's metrics to a registry.
pub fn register(registry: &mut Registry) {
    let m = metrics();
    let name = "kubeproxy_sync_proxy_rules_duration_seconds";
    registry.register(
        name,
        "Time to bring the kernel up to date",
        m.sync_duration.clone(),
    );
    let name = "kubeproxy_changes";
    registry.register(
        name,
        "Events of Services, slices and nodes",
        m.changes.clone(),
    );
    let name = "kubeproxy_sync_failures";
    registry.register(name, "Writes to the kernel that failed", m.failures.clone());
    let name = "kubeproxy_refused_services";
    registry.register(name, "Services that the kernel refused", m.refused.clone());
    let name = "kubeproxy_repairs";
    registry.register(
        name,
        "Times that foreign changes were repaired",
        m.repairs.clone(),
    );
    let name = "kubeproxy_conntrack_deleted_flows";
    registry.register(
        name,
        "Stale flows taken out of conntrack",
        m.flows_deleted.clone(),
    );
}
