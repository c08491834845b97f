//! Everything as text, in the syntax of `nft -f`: for golden tests, errors and people.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use super::datum::{DataType, Datum, Element, ElementData, ElementKey, Key};
use super::field::{CtField, Direction, FibKey, FibResult, Field, NumgenMode, Version};
use super::object::{
    BaseChain, Chain, ChainType, Family, Flowtable, Hook, Op, Policy, Rule, Set, SetKind, Table,
    Transaction,
};

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        })
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Items with something between them.
pub(super) struct Joined<'a, T>(pub &'a [T], pub &'a str);

impl<T: Display> Display for Joined<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

/// A duration as nft writes it, such as `3h` or `90s`.
pub(super) struct Span(pub Duration);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let millis = self.0.subsec_millis();
        if millis != 0 || self.0.is_zero() {
            return write!(f, "{}ms", self.0.as_millis());
        }
        write!(f, "{}s", self.0.as_secs())
    }
}

impl Display for DataType {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::EtherAddr => "ether_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
            Self::Ifindex => "iface_index",
            Self::Ifname => "ifname",
            Self::Number => "integer",
        })
    }
}

/// The expression that stands for a type in `typeof`, which nft wants where a plain number is
/// part of a key.
fn typeof_name(kind: DataType) -> &'static str {
    match kind {
        DataType::Ipv4Addr => "ip daddr",
        DataType::Ipv6Addr => "ip6 daddr",
        DataType::EtherAddr => "ether daddr",
        DataType::InetProto => "meta l4proto",
        DataType::InetService => "th dport",
        DataType::Mark => "meta mark",
        DataType::Ifindex => "meta iif",
        DataType::Ifname => "meta iifname",
        DataType::Number => "numgen random mod 2",
    }
}

fn protocol_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "ipv6-icmp",
        132 => "sctp",
        _ => return None,
    })
}

/// The names of the bits that are set; a bit without a name is left out.
fn bits(f: &mut Formatter<'_>, value: u32, names: &[(u32, &str)]) -> Result {
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| value & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    match set.is_empty() {
        true => write!(f, "{value:#x}"),
        false => f.write_str(&set.join(",")),
    }
}

impl Display for Datum {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Self::Port(n) | Self::Short(n) => n.fmt(f),
            Self::Proto(n) => match protocol_name(*n) {
                Some(name) => f.write_str(name),
                None => n.fmt(f),
            },
            Self::NfProto(n) => f.write_str(if *n == 10 { "ipv6" } else { "ipv4" }),
            Self::EtherType(0x0800) => f.write_str("ip"),
            Self::EtherType(0x86dd) => f.write_str("ip6"),
            Self::EtherType(0x0806) => f.write_str("arp"),
            Self::EtherType(n) => write!(f, "{n:#06x}"),
            Self::Mark(n) => write!(f, "{n:#010x}"),
            Self::Ifindex(n) | Self::Number(n) => n.fmt(f),
            Self::Ifname(name) => write!(f, "\"{name}\""),
            Self::Byte(n) => n.fmt(f),
            Self::CtState(n) => bits(
                f,
                *n,
                &[
                    (1, "invalid"),
                    (2, "established"),
                    (4, "related"),
                    (8, "new"),
                    (64, "untracked"),
                ],
            ),
            Self::CtStatus(n) => bits(
                f,
                *n,
                &[
                    (2, "seen-reply"),
                    (4, "assured"),
                    (8, "confirmed"),
                    (16, "snat"),
                    (32, "dnat"),
                ],
            ),
            Self::AddressType(n) => f.write_str(match n {
                1 => "unicast",
                2 => "local",
                3 => "broadcast",
                4 => "anycast",
                5 => "multicast",
                6 => "blackhole",
                7 => "unreachable",
                8 => "prohibit",
                _ => "unspec",
            }),
            Self::TcpFlags(n) => bits(
                f,
                u32::from(*n),
                &[
                    (1, "fin"),
                    (2, "syn"),
                    (4, "rst"),
                    (8, "psh"),
                    (16, "ack"),
                    (32, "urg"),
                ],
            ),
            Self::Present(true) => f.write_str("exists"),
            Self::Present(false) => f.write_str("missing"),
            Self::CtDirection(n) => f.write_str(if *n == 0 { "original" } else { "reply" }),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Joined(&self.0, " . ").fmt(f)
    }
}

impl Display for ElementKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::One(key) => key.fmt(f),
            Self::CatchAll => f.write_str("*"),
            Self::Range(from, to) => {
                for (index, (from, to)) in from.0.iter().zip(&to.0).enumerate() {
                    if index > 0 {
                        f.write_str(" . ")?;
                    }
                    from.fmt(f)?;
                    if from != to {
                        write!(f, "-{to}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.key.fmt(f)?;
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {}", Span(timeout))?;
        }
        if let Some(comment) = &self.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        match &self.data {
            Some(ElementData::Verdict(verdict)) => write!(f, " : {verdict}"),
            Some(ElementData::Value(value)) => write!(f, " : {value}"),
            None => Ok(()),
        }
    }
}

fn version(v: Version) -> &'static str {
    match v {
        Version::V4 => "ip",
        Version::V6 => "ip6",
    }
}

fn direction(d: Direction) -> &'static str {
    match d {
        Direction::Original => "original",
        Direction::Reply => "reply",
    }
}

impl Display for CtField {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::State => f.write_str("ct state"),
            Self::Status => f.write_str("ct status"),
            Self::Mark => f.write_str("ct mark"),
            Self::Direction => f.write_str("ct direction"),
            Self::Zone => f.write_str("ct zone"),
            Self::Saddr(d, v) => write!(f, "ct {} {} saddr", direction(*d), version(*v)),
            Self::Daddr(d, v) => write!(f, "ct {} {} daddr", direction(*d), version(*v)),
            Self::ProtoSrc(d) => write!(f, "ct {} proto-src", direction(*d)),
            Self::ProtoDst(d) => write!(f, "ct {} proto-dst", direction(*d)),
            Self::Protocol => f.write_str("ct original protocol"),
        }
    }
}

impl Display for FibKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Saddr => "saddr",
            Self::Daddr => "daddr",
            Self::Mark => "mark",
            Self::Iif => "iif",
            Self::Oif => "oif",
        })
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let name = match self {
            Self::Saddr(v) => return write!(f, "{} saddr", version(*v)),
            Self::Daddr(v) => return write!(f, "{} daddr", version(*v)),
            Self::Ct(field) => return field.fmt(f),
            Self::Fib(keys, result) => {
                let result = match result {
                    FibResult::Oif | FibResult::Present => "oif",
                    FibResult::Oifname => "oifname",
                    FibResult::Type => "type",
                };
                return write!(f, "fib {} {result}", Joined(keys, " . "));
            }
            Self::Numgen {
                mode,
                modulus,
                offset,
            } => {
                let mode = if *mode == NumgenMode::Random {
                    "random"
                } else {
                    "inc"
                };
                write!(f, "numgen {mode} mod {modulus}")?;
                return if *offset == 0 {
                    Ok(())
                } else {
                    write!(f, " offset {offset}")
                };
            }
            Self::Jhash {
                of,
                modulus,
                seed,
                offset,
            } => {
                write!(f, "jhash {} mod {modulus}", Joined(of, " . "))?;
                if let Some(seed) = seed {
                    write!(f, " seed {seed:#x}")?;
                }
                return if *offset == 0 {
                    Ok(())
                } else {
                    write!(f, " offset {offset}")
                };
            }
            Self::Sport => "th sport",
            Self::Dport => "th dport",
            Self::L4Proto => "meta l4proto",
            Self::NfProto => "meta nfproto",
            Self::Protocol => "meta protocol",
            Self::Length => "meta length",
            Self::Mark => "meta mark",
            Self::Iif => "iif",
            Self::Oif => "oif",
            Self::Iifname => "iifname",
            Self::Oifname => "oifname",
            Self::PktType => "meta pkttype",
            Self::TcpFlags => "tcp flags",
            Self::IcmpType => "icmp type",
            Self::Icmpv6Type => "icmpv6 type",
            Self::EtherSaddr => "ether saddr",
            Self::EtherDaddr => "ether daddr",
            Self::ArpOperation => "arp operation",
            Self::ArpSaddrEther => "arp saddr ether",
            Self::ArpSaddrIp => "arp saddr ip",
            Self::ArpDaddrIp => "arp daddr ip",
            Self::NdTarget => "icmpv6 taddr",
        };
        f.write_str(name)
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl Display for BaseChain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let kind = match self.kind {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
            ChainType::Route => "route",
        };
        write!(f, "type {kind} hook {}", self.hook)?;
        if !self.devices.is_empty() {
            let devices: Vec<String> = self.devices.iter().map(|d| format!("\"{d}\"")).collect();
            write!(f, " devices = {{ {} }}", devices.join(", "))?;
        }
        let policy = if self.policy == Policy::Accept {
            "accept"
        } else {
            "drop"
        };
        write!(f, " priority {} ; policy {policy} ;", self.priority)
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "chain {} {}", self.table, self.name)?;
        match (&self.base, &self.comment) {
            (None, None) => Ok(()),
            (Some(base), None) => write!(f, " {{ {base} }}"),
            (None, Some(comment)) => write!(f, " {{ comment \"{comment}\" ; }}"),
            (Some(base), Some(comment)) => write!(f, " {{ {base} comment \"{comment}\" ; }}"),
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "rule {} {} {}",
            self.table,
            self.chain,
            Joined(&self.body, " ")
        )?;
        match &self.comment {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let word = if self.kind == SetKind::Set {
            "set"
        } else {
            "map"
        };
        write!(f, "{word} {} {} {{ ", self.table, self.name)?;
        let mut types = self.key.iter();
        if let SetKind::Map(data) = &self.kind
            && data.contains(&DataType::Number)
        {
            types = data.iter();
        }
        let names = |kinds: &[DataType], spelled: bool| {
            let names: Vec<String> = kinds
                .iter()
                .map(|k| {
                    if spelled {
                        typeof_name(*k).to_owned()
                    } else {
                        k.to_string()
                    }
                })
                .collect();
            names.join(" . ")
        };
        let spelled = types.any(|kind| *kind == DataType::Number);
        let keyword = if spelled { "typeof" } else { "type" };
        write!(f, "{keyword} {}", names(&self.key, spelled))?;
        match &self.kind {
            SetKind::Set => {}
            SetKind::VerdictMap => f.write_str(" : verdict")?,
            SetKind::Map(data) => write!(f, " : {}", names(data, spelled))?,
        }
        let flags: Vec<&str> = [
            (self.flags.constant, "constant"),
            (self.flags.interval, "interval"),
            (self.flags.timeout, "timeout"),
            (self.flags.dynamic, "dynamic"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
        if !flags.is_empty() {
            write!(f, " ; flags {}", flags.join(","))?;
        }
        if let Some(timeout) = self.timeout {
            write!(f, " ; timeout {}", Span(timeout))?;
        }
        if let Some(size) = self.size {
            write!(f, " ; size {size}")?;
        }
        if let Some(comment) = &self.comment {
            write!(f, " ; comment \"{comment}\"")?;
        }
        f.write_str(" ; }")
    }
}

impl Display for Flowtable {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "flowtable {} {} {{ hook ingress priority {} ; devices = {{ {} }} ; }}",
            self.table,
            self.name,
            self.priority,
            Joined(&self.devices, ", ")
        )
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::AddTable(table) => write!(f, "add table {table}"),
            Self::DeleteTable(table) => write!(f, "delete table {table}"),
            Self::AddChain(chain) => write!(f, "add {chain}"),
            Self::FlushChain { table, chain } => write!(f, "flush chain {table} {chain}"),
            Self::DeleteChain { table, chain } => write!(f, "delete chain {table} {chain}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::InsertRule(rule) => write!(f, "insert {rule}"),
            Self::ReplaceRule { handle, rule } => {
                let Rule {
                    table, chain, body, ..
                } = rule;
                write!(
                    f,
                    "replace rule {table} {chain} handle {handle} {}",
                    Joined(body, " ")
                )
            }
            Self::DeleteRule {
                table,
                chain,
                handle,
            } => {
                write!(f, "delete rule {table} {chain} handle {handle}")
            }
            Self::AddSet(set) => write!(f, "add {set}"),
            Self::FlushSet(set) => write!(f, "flush {} {} {}", word(set), set.table, set.name),
            Self::DeleteSet { table, set } => write!(f, "delete set {table} {set}"),
            Self::AddElements { set, elements } => {
                write!(f, "add element {} {} {{ ", set.table, set.name)?;
                write!(f, "{} }}", Joined(elements, ", "))
            }
            Self::DeleteElements { set, elements } => {
                write!(f, "delete element {} {} {{ ", set.table, set.name)?;
                write!(f, "{} }}", Joined(elements, ", "))
            }
            Self::AddFlowtable(flowtable) => write!(f, "add {flowtable}"),
            Self::DeleteFlowtable { table, name } => {
                write!(f, "delete flowtable {table} {name}")
            }
        }
    }
}

fn word(set: &Set) -> &'static str {
    if set.kind == SetKind::Set {
        "set"
    } else {
        "map"
    }
}

impl Display for Transaction {
    /// One operation to a line.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}
