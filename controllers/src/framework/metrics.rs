//! Counters of the controllers' queues and syncs.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    controller: &'static str,
    result: &'static str,
}

/// The metrics of all controllers in this process.
#[derive(Default)]
pub struct Metrics {
    depth: Family<Named, Gauge>,
    syncs: Family<Ended, Counter>,
    busy: Family<Named, Counter<f64, std::sync::atomic::AtomicU64>>,
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

impl Metrics {
    pub(crate) fn depth(&self, controller: &'static str, depth: usize) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.depth.get_or_create(&Named { controller }).set(depth);
    }

    pub(crate) fn synced(&self, controller: &'static str, took: Duration, success: bool) {
        let result = if success { "success" } else { "error" };
        self.syncs
            .get_or_create(&Ended { controller, result })
            .inc();
        self.busy
            .get_or_create(&Named { controller })
            .inc_by(took.as_secs_f64());
    }
}

/// Adds the controllers' metrics to a registry.
pub fn register(registry: &mut Registry) {
    let controllers = registry.sub_registry_with_prefix("fairlead_controllers");
    controllers.register(
        "queue_depth",
        "Keys that wait in a work queue",
        METRICS.depth.clone(),
    );
    controllers.register("syncs", "Syncs by their result", METRICS.syncs.clone());
    controllers.register("sync_seconds", "Time spent in syncs", METRICS.busy.clone());
}
