//! Kubeconfig files with everything inside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Issued;

/// A kubeconfig with one cluster and one user.
pub fn kubeconfig(url: &str, ca_pem: &str, user: &str, identity: &Issued) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1
kind: Config
current-context: {user}@fairlead
clusters:
- name: fairlead
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {user}@fairlead
  context:
    cluster: fairlead
    user: {user}
"
    )
}
