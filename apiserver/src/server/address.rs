//! Which address others reach this machine at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::Config;

/// What the operator said, else where the server listens, else the address of the route out.
pub(super) fn advertise(config: &Config) -> IpAddr {
    if let Some(address) = config.advertise_address {
        return address;
    }
    if !config.bind_address.is_unspecified() {
        return config.bind_address;
    }
    // Addresses for documentation: they are routed as any other, and nothing is sent.
    let outside: [(IpAddr, IpAddr); 2] = [
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    ];
    let routed = outside.into_iter().find_map(|(from, to)| route(from, to));
    routed
        .or_else(first_interface)
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn route(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

fn first_interface() -> Option<IpAddr> {
    local_addresses().into_iter().next()
}

/// The addresses of this machine's interfaces, without loopback and link-local ones.
pub(super) fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(IpAddr::V4(v4.ip()));
        }
        Some(IpAddr::V6(address.as_sockaddr_in6()?.ip()))
    });
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    addresses.filter(usable).collect()
}
