use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use k8s_openapi::api::core::v1::NodeAddress;

/// The addresses of a node, as its status has them.
pub(crate) fn node_addresses(ips: &[IpAddr], name: &str) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let mut addresses: Vec<NodeAddress> = ips
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()))
        .collect();
    addresses.push(address("Hostname", name.to_owned()));
    addresses
}

/// The machine's own addresses, one of each family: those that it would use to reach others.
/// No packet is sent to find out.
pub(super) fn detect() -> Vec<IpAddr> {
    let by_route = |bind: IpAddr, peer: IpAddr| -> Option<IpAddr> {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((peer, 9)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_loopback() && !own.is_unspecified()).then_some(own)
    };
    // Addresses for documentation: they only choose the default route.
    let v4 = by_route(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(192, 0, 2, 1).into(),
    );
    let v6 = by_route(
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    );
    let routed: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    if routed.is_empty() {
        by_interface()
    } else {
        routed
    }
}

/// Without a default route: the first global address of each family.
fn by_interface() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else {
            continue;
        };
        let ip: IpAddr = if let Some(v4) = address.as_sockaddr_in() {
            v4.ip().into()
        } else if let Some(v6) = address.as_sockaddr_in6() {
            v6.ip().into()
        } else {
            continue;
        };
        let global = match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && ip.segments()[0] & 0xffc0 != 0xfe80,
        };
        if global && !found.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}
