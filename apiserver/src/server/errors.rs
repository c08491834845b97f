//! Why a server does not start; each says in one line what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::audit::AuditError;
use crate::authn::static_tokens::StaticTokensError;
use crate::authn::{AuthenticationConfigError, JwtError};
use crate::authz::AuthorizationConfigError;
use crate::bootstrap::BootstrapError;
use crate::encryption::EncryptionError;
use crate::pki::PkiError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the address {address} is in use: stop what listens there (`ss -ltnp`), or choose \
         another with --secure-port"
    )]
    PortInUse { address: SocketAddr },
    #[error("listening on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "{path} cannot be written: run this as root, or choose another place with --data-dir",
        path = .path.display()
    )]
    NotPermitted { path: PathBuf },
    #[error("{path}: {source}", path = .path.display())]
    DataDirectory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} holds the keys of one cluster ({keys}) and the store another ({store}): restore \
         both from one backup, or use an empty --data-dir for a new cluster",
        path = .path.display()
    )]
    OtherCluster {
        path: PathBuf,
        keys: String,
        store: String,
    },
    #[error(transparent)]
    Store(#[from] storage::StoreError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    StaticTokens(#[from] StaticTokensError),
    #[error("the service account key in {path}: {source}", path = .path.display())]
    ServiceAccountKey { path: PathBuf, source: JwtError },
    #[error("TLS: {reason}")]
    Tls { reason: String },
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error(transparent)]
    Authentication(#[from] AuthenticationConfigError),
    #[error(transparent)]
    Authorization(#[from] AuthorizationConfigError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}
