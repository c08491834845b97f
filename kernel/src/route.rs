//! Routes of both families, with several next hops where there are several.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::Ifindex;
use crate::netlink::{
    self, Attribute, Error, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, Socket,
};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// The sizes of `struct rtmsg` and `struct rtnexthop`.
const HEADER: usize = 12;
const NEXT_HOP: usize = 8;

/// The table that every packet looks into.
pub const MAIN_TABLE: u32 = 254;
/// What the kernel gives an IPv6 route that names no priority.
const IPV6_PRIORITY: u32 = 1024;

/// Who made a route. Fairlead owns the routes with its numbers and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const KERNEL: Self = Self(2);
    pub const BOOT: Self = Self(3);
    pub const STATIC: Self = Self(4);
    /// The overlay's routes to other nodes.
    pub const VXLAN: Self = Self(202);
    /// Routes that the BGP speaker learnt.
    pub const BGP: Self = Self(203);
    /// Routes to this node's pods, made by the CNI plugin.
    pub const CNI: Self = Self(204);
}

/// What happens with a packet that a route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Unicast,
    Local,
    Blackhole,
    Unreachable,
    Prohibit,
    Other(u8),
}

impl Kind {
    fn to_netlink(self) -> RouteType {
        match self {
            Self::Unicast => RouteType::Unicast,
            Self::Local => RouteType::Local,
            Self::Blackhole => RouteType::BlackHole,
            Self::Unreachable => RouteType::Unreachable,
            Self::Prohibit => RouteType::Prohibit,
            Self::Other(number) => RouteType::from(number),
        }
    }

    fn of(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Local => Self::Local,
            RouteType::BlackHole => Self::Blackhole,
            RouteType::Unreachable => Self::Unreachable,
            RouteType::Prohibit => Self::Prohibit,
            other => Self::Other(other.into()),
        }
    }

    fn drops(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

/// One way that a route's packets can take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// May be of the other family (RFC 8950).
    pub gateway: Option<IpAddr>,
    pub interface: Option<Ifindex>,
    /// The gateway is on the interface's link, whatever the addresses say.
    pub onlink: bool,
    /// 1 to 256: its share among several.
    pub weight: u16,
}

impl NextHop {
    pub fn via(gateway: IpAddr) -> Self {
        Self {
            gateway: Some(gateway),
            interface: None,
            onlink: false,
            weight: 1,
        }
    }

    pub fn device(interface: Ifindex) -> Self {
        Self {
            gateway: None,
            interface: Some(interface),
            onlink: false,
            weight: 1,
        }
    }

    pub fn on(mut self, interface: Ifindex) -> Self {
        self.interface = Some(interface);
        self
    }

    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }
}

/// A route. Two values are equal when the kernel's routes are, so a planner can compare
/// what it wants with what [`list`] gave.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNetwork,
    pub table: u32,
    /// Lower is better; the kernel keeps one route for a destination, table and priority.
    pub priority: u32,
    pub protocol: Protocol,
    pub kind: Kind,
    /// The destination is on the link itself (IPv4's scope).
    pub link_scope: bool,
    pub next_hops: Vec<NextHop>,
    pub preferred_source: Option<IpAddr>,
    pub mtu: Option<u32>,
}

impl Route {
    /// A unicast route in the main table.
    pub fn new(destination: IpNetwork, protocol: Protocol, next_hop: NextHop) -> Self {
        let link_scope = destination.is_ipv4() && next_hop.gateway.is_none();
        Self {
            next_hops: vec![next_hop],
            link_scope,
            ..Self::bare(destination, protocol)
        }
    }

    /// A unicast route over several next hops.
    pub fn multipath(
        destination: IpNetwork,
        protocol: Protocol,
        mut next_hops: Vec<NextHop>,
    ) -> Self {
        next_hops.sort();
        Self {
            next_hops,
            ..Self::bare(destination, protocol)
        }
    }

    /// A route that drops silently.
    pub fn blackhole(destination: IpNetwork, protocol: Protocol) -> Self {
        Self {
            kind: Kind::Blackhole,
            ..Self::bare(destination, protocol)
        }
    }

    fn bare(destination: IpNetwork, protocol: Protocol) -> Self {
        let network = IpNetwork::new(destination.network(), destination.prefix());
        Self {
            destination: network.unwrap_or(destination),
            table: MAIN_TABLE,
            priority: if destination.is_ipv6() {
                IPV6_PRIORITY
            } else {
                0
            },
            protocol,
            kind: Kind::Unicast,
            link_scope: false,
            next_hops: Vec::new(),
            preferred_source: None,
            mtu: None,
        }
    }

    pub fn with_source(mut self, source: IpAddr) -> Self {
        self.preferred_source = Some(source);
        self
    }

    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    pub fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    pub fn in_table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.is_ipv4());
        message.header.destination_prefix_length = self.destination.prefix();
        message.header.table = u8::try_from(self.table).unwrap_or_default();
        message.header.protocol = RouteProtocol::from(self.protocol.0);
        message.header.kind = self.kind.to_netlink();
        message.header.scope = match (self.kind, self.link_scope) {
            (Kind::Local, _) => RouteScope::Host,
            (_, true) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.destination.ip().into()));
        attributes.push(RouteAttribute::Table(self.table));
        if self.priority != 0 {
            attributes.push(RouteAttribute::Priority(self.priority));
        }
        attributes.extend(
            self.preferred_source
                .map(|source| RouteAttribute::PrefSource(source.into())),
        );
        attributes.extend(
            self.mtu
                .map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])),
        );
        match self.next_hops.as_slice() {
            [] => {}
            [hop] => {
                attributes.extend(gateway_attribute(self.destination, hop.gateway));
                attributes.extend(hop.interface.map(|index| RouteAttribute::Oif(index.0)));
                message.header.flags.set(RouteFlags::Onlink, hop.onlink);
            }
            several => {
                let hops = several
                    .iter()
                    .map(|hop| self.next_hop_message(hop))
                    .collect();
                attributes.push(RouteAttribute::MultiPath(hops));
            }
        }
        message
    }

    fn next_hop_message(&self, hop: &NextHop) -> RouteNextHop {
        let mut message = RouteNextHop::default();
        message.interface_index = hop.interface.map_or(0, |index| index.0);
        message.hops = u8::try_from(hop.weight.clamp(1, 256) - 1).unwrap_or(u8::MAX);
        message.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
        message
            .attributes
            .extend(gateway_attribute(self.destination, hop.gateway));
        message
    }

    fn object(&self) -> String {
        let hops: Vec<String> = self
            .next_hops
            .iter()
            .map(|hop| match (hop.gateway, hop.interface) {
                (Some(gateway), Some(index)) => {
                    format!(" via {gateway} on interface number {index}")
                }
                (Some(gateway), None) => format!(" via {gateway}"),
                (None, Some(index)) => format!(" on interface number {index}"),
                (None, None) => String::new(),
            })
            .collect();
        format!("to {}{}", self.destination, hops.concat())
    }
}

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn gateway_attribute(destination: IpNetwork, gateway: Option<IpAddr>) -> Option<RouteAttribute> {
    let gateway = gateway?;
    Some(match gateway {
        IpAddr::V6(gateway) if destination.is_ipv4() => {
            RouteAttribute::Via(RouteVia::Inet6(gateway))
        }
        same_family => RouteAttribute::Gateway(same_family.into()),
    })
}

/// Adds the route; fails with `EEXIST` when its place is taken.
pub fn add(route: &Route) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request::of(
        "add route",
        route.object(),
        RTM_NEWROUTE,
        flags,
        &route.message(),
    )
}

/// Adds the route, or puts it where another one with its destination, table and priority is.
pub fn replace(route: &Route) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::of(
        "set route",
        route.object(),
        RTM_NEWROUTE,
        flags,
        &route.message(),
    )
}

/// Deletes exactly this route.
pub fn delete(route: &Route) -> Request {
    Request::of(
        "delete route",
        route.object(),
        RTM_DELROUTE,
        0,
        &route.message(),
    )
}

/// Which routes [`list`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    pub table: Option<u32>,
    pub protocol: Option<Protocol>,
    pub interface: Option<Ifindex>,
}

impl Filter {
    pub fn protocol(protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..Self::default()
        }
    }

    pub fn main_table() -> Self {
        Self {
            table: Some(MAIN_TABLE),
            ..Self::default()
        }
    }

    fn admits(&self, route: &Route) -> bool {
        let through = |index| {
            route
                .next_hops
                .iter()
                .any(|hop| hop.interface == Some(index))
        };
        self.table.is_none_or(|table| table == route.table)
            && self
                .protocol
                .is_none_or(|protocol| protocol == route.protocol)
            && self.interface.is_none_or(through)
    }
}

/// The routes of both families that the filter admits, in order.
pub fn list(socket: &mut Socket, filter: Filter) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for ipv4 in [true, false] {
        let mut message = RouteMessage::default();
        message.header.address_family = family(ipv4);
        // The kernel leaves out what does not match, where it knows how to.
        message.header.protocol = filter
            .protocol
            .map_or(RouteProtocol::Unspec, |p| p.0.into());
        message
            .attributes
            .extend(filter.table.map(RouteAttribute::Table));
        message
            .attributes
            .extend(filter.interface.map(|index| RouteAttribute::Oif(index.0)));
        let request = Request::of("list", "routes", RTM_GETROUTE, 0, &message);
        let replies = match socket.dump(&request) {
            // A table that was never used.
            Err(error) if error.is_not_found() => Vec::new(),
            other => other?,
        };
        routes.extend(
            replies
                .iter()
                .filter(|reply| reply.message_type == RTM_NEWROUTE)
                .filter_map(|reply| decode_payload(&reply.payload))
                .filter(|route| filter.admits(route)),
        );
    }
    routes.sort();
    Ok(routes)
}

/// The route that a packet to the address would take; `None` when there is none.
pub fn lookup(socket: &mut Socket, destination: IpAddr) -> Result<Option<Route>, Error> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.is_ipv4());
    message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(destination.into()));
    let request = Request::of(
        "look up route",
        format_args!("to {destination}"),
        RTM_GETROUTE,
        0,
        &message,
    );
    match socket.query(&request) {
        Ok(replies) => Ok(replies
            .iter()
            .find_map(|reply| decode_payload(&reply.payload))),
        Err(error)
            if error.is_not_found()
                || matches!(
                    error.errno(),
                    Some(nix::errno::Errno::ENETUNREACH | nix::errno::Errno::EHOSTUNREACH)
                ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads only what [`Route`] holds: routes are read by the thousand.
pub(crate) fn decode_payload(payload: &[u8]) -> Option<Route> {
    let header = payload.first_chunk::<HEADER>()?;
    let [family, prefix, _, _, table, protocol, scope, kind, ..] = *header;
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let ipv4 = match AddressFamily::from(family) {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    let mut destination: IpAddr = if ipv4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let kind = Kind::of(RouteType::from(kind));
    let mut route = Route {
        destination: IpNetwork::from(destination),
        table: u32::from(table),
        priority: 0,
        protocol: Protocol(protocol),
        kind,
        link_scope: ipv4 && RouteScope::from(scope) == RouteScope::Link,
        next_hops: Vec::new(),
        preferred_source: None,
        mtu: None,
    };
    let mut single = NextHop {
        gateway: None,
        interface: None,
        onlink: flags & ONLINK != 0,
        weight: 1,
    };
    for attribute in netlink::parse(&payload[HEADER..]) {
        match attribute.kind {
            RTA_DST => destination = address(attribute.value)?,
            RTA_TABLE => route.table = attribute.as_u32()?,
            RTA_PRIORITY => route.priority = attribute.as_u32()?,
            RTA_PREFSRC => route.preferred_source = address(attribute.value),
            RTA_METRICS => route.mtu = mtu(attribute),
            RTA_MULTIPATH => route.next_hops = decode_next_hops(attribute.value),
            RTA_OIF => single.interface = attribute.as_u32().map(Ifindex),
            _ => single.gateway = gateway(attribute).or(single.gateway),
        }
    }
    route.destination = IpNetwork::new(destination, prefix).ok()?;
    if route.next_hops.is_empty() && (single.gateway.is_some() || single.interface.is_some()) {
        route.next_hops.push(single);
    }
    // The kernel says that a blackhole goes through the loopback interface.
    if kind.drops() {
        route.next_hops.clear();
    }
    route.next_hops.sort();
    Some(route)
}

/// `struct rtnexthop` (rtnetlink(7)), each with attributes behind it.
fn decode_next_hops(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(header) = bytes.first_chunk::<NEXT_HOP>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let Some(attributes) = bytes.get(NEXT_HOP..length) else {
            break;
        };
        hops.push(NextHop {
            gateway: netlink::parse(attributes).find_map(gateway),
            interface: Some(Ifindex(index)).filter(|index| index.0 != 0),
            onlink: u32::from(header[2]) & ONLINK != 0,
            weight: u16::from(header[3]) + 1,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

fn gateway(attribute: Attribute<'_>) -> Option<IpAddr> {
    match attribute.kind {
        RTA_GATEWAY => address(attribute.value),
        // A family before it, which the length says as well.
        RTA_VIA => address(attribute.value.get(2..)?),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    ipv4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn mtu(metrics: Attribute<'_>) -> Option<u32> {
    let mtu = metrics.nested().find(|metric| metric.kind == RTAX_MTU);
    mtu.and_then(|metric| metric.as_u32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_is_read() {
        let hop = |text: &str| NextHop::via(text.parse().unwrap());
        let v4 = || "10.1.0.0/24".parse().unwrap();
        let two = vec![
            hop("192.0.2.1").on(Ifindex(3)),
            hop("fe80::1").on(Ifindex(4)),
        ];
        for route in [
            Route::new(
                v4(),
                Protocol::VXLAN,
                hop("192.0.2.1").on(Ifindex(3)).onlink(),
            )
            .with_priority(7)
            .with_mtu(1400)
            .with_source("192.0.2.9".parse().unwrap()),
            Route::new(v4(), Protocol::BGP, hop("fe80::1").on(Ifindex(3))),
            Route::new(
                "fd00::/64".parse().unwrap(),
                Protocol::CNI,
                NextHop::device(Ifindex(9)),
            ),
            Route::multipath(v4(), Protocol::BGP, two).in_table(1000),
            Route::blackhole(v4(), Protocol::BGP),
        ] {
            let message = route.message();
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            assert_eq!(decode_payload(&bytes), Some(route));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = decode_payload(&bytes);
            let _ = decode_next_hops(&bytes);
        }
    }
}
