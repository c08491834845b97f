use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::auth::{self, Gate};
use super::{logs, metrics, stats, stream};
use crate::context::Context;
use crate::run::Beside;

/// What every handler has.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) context: Arc<Context>,
    registry: Arc<Registry>,
}

pub(super) fn router(context: Arc<Context>, beside: Beside) -> Router {
    let mut registry = Registry::default();
    context.metrics.register(&mut registry);
    for register in beside.metrics {
        register(&mut registry);
    }
    let gate = Arc::new(Gate::new(
        context.client.clone(),
        context.config.node_name.clone(),
    ));
    let shared = Shared {
        context,
        registry: Arc::new(registry),
    };
    let exec = || get(stream::exec).post(stream::exec);
    let attach = || get(stream::attach).post(stream::attach);
    let forward = || get(stream::port_forward).post(stream::port_forward);
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/ping", get(healthz))
        .route("/pods", get(pods))
        .route("/runningpods/", get(running_pods))
        .route("/runningpods", get(running_pods))
        .route("/configz", get(configz))
        .route("/metrics", get(own_metrics))
        .route("/metrics/cadvisor", get(cadvisor))
        .route("/metrics/resource", get(resource))
        .route("/metrics/probes", get(|| async { "" }))
        .route("/stats/summary", get(summary))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(logs::container),
        )
        .route("/exec/{namespace}/{pod}/{container}", exec())
        .route("/exec/{namespace}/{pod}/{uid}/{container}", exec())
        .route("/attach/{namespace}/{pod}/{container}", attach())
        .route("/attach/{namespace}/{pod}/{uid}/{container}", attach())
        .route("/portForward/{namespace}/{pod}", forward())
        .route("/portForward/{namespace}/{pod}/{uid}", forward())
        .with_state(shared)
        .merge(beside.routes)
        .layer(middleware::from_fn_with_state(gate, auth::check))
}

async fn healthz() -> &'static str {
    "ok"
}

fn pod_list(pods: impl Iterator<Item = Arc<Pod>>) -> Response {
    let items: Vec<Value> = pods
        .map(|pod| serde_json::to_value(pod.as_ref()).unwrap_or_default())
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    axum::Json(list).into_response()
}

async fn pods(State(shared): State<Shared>) -> Response {
    pod_list(
        shared
            .context
            .list()
            .into_iter()
            .map(|listed| listed.current),
    )
}

async fn running_pods(State(shared): State<Shared>) -> Response {
    let running = |pods: Vec<crate::context::Listed>| {
        pods.into_iter()
            .filter(|listed| listed.observed.alive().next().is_some())
    };
    pod_list(running(shared.context.list()).map(|listed| listed.current))
}

async fn configz(State(shared): State<Shared>) -> Response {
    let config = &shared.context.config;
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    axum::Json(json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.listen.map(|listen| listen.ip().to_string()),
        "port": config.listen.map(|listen| listen.port()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": if config.cgroup_root.is_empty() { "/" } else { &config.cgroup_root },
        "clusterDNS": dns,
        "clusterDomain": config.cluster_domain,
        "containerLogMaxFiles": config.log_max_files,
        "containerLogMaxSize": config.log_max_bytes.to_string(),
        "containerRuntimeEndpoint": format!("unix://{}", config.runtime_socket.display()),
        "maxPods": config.max_pods,
        "nodeLeaseDurationSeconds": config.lease_seconds,
        "nodeStatusReportFrequency": format!("{}s", config.status_interval.as_secs()),
        "allowedUnsafeSysctls": config.allowed_sysctls,
        "imageGCHighThresholdPercent": config.images.high_percent as i64,
        "imageGCLowThresholdPercent": config.images.low_percent as i64,
        "systemReserved": config.reserved,
    }}))
    .into_response()
}

fn text(body: String, kind: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn own_metrics(State(shared): State<Shared>) -> Response {
    let mut body = String::new();
    match encode(&mut body, &shared.registry) {
        Ok(()) => text(
            body,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        Err(error) => failure(&error),
    }
}

fn failure(error: &dyn std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn cadvisor(State(shared): State<Shared>) -> Response {
    match stats::usage(&shared.context).await {
        Ok(usage) => text(metrics::cadvisor(&usage), PLAIN),
        Err(error) => failure(&error),
    }
}

async fn resource(State(shared): State<Shared>) -> Response {
    match stats::usage(&shared.context).await {
        Ok(usage) => text(metrics::resource(&usage), PLAIN),
        Err(error) => failure(&error),
    }
}

async fn summary(State(shared): State<Shared>) -> Response {
    match stats::usage(&shared.context).await {
        Ok(mut usage) => {
            stats::add_volumes(&shared.context, &mut usage).await;
            axum::Json(stats::summary(&usage)).into_response()
        }
        Err(error) => failure(&error),
    }
}
