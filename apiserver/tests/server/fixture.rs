//! A server of its own for each test, and clients that are this or that user.

use std::path::Path;
use std::time::Duration;

use apiserver::pki::Leaf;
use apiserver::{Config, RunningServer, start};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) struct Server {
    pub(crate) running: RunningServer,
    pub(crate) shutdown: CancellationToken,
    pub(crate) directory: TempDir,
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        data_dir: directory.to_path_buf(),
        bind_address: [127, 0, 0, 1].into(),
        secure_port: 0,
        ..Config::default()
    }
}

impl Server {
    pub(crate) async fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        Server::start_with(directory, |_| {}).await
    }

    pub(crate) async fn start_with(directory: TempDir, change: impl FnOnce(&mut Config)) -> Server {
        let shutdown = CancellationToken::new();
        let mut config = config(directory.path());
        change(&mut config);
        // The store of a server that ended in this process is closed by its own threads.
        let mut attempts = 0;
        let running = loop {
            match start(config.clone(), shutdown.clone()).await {
                Err(error) if error.to_string().contains("in use") && attempts < 100 => {
                    attempts += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                started => break started.unwrap(),
            }
        };
        Server {
            running,
            shutdown,
            directory,
        }
    }

    /// Ends the server and waits for it; the directory stays.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        let RunningServer { .. } = &self.running;
        self.running.wait().await;
        self.directory
    }

    pub(crate) fn admin(&self) -> Caller {
        self.certificate(&Leaf::client("admin", Some("system:masters")))
    }

    pub(crate) fn user(&self, name: &str, group: Option<&str>) -> Caller {
        self.certificate(&Leaf::client(name, group))
    }

    pub(crate) fn certificate(&self, leaf: &Leaf) -> Caller {
        let issued = self.running.pki.authority.issue(leaf).unwrap();
        self.caller(Some((&issued.certificate_pem, &issued.key_pem)))
    }

    pub(crate) fn nobody(&self) -> Caller {
        self.caller(None)
    }

    pub(crate) fn token(&self, token: &str) -> Caller {
        let mut caller = self.caller(None);
        caller
            .headers
            .push(("authorization".to_owned(), format!("Bearer {token}")));
        caller
    }

    pub(crate) fn caller(&self, identity: Option<(&str, &str)>) -> Caller {
        let mut roots = rustls::RootCertStore::empty();
        let ca = self.running.pki.authority.certificate_der().to_vec();
        roots.add(CertificateDer::from(ca)).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http2()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Caller {
            client,
            url: self.running.url.clone(),
            headers: Vec::new(),
        }
    }
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

/// Somebody with a connection.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client<Connector, Full<bytes::Bytes>>,
    url: String,
    headers: Vec<(String, String)>,
}

/// Code and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers: http::HeaderMap,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Caller {
    pub(crate) fn with(&self, name: &str, value: &str) -> Caller {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// A merge patch.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> Answer {
        let bytes = serde_json::to_vec(patch).unwrap();
        self.send_bytes(Method::PATCH, path, "application/merge-patch+json", bytes)
            .await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        match body {
            Some(body) => {
                let bytes = serde_json::to_vec(&body).unwrap();
                self.send_bytes(method, path, "application/json", bytes)
                    .await
            }
            None => self.send_bytes(method, path, "", Vec::new()).await,
        }
    }

    pub(crate) async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        media: &str,
        bytes: Vec<u8>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        let request = request.body(Full::new(bytes.into())).unwrap();
        let response: Response<_> =
            tokio::time::timeout(Duration::from_secs(30), self.client.request(request))
                .await
                .unwrap()
                .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code: parts.status.as_u16(),
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
            bytes: bytes.to_vec(),
            headers: parts.headers,
        }
    }

    /// Asks until the body is as it should be.
    pub(crate) async fn until_body(&self, path: &str, good: impl Fn(&Value) -> bool) -> Answer {
        for _ in 0..500 {
            let answer = self.get(path).await;
            if answer.code == 200 && good(&answer.body) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = self.get(path).await;
        panic!("{path} never becomes that: {answer:?}");
    }

    /// Asks until the code comes: indexes follow writes a little later.
    pub(crate) async fn until(&self, path: &str, code: u16) -> Answer {
        for _ in 0..200 {
            let answer = self.get(path).await;
            if answer.code == code {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = self.get(path).await;
        panic!("{path} never answers {code}: {answer:?}");
    }
}
