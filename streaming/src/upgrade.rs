//! Requests that turn into byte streams: handed to a node, or translated on the way.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::remote_command::{self, Streams};
use crate::{splice, tunnel, websocket};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How much of an upstream's refusal is handed on, in bytes.
const LONGEST_REFUSAL: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("upgrade: the other side broke the connection: {0}")]
    Http(#[from] hyper::Error),
    #[error("upgrade: the request cannot be formed: {0}")]
    Request(#[from] http::Error),
    #[error("upgrade: the client's WebSocket handshake lacks a key or version 13")]
    Handshake,
}

/// What kind of stream the request asks for; decides how it is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Exec and attach.
    RemoteCommand,
    PortForward,
    /// Anything else that upgrades: always handed through.
    Proxy,
}

/// Whether a request asks to switch protocols.
pub fn is_requested(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && websocket::has_token(headers, header::CONNECTION, "upgrade")
}

/// Serves an upgrade request by another server. `io` is a fresh connection to it (TLS done),
/// `target` the path and query there, `extra` headers that it gets besides the client's own
/// about the upgrade. Returns the answer for the client; the streams live on in a task.
pub async fn proxy<B, IO>(
    mut request: Request<B>,
    io: IO,
    host: &str,
    target: &Uri,
    extra: HeaderMap,
    purpose: Purpose,
) -> Result<Response<Full<Bytes>>, UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let carriage = Carriage::of(
        request.headers(),
        target.query().unwrap_or_default(),
        purpose,
    );
    let upstream = upstream_request(&request, carriage, host, target, extra)?;
    let mut answer = send(io, upstream).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refusal(answer).await;
    }
    let upstream = hyper::upgrade::on(&mut answer).await?;
    let response = match carriage {
        Carriage::Through => {
            let client = hyper::upgrade::on(&mut request);
            tokio::spawn(join(client, upstream));
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            copy(answer.headers(), response.headers_mut(), &UPGRADE_ANSWER);
            response
        }
        Carriage::Translate(streams) => {
            let accepted = websocket::accept(&mut request, remote_command::V5);
            let (response, client) = accepted.ok_or(UpgradeError::Handshake)?;
            tokio::spawn(translate(client, upstream, streams));
            response
        }
        Carriage::Tunnel => {
            let accepted = websocket::accept(&mut request, tunnel::PROTOCOL);
            let (response, client) = accepted.ok_or(UpgradeError::Handshake)?;
            tokio::spawn(pump(client, upstream));
            response
        }
    };
    Ok(response.map(|()| Full::default()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carriage {
    Through,
    Translate(Streams),
    Tunnel,
}

impl Carriage {
    fn of(headers: &HeaderMap, query: &str, purpose: Purpose) -> Self {
        if !websocket::is_requested(headers) {
            return Self::Through;
        }
        let offers = |wanted: &str| websocket::offered_protocols(headers).any(|own| own == wanted);
        match purpose {
            Purpose::RemoteCommand if offers(remote_command::V5) => {
                Self::Translate(Streams::from_query(query))
            }
            Purpose::PortForward if offers(tunnel::PROTOCOL) => Self::Tunnel,
            _ => Self::Through,
        }
    }
}

const UPGRADE_REQUEST: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::ORIGIN,
    STREAM_PROTOCOL,
];

const UPGRADE_ANSWER: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    STREAM_PROTOCOL,
];

fn copy(from: &HeaderMap, into: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        for value in from.get_all(name) {
            into.append(name, value.clone());
        }
    }
}

fn upstream_request<B>(
    request: &Request<B>,
    carriage: Carriage,
    host: &str,
    target: &Uri,
    extra: HeaderMap,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let mut upstream = Request::builder()
        .uri(path)
        .header(header::HOST, host)
        .body(Empty::new())?;
    let protocol = match carriage {
        Carriage::Through => {
            *upstream.method_mut() = request.method().clone();
            copy(request.headers(), upstream.headers_mut(), &UPGRADE_REQUEST);
            None
        }
        Carriage::Translate(_) => Some(remote_command::SPDY_PROTOCOL),
        Carriage::Tunnel => Some(tunnel::SPDY_PROTOCOL),
    };
    if let Some(protocol) = protocol {
        *upstream.method_mut() = Method::POST;
        let headers = upstream.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    upstream.headers_mut().extend(extra);
    Ok(upstream)
}

async fn send<IO>(
    io: IO,
    request: Request<Empty<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection for an upgrade ended");
        }
    });
    sender.send_request(request).await
}

async fn refusal(
    answer: Response<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, UpgradeError> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, LONGEST_REFUSAL).collect().await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = parts.status;
    copy(
        &parts.headers,
        response.headers_mut(),
        &[header::CONTENT_TYPE],
    );
    Ok(response)
}

async fn join(client: OnUpgrade, upstream: Upgraded) {
    let Ok(client) = client.await else { return };
    if let Err(error) = splice::splice(TokioIo::new(client), TokioIo::new(upstream)).await {
        tracing::debug!(%error, "a spliced connection ended");
    }
}

async fn translate(client: OnUpgrade, upstream: Upgraded, streams: Streams) {
    let Ok(client) = websocket::open(client).await else {
        return;
    };
    let upstream = TokioIo::new(upstream);
    if let Err(error) = remote_command::translate(client, upstream, streams).await {
        tracing::debug!(%error, "a remote command ended");
    }
}

async fn pump(client: OnUpgrade, upstream: Upgraded) {
    let Ok(client) = websocket::open(client).await else {
        return;
    };
    if let Err(error) = tunnel::pump(client, TokioIo::new(upstream)).await {
        tracing::debug!(%error, "a port-forward ended");
    }
}
