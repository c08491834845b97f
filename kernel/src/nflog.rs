//! Packets that rules log to an NFLOG group.

use std::net::IpAddr;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::{Attributes, Error, Protocol, Request, Socket, parse};

const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIGURE: u16 = SUBSYSTEM | 1;
/// Enough for the headers of IPv6 and of every transport.
const BYTES_OF_PACKET: u32 = 96;

/// The beginning of a packet and what the rule said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub prefix: String,
    pub in_interface: Option<String>,
    pub out_interface: Option<String>,
    pub packet: Headers,
}

/// Who sends what to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Source and destination, of protocols that have ports.
    pub ports: Option<(u16, u16)>,
}

/// Listens to a group, in the network namespace in which it was opened.
pub struct Nflog {
    socket: AsyncFd<Socket>,
}

impl Nflog {
    /// Fails where the kernel has no NFLOG, or somebody else listens to the group. Needs a tokio
    /// runtime.
    pub fn open(group: u16) -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let command = |kind: u16, value: &[u8]| {
            let group = group.to_be_bytes();
            let mut body = Attributes::with_header(&[0, 0, group[0], group[1]]);
            body.put(kind, value);
            Request::new(
                "listen to",
                "an NFLOG group",
                CONFIGURE,
                0,
                body.into_bytes(),
            )
        };
        const BIND: u8 = 1;
        const COPY_PACKET: u8 = 2;
        let mut mode = BYTES_OF_PACKET.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        socket.execute(&command(1, &[BIND]))?;
        socket.execute(&command(2, &mode))?;
        // SAFETY: the socket owns its descriptor, which stays open and the same until the
        // listener, which keeps it, is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| Error::Open {
                protocol: 0,
                source: error.into(),
            })?;
        Ok(Self { socket })
    }

    /// The next packets, at least one. What the kernel had to leave out is left out.
    pub async fn next(&mut self) -> std::io::Result<Vec<Logged>> {
        loop {
            let mut guard = self.socket.readable_mut().await?;
            let mut logged = Vec::new();
            let taken = guard.get_inner_mut().take_notifications(|frame| {
                if frame.message_type == PACKET {
                    logged.extend(decode(frame.payload));
                }
            });
            match taken {
                Ok(true) => {}
                Ok(false) => guard.clear_ready(),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
            if !logged.is_empty() {
                return Ok(logged);
            }
        }
    }
}

/// `payload` starts with the four bytes of nfnetlink.
fn decode(payload: &[u8]) -> Option<Logged> {
    let (mut prefix, mut packet) = (String::new(), None);
    let (mut in_interface, mut out_interface) = (None, None);
    for attribute in parse(payload.get(4..)?) {
        match attribute.kind {
            4 => in_interface = attribute.as_u32_be().and_then(name),
            5 => out_interface = attribute.as_u32_be().and_then(name),
            9 => packet = Headers::parse(attribute.value),
            10 => prefix = attribute.as_text()?.to_owned(),
            _ => {}
        }
    }
    Some(Logged {
        prefix,
        in_interface,
        out_interface,
        packet: packet?,
    })
}

fn name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call demands and outlives it.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let end = name.iter().position(|byte| *byte == 0)?;
    String::from_utf8(name[..end].to_vec()).ok()
}

impl Headers {
    /// Of an IPv4 or IPv6 packet; extension headers of IPv6 are not followed.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, _) = match packet.first()?
            >> 4
        {
            4 => {
                let length = usize::from(packet[0] & 0xf) * 4;
                let address =
                    |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
                let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff;
                let rest = match fragment {
                    0 => packet.get(length..),
                    _ => None,
                };
                (
                    address(12)?.into(),
                    address(16)?.into(),
                    *packet.get(9)?,
                    rest,
                )
            }
            6 => {
                let address =
                    |at: usize| -> Option<[u8; 16]> { packet.get(at..at + 16)?.try_into().ok() };
                let rest = packet.get(40..);
                (
                    address(8)?.into(),
                    address(24)?.into(),
                    *packet.get(6)?,
                    rest,
                )
            }
            _ => return None,
        };
        const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];
        let ports = rest
            .filter(|_| WITH_PORTS.contains(&protocol))
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
        Some(Self {
            source,
            destination,
            protocol,
            ports,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_families_are_read() {
        let mut v4 = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        v4.extend([0x1f, 0x90, 0, 80]);
        let headers = Headers::parse(&v4).unwrap();
        assert_eq!(headers.source.to_string(), "10.0.0.1");
        assert_eq!(headers.ports, Some((8080, 80)));
        v4[7] = 1;
        assert_eq!(Headers::parse(&v4).unwrap().ports, None, "a later fragment");
        let mut v6 = vec![0x60, 0, 0, 0, 0, 4, 17, 64];
        v6.extend([0xfd; 16]);
        v6.extend([0xfe; 16]);
        v6.extend([0, 53, 0, 54]);
        let headers = Headers::parse(&v6).unwrap();
        assert_eq!((headers.protocol, headers.ports), (17, Some((53, 54))));
    }

    #[test]
    fn cut_packets_are_no_packets() {
        for length in 0..20 {
            assert_eq!(Headers::parse(&[0x45; 20][..length]), None);
        }
        assert_eq!(Headers::parse(&[0x60; 39]), None);
        assert_eq!(Headers::parse(&[0; 40]), None);
    }
}
