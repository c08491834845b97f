//! A server of the test's own, as others run them: HTTPS with a certificate that signs itself.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Code and body of the answer to a method, a path and a body.
type Handler = dyn Fn(&Method, &str, &Value) -> (u16, Value) + Send + Sync;

pub(crate) struct Https {
    pub(crate) url: String,
    /// PEM of the certificate.
    pub(crate) authority: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Https {
    /// `handler` is made with the server's URL.
    pub(crate) async fn start(handler: impl FnOnce(String) -> Box<Handler>) -> Https {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}");
        let handler: Arc<Handler> = handler(url.clone()).into();
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (acceptor, record) = (TlsAcceptor::from(Arc::new(tls)), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handler, record) =
                    (acceptor.clone(), handler.clone(), record.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service =
                        service_fn(move |request| answer(request, handler.clone(), record.clone()));
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Https {
            url,
            authority: key.cert.pem(),
            asked,
        }
    }

    /// The bodies that came to a path.
    pub(crate) fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock();
        let here = asked.iter().filter(|(p, _)| p == path);
        here.map(|(_, body)| body.clone()).collect()
    }

    /// A kubeconfig that names a path of this server.
    pub(crate) fn kubeconfig(&self, path: &str) -> String {
        use base64::Engine;
        let authority = base64::engine::general_purpose::STANDARD.encode(&self.authority);
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("{}{path}", self.url),
                "certificate-authority-data": authority}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = body.collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    asked.lock().push((path.clone(), body.clone()));
    let (code, text) = handler(&parts.method, &path, &body);
    let mut response = Response::new(Full::new(text.to_string().into()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    if let Some(place) = text["redirect"].as_str() {
        let place = place.parse().unwrap();
        response.headers_mut().insert("location", place);
    }
    Ok(response)
}
