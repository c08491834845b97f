//! How a machine becomes a node: it trusts the cluster by the hash of its CA, shows a token,
//! and gets certificates of its own, which it renews before they end.
//!
//! 1. [`discover`]: the server shows its chain; the CA in it must have the hash that the
//!    operator gave. Only then anything secret is sent.
//! 2. [`csr`]: with the token a client certificate `system:node:NAME` is asked for; with
//!    that, a certificate for the kubelet's own server.
//! 3. [`store`]: a kubeconfig (mode 0600) and the keys, for the next start.
//! 4. [`keep_certificates`]: new ones are asked for when a third of the life is left.

mod adopt;
mod csr;
mod discover;
mod rotate;
mod store;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use rotate::RotatingClient;
pub use rotate::keep_certificates;
use store::Store;

use crate::server::{Identity, Serving, TlsError};

/// The kubeconfig's name in the state directory.
pub const KUBECONFIG: &str = "kubelet.kubeconfig";

/// What a machine is told to join a cluster.
#[derive(Debug, Clone)]
pub struct Join {
    /// `https://HOST:PORT`
    pub server: String,
    /// `id.secret`
    pub token: String,
    /// `sha256:HEX` of the CA's public key, as kubeadm writes it.
    pub ca_cert_hash: String,
    pub node: NodeNames,
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    pub name: String,
    /// Its addresses, for the certificate of its server.
    pub ips: Vec<IpAddr>,
    /// Where its credentials are kept, `/var/lib/fairlead/node` by default.
    pub state_dir: PathBuf,
}

/// A machine that belongs to a cluster.
#[derive(Clone)]
pub struct Member {
    pub client: Client,
    pub serving: Serving,
    /// The cluster's CA, PEM.
    pub ca: String,
    pub kubeconfig: PathBuf,
    rotating: RotatingClient,
    node: NodeNames,
}

/// Why a machine could not join: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("\"{0}\" is not a server's address: write https://HOST:6443")]
    Address(String),
    #[error(
        "\"{0}\" is not a CA hash: write sha256: and 64 hexadecimal digits, as `fairlead token create` prints it"
    )]
    Hash(String),
    #[error("\"{0}\" is not a join token: it has the form abcdef.0123456789abcdef")]
    Token(String),
    #[error(
        "cannot reach {server}: {reason}; is `fairlead server` running there, and its port open?"
    )]
    Unreachable { server: String, reason: String },
    #[error(
        "{server} does not belong to the cluster with this CA hash (its CA has {found}): check --ca-cert-hash, or the address"
    )]
    WrongCa { server: String, found: String },
    #[error("{server} does not show its CA certificate: is it a Fairlead server?")]
    NoCa { server: String },
    #[error(
        "this machine's clock says {now}, but the cluster's certificates are valid from {from} to {to}: set the clock"
    )]
    Clock {
        now: Timestamp,
        from: Timestamp,
        to: Timestamp,
    },
    #[error(
        "the server did not accept the token: it is wrong or has expired; make a new one with `fairlead token create`"
    )]
    TokenRefused,
    #[error("the server refuses {what} to this node: {message}")]
    Forbidden { what: &'static str, message: String },
    #[error("the certificate request {name} was denied: {message}")]
    Denied { name: String, message: String },
    #[error(
        "nobody signed the certificate request {name} within {seconds} s: are the server's controllers running?"
    )]
    NotSigned { name: String, seconds: u64 },
    #[error("the server's answer to {what}: {source}")]
    Api {
        what: &'static str,
        source: kube::Error,
    },
    #[error("cannot make a key or a certificate request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot use the credentials in {path}: {reason}; remove them to join anew")]
    Stored { path: String, reason: String },
    #[error("cannot use the kubeconfig {path}: {reason}")]
    Kubeconfig { path: String, reason: String },
    #[error("cannot write {path}: {source}")]
    Write {
        path: String,
        source: std::io::Error,
    },
    #[error("the server's certificate is unusable: {0}")]
    Tls(#[from] TlsError),
}

/// How long a certificate request may wait for its signature.
const PATIENCE: Duration = Duration::from_secs(60);

/// Joins: everything from the hash to the certificates. Credentials from an earlier time are
/// replaced.
pub async fn join(join: &Join) -> Result<Member, JoinError> {
    check_token(&join.token)?;
    let ca = discover::authority(&join.server, &join.ca_cert_hash).await?;
    let store = Store::new(&join.node.state_dir);
    let bootstrap = store::client_with_token(&join.server, &ca, &join.token)?;
    let request = csr::client_request(&join.node.name)?;
    let certificate = csr::obtain(&bootstrap, &request, PATIENCE).await?;
    let kubeconfig = store.write_client(&join.server, &ca, &certificate, &request.key_pem)?;
    finish(store, kubeconfig, ca, join.node.clone()).await
}

/// Takes up the membership of an earlier start; `None` when there was none.
pub async fn resume(node: &NodeNames) -> Result<Option<Member>, JoinError> {
    let store = Store::new(&node.state_dir);
    let Some((kubeconfig, ca)) = store.read_client()? else {
        return Ok(None);
    };
    finish(store, kubeconfig, ca, node.clone()).await.map(Some)
}

/// Becomes a member with the credentials of a kubeconfig, as other installers leave them for a
/// kubelet. They are copied to the state directory, where they are renewed; a membership that is
/// there already is taken up.
pub async fn adopt(kubeconfig: &Path, node: &NodeNames) -> Result<Member, JoinError> {
    if let Some(member) = resume(node).await? {
        return Ok(member);
    }
    let given = adopt::Credentials::read(kubeconfig)?;
    let store = Store::new(&node.state_dir);
    let path = store.write_client(&given.server, &given.ca, &given.certificate, &given.key)?;
    finish(store, path, given.ca, node.clone()).await
}

async fn finish(
    store: Store,
    kubeconfig: PathBuf,
    ca: String,
    node: NodeNames,
) -> Result<Member, JoinError> {
    let rotating = RotatingClient::new(store.client().await?);
    let client = rotating.client();
    let identity = match store.read_serving(&node)? {
        Some((certificate, key)) => Identity::from_pem(&certificate, &key)?,
        // The cluster signs one once the Node has told its addresses; `keep_certificates` asks.
        None => {
            store.forget_serving()?;
            let (certificate, key) = csr::self_signed(&node)?;
            Identity::from_pem(&certificate, &key)?
        }
    };
    let serving = Serving {
        identity,
        client_ca: ca.clone(),
    };
    Ok(Member {
        client,
        serving,
        ca,
        kubeconfig,
        rotating,
        node,
    })
}

fn check_token(token: &str) -> Result<(), JoinError> {
    let part = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    match token.split_once('.') {
        Some((id, secret)) if part(id, 6) && part(secret, 16) => Ok(()),
        // The token itself does not belong in a message.
        _ => Err(JoinError::Token(
            token.split('.').next().unwrap_or_default().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_form() {
        assert!(check_token("abcdef.0123456789abcdef").is_ok());
        for wrong in [
            "",
            "abcdef",
            "abc.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.short",
        ] {
            assert!(check_token(wrong).is_err(), "{wrong}");
        }
    }
}
