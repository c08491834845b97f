//! Calls that the server itself makes: to webhooks, and to aggregated API servers.
//!
//! A [`Place`] is a Service in the cluster or an address outside of it. Services are reached at a
//! ready endpoint, without translation by the kernel, so that the server needs no Service proxy
//! beside it; the name that its certificate has to carry is `NAME.NAMESPACE.svc`. Connections are
//! kept open between calls.

mod connection;
mod services;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) use connection::{Connector, Verify, tls_client};
pub(crate) use services::{ready_endpoint, service_address};

use crate::registry::Cacher;

/// Answers larger than this are not read.
const MAX_ANSWER: usize = 16 << 20;
/// Connections that nobody used for so long are closed.
const IDLE: Duration = Duration::from_secs(30);
/// Clients that are kept; a cluster has fewer webhooks.
const KEPT: usize = 256;

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Service {
        namespace: String,
        name: String,
        port: u16,
    },
    Host {
        host: String,
        port: u16,
    },
}

impl Place {
    /// The name in the certificate, and in the request's URL.
    pub fn host(&self) -> String {
        match self {
            Place::Service {
                namespace, name, ..
            } => format!("{name}.{namespace}.svc"),
            Place::Host { host, .. } => host.clone(),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Place::Service { port, .. } | Place::Host { port, .. } => *port,
        }
    }
}

/// A webhook as configurations describe it: `clientConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub place: Place,
    /// With the leading slash, and the query where there is one.
    pub path: String,
    /// PEM; empty: the system's authorities.
    pub authorities: Vec<u8>,
}

/// Why a call had no usable answer. All but `Config` may pass when tried again.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Config(String),
    /// The URL that was called, and what happened.
    #[error("Post {url:?}: {why}")]
    Failed { url: String, why: String },
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    #[error("the server responded with the status code {code} but did not return more information")]
    Code { code: u16, body: String },
}

impl Hook {
    /// Reads a `clientConfig`.
    pub fn of(config: &Value) -> Result<Self, CallError> {
        use base64::Engine;
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let authorities = base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|e| CallError::Config(format!("caBundle: {e}")))?;
        let service = &config["service"];
        if service.is_object() {
            let text = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
            let port = service["port"].as_u64().unwrap_or(443);
            let path = text("path");
            return Ok(Hook {
                place: Place::Service {
                    namespace: text("namespace"),
                    name: text("name"),
                    port: u16::try_from(port).unwrap_or(443),
                },
                path: if path.starts_with('/') {
                    path
                } else {
                    format!("/{path}")
                },
                authorities,
            });
        }
        let url = config["url"].as_str().unwrap_or_default();
        let parsed: http::Uri = url
            .parse()
            .map_err(|e| CallError::Config(format!("url {url:?}: {e}")))?;
        let host = parsed
            .host()
            .ok_or_else(|| CallError::Config(format!("url {url:?} has no host")))?;
        Ok(Hook {
            place: Place::Host {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: parsed.port_u16().unwrap_or(443),
            },
            path: parsed
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
            authorities,
        })
    }

    /// As messages name it.
    pub fn url(&self, timeout: Option<Duration>) -> String {
        let (host, port) = (self.place.host(), self.place.port());
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let mut url = match &self.place {
            Place::Host { port: 443, .. } => format!("https://{host}{}", self.path),
            _ => format!("https://{host}:{port}{}", self.path),
        };
        if let Some(timeout) = timeout {
            let sign = if self.path.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{sign}timeout={}s", timeout.as_secs()));
        }
        url
    }
}

type Pool = Client<Connector, Full<Bytes>>;

/// The clients of everything that is called; one per server.
pub struct Outbound {
    cacher: Arc<Cacher>,
    clients: Mutex<HashMap<(Place, [u8; 32]), Pool>>,
}

impl Outbound {
    pub fn new(cacher: Arc<Cacher>) -> Self {
        Outbound {
            cacher,
            clients: Mutex::default(),
        }
    }

    fn client(&self, hook: &Hook) -> Result<Pool, CallError> {
        let key = (hook.place.clone(), Sha256::digest(&hook.authorities).into());
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let verify = if hook.authorities.is_empty() {
            Verify::System
        } else {
            Verify::Authorities(&hook.authorities)
        };
        let tls = tls_client(&verify, None).map_err(CallError::Config)?;
        let connector = Connector::new(hook.place.clone(), tls, self.cacher.clone());
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        let mut clients = self.clients.lock();
        if clients.len() >= KEPT {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Posts JSON and returns the JSON of the answer. `timeout` also tells the other side how
    /// long it has, as webhooks expect it.
    pub async fn post(
        &self,
        hook: &Hook,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let url = hook.url(Some(timeout));
        let failed = |why: String| CallError::Failed {
            url: url.clone(),
            why,
        };
        let client = self.client(hook)?;
        let call = async {
            let body = serde_json::to_vec(body).map_err(|e| failed(e.to_string()))?;
            let mut request = Request::new(Full::new(Bytes::from(body)));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = url
                .parse()
                .map_err(|e| CallError::Config(format!("url {url:?}: {e}")))?;
            let json = HeaderValue::from_static("application/json");
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, json.clone());
            headers.insert(ACCEPT, json);
            headers.insert(
                USER_AGENT,
                HeaderValue::from_static("kube-apiserver-admission"),
            );
            let response = client
                .request(request)
                .await
                .map_err(|e| failed(root_cause(&e)))?;
            let code = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|e| failed(e.to_string()))?
                .to_bytes();
            if code != StatusCode::OK {
                return Err(CallError::Code {
                    code: code.as_u16(),
                    body: String::from_utf8_lossy(&body).into_owned(),
                });
            }
            serde_json::from_slice(&body)
                .map_err(|e| failed(format!("the answer is not JSON: {e}")))
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Timeout { url: url.clone() }),
        }
    }
}

/// The innermost reason: what wraps it says nothing more.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn client_configurations_name_services_and_urls() {
        let hook = |config: Value| Hook::of(&config).expect("a valid configuration");
        let service = json!({"service": {"namespace": "n", "name": "s", "path": "p"}});
        let minute = Some(Duration::from_secs(60));
        assert_eq!(
            hook(service).url(minute),
            "https://s.n.svc:443/p?timeout=60s"
        );
        let url = json!({"url": "https://[::1]:8443/a?b=c"});
        assert_eq!(
            hook(url).url(minute),
            "https://[::1]:8443/a?b=c&timeout=60s"
        );
        assert_eq!(
            hook(json!({"url": "https://example.com/x"})).url(None),
            "https://example.com/x"
        );
        assert!(Hook::of(&json!({"url": "/only/a/path"})).is_err());
        assert!(Hook::of(&json!({"url": "https://a", "caBundle": "%"})).is_err());
    }
}
