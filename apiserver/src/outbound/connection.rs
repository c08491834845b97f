//! One TLS connection to a [`Place`].

use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Place, service_address};
use crate::pki::Issued;
use crate::registry::Cacher;

const CONNECT: Duration = Duration::from_secs(10);
/// Where Debian and its like keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How the other side's certificate is judged.
pub(crate) enum Verify<'a> {
    /// PEM of the authorities.
    Authorities(&'a [u8]),
    System,
    /// Whatever it shows.
    Nothing,
}

/// TLS as a client; `identity` is what it shows of itself.
pub(crate) fn tls_client(
    verify: &Verify<'_>,
    identity: Option<&Issued>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match verify {
        Verify::Nothing => builder
            .dangerous()
            .with_custom_certificate_verifier(crate::server::any_server(provider)),
        Verify::Authorities(pem) => builder.with_root_certificates(roots(pem)?),
        Verify::System => {
            let pem = std::fs::read(SYSTEM_AUTHORITIES)
                .map_err(|e| format!("{SYSTEM_AUTHORITIES}: {e}"))?;
            builder.with_root_certificates(roots(&pem)?)
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let certificate = CertificateDer::from_pem_slice(own.certificate_pem.as_bytes())
                .map_err(|e| e.to_string())?;
            let key =
                PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).map_err(|e| e.to_string())?;
            builder
                .with_client_auth_cert(vec![certificate], key)
                .map_err(|e| e.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|e| format!("unable to load root certificates: {e}"))?;
        // One unusable authority among many is no reason to trust none.
        found += usize::from(roots.add(certificate).is_ok());
    }
    if found == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    Ok(roots)
}

/// Makes connections to one place.
#[derive(Clone)]
pub(crate) struct Connector {
    place: Place,
    tls: Arc<ClientConfig>,
    cacher: Arc<Cacher>,
}

impl Connector {
    pub(crate) fn new(place: Place, tls: Arc<ClientConfig>, cacher: Arc<Cacher>) -> Self {
        Connector { place, tls, cacher }
    }

    /// Dials, shakes hands.
    pub(crate) async fn connect(self) -> Result<TlsStream<TcpStream>, Error> {
        let tcp = tokio::time::timeout(CONNECT, self.dial())
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "i/o timeout"))??;
        // Requests are small and wait for their answers.
        let _ = tcp.set_nodelay(true);
        let host = self.place.host();
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host)
                .map_err(|e| Error::new(ErrorKind::InvalidInput, e.to_string()))?,
        };
        let shaken = TlsConnector::from(self.tls).connect(name, tcp);
        tokio::time::timeout(CONNECT, shaken)
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "net/http: TLS handshake timeout"))?
    }

    async fn dial(&self) -> Result<TcpStream, Error> {
        match &self.place {
            Place::Host { host, port } => TcpStream::connect((host.as_str(), *port)).await,
            Place::Service {
                namespace,
                name,
                port,
            } => {
                let address = service_address(&self.cacher, namespace, name, *port)
                    .map_err(|why| Error::new(ErrorKind::NotFound, why))?;
                TcpStream::connect(address)
                    .await
                    .map_err(|e| Error::new(e.kind(), format!("dial tcp {address}: {e}")))
            }
        }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Channel;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Channel, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.clone().connect();
        Box::pin(async move { connecting.await.map(|stream| Channel(TokioIo::new(stream))) })
    }
}

/// A connection in the terms of the HTTP client's pool.
pub(crate) struct Channel(TokioIo<TlsStream<TcpStream>>);

impl Connection for Channel {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        if session.alpn_protocol() == Some(b"h2") {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl Read for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
