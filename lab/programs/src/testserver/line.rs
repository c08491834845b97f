//! The answers that TCP, UDP and SCTP share: a line in, a line out.

use std::net::SocketAddr;

/// The name of the machine or pod.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// The answer to one request line.
pub(crate) fn answer(request: &str, peer: SocketAddr) -> String {
    let request = request.trim();
    match request.split_once(' ').unwrap_or((request, "")) {
        ("hostname" | "hostName" | "", _) => hostname(),
        ("clientip", _) => peer.to_string(),
        ("echo", text) => text.to_owned(),
        (other, _) => format!("unknown request {other:?}"),
    }
}
