use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cri::v1;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::query::{LogQuery, log_query};
use super::routes::Shared;
use crate::context::Context;
use crate::logs::read;
use crate::pod::containers;
use crate::pod::observed::Record;

/// Pieces of a log that are read ahead of a slow reader.
const AHEAD: usize = 64;

fn refuse(status: StatusCode, message: String) -> Response {
    (status, message).into_response()
}

/// `GET /containerLogs/NAMESPACE/POD/CONTAINER`
pub(super) async fn container(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let LogQuery { options, previous } = match log_query(request.uri(), Timestamp::now()) {
        Ok(query) => query,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let record = match find(&shared.context, &namespace, &pod, &container, previous) {
        Ok(record) => record,
        Err((status, message)) => return refuse(status, message),
    };
    let path = PathBuf::from(&record.log_path);
    if !path.exists() {
        let message = format!(
            "the log of container \"{container}\" is gone: {}",
            path.display()
        );
        return refuse(StatusCode::NOT_FOUND, message);
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(AHEAD);
    let context = shared.context.clone();
    let uid = shared
        .context
        .find(&namespace, &pod, None)
        .and_then(|l| l.pod.metadata.uid.clone());
    let runtime = tokio::runtime::Handle::current();
    let ended = move || {
        let uid = uid.as_deref().unwrap_or_default();
        let listed = context.pods.lock().get(uid).cloned();
        let Some(listed) = listed else { return true };
        if let Some(seen) = listed.observed.by_id(&record.id) {
            return !seen.is_alive();
        }
        // A look at the runtime from before the start does not show a container that runs.
        let asked = context.runtime.container_status(&record.id);
        runtime.block_on(asked).map_or(true, |status| {
            status.state() == v1::ContainerState::ContainerExited
        })
    };
    tokio::task::spawn_blocking(move || {
        let emit = |piece: Vec<u8>| match piece.is_empty() {
            // A sign of life is asked for: is anybody still reading?
            true => !sender.is_closed(),
            false => sender.blocking_send(piece.into()).is_ok(),
        };
        if let Err(error) = read(&path, &options, emit, ended) {
            tracing::debug!(path = %path.display(), %error, "a log was not read to its end");
        }
    });
    let body = ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>);
    (
        [(header::CONTENT_TYPE, "text/plain")],
        Body::from_stream(body),
    )
        .into_response()
}

fn find(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<Record, (StatusCode, String)> {
    let missing = |message: String| (StatusCode::NOT_FOUND, message);
    let listed = context.find(namespace, pod, None);
    let listed = listed.ok_or_else(|| missing(format!("pod {namespace}/{pod} not found")))?;
    if containers::find(&listed.pod, container).is_none() {
        return Err(missing(format!(
            "container {container} not found in pod {namespace}/{pod}"
        )));
    }
    let waiting = |what: &str| {
        let message = format!("{what} \"{container}\" in pod \"{pod}\" ");
        (StatusCode::BAD_REQUEST, message)
    };
    if previous {
        let newest = listed.observed.newest(container);
        // While a container waits to be restarted, the one that ended is the previous one.
        let found = match newest {
            Some(record) if record.exit().is_some() && is_waiting(&listed.current, container) => {
                Some(record)
            }
            _ => listed.observed.previous(container),
        };
        return found.cloned().ok_or_else(|| {
            let (status, message) = waiting("previous terminated container");
            (status, format!("{message}not found"))
        });
    }
    listed.observed.newest(container).cloned().ok_or_else(|| {
        let reason = waiting_reason(&listed.current, container).unwrap_or_default();
        let (status, message) = waiting("container");
        let reason = in_words(&reason);
        (status, format!("{message}is waiting to start: {reason}"))
    })
}

/// Why there is no log yet, as people are told it.
fn in_words(reason: &str) -> &str {
    match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    }
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let found = all.into_iter().find(|status| status.name == container)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn is_waiting(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> bool {
    waiting_reason(pod, container).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_whose_image_is_missing_is_explained() {
        assert_eq!(
            in_words("ImagePullBackOff"),
            "trying and failing to pull image"
        );
        assert_eq!(in_words("PodInitializing"), "PodInitializing");
    }
}
