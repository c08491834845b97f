//! Metrics of a part that runs alone.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Takes the address and answers at `/metrics` until `shutdown`.
pub(super) async fn serve_metrics(
    address: SocketAddr,
    register: fn(&mut Registry),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    register(&mut registry);
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot serve metrics on {address}"))?;
    let registry = std::sync::Arc::new(registry);
    let metrics = move || async move {
        let mut body = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut body, &registry);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    };
    let router = Router::new().route("/metrics", get(metrics));
    let served = axum::serve(listener, router);
    tokio::spawn(async move {
        let ended = served.with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = ended.await {
            tracing::warn!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}
