//! What a part that runs alone tells about itself: `/metrics`, `/healthz`, `/livez`, `/readyz`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A place that is listened on, or none.
pub(crate) struct Observed {
    listener: Option<TcpListener>,
    registry: Registry,
}

impl Observed {
    /// Takes the place, so that a port in use is told at start.
    pub(crate) fn bind(address: Option<SocketAddr>, registry: Registry) -> anyhow::Result<Self> {
        let listen = |address: SocketAddr| {
            let listener = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.with_context(|| {
                format!("cannot serve metrics on {address}; choose another --metrics-bind-address")
            })
        };
        Ok(Self {
            listener: address.map(listen).transpose()?,
            registry,
        })
    }

    /// Answers until the end.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let Some(listener) = self.listener else {
            return;
        };
        let registry = Arc::new(self.registry);
        let metrics = move || {
            let registry = registry.clone();
            async move { ([(CONTENT_TYPE, OPEN_METRICS)], text(&registry)) }
        };
        let mut router = Router::new().route("/metrics", get(metrics));
        for path in ["/healthz", "/livez", "/readyz"] {
            router = router.route(path, get(|| async { "ok" }));
        }
        let served = async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router)
                .with_graceful_shutdown(shutdown.cancelled_owned())
                .await
        };
        if let Err(error) = served.await {
            tracing::warn!(%error, "metrics are served no more");
        }
    }
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}
