//! Echo requests of a given size that nobody may cut: what a path really carries.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::sockopt::never_fragment;

const ECHO_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

/// What became of an echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echoed {
    Answered,
    Silence,
    /// It does not fit through the interface that leads there.
    TooBig,
    /// The kernel knows no way.
    Unreachable,
}

/// Sends echo requests of one family. Needs `CAP_NET_RAW`.
pub struct Echo {
    socket: OwnedFd,
    v6: bool,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    /// Works in the calling thread's network namespace.
    pub fn open(v6: bool) -> io::Result<Self> {
        let (family, protocol) = if v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        never_fragment(&socket, !v6)?;
        Ok(Self {
            socket,
            v6,
            identifier: (std::process::id() & 0xffff) as u16,
            sequence: 0,
        })
    }

    /// Sends a packet of `size` bytes, its IP header included, and waits for the answer.
    pub fn send(&mut self, to: IpAddr, size: u32, patience: Duration) -> io::Result<Echoed> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = if self.v6 { 40 } else { 20 };
        let length = (size as usize).saturating_sub(header).max(HEADER);
        let packet = self.request(length);
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        match sendto(
            self.socket.as_raw_fd(),
            &packet,
            &address,
            MsgFlags::empty(),
        ) {
            Ok(_) => {}
            Err(Errno::EMSGSIZE) => return Ok(Echoed::TooBig),
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL) => {
                return Ok(Echoed::Unreachable);
            }
            Err(errno) => return Err(errno.into()),
        }
        self.answer(packet.len(), patience)
    }

    fn request(&self, length: usize) -> Vec<u8> {
        let mut packet = vec![0u8; length];
        packet[0] = if self.v6 { ECHO_V6 } else { ECHO_V4 };
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        if !self.v6 {
            // The kernel does it for IPv6 only.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    fn answer(&self, length: usize, patience: Duration) -> io::Result<Echoed> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0u8; length + 128];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Echoed::Silence);
            }
            // Zero would be for ever.
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
            let wait = TimeVal::microseconds(micros);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &wait)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(received) if self.is_mine(&buffer[..received]) => return Ok(Echoed::Answered),
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                // What an ICMP error left on the socket: no answer to this one.
                Err(Errno::EMSGSIZE | Errno::EHOSTUNREACH | Errno::ECONNREFUSED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn is_mine(&self, packet: &[u8]) -> bool {
        let (skip, kind) = if self.v6 {
            (0, ECHO_REPLY_V6)
        } else {
            // The IP header comes along.
            let words = packet.first().map_or(0, |first| usize::from(first & 0x0f));
            (words * 4, ECHO_REPLY_V4)
        };
        let Some(message) = packet.get(skip..).filter(|rest| rest.len() >= HEADER) else {
            return false;
        };
        message[0] == kind
            && message[4..6] == self.identifier.to_be_bytes()
            && message[6..8] == self.sequence.to_be_bytes()
    }
}

/// The Internet checksum (RFC 1071) of a message whose own field is zero.
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }

    #[test]
    fn an_address_of_our_own_answers_in_both_families() {
        for (address, v6) in [("127.0.0.1", false), ("::1", true)] {
            let mut echo = Echo::open(v6).unwrap();
            let address = address.parse().unwrap();
            let small = echo.send(address, 100, Duration::from_secs(2)).unwrap();
            assert_eq!(small, Echoed::Answered, "{address}");
            let large = echo.send(address, 65_000, Duration::from_secs(2)).unwrap();
            assert_eq!(large, Echoed::Answered, "{address}");
        }
    }
}
