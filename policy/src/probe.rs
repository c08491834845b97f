//! A real connection from a pod, to confirm what a trace says.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use kernel::netns::{Netns, RUN_DIR};
use serde::{Deserialize, Serialize};

use crate::model::Protocol;

/// What is dropped is answered by nobody.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was made, or a datagram was answered.
    Connected,
    /// It came through, and nobody listens there or the Service has no endpoints.
    Refused,
    /// There is no way to the address.
    Unreachable,
    /// It was dropped on its way; of a datagram: or nobody answers.
    NoAnswer,
}

/// No connection could be tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pod of this node has the address {0}: ask the pod's own node")]
    NoPod(IpAddr),
    #[error("{} cannot be probed: use tcp or udp", .0.name())]
    Protocol(Protocol),
    #[error("the probe cannot be sent: {0}")]
    Send(std::io::Error),
    #[error(transparent)]
    Netns(#[from] kernel::netns::Error),
}

/// Connects from the network namespace of the pod of this node that has an address. Blocks for as
/// long as nobody answers, 3 s at the most.
pub fn connect(from: IpAddr, to: SocketAddr, protocol: Protocol) -> Result<Outcome, Error> {
    if protocol == Protocol::Sctp {
        return Err(Error::Protocol(protocol));
    }
    let names = std::fs::read_dir(RUN_DIR).map_err(Error::Send)?;
    for name in names {
        let path = name.map_err(Error::Send)?.path();
        // Some end while they are looked through.
        let Ok(netns) = Netns::open(path) else {
            continue;
        };
        let tried = netns.run(|| {
            // Only who has an address can use it.
            UdpSocket::bind((from, 0)).ok()?;
            Some(match protocol {
                Protocol::Udp => datagram(to),
                _ => TcpStream::connect_timeout(&to, PATIENCE).map(drop),
            })
        })?;
        if let Some(result) = tried {
            return outcome(result);
        }
    }
    Err(Error::NoPod(from))
}

fn outcome(result: std::io::Result<()>) -> Result<Outcome, Error> {
    let Err(error) = result else {
        return Ok(Outcome::Connected);
    };
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Outcome::Refused),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Outcome::Unreachable),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Outcome::NoAnswer),
        _ => Err(Error::Send(error)),
    }
}

fn datagram(to: SocketAddr) -> std::io::Result<()> {
    let any: IpAddr = match to.is_ipv6() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 1]).map(drop)
}
