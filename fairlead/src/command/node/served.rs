//! What the kubelet's server serves for the other parts of a node: metrics, and the policies'
//! questions that only the node can answer.

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Below the node's `proxy` in the API.
pub(crate) const CONNECTIONS: &str = "/fairlead/connections";
pub(crate) const PROBE: &str = "/fairlead/probe";

pub(super) fn beside() -> kubelet::Beside {
    kubelet::Beside {
        metrics: vec![policy::register, proxy::register],
        routes: Router::new()
            .route(CONNECTIONS, get(connections))
            .route(PROBE, get(probe)),
    }
}

/// The connections of the last hour, a line of JSON each.
async fn connections() -> Response {
    let asked = async {
        let mut stream = UnixStream::connect(policy::FLOWS_SOCKET).await?;
        stream.write_all(b"connections\n").await?;
        let mut lines = String::new();
        stream.read_to_string(&mut lines).await?;
        Ok::<_, std::io::Error>(lines)
    };
    match asked.await {
        Ok(lines) => lines.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct Asked {
    from: std::net::IpAddr,
    to: std::net::SocketAddr,
    protocol: String,
}

/// A connection from the pod that has an address.
async fn probe(Query(asked): Query<Asked>) -> Response {
    let Some(protocol) = policy::model::Protocol::parse(Some(&asked.protocol)) else {
        let message = format!("{:?} is none of TCP, UDP, SCTP", asked.protocol);
        return (StatusCode::BAD_REQUEST, message).into_response();
    };
    let probe = move || policy::probe::connect(asked.from, asked.to, protocol);
    match tokio::task::spawn_blocking(probe).await {
        Ok(Ok(outcome)) => axum::Json(outcome).into_response(),
        Ok(Err(error)) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
