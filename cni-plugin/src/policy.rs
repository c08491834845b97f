//! Waiting until the node's policy agent has the pod's rules in the kernel.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

const RETRY: Duration = Duration::from_millis(50);

/// What the agent is told, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRequest {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
    pub host_interface: String,
    pub addresses: Vec<IpAddr>,
    pub pod_namespace: String,
    pub pod_name: String,
}

/// What it answers, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAnswer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Returns once the agent has answered that the interface is protected. An agent that is
/// starting is waited for.
pub fn wait(socket: &Path, request: &PolicyRequest, timeout: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match ask(socket, request, left) {
            Ok(PolicyAnswer { ok: true, .. }) => return Ok(()),
            Ok(answer) => answer
                .error
                .unwrap_or_else(|| "the agent refused".to_owned()),
            Err(error) => error.to_string(),
        };
        if left <= RETRY {
            let message = format!(
                "the network policy of {} was not in place after {} s",
                request.host_interface,
                timeout.as_secs()
            );
            let details = format!("policy agent at {}: {error}", socket.display());
            return Err(Error::new(Code::TryAgain, message).with_details(details));
        }
        sleep(RETRY);
    }
}

/// Whether somebody listens.
pub fn reachable(socket: &Path) -> io::Result<()> {
    UnixStream::connect(socket).map(drop)
}

fn ask(socket: &Path, request: &PolicyRequest, timeout: Duration) -> io::Result<PolicyAnswer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout.max(RETRY)))?;
    stream.set_write_timeout(Some(timeout.max(RETRY)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
