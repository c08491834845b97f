//! What the proxy counts, under the names that kube-proxy's users know.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// When what an EndpointSlice tells of happened: a pod became ready, or went.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Seconds since 1970.
type Moment = Gauge<f64, AtomicU64>;

/// The counters of this process.
pub(crate) struct Metrics {
    pub(crate) sync_duration: Histogram,
    pub(crate) full_sync_duration: Histogram,
    pub(crate) partial_sync_duration: Histogram,
    pub(crate) programming_duration: Histogram,
    pub(crate) written: Moment,
    pub(crate) queued: Moment,
    pub(crate) service_changes: Counter,
    pub(crate) endpoint_changes: Counter,
    pub(crate) services: Gauge,
    pub(crate) failures: Counter,
    pub(crate) refused: Counter,
    pub(crate) repairs: Counter,
    pub(crate) flows_deleted: Counter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
    Metrics {
        sync_duration: seconds(),
        full_sync_duration: seconds(),
        partial_sync_duration: seconds(),
        programming_duration: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
        written: Moment::default(),
        queued: Moment::default(),
        service_changes: Counter::default(),
        endpoint_changes: Counter::default(),
        services: Gauge::default(),
        failures: Counter::default(),
        refused: Counter::default(),
        repairs: Counter::default(),
        flows_deleted: Counter::default(),
    }
});

pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

/// Seconds since 1970, as a gauge has them.
pub(crate) fn seconds_now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// When what the slice tells of happened, in seconds since 1970; `None` where nobody says.
pub(crate) fn trigger(slice: &EndpointSlice) -> Option<f64> {
    let annotations = slice.metadata.annotations.as_ref()?;
    let time: Timestamp = annotations.get(TRIGGER)?.parse().ok()?;
    Some(time.as_nanosecond() as f64 / 1e9)
}

/// Adds the proxy's metrics to a registry.
pub fn register(registry: &mut Registry) {
    let m = metrics();
    for (name, help, histogram) in [
        (
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring the kernel up to date",
            &m.sync_duration,
        ),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "The same, where everything was written",
            &m.full_sync_duration,
        ),
        (
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "The same, where only changes were written",
            &m.partial_sync_duration,
        ),
        (
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod or Service to the kernel being up to date",
            &m.programming_duration,
        ),
    ] {
        registry.register(name, help, histogram.clone());
    }
    for (name, help, gauge) in [
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the kernel was last brought up to date",
            &m.written,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When that was last asked for",
            &m.queued,
        ),
    ] {
        registry.register(name, help, gauge.clone());
    }
    registry.register(
        "kubeproxy_services",
        "Services that are in the kernel",
        m.services.clone(),
    );
    // The names of counters end with `_total`, which is added.
    for (name, help, counter) in [
        (
            "kubeproxy_sync_proxy_rules_service_changes",
            "Changes of Services",
            &m.service_changes,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices",
            &m.endpoint_changes,
        ),
        (
            "kubeproxy_sync_proxy_rules_failures",
            "Writes to the kernel that failed as a whole",
            &m.failures,
        ),
        (
            "kubeproxy_refused_services",
            "Times that the kernel refused a Service",
            &m.refused,
        ),
        (
            "kubeproxy_repairs",
            "Times that foreign changes were repaired",
            &m.repairs,
        ),
        (
            "kubeproxy_conntrack_reconciler_deleted_entries",
            "Stale flows taken out of conntrack",
            &m.flows_deleted,
        ),
    ] {
        registry.register(name, help, counter.clone());
    }
}

/// All metrics as text.
pub(crate) fn text() -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn names_are_those_of_kube_proxy() {
        let text = text().unwrap();
        for name in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
            "kubeproxy_network_programming_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name}\n{text}"
            );
        }
    }

    #[test]
    fn a_slice_says_when_its_change_happened() {
        let slice = |time: &str| {
            serde_json::from_value(serde_json::json!({
                "metadata": {"annotations": {TRIGGER: time}},
                "addressType": "IPv4",
                "endpoints": [],
            }))
            .unwrap()
        };
        assert_eq!(trigger(&slice("1970-01-01T00:00:01.5Z")), Some(1.5));
        assert_eq!(trigger(&slice("yesterday")), None);
    }
}
