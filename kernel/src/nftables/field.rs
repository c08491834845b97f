//! What a rule can look at.

use super::datum::{DataType, Datum};
use super::object::Family;

/// The IP version that an address field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V4,
    V6,
}

impl Version {
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }

    pub fn is_v6(self) -> bool {
        self == Self::V6
    }

    pub(super) fn nfproto(self) -> u8 {
        match self {
            Self::V4 => Family::Ip as u8,
            Self::V6 => Family::Ip6 as u8,
        }
    }

    pub(super) fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }
}

/// Which tuple of a tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Original,
    Reply,
}

/// What conntrack knows of the packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtField {
    State,
    Status,
    Mark,
    Direction,
    Zone,
    Saddr(Direction, Version),
    Daddr(Direction, Version),
    ProtoSrc(Direction),
    ProtoDst(Direction),
    /// The layer-4 protocol of the original direction.
    Protocol,
}

/// What a routing lookup is made from; combine by listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FibKey {
    Saddr,
    Daddr,
    Mark,
    Iif,
    Oif,
}

/// What a routing lookup answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FibResult {
    /// The interface's index, 0 where there is no route.
    Oif,
    /// The interface's name.
    Oifname,
    /// One of [`super::address_type`].
    Type,
    /// [`Datum::Present`]: whether there is a route.
    Present,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NumgenMode {
    Random,
    Incremental,
}

/// Something that can be loaded into registers: a header field, metadata, a number.
///
/// In `inet`, `bridge` and `netdev` tables a field of IPv4, IPv6 or ARP brings the test of the
/// packet's protocol with it, as in `nft`. Ports bring none: match [`Field::L4Proto`] first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Saddr(Version),
    Daddr(Version),
    /// The source port of TCP, UDP, SCTP and their like.
    Sport,
    /// The destination port of TCP, UDP, SCTP and their like.
    Dport,
    L4Proto,
    /// [`Datum::NfProto`]: IPv4 or IPv6, in `inet` tables.
    NfProto,
    /// The Ethernet protocol, [`Datum::EtherType`].
    Protocol,
    /// The packet's length.
    Length,
    Mark,
    Iif,
    Oif,
    Iifname,
    Oifname,
    PktType,
    TcpFlags,
    IcmpType,
    Icmpv6Type,
    EtherSaddr,
    EtherDaddr,
    ArpOperation,
    ArpSaddrEther,
    ArpSaddrIp,
    ArpDaddrIp,
    /// The target address of a neighbour solicitation or advertisement (ICMPv6 types 135, 136).
    NdTarget,
    Ct(CtField),
    Fib(Vec<FibKey>, FibResult),
    Numgen {
        mode: NumgenMode,
        modulus: u32,
        offset: u32,
    },
    /// Jenkins hash of the fields, modulo `modulus`, plus `offset`.
    Jhash {
        of: Vec<Field>,
        modulus: u32,
        seed: Option<u32>,
        offset: u32,
    },
}

impl Field {
    /// The source address of an IP version.
    pub fn saddr(v6: bool) -> Self {
        Self::Saddr(if v6 { Version::V6 } else { Version::V4 })
    }

    /// The destination address of an IP version.
    pub fn daddr(v6: bool) -> Self {
        Self::Daddr(if v6 { Version::V6 } else { Version::V4 })
    }

    /// Bytes in the register, unpadded.
    pub fn width(&self) -> usize {
        match self {
            Self::Saddr(v) | Self::Daddr(v) => DataType::address(v.is_v6()).width(),
            Self::Sport | Self::Dport | Self::Protocol | Self::ArpOperation => 2,
            Self::L4Proto
            | Self::NfProto
            | Self::PktType
            | Self::TcpFlags
            | Self::IcmpType
            | Self::Icmpv6Type => 1,
            Self::Length | Self::Mark | Self::Iif | Self::Oif => 4,
            Self::Iifname | Self::Oifname | Self::NdTarget => 16,
            Self::EtherSaddr | Self::EtherDaddr | Self::ArpSaddrEther => 6,
            Self::ArpSaddrIp | Self::ArpDaddrIp => 4,
            Self::Ct(field) => field.len(),
            Self::Fib(_, FibResult::Oifname) => 16,
            Self::Fib(..) | Self::Numgen { .. } | Self::Jhash { .. } => 4,
        }
    }

    /// The protocol test that the field needs in tables that see several protocols.
    pub(super) fn dependency(&self) -> Option<Dependency> {
        match self {
            Self::Saddr(v) | Self::Daddr(v) => Some(Dependency::Ip(*v)),
            Self::ArpOperation | Self::ArpSaddrEther | Self::ArpSaddrIp | Self::ArpDaddrIp => {
                Some(Dependency::Arp)
            }
            Self::IcmpType => Some(Dependency::L4(super::protocol::ICMP)),
            Self::Icmpv6Type | Self::NdTarget => Some(Dependency::L4(super::protocol::ICMPV6)),
            Self::TcpFlags => Some(Dependency::L4(super::protocol::TCP)),
            _ => None,
        }
    }
}

impl CtField {
    fn len(self) -> usize {
        match self {
            Self::State | Self::Status | Self::Mark => 4,
            Self::Direction | Self::Protocol => 1,
            Self::Zone | Self::ProtoSrc(_) | Self::ProtoDst(_) => 2,
            Self::Saddr(_, v) | Self::Daddr(_, v) => DataType::address(v.is_v6()).width(),
        }
    }
}

/// A protocol that the packet must be of for a field to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependency {
    Ip(Version),
    Arp,
    L4(u8),
}

impl Dependency {
    /// The field and value of the test, or `None` where the table's family already implies it.
    pub(super) fn test(self, family: Family) -> Option<(Field, Datum)> {
        match (self, family) {
            (Self::L4(number), _) => Some((Field::L4Proto, Datum::Proto(number))),
            (_, Family::Ip | Family::Ip6 | Family::Arp) | (Self::Arp, Family::Inet) => None,
            (Self::Ip(version), Family::Inet) => {
                Some((Field::NfProto, Datum::NfProto(version.nfproto())))
            }
            (Self::Ip(version), Family::Bridge | Family::Netdev) => {
                Some((Field::Protocol, Datum::EtherType(version.ethertype())))
            }
            (Self::Arp, Family::Bridge | Family::Netdev) => {
                Some((Field::Protocol, Datum::EtherType(0x0806)))
            }
        }
    }
}
