//! Exec, attach and port-forward: the runtime has a streaming server of its own; the
//! client's connection is joined with one to that.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use cri::v1::PortForwardRequest;
use streaming::upgrade::{self, Purpose};
use tokio::net::TcpStream;

use super::query;
use super::routes::Shared;
use crate::context::Listed;

type Parameters = Path<HashMap<String, String>>;
type Refusal = (StatusCode, String);

fn bad(message: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, message.into())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn find(shared: &Shared, parameters: &Parameters) -> Result<Listed, Refusal> {
    let get = |name: &str| parameters.get(name).map(String::as_str);
    let (namespace, pod) = (
        get("namespace").unwrap_or_default(),
        get("pod").unwrap_or_default(),
    );
    let missing = || {
        (
            StatusCode::NOT_FOUND,
            format!("pod {namespace}/{pod} not found"),
        )
    };
    shared
        .context
        .find(namespace, pod, get("uid"))
        .ok_or_else(missing)
}

fn container_id(listed: &Listed, parameters: &Parameters) -> Result<String, Refusal> {
    let name = parameters
        .get("container")
        .map(String::as_str)
        .unwrap_or_default();
    let record = listed
        .observed
        .newest(name)
        .filter(|record| record.is_running());
    let missing = || {
        (
            StatusCode::NOT_FOUND,
            format!("container not found (\"{name}\")"),
        )
    };
    Ok(record.ok_or_else(missing)?.id.clone())
}

pub(super) async fn exec(
    State(shared): State<Shared>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let uri = request.uri().clone();
    let url = async {
        let id = container_id(&find(&shared, &parameters)?, &parameters)?;
        let wanted = query::exec_request(&uri, &id).map_err(bad)?;
        shared
            .context
            .runtime
            .exec_url(wanted)
            .await
            .map_err(failed)
    };
    answer(url.await, request, Purpose::RemoteCommand).await
}

pub(super) async fn attach(
    State(shared): State<Shared>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let uri = request.uri().clone();
    let url = async {
        let id = container_id(&find(&shared, &parameters)?, &parameters)?;
        let wanted = query::attach_request(&uri, &id).map_err(bad)?;
        shared
            .context
            .runtime
            .attach_url(wanted)
            .await
            .map_err(failed)
    };
    answer(url.await, request, Purpose::RemoteCommand).await
}

pub(super) async fn port_forward(
    State(shared): State<Shared>,
    parameters: Parameters,
    request: Request,
) -> Response {
    let uri = request.uri().clone();
    let url = async {
        let listed = find(&shared, &parameters)?;
        let sandbox = listed.observed.sandbox().filter(|sandbox| sandbox.ready);
        let sandbox = sandbox.ok_or_else(|| bad("the pod does not run"))?;
        let wanted = PortForwardRequest {
            pod_sandbox_id: sandbox.id.clone(),
            port: query::ports(&uri),
        };
        shared
            .context
            .runtime
            .port_forward_url(wanted)
            .await
            .map_err(failed)
    };
    answer(url.await, request, Purpose::PortForward).await
}

async fn answer(url: Result<String, Refusal>, request: Request, purpose: Purpose) -> Response {
    let joined = match url {
        Ok(url) => join(&url, request, purpose).await,
        Err(refusal) => Err(refusal),
    };
    joined.unwrap_or_else(IntoResponse::into_response)
}

async fn join(url: &str, request: Request, purpose: Purpose) -> Result<Response, Refusal> {
    if !upgrade::is_requested(request.headers()) {
        return Err(bad("this request has to upgrade its connection"));
    }
    let url: Uri = url.parse().map_err(failed)?;
    let host = url
        .authority()
        .ok_or_else(|| failed("the runtime named no host"))?
        .to_string();
    let runtime = TcpStream::connect(&host).await.map_err(failed)?;
    let _ = runtime.set_nodelay(true);
    // The client's own query says how its streams are laid out.
    let target = match request.uri().query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let target: Uri = target.parse().map_err(failed)?;
    let response =
        upgrade::proxy(request, runtime, &host, &target, HeaderMap::new(), purpose).await;
    response
        .map(|response| response.map(Body::new))
        .map_err(failed)
}
