//! What the kubelet measures of itself.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    pub operation: &'static str,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub pods: Gauge,
    pub operations: Family<Operation, Counter>,
    pub operation_errors: Family<Operation, Counter>,
    /// From the first sight of a pod to all of its containers started.
    pub pod_start: Histogram,
    /// The same without the calls to the runtime.
    pub pod_start_own: Histogram,
    pub evictions: Counter,
    /// Always 1: says which node this is.
    pub node_name: Family<NodeName, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NodeName {
    pub node: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 14));
        Self {
            pods: Gauge::default(),
            operations: Family::default(),
            operation_errors: Family::default(),
            pod_start: seconds(),
            pod_start_own: seconds(),
            evictions: Counter::default(),
            node_name: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubelet_running_pods",
            "Pods with a worker",
            self.pods.clone(),
        );
        registry.register(
            "kubelet_runtime_operations",
            "Calls to the container runtime",
            self.operations.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Calls to the container runtime that failed",
            self.operation_errors.clone(),
        );
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "From the first sight of a pod to its containers running",
            self.pod_start.clone(),
        );
        registry.register(
            "kubelet_pod_start_own_duration_seconds",
            "The kubelet's own share of starting a pod, without the runtime's",
            self.pod_start_own.clone(),
        );
        registry.register(
            "kubelet_evictions",
            "Pods evicted under pressure",
            self.evictions.clone(),
        );
        registry.register(
            "kubelet_node_name",
            "The node's name",
            self.node_name.clone(),
        );
    }

    pub fn count<T, E>(&self, operation: &'static str, result: &Result<T, E>) {
        self.operations
            .get_or_create(&Operation { operation })
            .inc();
        if result.is_err() {
            self.operation_errors
                .get_or_create(&Operation { operation })
                .inc();
        }
    }

    pub fn observe_start(&self, total: Duration, runtime: Duration) {
        self.pod_start.observe(total.as_secs_f64());
        self.pod_start_own
            .observe(total.saturating_sub(runtime).as_secs_f64());
    }
}
