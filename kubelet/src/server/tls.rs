use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why the server cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("not a PEM certificate chain: {0}")]
    Certificate(String),
    #[error("not a PEM private key: {0}")]
    Key(String),
    #[error("the certificate and the key do not fit: {0}")]
    Mismatch(rustls::Error),
    #[error("not a certificate authority: {0}")]
    Authority(String),
    #[error(transparent)]
    Config(#[from] rustls::Error),
}

/// The server's certificate, which may be replaced while the server runs. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    key: Arc<RwLock<Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// From a certificate chain and its private key, both PEM.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self {
            key: Arc::new(RwLock::new(certified(chain, key)?)),
        })
    }

    /// Connections from now on get this certificate.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), TlsError> {
        *self.key.write() = certified(chain, key)?;
        Ok(())
    }
}

fn certified(chain: &str, key: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| TlsError::Key(error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map(Arc::new)
        .map_err(TlsError::Mismatch)
}

#[derive(Debug)]
struct Resolver(Identity);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.key.read().clone())
    }
}

/// How the server shows itself, and whose clients it knows.
#[derive(Debug, Clone)]
pub struct Serving {
    pub identity: Identity,
    /// The authority of client certificates, PEM.
    pub client_ca: String,
}

impl Serving {
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.client_ca.as_bytes()) {
            let certificate =
                certificate.map_err(|error| TlsError::Authority(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| TlsError::Authority(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Authority(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Resolver(self.identity.clone())));
        // Upgraded connections need HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
