//! TLS: the server's side, and that of its connections to nodes.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme, WantsVerifier,
};

use super::StartError;
use crate::pki::Pki;

/// Lets every client certificate through whose key the client has. Whose it is, is judged
/// later, so that a client with a bad one is told so in HTTP, and may still use a token.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// TLS 1.2 and 1.3, HTTP/2 preferred, client certificates asked for.
pub(super) fn config(
    pki: &Pki,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, StartError> {
    let fault = |reason: String| StartError::Tls { reason };
    let leaf = CertificateDer::from_pem_slice(pki.serving.certificate_pem.as_bytes())
        .map_err(|error| fault(format!("the serving certificate: {error}")))?;
    // The authority goes along: who joins recognises it by its hash.
    let authority = CertificateDer::from(pki.authority.certificate_der().to_vec());
    let key = PrivateKeyDer::from_pem_slice(pki.serving.key_pem.as_bytes())
        .map_err(|error| fault(format!("the serving key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(error.to_string()))?
        .with_client_cert_verifier(Arc::new(AnyCertificate(clients)))
        .with_single_cert(vec![leaf, authority], key)
        .map_err(|error| fault(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For connections to kubelets: verified by the cluster's authority, with the server's
/// client certificate.
pub(super) fn kubelet_client(pki: &Pki) -> Result<Arc<ClientConfig>, StartError> {
    let fault = |reason: String| StartError::Tls { reason };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(
            pki.authority.certificate_der().to_vec(),
        ))
        .map_err(|error| fault(error.to_string()))?;
    let certificate = CertificateDer::from_pem_slice(pki.kubelet_client.certificate_pem.as_bytes())
        .map_err(|error| fault(format!("the kubelet client's certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(pki.kubelet_client.key_pem.as_bytes())
        .map_err(|error| fault(format!("the kubelet client's key: {error}")))?;
    let config = client_builder()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(|error| fault(error.to_string()))?;
    Ok(Arc::new(config))
}

/// For pods and services behind `proxy`: whoever they are.
pub(super) fn unverified_client() -> Result<Arc<ClientConfig>, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(any_server(provider))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn client_builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Tls {
            reason: error.to_string(),
        })
}

/// A verifier that lets every server pass.
pub(crate) fn any_server(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyServer(provider))
}

/// Takes every server for what it says it is.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
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
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
