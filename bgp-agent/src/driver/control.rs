//! Answers for people and programs, over HTTP on a local socket: `fairlead bgp`, metrics.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Error, Event, Serving};
use crate::report::{self, Selection, Surroundings};
use crate::speaker::Speaker;

/// What can be asked.
#[derive(Debug)]
pub(super) enum Question {
    Status,
    Neighbors,
    Routes(Selection),
    Metrics,
}

impl Question {
    pub(super) fn answer(&self, speaker: &Speaker, around: &Surroundings, now: Instant) -> String {
        match self {
            Self::Status => json(&report::status(speaker, around, now)),
            Self::Neighbors => json(&report::neighbors(speaker, around, now)),
            Self::Routes(selection) => json(&report::routes(speaker, selection)),
            Self::Metrics => report::metrics(speaker, around, now),
        }
    }
}

/// Plain data with text keys always is JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

type Events = mpsc::Sender<Event>;

/// Listens where it is wanted. Only root may ask on the local socket.
pub(super) fn start(
    serving: &Serving,
    events: &Events,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let fault = |place: String| move |source| Error::Control { place, source };
    if let Some(path) = &serving.control {
        let listener = local(path).map_err(fault(path.display().to_string()))?;
        let app = router(events.clone());
        let stop = shutdown.clone().cancelled_owned();
        tokio::spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(stop)
                .await
        });
    }
    if let Some(address) = serving.metrics {
        let listener = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.map_err(fault(address.to_string()))?;
        let app = Router::new()
            .route("/metrics", get(metrics))
            .with_state(events.clone());
        let stop = shutdown.clone().cancelled_owned();
        tokio::spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(stop)
                .await
        });
    }
    Ok(())
}

/// In the place of a socket that a previous life left behind.
fn local(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn router(events: Events) -> Router {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/routes", get(routes))
        .route("/metrics", get(metrics));
    router.with_state(events)
}

async fn ask(events: &Events, question: Question) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    events.send(Event::Asked(question, answer)).await.ok()?;
    answered.await.ok()
}

async fn respond(events: &Events, question: Question, kind: &'static str) -> Response {
    match ask(events, question).await {
        Some(text) => ([(CONTENT_TYPE, kind)], text).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

const JSON: &str = "application/json";

async fn status(State(events): State<Events>) -> Response {
    respond(&events, Question::Status, JSON).await
}

async fn neighbors(State(events): State<Events>) -> Response {
    respond(&events, Question::Neighbors, JSON).await
}

/// [`Selection`] as a query says it.
#[derive(serde::Deserialize)]
struct Asked {
    prefix: Option<String>,
    from: Option<IpAddr>,
    to: Option<IpAddr>,
}

async fn routes(State(events): State<Events>, Query(asked): Query<Asked>) -> Response {
    let Ok(prefix) = asked.prefix.map(|text| text.parse()).transpose() else {
        let what = "prefix: an address or a network such as 10.0.0.0/8\n";
        return (StatusCode::BAD_REQUEST, what).into_response();
    };
    let selection = Selection {
        prefix,
        from: asked.from,
        to: asked.to,
    };
    respond(&events, Question::Routes(selection), JSON).await
}

async fn metrics(State(events): State<Events>) -> Response {
    let kind = "text/plain; version=0.0.4";
    respond(&events, Question::Metrics, kind).await
}
