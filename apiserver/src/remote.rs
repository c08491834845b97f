//! Servers that decide for this one: webhooks of authentication and authorization, and issuers of
//! tokens. The operator names them, in files that clients of Kubernetes know, so the client that
//! reads those makes the connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

/// Answers larger than this are not read.
const MAX_ANSWER: usize = 1 << 20;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a server could not be asked. `Setup` stays until the configuration changes; the others may
/// pass.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("{path}: {why}", path = .path.display())]
    File { path: PathBuf, why: String },
    #[error("{url}: {why}")]
    Setup { url: String, why: String },
    #[error("{url}: {why}")]
    Failed { url: String, why: String },
    #[error("{url}: no answer within {} seconds", PATIENCE.as_secs())]
    Timeout { url: String },
    #[error("{url}: answered with the status code {code}")]
    Code { url: String, code: u16 },
}

/// One such server.
pub(crate) struct Remote {
    client: kube::Client,
    /// What is asked for; the client adds scheme and host.
    path: String,
    url: String,
}

impl Remote {
    /// The server that a kubeconfig's current context names, with its credentials.
    pub(crate) async fn from_kubeconfig(path: &Path) -> Result<Self, RemoteError> {
        let wrong = |why: String| RemoteError::File {
            path: path.to_path_buf(),
            why,
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|e| wrong(e.to_string()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| wrong(e.to_string()))?;
        Remote::of(config)
    }

    /// The server at a URL, which has to be https; `authorities` is PEM, by default the system's.
    pub(crate) fn at(url: &str, authorities: Option<&str>) -> Result<Self, RemoteError> {
        let wrong = |why: String| RemoteError::Setup {
            url: url.to_owned(),
            why,
        };
        let parsed: Uri = url.parse().map_err(|e| wrong(format!("{e}")))?;
        if parsed.scheme_str() != Some("https") {
            return Err(wrong("the URL's scheme must be https".into()));
        }
        let mut config = Config::new(parsed);
        if let Some(pem) = authorities {
            let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem.as_bytes())
                .filter_map(|c| c.ok().map(|c| c.to_vec()))
                .collect();
            if roots.is_empty() {
                return Err(wrong("the authorities are no PEM certificates".into()));
            }
            config.root_cert = Some(roots);
        }
        Remote::of(config)
    }

    fn of(mut config: Config) -> Result<Self, RemoteError> {
        let url = config.cluster_url.to_string();
        let wrong = |why: String| RemoteError::Setup {
            url: url.clone(),
            why,
        };
        let path = config.cluster_url.path_and_query();
        let path = path.map_or_else(|| "/".to_owned(), ToString::to_string);
        // The client would put a slash after a path of the base.
        let mut parts = config.cluster_url.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = Uri::from_parts(parts).map_err(|e| wrong(e.to_string()))?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        config.default_retry = false;
        let client = kube::Client::try_from(config).map_err(|e| wrong(e.to_string()))?;
        Ok(Remote { client, path, url })
    }

    pub(crate) async fn get(&self) -> Result<Value, RemoteError> {
        self.ask(Method::GET, Vec::new()).await
    }

    pub(crate) async fn post(&self, body: &Value) -> Result<Value, RemoteError> {
        self.ask(Method::POST, body.to_string().into_bytes()).await
    }

    /// Redirects are answers like any other: nobody is sent elsewhere with our credentials.
    async fn ask(&self, method: Method, body: Vec<u8>) -> Result<Value, RemoteError> {
        let failed = |why: String| RemoteError::Failed {
            url: self.url.clone(),
            why,
        };
        let request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(kube::client::Body::from(body))
            .map_err(|e| failed(e.to_string()))?;
        let asking = async {
            let response = self.client.send(request).await;
            let response = response.map_err(|e| failed(innermost(&e)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|e| failed(e.to_string()))?
                .to_bytes();
            if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
                return Err(RemoteError::Code {
                    url: self.url.clone(),
                    code: status.as_u16(),
                });
            }
            serde_json::from_slice(&body).map_err(|e| failed(format!("it is not JSON: {e}")))
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(RemoteError::Timeout {
                url: self.url.clone(),
            }),
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_asked() {
        for url in ["http://issuer.example", "issuer.example", "https://"] {
            assert!(Remote::at(url, None).is_err(), "{url}");
        }
    }
}
