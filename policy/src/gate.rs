//! Where the CNI plugin waits until a new interface is protected.
//!
//! One connection carries one line of JSON each way. What was told is kept in a file per
//! interface, so that a restarted agent knows the interfaces that are there.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::model::Attachment;

/// A request is one short line.
const LONGEST_REQUEST: u64 = 64 * 1024;
/// The plugin asks again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    pub(crate) host_interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_namespace: String,
    pub(crate) pod_name: String,
}

impl Told {
    pub(crate) fn attachment(&self) -> Attachment {
        Attachment {
            pod: (self.pod_namespace.clone(), self.pod_name.clone()),
            addresses: self.addresses.iter().copied().collect(),
            ..Attachment::default()
        }
    }
}

#[derive(Serialize)]
struct Answer {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// An interface that waits for its rules; told when they are committed.
pub(crate) struct Waiting {
    pub(crate) told: Told,
    pub(crate) protected: oneshot::Sender<()>,
}

/// Listens on the path; a socket that a previous process left there is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(crate) async fn serve(
    listener: UnixListener,
    waiting: mpsc::Sender<Waiting>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, waiting.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the policy socket does not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, waiting: mpsc::Sender<Waiting>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let read = BufReader::new(reader.take(LONGEST_REQUEST))
        .read_line(&mut line)
        .await;
    if !matches!(read, Ok(1..)) {
        return;
    }
    let result = match serde_json::from_str::<Told>(&line) {
        Err(error) => Err(format!("the request cannot be read: {error}")),
        Ok(told) => protect(told, &waiting).await,
    };
    let answer = Answer {
        ok: result.is_ok(),
        error: result.err(),
    };
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    // Who hung up asks again.
    let _ = writer.write_all(&bytes).await;
}

async fn protect(told: Told, waiting: &mpsc::Sender<Waiting>) -> Result<(), String> {
    if !is_interface_name(&told.host_interface) {
        return Err(format!(
            "{:?} is not a pod's interface",
            told.host_interface
        ));
    }
    let pod = format!("{}/{}", told.pod_namespace, told.pod_name);
    let (protected, done) = oneshot::channel();
    let ended = || "the policy agent is ending".to_owned();
    waiting
        .send(Waiting { told, protected })
        .await
        .map_err(|_| ended())?;
    match tokio::time::timeout(LONGEST_WAIT, done).await {
        Ok(result) => result.map_err(|_| ended()),
        Err(_) => Err(format!(
            "pod {pod} was not seen in the API within {} s",
            LONGEST_WAIT.as_secs()
        )),
    }
}

/// The name becomes a file's name: nothing but what the plugin makes is taken.
fn is_interface_name(name: &str) -> bool {
    let length = 1..16;
    length.contains(&name.len())
        && name.starts_with(kernel::POD_INTERFACE_PREFIX)
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The files with what was told.
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// What is known of interfaces that exist; the rest is removed. A file that was cut off is
    /// removed too: its pod's ADD has not returned.
    pub(crate) fn load(&self) -> io::Result<BTreeMap<String, Attachment>> {
        let mut known = BTreeMap::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let told = std::fs::read(&path)
                .ok()
                .and_then(|b| serde_json::from_slice::<Told>(&b).ok());
            match told.filter(|told| exists(&told.host_interface)) {
                Some(told) => {
                    known.insert(told.host_interface.clone(), told.attachment());
                }
                None => std::fs::remove_file(&path)?,
            }
        }
        Ok(known)
    }

    pub(crate) fn store(&self, told: &Told) -> io::Result<()> {
        let path = self.directory.join(&told.host_interface);
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(told)?)?;
        std::fs::rename(new, path)
    }

    pub(crate) fn remove(&self, interface: &str) {
        // What is not there needs no removal; a leftover is removed at the next start.
        let _ = std::fs::remove_file(self.directory.join(interface));
    }
}

/// Whether the interface is there, in this process's network namespace.
pub(crate) fn exists(interface: &str) -> bool {
    is_interface_name(interface) && Path::new("/sys/class/net").join(interface).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pod_interfaces_are_taken() {
        for (name, expected) in [
            ("fld0123456789a", true),
            ("flannel.1", false),
            ("../../etc/passwd", false),
            ("fld/x", false),
            ("", false),
            ("fld0123456789abcdef", false),
        ] {
            assert_eq!(is_interface_name(name), expected, "{name}");
        }
    }
}
