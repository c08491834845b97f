//! Socket options for protocols between routers: TCP MD5 signatures (RFC 2385), hop counts that
//! only neighbours can have (RFC 5082), and datagrams with the hop count they came with.

use std::io;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use ipnetwork::IpNetwork;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

const TCP_MD5SIG: libc::c_int = 14;
const TCP_MD5SIG_EXT: libc::c_int = 32;
const MD5_FLAG_PREFIX: u8 = 1;
/// The longest key that the kernel takes.
pub const LONGEST_MD5_KEY: usize = 80;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// The hop count of packets that come from the link itself.
pub const NEIGHBOURS_HOPS: u8 = 255;

/// `struct tcp_md5sig` of the kernel.
#[repr(C)]
struct Md5Signature {
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; LONGEST_MD5_KEY],
}

fn set<T>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: pointer and length describe `value`, which the kernel only reads during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Segments to and from these addresses carry a signature with the key; an empty key ends that.
/// On a listening socket it counts for the connections that it accepts.
pub fn set_tcp_md5(socket: &impl AsFd, peers: IpNetwork, key: &[u8]) -> io::Result<()> {
    let too_long = || {
        let what = format!("a TCP MD5 key has at most {LONGEST_MD5_KEY} bytes");
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let mut signature = Md5Signature {
        address: storage(peers.network()),
        flags: 0,
        prefix_length: peers.prefix(),
        key_length: u16::try_from(key.len()).map_err(|_| too_long())?,
        interface: 0,
        key: [0; LONGEST_MD5_KEY],
    };
    signature
        .key
        .get_mut(..key.len())
        .ok_or_else(too_long)?
        .copy_from_slice(key);
    let whole = if peers.is_ipv4() { 32 } else { 128 };
    if peers.prefix() == whole {
        return set(socket, libc::IPPROTO_TCP, TCP_MD5SIG, &signature);
    }
    signature.flags = MD5_FLAG_PREFIX;
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &signature)
}

/// `struct sockaddr_storage` with the address, without a port.
fn storage(address: IpAddr) -> [u8; 128] {
    let mut bytes = [0; 128];
    match address {
        IpAddr::V4(v4) => {
            bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
            bytes[8..24].copy_from_slice(&v6.octets());
        }
    }
    bytes
}

/// Packets go out with this hop count.
pub fn set_hops(socket: &impl AsFd, ipv4: bool, hops: u8) -> io::Result<()> {
    let hops = libc::c_int::from(hops);
    if ipv4 {
        set(socket, libc::IPPROTO_IP, libc::IP_TTL, &hops)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &hops)
    }
}

/// Packets are sent whole or not at all, whatever the kernel believes of the path.
pub fn never_fragment(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        let probe = libc::IP_PMTUDISC_PROBE;
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &probe)
    } else {
        let probe = libc::IPV6_PMTUDISC_PROBE;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &probe)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, &1)
    }
}

/// Segments of a TCP connection with fewer hops left are dropped (RFC 5082).
pub fn set_least_hops(socket: &impl AsFd, ipv4: bool, hops: u8) -> io::Result<()> {
    let hops = libc::c_int::from(hops);
    if ipv4 {
        set(socket, libc::IPPROTO_IP, IP_MINTTL, &hops)
    } else {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &hops)
    }
}

/// Lets [`receive_with_hops`] tell the hop count of datagrams.
pub fn tell_hops(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    if ipv4 {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, &on)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)
    }
}

/// A datagram's length, sender and hop count. Does not wait.
pub fn receive_with_hops(
    socket: &impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<u8>)> {
    let mut control = nix::cmsg_space!(libc::c_int, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let hops = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
            u8::try_from(hops).ok()
        }
        _ => None,
    });
    let sender = message.address.and_then(|address| socket_address(&address));
    let nobody = || io::Error::other("a datagram without a sender");
    Ok((message.bytes, sender.ok_or_else(nobody)?, hops))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_datagram_comes_with_the_hops_that_are_left() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let receiver = UdpSocket::bind(local).unwrap();
            let address = receiver.local_addr().unwrap();
            tell_hops(&receiver, address.is_ipv4()).unwrap();
            let sender = UdpSocket::bind(local).unwrap();
            set_hops(&sender, address.is_ipv4(), 77).unwrap();
            sender.send_to(b"hello", address).unwrap();
            let mut buffer = [0; 16];
            // The datagram is in the queue when the sender's call ends, but for the clock.
            let received = (0..100).find_map(|_| {
                let received = receive_with_hops(&receiver, &mut buffer).ok();
                std::thread::sleep(Duration::from_millis(if received.is_some() {
                    0
                } else {
                    10
                }));
                received
            });
            let from = sender.local_addr().unwrap();
            assert_eq!(received, Some((5, from, Some(77))));
        }
    }

    #[test]
    fn a_connection_needs_the_same_key_on_both_sides() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        set_tcp_md5(&listener, "127.0.0.0/8".parse().unwrap(), b"secret").unwrap();
        let connect = |key: &[u8]| {
            let socket = std::net::TcpStream::from(connector());
            set_tcp_md5(&socket, "127.0.0.1/32".parse().unwrap(), key).unwrap();
            connect_to(socket, address)
        };
        assert!(connect(b"secret").is_ok());
        assert!(connect(b"wrong").is_err());
        let too_long = set_tcp_md5(&listener, "127.0.0.1/32".parse().unwrap(), &[1; 81]);
        assert_eq!(too_long.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    fn connector() -> std::os::fd::OwnedFd {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )
        .unwrap()
    }

    /// Waits a second at most: a segment with a wrong signature is not answered.
    fn connect_to(mut stream: TcpStream, to: SocketAddr) -> io::Result<()> {
        use nix::sys::socket::{connect, setsockopt, sockopt};
        use nix::sys::time::TimeVal;
        setsockopt(&stream, sockopt::SendTimeout, &TimeVal::new(1, 0))?;
        connect(stream.as_raw_fd(), &SockaddrStorage::from(to))?;
        stream.write_all(b"x")
    }

    #[test]
    fn a_connection_over_too_many_hops_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_hops(&listener, true, NEIGHBOURS_HOPS).unwrap();
        let to = listener.local_addr().unwrap();
        for (hops, passes) in [(NEIGHBOURS_HOPS, true), (64, false)] {
            set_hops(&listener, true, hops).unwrap();
            let socket = TcpStream::from(connector());
            set_least_hops(&socket, true, NEIGHBOURS_HOPS).unwrap();
            assert_eq!(connect_to(socket, to).is_ok(), passes, "{hops}");
        }
    }
}
