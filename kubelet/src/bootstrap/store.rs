use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{JoinError, KUBECONFIG, NodeNames};

const SERVING_CERTIFICATE: &str = "kubelet-serving.crt";
const SERVING_KEY: &str = "kubelet-serving.key";

/// The credentials on disk.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Validity {
    /// When to ask for the next one: two thirds into the life.
    pub(super) fn renew_at(self) -> Timestamp {
        let life = self.to.duration_since(self.from).as_secs();
        self.from + SignedDuration::from_secs(life * 2 / 3)
    }
}

/// The first certificate of a PEM chain.
fn first(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(pem.contents)
}

pub(super) fn validity(pem: &str) -> Option<Validity> {
    let der = first(pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let at = |seconds: i64| Timestamp::from_second(seconds).ok();
    let validity = certificate.validity();
    Some(Validity {
        from: at(validity.not_before.timestamp())?,
        to: at(validity.not_after.timestamp())?,
    })
}

/// Whether a server certificate names all addresses of the node.
fn names(pem: &str, node: &NodeNames) -> bool {
    let Some(der) = first(pem) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let listed = |ip: &IpAddr| {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::IPAddress(ip) if *ip == bytes))
    };
    node.ips.iter().all(listed)
}

impl Store {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file that only root reads; a reader never sees half of it.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, JoinError> {
        let path = self.path(name);
        let wrong = |source| JoinError::Write {
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(&self.directory).map_err(wrong)?;
        let part = self.path(&format!("{name}.part"));
        let _ = fs::remove_file(&part);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .map_err(wrong)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(wrong)?;
        fs::rename(&part, &path).map_err(wrong)?;
        Ok(path)
    }

    pub(super) fn write_client(
        &self,
        server: &str,
        ca: &str,
        certificate: &str,
        key: &str,
    ) -> Result<PathBuf, JoinError> {
        // JSON is YAML, too.
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fairlead", "cluster": {
                "server": server, "certificate-authority-data": STANDARD.encode(ca)}}],
            "users": [{"name": "kubelet", "user": {
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key)}}],
            "contexts": [{"name": "kubelet@fairlead", "context": {"cluster": "fairlead", "user": "kubelet"}}],
            "current-context": "kubelet@fairlead",
        });
        self.write(KUBECONFIG, &format!("{kubeconfig:#}\n"))
    }

    fn stored(&self, reason: impl ToString) -> JoinError {
        JoinError::Stored {
            path: self.path(KUBECONFIG).display().to_string(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn read_kubeconfig(&self) -> Result<Kubeconfig, JoinError> {
        Kubeconfig::read_from(self.path(KUBECONFIG)).map_err(|error| self.stored(error))
    }

    /// The kubeconfig's path and the CA in it; `None` before the first join.
    pub(super) fn read_client(&self) -> Result<Option<(PathBuf, String)>, JoinError> {
        let path = self.path(KUBECONFIG);
        if !path.exists() {
            return Ok(None);
        }
        let kubeconfig = self.read_kubeconfig()?;
        let cluster = kubeconfig
            .clusters
            .first()
            .and_then(|named| named.cluster.clone());
        let data = cluster.and_then(|cluster| cluster.certificate_authority_data);
        let ca = data
            .and_then(|data| STANDARD.decode(data).ok())
            .and_then(|ca| String::from_utf8(ca).ok());
        let ca = ca.ok_or_else(|| self.stored("it has no certificate authority"))?;
        let certificate = self.client_certificate()?;
        let expired = validity(&certificate).is_none_or(|validity| validity.to < Timestamp::now());
        if expired {
            return Err(self.stored("its certificate has expired (or this machine's clock is off)"));
        }
        Ok(Some((path, ca)))
    }

    /// The certificate in the kubeconfig, PEM.
    pub(super) fn client_certificate(&self) -> Result<String, JoinError> {
        let kubeconfig = self.read_kubeconfig()?;
        let user = kubeconfig
            .auth_infos
            .first()
            .and_then(|named| named.auth_info.clone());
        let data = user.and_then(|user| user.client_certificate_data);
        let text = data
            .and_then(|data| STANDARD.decode(data).ok())
            .and_then(|t| String::from_utf8(t).ok());
        text.ok_or_else(|| self.stored("it has no client certificate"))
    }

    /// The server's address in the kubeconfig.
    pub(super) fn server(&self) -> Result<String, JoinError> {
        let kubeconfig = self.read_kubeconfig()?;
        let cluster = kubeconfig
            .clusters
            .first()
            .and_then(|named| named.cluster.clone());
        cluster
            .and_then(|cluster| cluster.server)
            .ok_or_else(|| self.stored("it names no server"))
    }

    /// A client from the kubeconfig.
    pub(super) async fn client(&self) -> Result<Client, JoinError> {
        let kubeconfig = self.read_kubeconfig()?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.map_err(|error| self.stored(error))?;
        config.read_timeout = None;
        Client::try_from(config).map_err(|error| self.stored(error))
    }

    /// The server's certificate and key, if they are still good for this node.
    pub(super) fn read_serving(
        &self,
        node: &NodeNames,
    ) -> Result<Option<(String, String)>, JoinError> {
        let read = |name: &str| fs::read_to_string(self.path(name)).ok();
        let (Some(certificate), Some(key)) = (read(SERVING_CERTIFICATE), read(SERVING_KEY)) else {
            return Ok(None);
        };
        let good =
            validity(&certificate).is_some_and(|validity| Timestamp::now() < validity.renew_at());
        Ok((good && names(&certificate, node)).then_some((certificate, key)))
    }

    pub(super) fn write_serving(&self, certificate: &str, key: &str) -> Result<(), JoinError> {
        self.write(SERVING_KEY, key)?;
        self.write(SERVING_CERTIFICATE, certificate)?;
        Ok(())
    }

    /// One of other names, or one that has ended, is no use any more.
    pub(super) fn forget_serving(&self) -> Result<(), JoinError> {
        let path = self.path(SERVING_CERTIFICATE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(JoinError::Write {
                path: path.display().to_string(),
                source,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn serving_certificate(&self) -> Option<String> {
        fs::read_to_string(self.path(SERVING_CERTIFICATE)).ok()
    }
}

/// A client that shows the join token.
pub(super) fn client_with_token(server: &str, ca: &str, token: &str) -> Result<Client, JoinError> {
    let uri: http::Uri = server
        .parse()
        .map_err(|_| JoinError::Address(server.to_owned()))?;
    let mut config = Config::new(uri);
    config.root_cert = first(ca).map(|der| vec![der]);
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).map_err(|source| JoinError::Api {
        what: "the connection",
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(ips: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["n1".into()]).unwrap();
        params
            .subject_alt_names
            .extend(ips.iter().map(|ip| SanType::IpAddress(ip.parse().unwrap())));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn credentials_are_kept_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("node"));
        assert!(store.read_client().unwrap().is_none());
        let (pem, key) = certificate(&[]);
        let path = store
            .write_client("https://10.0.0.1:6443", &pem, &pem, &key)
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(store.read_client().unwrap(), Some((path, pem)));
        assert_eq!(store.server().unwrap(), "https://10.0.0.1:6443");
    }

    #[test]
    fn a_server_certificate_without_the_nodes_address_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let (pem, key) = certificate(&["10.0.0.1"]);
        store.write_serving(&pem, &key).unwrap();
        let node = |ip: &str| NodeNames {
            name: "n1".into(),
            ips: vec![ip.parse().unwrap()],
            state_dir: dir.path().to_owned(),
        };
        assert!(store.read_serving(&node("10.0.0.1")).unwrap().is_some());
        assert!(store.read_serving(&node("10.0.0.2")).unwrap().is_none());
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_is_left() {
        let at = crate::testing::at;
        assert_eq!(
            Validity {
                from: at(0),
                to: at(300)
            }
            .renew_at(),
            at(200)
        );
    }
}
