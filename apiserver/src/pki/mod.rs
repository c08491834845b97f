//! The cluster's keys and certificates: one authority signs everything.
//!
//! All of it is made on the first start and kept in `DIR/pki` (the layout that kubeadm
//! users know). The authority lasts ten years; what it signed lasts one and is made anew
//! at a start within its last 90 days, or when it lacks a name that the server has now.

mod authority;
mod errors;
mod files;
mod kubeconfig;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use authority::{Authority, Issued, Leaf, Purpose};
pub use errors::PkiError;
pub use kubeconfig::kubeconfig;

use crate::authn::group;
pub(crate) use files::write_private;
use files::{read, write_public};

/// Whom the serving certificate is for.
#[derive(Debug, Clone, Default)]
pub struct ServingNames {
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Everything that the server needs of `DIR/pki`.
#[derive(Clone)]
pub struct Pki {
    directory: PathBuf,
    pub authority: Arc<Authority>,
    pub front_proxy_authority: Arc<Authority>,
    pub serving: Issued,
    /// With this the server presents itself to kubelets.
    pub kubelet_client: Issued,
    /// With this it presents itself to aggregated API servers.
    pub front_proxy_client: Issued,
    pub admin: Issued,
    /// PKCS#8 PEM of the key that signs service account tokens.
    pub service_account_key: String,
}

impl Pki {
    /// Reads the directory, makes what is missing and renews what is about to expire.
    /// `fresh`: the store is empty, so that a missing authority may be made.
    pub fn open(directory: &Path, names: &ServingNames, fresh: bool) -> Result<Pki, PkiError> {
        if !fresh && !directory.join("ca.crt").exists() {
            return Err(PkiError::AuthorityMissing {
                directory: directory.to_path_buf(),
            });
        }
        files::make_directory(directory)?;
        let authority = Arc::new(Authority::open(directory, "ca", "kubernetes-ca")?);
        let front = Authority::open(directory, "front-proxy-ca", "kubernetes-front-proxy-ca")?;
        let front_proxy_authority = Arc::new(front);
        let leaf = |name: &str, authority: &Authority, leaf: Leaf| {
            authority.open_leaf(directory, name, &leaf)
        };
        let kubelet = Leaf::client("kube-apiserver-kubelet-client", Some(group::MASTERS));
        let admin = Leaf::client("kubernetes-admin", Some(group::MASTERS));
        let front_proxy = Leaf::client("front-proxy-client", None);
        Ok(Pki {
            serving: leaf(
                "apiserver",
                &authority,
                Leaf::server("kube-apiserver", names),
            )?,
            kubelet_client: leaf("apiserver-kubelet-client", &authority, kubelet)?,
            front_proxy_client: leaf("front-proxy-client", &front_proxy_authority, front_proxy)?,
            admin: leaf("admin", &authority, admin)?,
            service_account_key: service_account_key(directory)?,
            directory: directory.to_path_buf(),
            authority,
            front_proxy_authority,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the admin's kubeconfig for a server's URL, readable for its owner only.
    pub fn write_admin_kubeconfig(&self, path: &Path, url: &str) -> Result<(), PkiError> {
        let ca = self.authority.certificate_pem();
        let text = kubeconfig(url, ca, "kubernetes-admin", &self.admin);
        if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
            return files::restrict(path);
        }
        write_private(path, text.as_bytes())
    }
}

fn service_account_key(directory: &Path) -> Result<String, PkiError> {
    let path = directory.join("sa.key");
    if let Some(pem) = read(&path)? {
        return Ok(pem);
    }
    let key = authority::new_key()?;
    let pem = key.serialize_pem();
    write_public(&directory.join("sa.pub"), key.public_key_pem().as_bytes())?;
    write_private(&path, pem.as_bytes())?;
    Ok(pem)
}
