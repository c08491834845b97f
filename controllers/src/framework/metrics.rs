//! What the controllers' queues and syncs do, under the names of upstream's work queues.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A queue: its controller's name without `-controller`, as upstream names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: &'static str,
}

impl Named {
    fn of(controller: &'static str) -> Self {
        let name = controller.strip_suffix("-controller").unwrap_or(controller);
        Self { name }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    controller: &'static str,
    result: &'static str,
}

type Durations = Family<Named, Histogram, fn() -> Histogram>;

fn durations() -> Durations {
    // From 10 ns to 1000 s, as upstream's.
    Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-8, 10.0, 12)))
}

/// The metrics of all controllers in this process.
pub struct Metrics {
    depth: Family<Named, Gauge>,
    adds: Family<Named, Counter>,
    retries: Family<Named, Counter>,
    waited: Durations,
    worked: Durations,
    syncs: Family<Ended, Counter>,
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    depth: Family::default(),
    adds: Family::default(),
    retries: Family::default(),
    waited: durations(),
    worked: durations(),
    syncs: Family::default(),
});

impl Metrics {
    /// A key was added to a queue, which now has so many.
    pub(crate) fn added(&self, controller: &'static str, depth: usize) {
        self.adds.get_or_create(&Named::of(controller)).inc();
        self.depth(controller, depth);
    }

    /// A key was taken that had waited for so long.
    pub(crate) fn taken(&self, controller: &'static str, waited: Duration, depth: usize) {
        let named = Named::of(controller);
        self.waited
            .get_or_create(&named)
            .observe(waited.as_secs_f64());
        self.depth(controller, depth);
    }

    /// A key failed and comes back.
    pub(crate) fn retried(&self, controller: &'static str) {
        self.retries.get_or_create(&Named::of(controller)).inc();
    }

    pub(crate) fn synced(&self, controller: &'static str, took: Duration, success: bool) {
        let result = if success { "success" } else { "error" };
        self.syncs
            .get_or_create(&Ended { controller, result })
            .inc();
        self.worked
            .get_or_create(&Named::of(controller))
            .observe(took.as_secs_f64());
    }

    fn depth(&self, controller: &'static str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.depth.get_or_create(&Named::of(controller)).set(depth);
    }
}

/// Adds the controllers' metrics to a registry.
pub fn register(registry: &mut Registry) {
    let queues = registry.sub_registry_with_prefix("workqueue");
    queues.register("depth", "Current depth of workqueue", METRICS.depth.clone());
    queues.register(
        "adds",
        "Total number of adds handled by workqueue",
        METRICS.adds.clone(),
    );
    queues.register(
        "retries",
        "Total number of retries handled by workqueue",
        METRICS.retries.clone(),
    );
    queues.register(
        "queue_duration_seconds",
        "How long in seconds an item stays in workqueue before being requested",
        METRICS.waited.clone(),
    );
    queues.register(
        "work_duration_seconds",
        "How long in seconds processing an item from workqueue takes",
        METRICS.worked.clone(),
    );
    let controllers = registry.sub_registry_with_prefix("fairlead_controllers");
    controllers.register("syncs", "Syncs by their result", METRICS.syncs.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_the_names_that_dashboards_ask_for() {
        let mut registry = Registry::default();
        register(&mut registry);
        METRICS.added("metrics-test-controller", 1);
        METRICS.taken("metrics-test-controller", Duration::from_millis(3), 0);
        METRICS.retried("metrics-test-controller");
        METRICS.synced("metrics-test-controller", Duration::from_millis(3), true);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            "workqueue_depth{name=\"metrics-test\"} 0",
            "workqueue_adds_total{name=\"metrics-test\"} 1",
            "workqueue_retries_total{name=\"metrics-test\"} 1",
            "workqueue_queue_duration_seconds_count{name=\"metrics-test\"} 1",
            "workqueue_work_duration_seconds_count{name=\"metrics-test\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
