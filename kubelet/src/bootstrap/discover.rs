use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::JoinError;

const CONNECT: Duration = Duration::from_secs(10);

/// The CA of the server, PEM, once it has the wanted hash.
pub(super) async fn authority(server: &str, hash: &str) -> Result<String, JoinError> {
    let wanted = parse_hash(hash)?;
    let chain = chain(server).await?;
    check_clock(&chain, Timestamp::now())?;
    choose(&chain, &wanted, server)
}

fn parse_hash(hash: &str) -> Result<[u8; 32], JoinError> {
    let wrong = || JoinError::Hash(hash.to_owned());
    let hex = hash.strip_prefix("sha256:").ok_or_else(wrong)?;
    hex::decode(hex)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(wrong)
}

/// The hash of a certificate's public key, as kubeadm has it.
fn key_hash(der: &[u8]) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(Sha256::digest(certificate.tbs_certificate.subject_pki.raw).into())
}

fn choose(chain: &[Vec<u8>], wanted: &[u8; 32], server: &str) -> Result<String, JoinError> {
    let is_ca = |der: &&Vec<u8>| {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.is_ca())
    };
    let authorities: Vec<&Vec<u8>> = chain.iter().filter(is_ca).collect();
    if let Some(found) = authorities
        .iter()
        .find(|der| key_hash(der).as_ref() == Some(wanted))
    {
        return Ok(pem(found));
    }
    match authorities.first().and_then(|der| key_hash(der)) {
        Some(found) => Err(JoinError::WrongCa {
            server: server.to_owned(),
            found: format!("sha256:{}", hex::encode(found)),
        }),
        None => Err(JoinError::NoCa {
            server: server.to_owned(),
        }),
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A clock that is off makes every certificate look wrong: better said at once.
fn check_clock(chain: &[Vec<u8>], now: Timestamp) -> Result<(), JoinError> {
    for der in chain {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            continue;
        };
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(now);
        let validity = certificate.validity();
        let (from, to) = (
            at(validity.not_before.timestamp()),
            at(validity.not_after.timestamp()),
        );
        if now < from || to < now {
            let now = at(now.as_second());
            return Err(JoinError::Clock { now, from, to });
        }
    }
    Ok(())
}

/// What the server shows in its handshake. Nothing is trusted yet, and nothing is sent.
async fn chain(server: &str) -> Result<Vec<Vec<u8>>, JoinError> {
    let uri: http::Uri = server
        .parse()
        .map_err(|_| JoinError::Address(server.to_owned()))?;
    let wrong = || JoinError::Address(server.to_owned());
    let host = uri
        .host()
        .filter(|_| uri.scheme_str() == Some("https"))
        .ok_or_else(wrong)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let unreachable = |reason: String| JoinError::Unreachable {
        server: server.to_owned(),
        reason,
    };
    let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
    let seen = Arc::new(Seen::default());
    let config = ClientConfig::builder_with_provider(seen.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unreachable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let handshake = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };
    match tokio::time::timeout(CONNECT, handshake).await {
        Err(_) => Err(unreachable("no answer".to_owned())),
        Ok(Err(error)) if seen.chain.lock().is_empty() => Err(unreachable(error.to_string())),
        Ok(_) => Ok(seen.chain.lock().clone()),
    }
}

/// Keeps what the server shows.
#[derive(Debug)]
struct Seen {
    chain: Mutex<Vec<Vec<u8>>>,
    provider: Arc<CryptoProvider>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            chain: Mutex::default(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock() = all.map(|der| der.to_vec()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn pki() -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".into()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        (ca.der().to_vec(), leaf.der().to_vec())
    }

    #[test]
    fn only_the_ca_with_the_hash_is_taken() {
        let (ca, leaf) = pki();
        let wanted = key_hash(&ca).unwrap();
        let chain = vec![leaf.clone(), ca.clone()];
        assert_eq!(choose(&chain, &wanted, "s").unwrap(), pem(&ca));
        assert!(matches!(
            choose(&chain, &[0; 32], "s"),
            Err(JoinError::WrongCa { .. })
        ));
        let of_leaf = key_hash(&leaf).unwrap();
        assert!(
            matches!(
                choose(&chain, &of_leaf, "s"),
                Err(JoinError::WrongCa { .. })
            ),
            "a leaf is no CA"
        );
        assert!(matches!(
            choose(&[leaf], &wanted, "s"),
            Err(JoinError::NoCa { .. })
        ));
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let (ca, _) = pki();
        assert!(check_clock(std::slice::from_ref(&ca), Timestamp::now()).is_ok());
        let error = check_clock(&[ca], Timestamp::from_second(0).unwrap()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("this machine's clock says 1970-01-01T00:00:00Z"),
            "{error}"
        );
    }

    #[test]
    fn hashes_have_their_form() {
        assert!(parse_hash(&format!("sha256:{}", "ab".repeat(32))).is_ok());
        for wrong in ["", "sha256:", "sha256:abc", "md5:00", &"ab".repeat(32)] {
            assert!(parse_hash(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let error = authority(
            "https://127.0.0.1:1",
            &format!("sha256:{}", "ab".repeat(32)),
        )
        .await
        .unwrap_err();
        assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
        let error = authority("127.0.0.1:1", &format!("sha256:{}", "ab".repeat(32)))
            .await
            .unwrap_err();
        assert!(matches!(error, JoinError::Address(_)), "{error}");
    }
}
