//! Statements as text, in the syntax of `nft -f`.

use std::fmt::{Display, Formatter, Result};

use std::net::IpAddr;

use super::datum::Datum;
use super::field::Field;
use super::object::Name;
use super::statement::{
    Assignment, CmpOp, DynsetOp, LimitUnit, NatKind, NatTarget, Reject, Right, SetRef, Source,
    Statement, Verdict,
};
use super::text::{Joined, Span};

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Continue => f.write_str("continue"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for SetRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Named(name) => write!(f, "@{name}"),
            Self::Anonymous { elements } => write!(f, "{{ {} }}", Joined(elements, ", ")),
        }
    }
}

impl Display for CmpOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        })
    }
}

fn comparison(f: &mut Formatter<'_>, field: &Field, op: CmpOp, right: &Right) -> Result {
    // `nft` takes no `==` before a list of bits.
    let sign = if op == CmpOp::Eq {
        String::new()
    } else {
        format!("{op} ")
    };
    match right {
        Right::Value(value) => write!(f, "{field} {sign}{value}"),
        Right::Network(network) => write!(f, "{field} {sign}{network}"),
        Right::Range(from, to) => write!(f, "{field} {sign}{from}-{to}"),
        Right::Masked {
            mask: mask @ Datum::TcpFlags(_),
            value,
        } => {
            let mask = mask.to_string().replace(',', "|");
            let value = value.to_string().replace(',', "|");
            write!(f, "{field} & ({mask}) {op} {value}")
        }
        Right::Masked { mask, value } => write!(f, "{field} & {mask} {op} {value}"),
        Right::AnyBit(value) => write!(f, "{field} {sign}{value}"),
        Right::NamePrefix(prefix) => write!(f, "{field} {sign}\"{prefix}*\""),
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Field(field) => field.fmt(f),
            Self::Bits { field, and, xor } if !and == *xor => write!(f, "{field} or {xor:#x}"),
            Self::Bits { field, and, xor: 0 } => write!(f, "{field} & {and:#010x}"),
            Self::Bits { field, and, xor } => {
                write!(f, "{field} & {and:#010x} ^ {xor:#010x}")
            }
            Self::Map { key, map } => write!(f, "{} map {map}", Joined(key, " . ")),
        }
    }
}

fn nat(f: &mut Formatter<'_>, kind: NatKind, v6: bool, target: &NatTarget) -> Result {
    let kind = if kind == NatKind::Dnat {
        "dnat"
    } else {
        "snat"
    };
    let family = if v6 { "ip6" } else { "ip" };
    match target {
        NatTarget::Fixed {
            address: Some(address),
            port: None,
        } => {
            write!(f, "{kind} {family} to {address}")
        }
        NatTarget::Fixed {
            address: Some(IpAddr::V6(address)),
            port: Some(port),
        } => {
            write!(f, "{kind} {family} to [{address}]:{port}")
        }
        NatTarget::Fixed {
            address: Some(address),
            port: Some(port),
        } => {
            write!(f, "{kind} {family} to {address}:{port}")
        }
        NatTarget::Fixed {
            address: None,
            port,
        } => {
            write!(f, "{kind} {family} to :{}", port.unwrap_or_default())
        }
        NatTarget::Map { key, map, .. } => {
            write!(f, "{kind} {family} to {} map {map}", Joined(key, " . "))
        }
    }
}

impl Display for Reject {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::TcpReset => f.write_str("reject with tcp reset"),
            Self::Icmpx(code) => write!(f, "reject with icmpx {code}"),
            Self::Icmp(code) => write!(f, "reject with icmp {code}"),
            Self::Icmpv6(code) => write!(f, "reject with icmpv6 {code}"),
        }
    }
}

impl Display for Assignment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::MetaMark => "meta mark",
            Self::CtMark => "ct mark",
            Self::CtZone => "ct zone",
            Self::Nftrace => "meta nftrace",
            Self::PktType => "meta pkttype",
        })
    }
}

fn log(f: &mut Formatter<'_>, prefix: &Option<Name>, group: Option<u16>) -> Result {
    f.write_str("log")?;
    if let Some(prefix) = prefix {
        write!(f, " prefix \"{prefix}\"")?;
    }
    group.map_or(Ok(()), |group| write!(f, " group {group}"))
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Match { field, op, right } => comparison(f, field, *op, right),
            Self::Lookup { key, negate, set } => {
                let not = if *negate { "!= " } else { "" };
                write!(f, "{} {not}{set}", Joined(key, " . "))
            }
            Self::VerdictMap { key, map } => write!(f, "{} vmap {map}", Joined(key, " . ")),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Counter => f.write_str("counter"),
            Self::Notrack => f.write_str("notrack"),
            Self::Log { prefix, group } => log(f, prefix, *group),
            Self::Limit {
                rate,
                unit,
                burst,
                over,
            } => {
                let over = if *over { "over " } else { "" };
                let unit = match unit {
                    LimitUnit::Second => "second",
                    LimitUnit::Minute => "minute",
                    LimitUnit::Hour => "hour",
                };
                write!(f, "limit rate {over}{rate}/{unit} burst {burst} packets")
            }
            Self::Reject(reject) => reject.fmt(f),
            Self::Assign { target, source } => write!(f, "{target} set {source}"),
            Self::Nat { kind, v6, target } => nat(f, *kind, *v6, target),
            Self::Masquerade { fully_random: true } => f.write_str("masquerade fully-random"),
            Self::Masquerade {
                fully_random: false,
            } => f.write_str("masquerade"),
            Self::Redirect { port: Some(port) } => write!(f, "redirect to :{port}"),
            Self::Redirect { port: None } => f.write_str("redirect"),
            Self::Dynset {
                op,
                set,
                key,
                timeout,
            } => {
                let op = match op {
                    DynsetOp::Add => "add",
                    DynsetOp::Update => "update",
                    DynsetOp::Delete => "delete",
                };
                write!(f, "{op} @{set} {{ {}", Joined(key, " . "))?;
                if let Some(timeout) = timeout {
                    write!(f, " timeout {}", Span(*timeout))?;
                }
                f.write_str(" }")
            }
            Self::FlowAdd(table) => write!(f, "flow add @{table}"),
            Self::ClampMss => f.write_str("tcp option maxseg size set rt mtu"),
        }
    }
}
