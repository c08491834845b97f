//! Credentials that another installer made.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use secrecy::ExposeSecret;

use super::JoinError;

/// What a kubeconfig says of its first cluster and its first user, PEM.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) server: String,
    pub(super) ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Credentials {
    /// Reads the file and the files that it names.
    pub(super) fn read(path: &Path) -> Result<Self, JoinError> {
        let unusable = |reason: String| JoinError::Kubeconfig {
            path: path.display().to_string(),
            reason,
        };
        let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
        let cluster = file
            .clusters
            .first()
            .and_then(|named| named.cluster.as_ref());
        let user = file
            .auth_infos
            .first()
            .and_then(|named| named.auth_info.as_ref());
        let (Some(cluster), Some(user)) = (cluster, user) else {
            return Err(unusable("it names no cluster or no user".to_owned()));
        };
        let server = cluster.server.clone();
        let key = user
            .client_key_data
            .as_ref()
            .map(|data| data.expose_secret().to_owned());
        let pem = |what: &str, data: Option<&str>, file: Option<&str>| {
            read_pem(data, file).map_err(|reason| unusable(format!("its {what}: {reason}")))
        };
        Ok(Self {
            server: server.ok_or_else(|| unusable("its cluster has no server".to_owned()))?,
            ca: pem(
                "certificate authority",
                cluster.certificate_authority_data.as_deref(),
                cluster.certificate_authority.as_deref(),
            )?,
            certificate: pem(
                "client certificate",
                user.client_certificate_data.as_deref(),
                user.client_certificate.as_deref(),
            )?,
            key: pem("client key", key.as_deref(), user.client_key.as_deref())?,
        })
    }
}

/// The data, or the file's content; kubelets need certificates, so there has to be one.
fn read_pem(data: Option<&str>, file: Option<&str>) -> Result<String, String> {
    if let Some(data) = data {
        let bytes = STANDARD.decode(data).map_err(|error| error.to_string())?;
        return String::from_utf8(bytes).map_err(|error| error.to_string());
    }
    let file = file.ok_or("it is missing; the kubelet needs a client certificate")?;
    std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, user: &str) -> std::path::PathBuf {
        let path = directory.join("kubelet.conf");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://192.0.2.1:6443\n    \
             certificate-authority-data: Q0E=\nusers:\n- name: u\n  user:\n{user}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn data_and_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let pem = directory.path().join("current.pem");
        std::fs::write(&pem, "certificate and key").unwrap();
        let user = format!(
            "    client-certificate: {0}\n    client-key: {0}\n",
            pem.display()
        );
        let read = Credentials::read(&write(directory.path(), &user)).unwrap();
        assert_eq!(read.server, "https://192.0.2.1:6443");
        assert_eq!(read.ca, "CA");
        assert_eq!(read.certificate, "certificate and key");
        assert_eq!(read.key, "certificate and key");
    }

    #[test]
    fn what_is_missing_is_named_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), "    token: abc\n");
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.contains("kubelet.conf"), "{error}");
        assert!(error.contains("client certificate"), "{error}");
    }
}
