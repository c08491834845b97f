//! Where the CNI plugin asks for ranges. One connection carries one line of JSON each way.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::plan::Source;

/// A request is one short line.
const LONGEST_REQUEST: u64 = 256 * 1024;

/// What the plugin asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Nothing where the runtime does not say whom it starts.
    pub pod_namespace: String,
    pub pod_name: String,
    /// Ranges of which the plugin has no address left.
    pub full: BTreeSet<IpNetwork>,
    /// Nothing is to be done for the answer: STATUS asks.
    pub dry: bool,
}

/// What it is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// One address of each.
    pub sets: Vec<Vec<Range>>,
    /// These of them.
    pub addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    pub subnet: IpNetwork,
    pub range_start: IpAddr,
    pub range_end: IpAddr,
}

impl Answer {
    pub fn of(sources: &[Source]) -> Self {
        let ranges = |source: &Source| {
            let each = source.spans.iter().map(|span| Range {
                subnet: span.subnet,
                range_start: span.first,
                range_end: span.last,
            });
            each.collect()
        };
        Self {
            sets: sources.iter().map(ranges).collect(),
            addresses: sources.iter().filter_map(|source| source.address).collect(),
            error: None,
        }
    }

    pub fn refusal(error: &impl ToString) -> Self {
        Self {
            error: Some(error.to_string()),
            ..Self::default()
        }
    }
}

/// Who answers.
pub(crate) trait Answering: Send + Sync + 'static {
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;
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

pub(crate) async fn serve<A: Answering>(
    listener: UnixListener,
    agent: Arc<A>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move { talk(stream, agent.as_ref()).await });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket for pod addresses does not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk(stream: UnixStream, agent: &impl Answering) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let read = BufReader::new(reader.take(LONGEST_REQUEST))
        .read_line(&mut line)
        .await;
    // A look whether somebody listens.
    if !matches!(read, Ok(1..)) {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => agent.answer(request).await,
        Err(error) => Answer::refusal(&format!("the request cannot be read: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    // Who hung up asks again.
    let _ = writer.write_all(&bytes).await;
}
