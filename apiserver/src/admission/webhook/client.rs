//! HTTPS to webhooks: connections are kept, answers are bounded.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use super::endpoint::{Endpoint, authority};
use super::error::CallError;

/// The most that a webhook may answer.
const MAX_ANSWER: usize = 3 * 1024 * 1024;
/// Kept connections are given up after this time without use.
const IDLE: Duration = Duration::from_secs(90);
/// More servers than this are not remembered at a time.
const MAX_CLIENTS: usize = 512;
/// Where the authorities of the system are.
const SYSTEM_AUTHORITIES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

type Connector = HttpsConnector<Dial>;
type Connections = Client<Connector, Full<Bytes>>;

/// The clients by what distinguishes them: address, name and authorities.
#[derive(Default)]
pub(crate) struct Pool {
    clients: Mutex<BTreeMap<Key, Connections>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: String,
    port: u16,
    server_name: String,
    authorities: Vec<u8>,
}

/// Connects to one place, whatever the URL's host is.
#[derive(Clone)]
struct Dial {
    host: Arc<str>,
    port: u16,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (host, port) = (self.host.clone(), self.port);
        Box::pin(async move {
            let stream = TcpStream::connect((&*host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Pool {
    /// Sends a review and returns the answer's body.
    pub(super) async fn post(
        &self,
        endpoint: &Endpoint,
        authorities: &[u8],
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let failed = |why: String| CallError::Request(format!("Post {:?}: {why}", endpoint.url));
        let key = Key {
            host: endpoint.host.clone(),
            port: endpoint.port,
            server_name: endpoint.server_name.clone(),
            authorities: authorities.to_vec(),
        };
        let exchange = self.exchange(&key, endpoint, body.into());
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok((status, body))) => read_status(status, &body).map(|()| body),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => {
                // Whatever hangs may be the connection; the next call gets a new one.
                self.forget(&key);
                Err(failed("context deadline exceeded".into()))
            }
        }
    }

    async fn exchange(
        &self,
        key: &Key,
        endpoint: &Endpoint,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let (client, known) = self.client(key)?;
        let request = |body: Bytes| {
            Request::builder()
                .method(Method::POST)
                .uri(endpoint.url.as_str())
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, */*")
                .header(USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(body))
                .map_err(|error| error.to_string())
        };
        let response = match client.request(request(body.clone())?).await {
            Ok(response) => response,
            // A kept connection that the server closed says nothing about the server.
            Err(error) if known && !error.is_connect() => {
                self.forget(key);
                let (client, _) = self.client(key)?;
                client
                    .request(request(body)?)
                    .await
                    .map_err(|error| describe(&error, endpoint))?
            }
            Err(error) => return Err(describe(&error, endpoint)),
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }

    /// The client, and whether it was there before.
    fn client(&self, key: &Key) -> Result<(Connections, bool), String> {
        if let Some(client) = self.clients.lock().get(key) {
            return Ok((client.clone(), true));
        }
        let client = connect(key)?;
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key.clone(), client.clone());
        Ok((client, false))
    }

    fn forget(&self, key: &Key) {
        self.clients.lock().remove(key);
    }
}

fn connect(key: &Key) -> Result<Connections, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(&key.authorities)?)
        .with_no_client_auth();
    let name = ServerName::try_from(key.server_name.clone()).map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_all_versions()
        .wrap_connector(Dial {
            host: key.host.as_str().into(),
            port: key.port,
        });
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15))
        .build(connector))
}

fn roots(bundle: &[u8]) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    if bundle.is_empty() {
        for path in SYSTEM_AUTHORITIES {
            if let Ok(pem) = std::fs::read(path) {
                let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
                roots.add_parsable_certificates(certificates);
                break;
            }
        }
        return Ok(roots);
    }
    let (added, _) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).flatten());
    if added == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    Ok(roots)
}

/// The failure as Go words it, where people look for its words.
fn describe(error: &hyper_util::client::legacy::Error, endpoint: &Endpoint) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    let place = authority(&endpoint.host, endpoint.port);
    while let Some(current) = cause {
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return tls_failure(tls);
        }
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    return format!("dial tcp {place}: connect: connection refused");
                }
                std::io::ErrorKind::ConnectionReset => {
                    return "read: connection reset by peer".into();
                }
                std::io::ErrorKind::UnexpectedEof => return "EOF".into(),
                _ => {}
            }
        }
        if let Some(http) = current.downcast_ref::<hyper::Error>()
            && http.is_incomplete_message()
        {
            return "EOF".into();
        }
        last = current.to_string();
        // What an I/O error was made of is not its source.
        let inner = current.downcast_ref::<std::io::Error>();
        cause = match inner.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    if error.is_connect() {
        return format!("dial tcp {place}: {last}");
    }
    last
}

fn tls_failure(error: &rustls::Error) -> String {
    use rustls::{CertificateError as C, Error as E};
    let why = match error {
        E::InvalidCertificate(C::UnknownIssuer) => "certificate signed by unknown authority".into(),
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "certificate has expired or is not yet valid".into()
        }
        E::InvalidCertificate(other) => other.to_string(),
        other => return format!("tls: {other}"),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// An answer that is an error, as client libraries word it.
fn read_status(status: StatusCode, body: &[u8]) -> Result<(), CallError> {
    if status.is_success() {
        return Ok(());
    }
    let told: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if told["kind"] == "Status"
        && let Some(message) = told["message"].as_str()
    {
        return Err(CallError::Request(message.to_owned()));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
    Err(CallError::Request(match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 => "forbidden".into(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later"
            .to_owned(),
        500.. => format!(
            "an error on the server ({:?}) has prevented the request from succeeding",
            text.trim()
        ),
        code => format!(
            "the server responded with the status code {code} but did not return more information"
        ),
    }))
}
