//! Neighbours (ARP, NDP) and forwarding database entries of VXLAN devices and bridges.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::netlink::{self, Error, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket};
use crate::{Ifindex, MacAddress};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const HEADER: usize = 12;

/// The address of a host on a link, or an address that we answer for (`proxy`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub interface: Ifindex,
    pub address: IpAddr,
    /// Not known for proxies and while it is asked for.
    pub mac: Option<MacAddress>,
    /// It neither expires nor changes by itself.
    pub permanent: bool,
    pub proxy: bool,
}

impl Neighbour {
    pub fn permanent(interface: Ifindex, address: IpAddr, mac: MacAddress) -> Self {
        Self {
            interface,
            address,
            mac: Some(mac),
            permanent: true,
            proxy: false,
        }
    }

    /// We answer for the address on that interface.
    pub fn proxy(interface: Ifindex, address: IpAddr) -> Self {
        Self {
            interface,
            address,
            mac: None,
            permanent: false,
            proxy: true,
        }
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(self.address);
        message.header.ifindex = self.interface.0;
        message.header.state = match (self.permanent, self.proxy) {
            (true, _) => NeighbourState::Permanent,
            (_, true) => NeighbourState::None,
            _ => NeighbourState::Reachable,
        };
        message.header.flags.set(NeighbourFlags::Proxy, self.proxy);
        message
            .attributes
            .push(NeighbourAttribute::Destination(self.address.into()));
        message.attributes.extend(
            self.mac
                .map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())),
        );
        message
    }

    fn object(&self) -> String {
        format!("{} on interface number {}", self.address, self.interface)
    }
}

/// Where a VXLAN device sends frames for an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    pub interface: Ifindex,
    pub mac: MacAddress,
    /// The other end of the tunnel.
    pub destination: Option<IpAddr>,
    pub permanent: bool,
}

impl FdbEntry {
    pub fn tunnel(interface: Ifindex, mac: MacAddress, destination: IpAddr) -> Self {
        Self {
            interface,
            mac,
            destination: Some(destination),
            permanent: true,
        }
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = self.interface.0;
        message.header.state = if self.permanent {
            NeighbourState::Permanent
        } else {
            NeighbourState::Reachable
        };
        // The device's own table, not that of a bridge above it.
        message.header.flags = NeighbourFlags::Own;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        message.attributes.extend(
            self.destination
                .map(|address| NeighbourAttribute::Destination(address.into())),
        );
        message
    }

    fn object(&self) -> String {
        let to = self
            .destination
            .map(|address| format!(" to {address}"))
            .unwrap_or_default();
        format!("{}{to} on interface number {}", self.mac, self.interface)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// Makes or changes the entry.
pub fn replace(neighbour: &Neighbour) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::of(
        "set neighbour",
        neighbour.object(),
        RTM_NEWNEIGH,
        flags,
        &neighbour.message(),
    )
}

pub fn delete(neighbour: &Neighbour) -> Request {
    Request::of(
        "delete neighbour",
        neighbour.object(),
        RTM_DELNEIGH,
        0,
        &neighbour.message(),
    )
}

/// Makes the entry the only one for its Ethernet address.
pub fn replace_fdb(entry: &FdbEntry) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::of(
        "set FDB entry",
        entry.object(),
        RTM_NEWNEIGH,
        flags,
        &entry.message(),
    )
}

/// Adds a further destination for the Ethernet address.
pub fn append_fdb(entry: &FdbEntry) -> Request {
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    Request::of(
        "add FDB entry",
        entry.object(),
        RTM_NEWNEIGH,
        flags,
        &entry.message(),
    )
}

pub fn delete_fdb(entry: &FdbEntry) -> Request {
    Request::of(
        "delete FDB entry",
        entry.object(),
        RTM_DELNEIGH,
        0,
        &entry.message(),
    )
}

/// The neighbours on one interface (or on all), both families, without proxies.
pub fn list(socket: &mut Socket, interface: Option<Ifindex>) -> Result<Vec<Neighbour>, Error> {
    dump(socket, interface, NeighbourFlags::empty())
}

/// The addresses that we answer for.
pub fn list_proxies(
    socket: &mut Socket,
    interface: Option<Ifindex>,
) -> Result<Vec<Neighbour>, Error> {
    dump(socket, interface, NeighbourFlags::Proxy)
}

fn dump(
    socket: &mut Socket,
    interface: Option<Ifindex>,
    flags: NeighbourFlags,
) -> Result<Vec<Neighbour>, Error> {
    let mut message = NeighbourMessage::default();
    message.header.flags = flags;
    // The proxy table knows no filter and strict checking refuses one.
    if !flags.contains(NeighbourFlags::Proxy) {
        message
            .attributes
            .extend(interface.map(|index| NeighbourAttribute::IfIndex(index.0)));
    }
    let request = Request::of("list", "neighbours", RTM_GETNEIGH, 0, &message);
    let mut neighbours: Vec<Neighbour> = socket
        .dump(&request)?
        .iter()
        .filter(|reply| reply.message_type == RTM_NEWNEIGH)
        .filter_map(|reply| decode_payload(&reply.payload))
        .filter(|neighbour| interface.is_none_or(|index| index == neighbour.interface))
        .collect();
    neighbours.sort();
    Ok(neighbours)
}

/// The forwarding database of one VXLAN device.
pub fn list_fdb(socket: &mut Socket, interface: Ifindex) -> Result<Vec<FdbEntry>, Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = interface.0;
    let request = Request::of("list", "FDB entries", RTM_GETNEIGH, 0, &message);
    let mut entries: Vec<FdbEntry> = socket
        .dump(&request)?
        .iter()
        .filter(|reply| reply.message_type == RTM_NEWNEIGH)
        .filter_map(|reply| decode_fdb(&reply.payload))
        .filter(|entry| entry.interface == interface)
        .collect();
    entries.sort();
    Ok(entries)
}

/// Reads the family, and what [`Neighbour`] and [`FdbEntry`] hold, without looking at the rest:
/// these are read by the thousand.
struct Decoded {
    family: u8,
    interface: Ifindex,
    permanent: bool,
    proxy: bool,
    mac: Option<MacAddress>,
    destination: Option<IpAddr>,
}

impl Decoded {
    fn of(payload: &[u8]) -> Option<Self> {
        let header = payload.first_chunk::<HEADER>()?;
        let state = u16::from_ne_bytes(*header[8..].first_chunk()?);
        let mut decoded = Self {
            family: header[0],
            interface: Ifindex(u32::from_ne_bytes(*header[4..].first_chunk()?)),
            permanent: NeighbourState::from(state) == NeighbourState::Permanent,
            proxy: NeighbourFlags::from_bits_retain(header[10]).contains(NeighbourFlags::Proxy),
            mac: None,
            destination: None,
        };
        for attribute in netlink::parse(&payload[HEADER..]) {
            match attribute.kind {
                NDA_DST => decoded.destination = address(attribute.value),
                NDA_LLADDR => decoded.mac = attribute.value.try_into().ok().map(MacAddress),
                _ => {}
            }
        }
        Some(decoded)
    }
}

/// In the bridge family the length alone says which family a destination is of.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    ipv4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

pub(crate) fn decode_payload(payload: &[u8]) -> Option<Neighbour> {
    let decoded = Decoded::of(payload)?;
    let internet = [AddressFamily::Inet, AddressFamily::Inet6].map(u8::from);
    if !internet.contains(&decoded.family) {
        return None;
    }
    Some(Neighbour {
        interface: decoded.interface,
        address: decoded.destination?,
        mac: decoded.mac,
        permanent: decoded.permanent,
        proxy: decoded.proxy,
    })
}

pub(crate) fn decode_fdb(payload: &[u8]) -> Option<FdbEntry> {
    let decoded = Decoded::of(payload)?;
    if decoded.family != u8::from(AddressFamily::Bridge) {
        return None;
    }
    Some(FdbEntry {
        interface: decoded.interface,
        mac: decoded.mac?,
        destination: decoded.destination,
        permanent: decoded.permanent,
    })
}
