//! Values as they stand in a register, and the types that nf_tables gives to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::object::Name;
use super::statement::Verdict;

/// The type of one component of a set's key or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    Ipv4Addr,
    Ipv6Addr,
    EtherAddr,
    InetProto,
    InetService,
    Mark,
    Ifindex,
    Ifname,
    /// A 32-bit number in host byte order, such as what `numgen` yields.
    Number,
}

impl DataType {
    /// The number by which `nft` knows the type; the kernel only stores it.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::Ifindex => 20,
            Self::Ifname => 41,
        }
    }

    pub(super) fn from_id(id: u32) -> Option<Self> {
        const ALL: [DataType; 9] = [
            DataType::Number,
            DataType::Ipv4Addr,
            DataType::Ipv6Addr,
            DataType::EtherAddr,
            DataType::InetProto,
            DataType::InetService,
            DataType::Mark,
            DataType::Ifindex,
            DataType::Ifname,
        ];
        ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Bytes without padding.
    pub fn width(self) -> usize {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark | Self::Ifindex | Self::Number => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::Ifname => 16,
        }
    }

    pub(super) fn host_order(self) -> bool {
        matches!(
            self,
            Self::Mark | Self::Ifindex | Self::Number | Self::Ifname
        )
    }

    /// The type of an address of this family.
    pub fn address(v6: bool) -> Self {
        if v6 { Self::Ipv6Addr } else { Self::Ipv4Addr }
    }
}

/// One value, with the width and byte order that its kind has in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Mac([u8; 6]),
    /// A layer-4 port.
    Port(u16),
    /// A layer-4 protocol number.
    Proto(u8),
    /// `meta nfproto`: [`super::Family::Ip`] or [`super::Family::Ip6`].
    NfProto(u8),
    /// `meta protocol` and `ether type`.
    EtherType(u16),
    Mark(u32),
    Ifindex(u32),
    Ifname(Name),
    /// A number in host byte order: numgen, jhash, length.
    Number(u32),
    /// A number of 16 bits in network byte order: ARP operation, IP length.
    Short(u16),
    /// A single byte: ICMP type, TTL.
    Byte(u8),
    /// Bits of [`super::ct_state`].
    CtState(u32),
    /// Bits of [`super::ct_status`].
    CtStatus(u32),
    /// One of [`super::address_type`].
    AddressType(u32),
    TcpFlags(u8),
    /// `ct direction`: 0 original, 1 reply.
    CtDirection(u8),
    /// Whether a routing lookup found something.
    Present(bool),
}

impl Datum {
    /// Appends the value's bytes, unpadded.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => out.extend_from_slice(&address.octets()),
            Self::V6(address) => out.extend_from_slice(&address.octets()),
            Self::Mac(mac) => out.extend_from_slice(mac),
            Self::Port(n) | Self::EtherType(n) | Self::Short(n) => {
                out.extend_from_slice(&n.to_be_bytes());
            }
            Self::Proto(n)
            | Self::NfProto(n)
            | Self::Byte(n)
            | Self::TcpFlags(n)
            | Self::CtDirection(n) => out.push(*n),
            Self::Mark(n)
            | Self::Ifindex(n)
            | Self::Number(n)
            | Self::CtState(n)
            | Self::CtStatus(n)
            | Self::AddressType(n) => out.extend_from_slice(&n.to_ne_bytes()),
            Self::Present(present) => out.extend_from_slice(&[u8::from(*present), 0, 0, 0]),
            Self::Ifname(name) => {
                let mut bytes = [0u8; 16];
                let length = name.len().min(15);
                bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
                out.extend_from_slice(&bytes);
            }
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        self.write(&mut out);
        out
    }

    /// The number of the type in `nft`, and the length, for sets that belong to a rule.
    pub(super) fn type_and_length(&self) -> (u32, usize) {
        match self {
            Self::V4(_) => (7, 4),
            Self::V6(_) => (8, 16),
            Self::Mac(_) => (9, 6),
            Self::Port(_) => (13, 2),
            Self::Proto(_) => (12, 1),
            Self::NfProto(_) => (2, 1),
            Self::EtherType(_) => (10, 2),
            Self::Mark(_) => (19, 4),
            Self::Ifindex(_) => (20, 4),
            Self::Ifname(_) => (41, 16),
            Self::Number(_) => (4, 4),
            Self::Short(_) => (4, 2),
            Self::Byte(_) => (14, 1),
            Self::CtState(_) => (26, 4),
            Self::CtStatus(_) => (28, 4),
            Self::AddressType(_) => (38, 4),
            Self::TcpFlags(_) => (15, 1),
            Self::CtDirection(_) => (27, 1),
            Self::Present(_) => (39, 4),
        }
    }

    /// Reads a value of the type back from a register's bytes.
    pub(super) fn read(kind: DataType, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..kind.width())?;
        let word = || bytes.try_into().ok().map(u32::from_ne_bytes);
        Some(match kind {
            DataType::Ipv4Addr => Self::V4(<[u8; 4]>::try_from(bytes).ok()?.into()),
            DataType::Ipv6Addr => Self::V6(<[u8; 16]>::try_from(bytes).ok()?.into()),
            DataType::EtherAddr => Self::Mac(bytes.try_into().ok()?),
            DataType::InetProto => Self::Proto(*bytes.first()?),
            DataType::InetService => Self::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
            DataType::Mark => Self::Mark(word()?),
            DataType::Ifindex => Self::Ifindex(word()?),
            DataType::Number => Self::Number(word()?),
            DataType::Ifname => {
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                Self::Ifname(std::str::from_utf8(&bytes[..end]).ok()?.into())
            }
        })
    }

    /// The value that follows this one, for the open end of an interval; `None` after the last.
    pub(super) fn successor(&self) -> Option<Vec<u8>> {
        let mut bytes = self.bytes();
        for byte in bytes.iter_mut().rev() {
            let (next, overflow) = byte.overflowing_add(1);
            *byte = next;
            if !overflow {
                return Some(bytes);
            }
        }
        None
    }
}

impl From<IpAddr> for Datum {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

impl From<Ipv4Addr> for Datum {
    fn from(address: Ipv4Addr) -> Self {
        Self::V4(address)
    }
}

impl From<Ipv6Addr> for Datum {
    fn from(address: Ipv6Addr) -> Self {
        Self::V6(address)
    }
}

/// A key or a map's value: one datum for each component of the concatenation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Box<[Datum]>);

impl Key {
    /// The bytes as they lie in the registers: components of a concatenation start at
    /// multiples of four, a lone component is not padded.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 8);
        for datum in &self.0 {
            datum.write(&mut out);
            if self.0.len() > 1 {
                out.resize(out.len().next_multiple_of(4), 0);
            }
        }
        out
    }
}

impl<T: Into<Datum>> From<T> for Key {
    fn from(datum: T) -> Self {
        Self(Box::new([datum.into()]))
    }
}

impl<const N: usize> From<[Datum; N]> for Key {
    fn from(data: [Datum; N]) -> Self {
        Self(Box::new(data))
    }
}

impl From<Vec<Datum>> for Key {
    fn from(data: Vec<Datum>) -> Self {
        Self(data.into())
    }
}

/// What an element matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementKey {
    One(Key),
    /// Both ends belong to it. Needs a set with [`super::SetFlags::interval`].
    Range(Key, Key),
    /// Whatever no other element matches (Linux 5.13).
    CatchAll,
}

/// What a map answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementData {
    Verdict(Verdict),
    Value(Key),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    pub key: ElementKey,
    pub data: Option<ElementData>,
    /// Needs a set with [`super::SetFlags::timeout`].
    pub timeout: Option<Duration>,
    pub comment: Option<Name>,
}

impl Element {
    pub fn new(key: impl Into<Key>) -> Self {
        Self {
            key: ElementKey::One(key.into()),
            data: None,
            timeout: None,
            comment: None,
        }
    }

    /// Both ends belong to the range.
    pub fn range(from: impl Into<Key>, to: impl Into<Key>) -> Self {
        let key = ElementKey::Range(from.into(), to.into());
        Self {
            key,
            data: None,
            timeout: None,
            comment: None,
        }
    }

    /// The addresses of a network, as the only component of the key.
    pub fn network(network: IpNetwork) -> Self {
        let (from, to) = bounds(network);
        Self::range(from, to)
    }

    pub fn catch_all() -> Self {
        Self {
            key: ElementKey::CatchAll,
            data: None,
            timeout: None,
            comment: None,
        }
    }

    /// The same element of a verdict map.
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.data = Some(ElementData::Verdict(verdict));
        self
    }

    /// The same element of a map.
    pub fn value(mut self, value: impl Into<Key>) -> Self {
        self.data = Some(ElementData::Value(value.into()));
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub fn comment(mut self, comment: impl Into<Name>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// The first and the last address of a network.
pub(super) fn bounds(network: IpNetwork) -> (Datum, Datum) {
    match network {
        IpNetwork::V4(n) => (Datum::V4(n.network()), Datum::V4(n.broadcast())),
        IpNetwork::V6(n) => (Datum::V6(n.network()), Datum::V6(n.broadcast())),
    }
}
