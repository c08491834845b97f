//! Questions on a link whose an IPv4 address is, without claiming it (RFC 5227, section 2.1.1).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::{Ifindex, MacAddress};

/// An ARP packet for Ethernet and IPv4 (RFC 826).
const LENGTH: usize = 28;
/// Ethernet, IPv4, and how long their addresses are.
const HEAD: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u8 = 1;

/// Who says that an address is his.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub address: Ipv4Addr,
    pub mac: MacAddress,
}

/// The ARP packets of one interface. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub struct Arp {
    socket: OwnedFd,
    interface: Ifindex,
}

fn protocol() -> u16 {
    (libc::ETH_P_ARP as u16).to_be()
}

fn link_address(interface: Ifindex) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol(),
        sll_ifindex: interface.0 as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    }
}

/// Of a structure whose size the kernel is told.
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

impl Arp {
    /// Listens on an interface of the calling thread's network namespace.
    pub fn open(interface: Ifindex) -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol())) };
        let fd = Errno::result(fd)?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = link_address(interface);
        // SAFETY: the pointer is to a whole sockaddr_ll, whose length is given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                ADDRESS_LENGTH,
            )
        };
        Errno::result(bound)?;
        Ok(Self { socket, interface })
    }

    /// Asks everybody on the link whose the address is. Nobody learns anything of the question.
    pub fn probe(&self, own: MacAddress, address: Ipv4Addr) -> io::Result<()> {
        let to = link_address(self.interface);
        let packet = probe(own, address);
        // SAFETY: both pointers are to whole values, whose lengths are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                ADDRESS_LENGTH,
            )
        };
        Ok(Errno::result(sent).map(drop)?)
    }

    /// What others said since the last call, at most `most` packets of it.
    pub fn claims(&self, most: usize) -> io::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for _ in 0..most {
            let mut buffer = [0u8; 64];
            // SAFETY: the pointer is to as many bytes as the length says.
            let received = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            match Errno::result(received) {
                Ok(length) => claims.extend(decode(&buffer[..length as usize])),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(claims)
    }
}

/// The sender's own IPv4 address stays open: it is what is asked for.
fn probe(own: MacAddress, address: Ipv4Addr) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[..6].copy_from_slice(&HEAD);
    packet[7] = REQUEST;
    packet[8..14].copy_from_slice(&own.0);
    packet[24..].copy_from_slice(&address.octets());
    packet
}

/// Whoever sends a packet with an address says that it is his, whatever he asks.
fn decode(packet: &[u8]) -> Option<Claim> {
    let packet = packet.first_chunk::<LENGTH>()?;
    let [a, b, c, d] = *packet[14..].first_chunk::<4>()?;
    let address = Ipv4Addr::new(a, b, c, d);
    let mac = MacAddress(*packet[8..].first_chunk::<6>()?);
    (packet[..6] == HEAD && !address.is_unspecified()).then_some(Claim { address, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_claims_nothing_and_an_answer_does() {
        let own = MacAddress([2, 0, 0, 0, 0, 1]);
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let mut packet = probe(own, address);
        assert_eq!(decode(&packet), None);
        packet[7] = 2;
        packet[14..18].copy_from_slice(&address.octets());
        assert_eq!(decode(&packet), Some(Claim { address, mac: own }));
        assert_eq!(decode(&packet[..27]), None);
        packet[2] = 0x86;
        assert_eq!(decode(&packet), None, "another protocol");
    }
}
