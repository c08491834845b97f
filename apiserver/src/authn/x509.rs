//! Users of client certificates: the common name is the user, organizations are groups.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authenticator::authenticated;
use super::{SharedUser, UserInfo};

/// What a connection's client certificate says, found out once for the connection.
#[derive(Debug, Clone, Default)]
pub enum Peer {
    #[default]
    NoCertificate,
    User(SharedUser),
    /// A proxy that may say in headers whose request it is.
    FrontProxy,
    /// Expired, of another authority, or without a name: its requests are refused.
    Invalid(String),
}

/// Tells the users of certificates.
pub struct CertificateAuthenticator {
    clients: Arc<dyn ClientCertVerifier>,
    front_proxy: Arc<dyn ClientCertVerifier>,
}

/// The extra that names the credential, for the audit log.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Common names that the front proxy's certificate may have.
const FRONT_PROXY_NAMES: &[&str] = &["front-proxy-client"];

impl CertificateAuthenticator {
    /// `None` when an authority's certificate cannot be used.
    pub fn new(client_ca_der: &[u8], front_proxy_ca_der: &[u8]) -> Option<Self> {
        Some(CertificateAuthenticator {
            clients: verifier(client_ca_der)?,
            front_proxy: verifier(front_proxy_ca_der)?,
        })
    }

    /// The verifier of the cluster's own authority, for the handshake's signatures.
    pub fn handshake_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.clients.clone()
    }

    /// Judges what the client presented; the handshake has shown that it has the key.
    pub fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((leaf, intermediates)) = chain.and_then(|chain| chain.split_first()) else {
            return Peer::NoCertificate;
        };
        let now = UnixTime::now();
        match self.clients.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => match user_of(leaf) {
                Some(mut user) => {
                    authenticated(&mut user);
                    Peer::User(Arc::new(user))
                }
                None => Peer::Invalid("the client certificate has no common name".to_owned()),
            },
            Err(error) => {
                let proxy = self
                    .front_proxy
                    .verify_client_cert(leaf, intermediates, now)
                    .is_ok();
                let name = user_of(leaf).map(|user| user.name).unwrap_or_default();
                if proxy && FRONT_PROXY_NAMES.contains(&name.as_str()) {
                    return Peer::FrontProxy;
                }
                Peer::Invalid(error.to_string())
            }
        }
    }
}

fn verifier(ca_der: &[u8]) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca_der.to_vec())).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .ok()
}

fn user_of(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .filter(|name| !name.is_empty())?;
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok())
        .collect();
    let mut user = UserInfo::new(name, groups);
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(certificate)));
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![id]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf, Pki, ServingNames};

    fn chain(authority: &Authority, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        let issued = authority.issue(leaf).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
        vec![CertificateDer::from(pem.contents)]
    }

    #[test]
    fn certificates_are_judged_by_their_authority() {
        let directory = tempfile::tempdir().unwrap();
        let names = ServingNames::default();
        let ours = Pki::open(&directory.path().join("a"), &names, true).unwrap();
        let other = Pki::open(&directory.path().join("b"), &names, true).unwrap();
        let judge = CertificateAuthenticator::new(
            ours.authority.certificate_der(),
            ours.front_proxy_authority.certificate_der(),
        )
        .unwrap();

        let alice = Leaf::client("alice", Some("devs"));
        let Peer::User(user) = judge.judge(Some(&chain(&ours.authority, &alice))) else {
            panic!("alice is a user");
        };
        assert_eq!(user.name, "alice");
        assert_eq!(user.groups, ["devs", "system:authenticated"]);
        assert!(matches!(
            judge.judge(Some(&chain(&other.authority, &alice))),
            Peer::Invalid(_)
        ));
        let server = Leaf::server("alice", &names);
        assert!(matches!(
            judge.judge(Some(&chain(&ours.authority, &server))),
            Peer::Invalid(_)
        ));
        let nameless = Leaf::client("", Some("system:masters"));
        assert!(matches!(
            judge.judge(Some(&chain(&ours.authority, &nameless))),
            Peer::Invalid(_)
        ));
        let proxy = Leaf::client("front-proxy-client", None);
        let proxied = judge.judge(Some(&chain(&ours.front_proxy_authority, &proxy)));
        assert!(matches!(proxied, Peer::FrontProxy));
        let posing = Leaf::client("alice", Some("system:masters"));
        let posing = judge.judge(Some(&chain(&ours.front_proxy_authority, &posing)));
        assert!(matches!(posing, Peer::Invalid(_)));
        assert!(matches!(judge.judge(None), Peer::NoCertificate));
    }
}
