//! Addresses of interfaces.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use crate::Ifindex;
use crate::netlink::{Error, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, Socket};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Global,
    Link,
    Host,
    Other(u8),
}

impl Scope {
    fn number(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(number) => number,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::Global,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub interface: Ifindex,
    /// The address itself with the length of its on-link prefix.
    pub network: IpNetwork,
    pub scope: Scope,
    /// The other end of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// IPv6: used at once, without asking the link whether somebody has it.
    pub no_duplicate_detection: bool,
    /// No route for the prefix is made.
    pub no_prefix_route: bool,
    /// Read only: duplicate address detection goes on.
    pub tentative: bool,
    /// Read only: somebody else on the link has it.
    pub duplicate: bool,
    /// Read only: it does not expire.
    pub permanent: bool,
    /// Read only: a second address of the same prefix.
    pub secondary: bool,
}

impl Address {
    /// An address that is valid at once: link scope for link-local ones, global for others.
    pub fn new(interface: Ifindex, network: IpNetwork) -> Self {
        let link_local = match network.ip() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let loopback = network.ip().is_loopback();
        let scope = match (link_local, loopback) {
            (true, _) => Scope::Link,
            (_, true) => Scope::Host,
            _ => Scope::Global,
        };
        Self {
            interface,
            network,
            scope,
            peer: None,
            no_duplicate_detection: network.is_ipv6(),
            no_prefix_route: false,
            tentative: false,
            duplicate: false,
            permanent: true,
            secondary: false,
        }
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(&self.network.ip());
        message.header.prefix_len = self.network.prefix();
        message.header.scope = AddressScope::from(self.scope.number());
        message.header.index = self.interface.0;
        let mut flags = AddressFlags::empty();
        flags.set(
            AddressFlags::Nodad,
            self.no_duplicate_detection && self.network.is_ipv6(),
        );
        flags.set(AddressFlags::Noprefixroute, self.no_prefix_route);
        message.attributes = vec![
            AddressAttribute::Local(self.network.ip()),
            AddressAttribute::Address(self.peer.unwrap_or(self.network.ip())),
        ];
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        if let (IpNetwork::V4(network), None) = (self.network, self.peer)
            && network.prefix() < 31
        {
            message
                .attributes
                .push(AddressAttribute::Broadcast(network.broadcast()));
        }
        message
    }

    fn object(&self) -> String {
        format!("{} of interface number {}", self.network, self.interface)
    }
}

fn family(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Adds the address; fails with `EEXIST` when the interface has it.
pub fn add(address: &Address) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request::of(
        "add address",
        address.object(),
        RTM_NEWADDR,
        flags,
        &address.message(),
    )
}

/// Adds the address or changes the one that is there.
pub fn replace(address: &Address) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::of(
        "set address",
        address.object(),
        RTM_NEWADDR,
        flags,
        &address.message(),
    )
}

pub fn delete(address: &Address) -> Request {
    Request::of(
        "delete address",
        address.object(),
        RTM_DELADDR,
        0,
        &address.message(),
    )
}

/// The addresses of one interface (or of all), both families, in order.
pub fn list(socket: &mut Socket, interface: Option<Ifindex>) -> Result<Vec<Address>, Error> {
    let mut message = AddressMessage::default();
    // A kernel with strict checking filters; older ones are filtered below.
    message.header.index = interface.map_or(0, |index| index.0);
    let request = Request::of("list", "addresses", RTM_GETADDR, 0, &message);
    let mut addresses: Vec<Address> = socket
        .dump(&request)?
        .iter()
        .filter(|reply| reply.message_type == RTM_NEWADDR)
        .filter_map(|reply| decode_payload(&reply.payload))
        .filter(|address| interface.is_none_or(|index| index == address.interface))
        .collect();
    addresses.sort();
    Ok(addresses)
}

pub(crate) fn decode_payload(payload: &[u8]) -> Option<Address> {
    let message = AddressMessage::parse(payload).ok()?;
    let (mut local, mut remote) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => remote = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let ip = local.or(remote)?;
    Some(Address {
        interface: Ifindex(message.header.index),
        network: IpNetwork::new(ip, message.header.prefix_len).ok()?,
        scope: Scope::of(message.header.scope.into()),
        peer: remote.filter(|peer| *peer != ip),
        no_duplicate_detection: flags.contains(AddressFlags::Nodad),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary) && ip.is_ipv4(),
    })
}
