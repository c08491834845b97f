//! Carries requests to kubelets, pods and services, and joins upgraded connections.
//!
//! Each request has a connection of its own: sessions last long and logs stream, so there is
//! little to share. Kubelets are verified by the cluster's authority and see the server's
//! client certificate; pods and services are reached as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{StartError, tls};
use crate::outbound::{self, Place, Verify, tls_client};
use crate::pki::{Issued, Pki};
use crate::registry::Cacher;
use crate::response::{ApiError, ApiResponse, Body, BoxError, RequestBody};
use crate::subresources::{NodeConnector, Target};

const CONNECT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(super) struct Connector {
    kubelet: Arc<ClientConfig>,
    anybody: Arc<ClientConfig>,
    /// What it shows to aggregated servers.
    front_proxy: Issued,
    cacher: Arc<Cacher>,
}

impl Connector {
    pub(super) fn new(pki: &Pki, cacher: Arc<Cacher>) -> Result<Self, StartError> {
        Ok(Connector {
            kubelet: tls::kubelet_client(pki)?,
            anybody: tls::unverified_client()?,
            front_proxy: pki.front_proxy_client.clone(),
            cacher,
        })
    }

    async fn dial(&self, target: &Target) -> Result<(Stream, String), ApiError> {
        let (host, port, tls) = match target {
            Target::Kubelet { address, port, .. } => (address.clone(), *port, Some(&self.kubelet)),
            Target::Endpoint { address, port, tls } => {
                (address.to_string(), *port, tls.then_some(&self.anybody))
            }
            Target::Aggregated { place, .. } => {
                let stream = self.dial_aggregated(target, place).await?;
                return Ok((stream, place.host()));
            }
        };
        let authority = match host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, port).to_string(),
            Err(_) => format!("{host}:{port}"),
        };
        let unreachable = |why: String| unreachable(target, &authority, &why);
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(&authority)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable("i/o timeout".to_owned())),
        };
        // Keystrokes must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Some(config) = tls else {
            return Ok((Box::new(stream), authority));
        };
        let name = ServerName::try_from(host).map_err(|error| unreachable(error.to_string()))?;
        let shaken = TlsConnector::from(config.clone()).connect(name, stream);
        let shaken = tokio::time::timeout(CONNECT, shaken).await;
        match shaken {
            Ok(Ok(stream)) => Ok((Box::new(stream), authority)),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("TLS handshake timeout".to_owned())),
        }
    }
}

impl Connector {
    async fn dial_aggregated(&self, target: &Target, place: &Place) -> Result<Stream, ApiError> {
        let host = place.host();
        let failed = |why: String| unreachable(target, &host, &why);
        let verify = match target {
            Target::Aggregated { insecure: true, .. } => Verify::Nothing,
            Target::Aggregated { authorities, .. } if !authorities.is_empty() => {
                Verify::Authorities(authorities)
            }
            _ => Verify::System,
        };
        let tls = tls_client(&verify, Some(&self.front_proxy)).map_err(failed)?;
        let mut tls = Arc::unwrap_or_clone(tls);
        // Upgrades need HTTP/1.1.
        tls.alpn_protocols.clear();
        let connector = outbound::Connector::new(place.clone(), Arc::new(tls), self.cacher.clone());
        let stream = connector
            .connect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Box::new(stream))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

fn unreachable(target: &Target, authority: &str, why: &str) -> ApiError {
    let what = match target {
        Target::Kubelet { node, .. } => format!("the kubelet of node {node:?}"),
        Target::Endpoint { .. } => "the endpoint".to_owned(),
        Target::Aggregated { .. } => "the API service".to_owned(),
    };
    ApiError::unavailable(format!(
        "error trying to reach {what} at {authority}: {why}"
    ))
}

#[async_trait]
impl NodeConnector for Connector {
    async fn carry(
        &self,
        target: &Target,
        uri: Uri,
        parts: Parts,
        body: RequestBody,
    ) -> Result<ApiResponse, ApiError> {
        let (stream, authority) = self.dial(target).await?;
        let broken = |error: hyper::Error| unreachable(target, &authority, &error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let (request, client) = outgoing(parts, uri, &authority, body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(incoming(response, client))
    }
}

/// The request for the other side, and the client's side of an upgrade.
fn outgoing(
    mut parts: Parts,
    uri: Uri,
    authority: &str,
    body: RequestBody,
) -> Result<(Request<RequestBody>, Option<OnUpgrade>), http::Error> {
    let client = parts.extensions.remove::<OnUpgrade>();
    let upgrades = parts.headers.contains_key(UPGRADE);
    let mut request = Request::builder()
        .method(parts.method)
        .uri(uri)
        .body(body)?;
    let headers = request.headers_mut();
    *headers = parts.headers;
    for name in [
        "proxy-connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
    ] {
        headers.remove(name);
    }
    if !upgrades {
        headers.remove(CONNECTION);
    }
    headers.insert(HOST, HeaderValue::from_str(authority)?);
    Ok((request, client.filter(|_| upgrades)))
}

/// The answer for the client. When both sides agree to upgrade, their bytes are copied from
/// then on.
fn incoming(mut response: Response<Incoming>, client: Option<OnUpgrade>) -> ApiResponse {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let node = hyper::upgrade::on(&mut response);
        tokio::spawn(join(client, node));
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, Body::empty());
    }
    let (mut parts, body) = response.into_parts();
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
        parts.headers.remove(name);
    }
    let body = body
        .map_err(|error| -> BoxError { error.into() })
        .boxed_unsync();
    Response::from_parts(parts, Body::Foreign(body))
}

async fn join(client: OnUpgrade, node: OnUpgrade) {
    let (client, node) = match tokio::try_join!(client, node) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
    };
    let (client, node) = (TokioIo::new(client), TokioIo::new(node));
    if let Err(error) = streaming::splice::splice(client, node).await {
        tracing::debug!(%error, "a session broke");
    }
}
