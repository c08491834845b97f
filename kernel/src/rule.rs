//! Routing policy rules: which table a packet looks into.

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use crate::netlink::{Error, NLM_F_CREATE, NLM_F_EXCL, Request, Socket};
use crate::route::Protocol;

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// The family that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn to_netlink(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

/// "Packets like this look into that table."
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub family: Family,
    /// Lower is asked first.
    pub priority: u32,
    pub table: u32,
    pub protocol: Protocol,
    pub source: Option<IpNetwork>,
    pub destination: Option<IpNetwork>,
    /// The packet's mark and the bits of it that count.
    pub mark: Option<(u32, u32)>,
    pub input_interface: Option<String>,
}

impl Rule {
    pub fn new(family: Family, priority: u32, table: u32, protocol: Protocol) -> Self {
        Self {
            family,
            priority,
            table,
            protocol,
            source: None,
            destination: None,
            mark: None,
            input_interface: None,
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.to_netlink();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or_default();
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Table(self.table));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(
            self.protocol.0,
        )));
        if let Some(source) = self.source {
            message.header.src_len = source.prefix();
            attributes.push(RuleAttribute::Source(source.network()));
        }
        if let Some(destination) = self.destination {
            message.header.dst_len = destination.prefix();
            attributes.push(RuleAttribute::Destination(destination.network()));
        }
        if let Some((mark, mask)) = self.mark {
            attributes.push(RuleAttribute::FwMark(mark));
            attributes.push(RuleAttribute::FwMask(mask));
        }
        attributes.extend(self.input_interface.clone().map(RuleAttribute::Iifname));
        message
    }

    fn object(&self) -> String {
        format!("{} for table {}", self.priority, self.table)
    }
}

pub fn add(rule: &Rule) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request::of(
        "add rule",
        rule.object(),
        RTM_NEWRULE,
        flags,
        &rule.message(),
    )
}

pub fn delete(rule: &Rule) -> Request {
    Request::of(
        "delete rule",
        rule.object(),
        RTM_DELRULE,
        0,
        &rule.message(),
    )
}

/// The rules of both families that name a table, in order.
pub fn list(socket: &mut Socket) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        let mut message = RuleMessage::default();
        message.header.family = family.to_netlink();
        let request = Request::of("list", "rules", RTM_GETRULE, 0, &message);
        rules.extend(
            socket
                .dump(&request)?
                .iter()
                .filter(|reply| reply.message_type == RTM_NEWRULE)
                .filter_map(|reply| decode(family, &reply.payload)),
        );
    }
    rules.sort();
    Ok(rules)
}

fn decode(family: Family, payload: &[u8]) -> Option<Rule> {
    let message = RuleMessage::parse(payload).ok()?;
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule::new(family, 0, u32::from(message.header.table), Protocol(0));
    let (mut mark, mut mask) = (None, u32::MAX);
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = priority,
            RuleAttribute::Table(table) => rule.table = table,
            RuleAttribute::Protocol(protocol) => rule.protocol = Protocol(protocol.into()),
            RuleAttribute::Source(address) => {
                rule.source = IpNetwork::new(address, message.header.src_len).ok();
            }
            RuleAttribute::Destination(address) => {
                rule.destination = IpNetwork::new(address, message.header.dst_len).ok();
            }
            RuleAttribute::FwMark(value) => mark = Some(value),
            RuleAttribute::FwMask(value) => mask = value,
            RuleAttribute::Iifname(name) => rule.input_interface = Some(name),
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    Some(rule)
}
