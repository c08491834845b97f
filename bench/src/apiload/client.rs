//! One connection to an API server.

use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the server is and who the client is.
pub(super) struct Target {
    authority: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// What of an answer matters here.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) bytes: usize,
}

impl Target {
    pub(super) fn from_kubeconfig(path: &Path) -> Result<Target> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let config: Value = serde_saphyr::from_str(&text).context("the kubeconfig")?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let data = |value: &Value, what: &str| -> Result<Vec<u8>> {
            let text = value
                .as_str()
                .ok_or_else(|| anyhow!("the kubeconfig has no {what}"))?;
            Ok(STANDARD.decode(text)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = data(
            &cluster["certificate-authority-data"],
            "certificate-authority-data",
        )?;
        roots.add(CertificateDer::from_pem_slice(&ca)?)?;
        let certificate = data(&user["client-certificate-data"], "client-certificate-data")?;
        let key = data(&user["client-key-data"], "client-key-data")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&certificate)?],
                PrivateKeyDer::from_pem_slice(&key)?,
            )?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let url: Uri = cluster["server"].as_str().unwrap_or_default().parse()?;
        let host = url
            .host()
            .ok_or_else(|| anyhow!("the server's URL has no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Target {
            authority: format!("{host}:{}", url.port_u16().unwrap_or(443)),
            name: ServerName::try_from(host)?,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }
}

pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Client {
    pub(super) async fn connect(target: &Target) -> Result<Client> {
        let address = target.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| anyhow!("{} has no address", target.authority))?;
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let stream = target
            .tls
            .connect(target.name.clone(), stream)
            .await
            .context("TLS")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client {
            sender,
            authority: target.authority.clone(),
        })
    }

    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        self.send_as(method, path, "application/json", body).await
    }

    pub(super) async fn send_as(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("user-agent", "apiload");
        let bytes = match body {
            Some(body) => {
                request = request.header("content-type", content_type);
                serde_json::to_vec(body)?
            }
            None => Vec::new(),
        };
        self.sender.ready().await?;
        let response = self
            .sender
            .send_request(request.body(Full::new(bytes.into()))?)
            .await?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(Answer { code, bytes })
    }
}
