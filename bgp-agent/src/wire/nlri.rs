//! Address families and prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnetwork::IpNetwork;

use super::reader::Reader;

/// The families that are spoken: unicast of both IP versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub fn of(network: &IpNetwork) -> Self {
        if network.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    /// AFI and SAFI.
    pub fn numbers(self) -> (u16, u8) {
        match self {
            Self::Ipv4 => (1, 1),
            Self::Ipv6 => (2, 1),
        }
    }

    pub fn from_numbers(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

/// A prefix, with the identifier that ADD-PATH gives it (0 without; RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    pub path_id: u32,
    pub prefix: IpNetwork,
}

impl Nlri {
    pub fn new(prefix: IpNetwork) -> Self {
        Self { path_id: 0, prefix }
    }

    pub fn family(&self) -> Family {
        Family::of(&self.prefix)
    }

    pub(super) fn encode(&self, add_path: bool, out: &mut BytesMut) {
        if add_path {
            out.put_u32(self.path_id);
        }
        let bits = self.prefix.prefix();
        out.put_u8(bits);
        let bytes = usize::from(bits.div_ceil(8));
        match self.prefix.network() {
            IpAddr::V4(address) => out.put_slice(&address.octets()[..bytes]),
            IpAddr::V6(address) => out.put_slice(&address.octets()[..bytes]),
        }
    }

    /// Bytes on the wire.
    pub(super) fn len(&self, add_path: bool) -> usize {
        usize::from(self.prefix.prefix().div_ceil(8)) + if add_path { 5 } else { 1 }
    }
}

/// All prefixes of a field; `None` if it is not made of prefixes. Bits behind a prefix's length
/// do not count.
pub(super) fn decode(mut from: Reader<'_>, family: Family, add_path: bool) -> Option<Vec<Nlri>> {
    let mut all = Vec::new();
    while !from.is_empty() {
        let path_id = if add_path { from.u32()? } else { 0 };
        let bits = from.u8().filter(|bits| *bits <= family.bits())?;
        let bytes = from.take(usize::from(bits.div_ceil(8)))?;
        let address = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(padded::<4>(bytes))),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(padded::<16>(bytes))),
        };
        let prefix = IpNetwork::new(address, bits).ok()?;
        let prefix = IpNetwork::new(prefix.network(), bits).ok()?;
        all.push(Nlri { path_id, prefix });
    }
    Some(all)
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut address = [0; N];
    address[..bytes.len()].copy_from_slice(bytes);
    address
}
