//! What a rule does, step by step.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::datum::{Datum, Element};
use super::field::{CtField, Field};
use super::object::Name;

/// Where evaluation goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Continue,
    Jump(Name),
    Goto(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    Value(Datum),
    Network(IpNetwork),
    /// Both ends belong to it.
    Range(Datum, Datum),
    /// `field & mask == value`.
    Masked {
        mask: Datum,
        value: Datum,
    },
    /// At least one of these bits is set (none of them, with [`CmpOp::Ne`]).
    AnyBit(Datum),
    /// An interface name that starts so.
    NamePrefix(Name),
}

impl From<Datum> for Right {
    fn from(value: Datum) -> Self {
        Self::Value(value)
    }
}

impl From<IpNetwork> for Right {
    fn from(network: IpNetwork) -> Self {
        Self::Network(network)
    }
}

/// A named set, or one that belongs to the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetRef {
    Named(Name),
    /// Needs the types of the key; of a map, the types of the data too.
    Anonymous {
        elements: Vec<Element>,
    },
}

impl SetRef {
    pub fn named(name: impl Into<Name>) -> Self {
        Self::Named(name.into())
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Value(Datum),
    Field(Field),
    /// `field & and ^ xor`, on a mark.
    Bits {
        field: Field,
        and: u32,
        xor: u32,
    },
    Map {
        key: Vec<Field>,
        map: SetRef,
    },
}

/// What can be assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignment {
    MetaMark,
    CtMark,
    CtZone,
    /// The packet's trace flag (`meta nftrace`).
    Nftrace,
    /// `meta pkttype`.
    PktType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatKind {
    Snat,
    Dnat,
}

/// Where NAT sends to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatTarget {
    Fixed {
        address: Option<IpAddr>,
        port: Option<u16>,
    },
    /// A map whose data is an address, or an address and a port.
    Map {
        key: Vec<Field>,
        map: SetRef,
        port: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DynsetOp {
    Add,
    /// Adds, or starts the timeout anew.
    Update,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// A TCP reset; match TCP first.
    TcpReset,
    /// ICMP or ICMPv6 by the packet's family; only in `inet` and `bridge` tables.
    Icmpx(u8),
    /// ICMP destination unreachable with this code (3 is port unreachable).
    Icmp(u8),
    /// ICMPv6 destination unreachable with this code (4 is port unreachable).
    Icmpv6(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitUnit {
    Second,
    Minute,
    Hour,
}

/// One step of a rule. A step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statement {
    Match {
        field: Field,
        op: CmpOp,
        right: Right,
    },
    /// Whether the concatenated fields are in a set.
    Lookup {
        key: Vec<Field>,
        negate: bool,
        set: SetRef,
    },
    /// The verdict that a map gives; no match where it has none.
    VerdictMap {
        key: Vec<Field>,
        map: SetRef,
    },
    Verdict(Verdict),
    Counter,
    Notrack,
    /// To the kernel's log, or to an nflog group.
    Log {
        prefix: Option<Name>,
        group: Option<u16>,
    },
    /// Matches below the rate, or above it with `over`.
    Limit {
        rate: u64,
        unit: LimitUnit,
        burst: u32,
        over: bool,
    },
    Reject(Reject),
    Assign {
        target: Assignment,
        source: Source,
    },
    Nat {
        kind: NatKind,
        v6: bool,
        target: NatTarget,
    },
    Masquerade {
        fully_random: bool,
    },
    Redirect {
        port: Option<u16>,
    },
    /// Adds an element to a set with [`super::SetFlags::dynamic`].
    Dynset {
        op: DynsetOp,
        set: Name,
        key: Vec<Field>,
        timeout: Option<Duration>,
    },
    /// Offloads the connection to a flowtable.
    FlowAdd(Name),
    /// Lowers the MSS in TCP SYN to the route's MTU.
    ClampMss,
}

impl Statement {
    /// `field == right`.
    pub fn eq(field: Field, right: impl Into<Right>) -> Self {
        Self::Match {
            field,
            op: CmpOp::Eq,
            right: right.into(),
        }
    }

    /// `field != right`.
    pub fn ne(field: Field, right: impl Into<Right>) -> Self {
        Self::Match {
            field,
            op: CmpOp::Ne,
            right: right.into(),
        }
    }

    /// The fields are in the named set.
    pub fn is_in(key: impl Into<Vec<Field>>, set: impl Into<Name>) -> Self {
        Self::Lookup {
            key: key.into(),
            negate: false,
            set: SetRef::Named(set.into()),
        }
    }

    /// The fields are not in the named set.
    pub fn not_in(key: impl Into<Vec<Field>>, set: impl Into<Name>) -> Self {
        Self::Lookup {
            key: key.into(),
            negate: true,
            set: SetRef::Named(set.into()),
        }
    }

    /// The fields are one of these, by a set of the rule's own.
    pub fn one_of(key: impl Into<Vec<Field>>, elements: Vec<Element>) -> Self {
        Self::Lookup {
            key: key.into(),
            negate: false,
            set: SetRef::Anonymous { elements },
        }
    }

    /// `field1 . field2 vmap @map`.
    pub fn vmap(key: impl Into<Vec<Field>>, map: impl Into<Name>) -> Self {
        Self::VerdictMap {
            key: key.into(),
            map: SetRef::Named(map.into()),
        }
    }

    pub fn protocol(number: u8) -> Self {
        Self::eq(Field::L4Proto, Datum::Proto(number))
    }

    pub fn dport(port: u16) -> Self {
        Self::eq(Field::Dport, Datum::Port(port))
    }

    pub fn iifname(name: impl Into<Name>) -> Self {
        Self::eq(Field::Iifname, Datum::Ifname(name.into()))
    }

    pub fn oifname(name: impl Into<Name>) -> Self {
        Self::eq(Field::Oifname, Datum::Ifname(name.into()))
    }

    pub fn saddr(network: IpNetwork) -> Self {
        Self::eq(Field::saddr(network.is_ipv6()), network)
    }

    pub fn daddr(network: IpNetwork) -> Self {
        Self::eq(Field::daddr(network.is_ipv6()), network)
    }

    /// At least one of [`super::ct_state`].
    pub fn ct_state(bits: u32) -> Self {
        Self::eq(
            Field::Ct(CtField::State),
            Right::AnyBit(Datum::CtState(bits)),
        )
    }

    /// At least one of [`super::ct_status`].
    pub fn ct_status(bits: u32) -> Self {
        Self::eq(
            Field::Ct(CtField::Status),
            Right::AnyBit(Datum::CtStatus(bits)),
        )
    }

    /// `meta mark & mask == value`.
    pub fn mark(value: u32, mask: u32) -> Self {
        let right = Right::Masked {
            mask: Datum::Mark(mask),
            value: Datum::Mark(value),
        };
        Self::eq(Field::Mark, right)
    }

    /// Sets bits of the packet's mark and leaves the others.
    pub fn or_mark(bits: u32) -> Self {
        let source = Source::Bits {
            field: Field::Mark,
            and: !bits,
            xor: bits,
        };
        Self::Assign {
            target: Assignment::MetaMark,
            source,
        }
    }

    /// Clears bits of the packet's mark.
    pub fn clear_mark(bits: u32) -> Self {
        let source = Source::Bits {
            field: Field::Mark,
            and: !bits,
            xor: 0,
        };
        Self::Assign {
            target: Assignment::MetaMark,
            source,
        }
    }

    pub fn jump(chain: impl Into<Name>) -> Self {
        Self::Verdict(Verdict::Jump(chain.into()))
    }

    pub fn goto(chain: impl Into<Name>) -> Self {
        Self::Verdict(Verdict::Goto(chain.into()))
    }

    pub fn accept() -> Self {
        Self::Verdict(Verdict::Accept)
    }

    pub fn drop() -> Self {
        Self::Verdict(Verdict::Drop)
    }

    pub fn return_() -> Self {
        Self::Verdict(Verdict::Return)
    }

    /// `dnat to address:port`.
    pub fn dnat(address: IpAddr, port: Option<u16>) -> Self {
        let target = NatTarget::Fixed {
            address: Some(address),
            port,
        };
        Self::Nat {
            kind: NatKind::Dnat,
            v6: address.is_ipv6(),
            target,
        }
    }

    /// `snat to address`.
    pub fn snat(address: IpAddr) -> Self {
        let target = NatTarget::Fixed {
            address: Some(address),
            port: None,
        };
        Self::Nat {
            kind: NatKind::Snat,
            v6: address.is_ipv6(),
            target,
        }
    }

    /// To an nflog group.
    pub fn nflog(group: u16, prefix: impl Into<Name>) -> Self {
        Self::Log {
            prefix: Some(prefix.into()),
            group: Some(group),
        }
    }
}
