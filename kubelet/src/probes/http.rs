use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Answer;

/// As much of a body as goes into a message.
const BODY_LIMIT: usize = 10 << 10;
const REDIRECTS: usize = 10;

/// One GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

/// What a response means for a probe.
enum Outcome {
    Done,
    Failed(u16),
    Redirected(String),
}

/// Sends the request, following redirects to the same host. A redirect to another host
/// counts as success: what it leads to is not this container's health.
pub(super) async fn get(request: &Request) -> Answer {
    let mut request = request.clone();
    for _ in 0..REDIRECTS {
        match once(&request)
            .await
            .map_err(|error| format!("Get \"{}\": {error}", url(&request)))?
        {
            Outcome::Done => return Ok(()),
            Outcome::Failed(status) => {
                return Err(format!("HTTP probe failed with statuscode: {status}"));
            }
            Outcome::Redirected(location) => match redirect(&request, &location) {
                Some(next) => request = next,
                None => return Ok(()),
            },
        }
    }
    Err(format!("stopped after {REDIRECTS} redirects"))
}

fn url(request: &Request) -> String {
    let scheme = if request.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", authority(request), request.path)
}

fn authority(request: &Request) -> String {
    if request.host.contains(':') {
        format!("[{}]:{}", request.host, request.port)
    } else {
        format!("{}:{}", request.host, request.port)
    }
}

fn redirect(request: &Request, location: &str) -> Option<Request> {
    let uri: hyper::Uri = location.parse().ok()?;
    let path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let Some(host) = uri.host() else {
        return Some(Request {
            path,
            ..request.clone()
        });
    };
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    (host.trim_matches(['[', ']']) == request.host).then(|| Request {
        tls,
        port,
        path,
        ..request.clone()
    })
}

async fn once(request: &Request) -> Result<Outcome, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let address = (request.host.as_str(), request.port);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("dial tcp {}: {error}", authority(request)))?;
    if !request.tls {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(request.host.clone()).map_err(|error| text(&error))?;
    let stream = TlsConnector::from(blind_tls())
        .connect(name, stream)
        .await
        .map_err(|error| text(&error))?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: &Request) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(build(request)?).await.map_err(text)?;
    let status = answer.status().as_u16();
    let location = answer
        .headers()
        .get(hyper::header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    // Reading the body lets the server finish in peace.
    let _ = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
    driver.abort();
    Ok(match (status, location) {
        (300..=399, Some(location)) => Outcome::Redirected(location),
        (200..=399, _) => Outcome::Done,
        _ => Outcome::Failed(status),
    })
}

fn build(request: &Request) -> Result<hyper::Request<Empty<Bytes>>, String> {
    let mut builder = hyper::Request::get(&request.path);
    let given = |name: &str| {
        request
            .headers
            .keys()
            .any(|key| key.eq_ignore_ascii_case(name))
    };
    for (name, default) in [
        ("Host", authority(request)),
        ("User-Agent", "kube-probe/1.36".into()),
        ("Accept", "*/*".into()),
    ] {
        if !given(name) {
            builder = builder.header(name, default);
        }
    }
    builder = builder.header("Connection", "close");
    for (name, value) in request
        .headers
        .iter()
        .filter(|(_, value)| !value.is_empty())
    {
        builder = builder.header(name, value);
    }
    builder
        .body(Empty::new())
        .map_err(|error| error.to_string())
}

/// TLS that takes any certificate: a probe asks whether the container answers, and the
/// container's certificate is nobody's business here.
fn blind_tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each connection with the next text.
    async fn server(answers: Vec<&'static str>) -> Request {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Request {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/".into(),
            headers: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn statuses_below_400_are_well_and_redirects_are_followed() {
        let ok = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(get(&server(vec![ok]).await).await, Ok(()));
        let bad = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        let message = "HTTP probe failed with statuscode: 503".to_owned();
        assert_eq!(get(&server(vec![bad]).await).await, Err(message.clone()));
        let moved = "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(get(&server(vec![moved, bad]).await).await, Err(message));
        let away = "HTTP/1.1 302 Found\r\nlocation: http://other/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(get(&server(vec![away]).await).await, Ok(()));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let mut request = server(vec![]).await;
        request.port = 1;
        let error = get(&request).await.unwrap_err();
        assert!(error.contains("dial tcp 127.0.0.1:1:"), "{error}");
    }
}
