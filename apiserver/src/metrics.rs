//! What the API server measures of itself, under the names that dashboards know.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ApiServer;
use crate::request::RequestInfo;

/// What `/metrics` shows; the parts of a process add theirs.
pub type SharedMetrics = Arc<Mutex<Registry>>;

/// The media type of the text that `prometheus_client` writes.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds; those of kube-apiserver, so that its recording rules work.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// What requests are told apart by. Resources that nobody serves have no name here: clients could
/// make up any number of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Target {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

struct Metrics {
    requests: Family<Answered, Counter>,
    durations: Family<Target, Histogram>,
    inflight: Family<Kind, Gauge>,
    lasting: Family<Target, Gauge>,
    watch_events: Counter<u64, AtomicU64>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    requests: Family::default(),
    durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
    inflight: Family::default(),
    lasting: Family::default(),
    watch_events: Counter::default(),
});

/// Adds the API server's metrics to a registry.
pub fn register(registry: &mut Registry) {
    let server = registry.sub_registry_with_prefix("apiserver");
    server.register(
        "request",
        "Requests by verb, resource, scope and the answer's code",
        METRICS.requests.clone(),
    );
    server.register(
        "request_duration_seconds",
        "Time to answer a request, without those that last",
        METRICS.durations.clone(),
    );
    server.register(
        "current_inflight_requests",
        "Requests that are being answered, by whether they change something",
        METRICS.inflight.clone(),
    );
    server.register(
        "longrunning_requests",
        "Watches and streams that are open",
        METRICS.lasting.clone(),
    );
    server.register(
        "watch_events",
        "Events sent to watches",
        METRICS.watch_events.clone(),
    );
}

/// The metrics of this server, with how many objects it stores.
pub(crate) fn of_server(api: &ApiServer) -> SharedMetrics {
    let mut registry = Registry::default();
    register(&mut registry);
    registry.register_collector(Box::new(StoredObjects(api.clone())));
    Arc::new(Mutex::new(registry))
}

/// Counted when somebody asks, not at every change.
struct StoredObjects(ApiServer);

impl fmt::Debug for StoredObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredObjects")
    }
}

impl Collector for StoredObjects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // A resource has one cache, in however many versions it is served.
        let mut counts = BTreeMap::new();
        for resource in self.0.registry().catalog.all() {
            counts.insert(
                name(&resource.plural, &resource.group),
                resource.cache.len(),
            );
        }
        let mut family = encoder.encode_descriptor(
            "apiserver_storage_objects",
            "Objects in the store, by resource",
            None,
            MetricType::Gauge,
        )?;
        for (resource, count) in counts {
            let labels = [("resource", resource.as_str())];
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// `pods`, `deployments.apps`.
fn name(plural: &str, group: &str) -> String {
    if group.is_empty() {
        return plural.to_owned();
    }
    format!("{plural}.{group}")
}

/// One more event went to a watch.
pub(crate) fn watch_event() {
    METRICS.watch_events.inc();
}

impl Target {
    /// Of a request; `known` says whether its resource is served.
    pub(crate) fn of(info: &RequestInfo, method: &Method, known: bool) -> Self {
        if !known {
            return Self {
                verb: verb(info, method),
                ..Self::default()
            };
        }
        Self {
            verb: verb(info, method),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: scope(info),
        }
    }
}

fn verb(info: &RequestInfo, method: &Method) -> &'static str {
    if matches!(
        info.subresource.as_str(),
        "exec" | "attach" | "portforward" | "proxy"
    ) {
        return "CONNECT";
    }
    match info.verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            _ => "other",
        },
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

/// A request that is being answered.
pub(crate) struct Inflight {
    since: Instant,
    kind: Kind,
}

impl Inflight {
    pub(crate) fn begin(method: &Method) -> Self {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let request_kind = if reads { "readOnly" } else { "mutating" };
        let kind = Kind { request_kind };
        METRICS.inflight.get_or_create(&kind).inc();
        Self {
            since: Instant::now(),
            kind,
        }
    }

    /// Counts the answer. Watches and streams are not timed: they last as long as they are wanted.
    pub(crate) fn answered(self, target: Target, code: StatusCode) {
        let took: Duration = self.since.elapsed();
        if !matches!(target.verb, "WATCH" | "CONNECT") {
            METRICS
                .durations
                .get_or_create(&target)
                .observe(took.as_secs_f64());
        }
        let answered = Answered {
            verb: target.verb,
            group: target.group,
            version: target.version,
            resource: target.resource,
            subresource: target.subresource,
            scope: target.scope,
            code: code.as_u16(),
        };
        METRICS.requests.get_or_create(&answered).inc();
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        METRICS.inflight.get_or_create(&self.kind).dec();
    }
}

/// A watch that is open.
pub(crate) struct Lasting(Target);

impl Lasting {
    pub(crate) fn begin(target: Target) -> Self {
        METRICS.lasting.get_or_create(&target).inc();
        Self(target)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        METRICS.lasting.get_or_create(&self.0).dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::request::Query;

    fn target(method: &Method, path: &str, known: bool) -> Target {
        let info = RequestInfo::parse(method, path, &Query::parse(None));
        Target::of(&info, method, known)
    }

    #[test]
    fn a_request_is_counted_under_upstreams_names() {
        let path = "/apis/apps/v1/namespaces/metrics-test/deployments/d/scale";
        let target = target(&Method::PATCH, path, true);
        Inflight::begin(&Method::PATCH).answered(target, StatusCode::CONFLICT);
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let labels = "verb=\"PATCH\",group=\"apps\",version=\"v1\",resource=\"deployments\",\
                      subresource=\"scale\",scope=\"resource\"";
        for line in [
            format!("apiserver_request_total{{{labels},code=\"409\"}} 1"),
            format!("apiserver_request_duration_seconds_count{{{labels}}} 1"),
            "apiserver_current_inflight_requests{request_kind=\"mutating\"}".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn names_that_nobody_serves_make_no_series() {
        let target = target(&Method::GET, "/apis/made.up/v1/things", false);
        assert_eq!(target.verb, "LIST");
        assert_eq!((target.group.as_str(), target.resource.as_str()), ("", ""));
    }

    #[test]
    fn scopes_are_those_of_upstream() {
        let scope = |path| target(&Method::GET, path, true).scope;
        assert_eq!(scope("/api/v1/namespaces/a/pods/b"), "resource");
        assert_eq!(scope("/api/v1/namespaces/a/pods"), "namespace");
        assert_eq!(scope("/api/v1/pods"), "cluster");
    }
}
