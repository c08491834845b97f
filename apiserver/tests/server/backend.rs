//! An HTTPS server that a test runs beside the API server: a webhook, or an aggregated server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::pki::{Authority, Leaf, ServingNames};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the backend is asked.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// Starts on an address of this machine; `names` are in its certificate.
pub(crate) async fn serve(
    authority: &Authority,
    address: std::net::IpAddr,
    names: &[&str],
    answer: impl Fn(Asked) -> (u16, Value) + Send + Sync + 'static,
) -> SocketAddr {
    let names = ServingNames {
        dns: names.iter().map(|n| (*n).to_owned()).collect(),
        addresses: vec![address],
    };
    let issued = authority.issue(&Leaf::server("backend", &names)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let bound = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move { Ok::<_, Infallible>(respond(request, &*answer).await) }
                });
                let io = TokioIo::new(stream);
                let _ = Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await;
            });
        }
    });
    bound
}

async fn respond(
    request: Request<Incoming>,
    answer: &(impl Fn(Asked) -> (u16, Value) + ?Sized),
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let (code, value) = answer(Asked {
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
    });
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Full::new(value.to_string().into()))
        .unwrap()
}

/// The address of this machine towards others: what stands in an endpoint.
pub(crate) fn own_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}
