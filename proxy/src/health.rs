//! Health, for people and for load balancers.
//!
//! `/healthz` says whether load balancers may use this node: the proxy keeps up, and the node
//! is not being deleted. `/livez` says only whether the proxy keeps up. Each Service with a
//! `healthCheckNodePort` has a server of its own, which tells whether this node has back ends.
//! The metrics have a server of their own, which answers `/proxyMode` and `/healthz` too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::Pictures;
use crate::config::{Config, Mode};
use crate::metrics;
use crate::model::ServiceKey;

/// A change that is not in the kernel after this time means that the proxy does not keep up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The cluster autoscaler's sign that a node is about to go.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
const FIRST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct State {
    /// Since when a change waits for the kernel.
    pending: Option<Instant>,
    written: Option<Instant>,
    node_eligible: bool,
    mode: Mode,
    /// Local back ends of the Services that have a health check.
    checks: BTreeMap<u16, (ServiceKey, usize)>,
}

impl State {
    fn keeps_up(&self) -> bool {
        self.written.is_some() && self.pending.is_none_or(|since| since.elapsed() < PATIENCE)
    }
}

/// The servers and what they tell.
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    servers: BTreeMap<u16, DropGuard>,
}

impl Health {
    /// Starts the proxy's own server, where one is wanted.
    pub(crate) fn start(config: &Config, shutdown: &CancellationToken) -> Self {
        let state = Arc::new(Mutex::new(State {
            pending: None,
            written: None,
            node_eligible: true,
            mode: config.mode,
            checks: BTreeMap::new(),
        }));
        if let Some(address) = config.healthz {
            let (healthy, alive) = (state.clone(), state.clone());
            let router = axum::Router::new()
                .route(
                    "/healthz",
                    get(move || async move { own_answer(&healthy, true) }),
                )
                .route(
                    "/livez",
                    get(move || async move { own_answer(&alive, false) }),
                );
            tokio::spawn(serve(address, router, shutdown.child_token()));
        }
        if let Some(address) = config.metrics {
            let router = metrics_router(&state);
            tokio::spawn(serve(address, router, shutdown.child_token()));
        }
        Self {
            state,
            servers: BTreeMap::new(),
        }
    }

    /// What the API says of this node; `None` before it is there.
    pub(crate) fn node(&mut self, node: Option<&Node>) {
        let deleted = node.is_some_and(|node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            node.metadata.deletion_timestamp.is_some()
                || taints
                    .into_iter()
                    .flatten()
                    .any(|taint| taint.key == TO_BE_DELETED)
        });
        self.state.lock().node_eligible = !deleted;
    }

    /// A change is on its way to the kernel.
    pub(crate) fn pending(&mut self) {
        self.state.lock().pending.get_or_insert_with(Instant::now);
    }

    /// The kernel is up to date.
    pub(crate) fn written(&mut self, mode: Mode, pictures: &Pictures) {
        let mut checks = BTreeMap::new();
        for (key, picture) in pictures {
            if let Some(health) = &picture.health {
                checks.insert(health.port, (key.clone(), health.local_endpoints));
            }
        }
        let wanted: BTreeSet<u16> = checks.keys().copied().collect();
        {
            let mut state = self.state.lock();
            state.pending = None;
            state.mode = mode;
            state.written = Some(Instant::now());
            state.checks = checks;
        }
        self.servers.retain(|port, _| wanted.contains(port));
        for port in wanted {
            let state = &self.state;
            self.servers
                .entry(port)
                .or_insert_with(|| start_check(port, state.clone()));
        }
    }
}

fn start_check(port: u16, state: Arc<Mutex<State>>) -> DropGuard {
    let stop = CancellationToken::new();
    let router = axum::Router::new().fallback(move || {
        let state = state.clone();
        async move { check_answer(&state, port) }
    });
    // Both families on one socket.
    let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    tokio::spawn(serve(address, router, stop.clone()));
    stop.drop_guard()
}

/// Serves until told to stop. A port that somebody else holds is tried again.
async fn serve(address: SocketAddr, router: axum::Router, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let listener = loop {
        let fallback = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, address.port()));
        let mut bound = tokio::net::TcpListener::bind(address).await;
        // A machine without IPv6.
        if bound
            .as_ref()
            .is_err_and(|e| e.kind() != std::io::ErrorKind::AddrInUse)
            && address.ip().is_unspecified()
        {
            bound = tokio::net::TcpListener::bind(fallback).await;
        }
        match bound {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%address, %error, "no health server, it is tried again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
        }
    };
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::warn!(%address, %error, "a health server ended");
    }
}

/// As kube-proxy's: metrics, the mode in force, and health.
fn metrics_router(state: &Arc<Mutex<State>>) -> axum::Router {
    let (mode, health) = (state.clone(), state.clone());
    let metrics = || async {
        match metrics::text() {
            Ok(text) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    axum::Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/proxyMode",
            get(move || async move { mode.lock().mode.name() }),
        )
        .route(
            "/healthz",
            get(move || async move { own_answer(&health, false) }),
        )
}

fn own_answer(state: &Mutex<State>, for_load_balancers: bool) -> Response {
    let state = state.lock();
    let healthy = state.keeps_up() && (state.node_eligible || !for_load_balancers);
    let seconds = state.written.map(|at| at.elapsed().as_secs());
    let body = serde_json::json!({
        "healthy": healthy,
        "secondsSinceUpdate": seconds,
        "nodeEligible": state.node_eligible,
    });
    json(healthy, body)
}

fn check_answer(state: &Mutex<State>, port: u16) -> Response {
    let state = state.lock();
    let Some((key, endpoints)) = state.checks.get(&port) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let proxy_healthy = state.keeps_up() && state.node_eligible;
    let body = serde_json::json!({
        "service": {"namespace": &*key.namespace, "name": &*key.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": proxy_healthy,
    });
    let mut response = json(*endpoints > 0 && proxy_healthy, body);
    let weight = header::HeaderName::from_static("x-load-balancing-endpoint-weight");
    response
        .headers_mut()
        .insert(weight, header::HeaderValue::from(*endpoints));
    response
}

fn json(healthy: bool, body: serde_json::Value) -> Response {
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let kind = [
        (header::CONTENT_TYPE, "application/json"),
        (
            header::HeaderName::from_static("x-content-type-options"),
            "nosniff",
        ),
    ];
    (status, kind, body.to_string()).into_response()
}
