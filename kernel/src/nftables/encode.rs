//! Operations to netlink messages.

use super::compile::{self, Compiler, SetUse};
use super::datum::{DataType, Datum, Element, ElementData, ElementKey, Key};
use super::object::{BaseChain, Chain, ChainType, Hook, Op, Policy, Rule, Set, SetKind, Table};
use super::statement::SetRef;
use super::wire::{Writer, flags, msg};

/// Attributes have 16-bit lengths: a longer list of elements goes into several messages.
const LIST_LIMIT: usize = 60_000;
const DATA_VERDICT: u32 = 0xffff_ff00;

/// A batch in the making: its bytes, and which operation each sequence number belongs to.
pub(super) struct Batch {
    pub(super) writer: Writer,
    /// First sequence number of each operation, ascending.
    starts: Vec<u32>,
    sequence: u32,
    next_set: u32,
}

impl Batch {
    /// Encodes the operations between the batch's marks. The first mark has the sequence
    /// number `first`; the last operation's last message asks for an acknowledgement. With a
    /// `generation`, the batch holds for a ruleset of that generation alone.
    pub(super) fn encode(ops: &[Op], first: u32, generation: Option<u32>) -> Self {
        let mut batch = Self {
            writer: Writer::default(),
            starts: Vec::new(),
            sequence: first,
            next_set: 1,
        };
        batch.writer.batch_begin(first, generation);
        let mut last = 0;
        for op in ops {
            batch.starts.push(batch.sequence + 1);
            batch.op(op, &mut last);
        }
        if last != 0 {
            let flags = flags_at(&mut batch.writer.bytes, last);
            let value = u16::from_ne_bytes([flags[0], flags[1]]) | super::wire::flags::ACK;
            flags.copy_from_slice(&value.to_ne_bytes());
        }
        let sequence = batch.next();
        batch.writer.batch_end(sequence);
        batch
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// The sequence number of the last operation's last message, which is acknowledged.
    pub(super) fn acknowledged(&self) -> u32 {
        self.sequence - 1
    }

    /// Which operation a message belonged to.
    pub(super) fn operation(&self, sequence: u32) -> Option<usize> {
        self.starts
            .partition_point(|start| *start <= sequence)
            .checked_sub(1)
    }

    fn message(
        &mut self,
        last: &mut usize,
        table: &Table,
        kind: u8,
        extra: u16,
        body: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.next();
        *last = self.writer.bytes.len();
        let family = table.family as u8;
        self.writer
            .message(kind, flags::REQUEST | extra, sequence, family, |w| {
                w.str(1, &table.name);
                body(w);
            });
    }

    fn op(&mut self, op: &Op, last: &mut usize) {
        match op {
            Op::AddTable(table) => {
                self.message(last, table, msg::NEWTABLE, flags::CREATE, |w| w.be32(2, 0));
            }
            Op::DeleteTable(table) => self.message(last, table, msg::DELTABLE, 0, |_| {}),
            Op::AddChain(chain) => self.chain(last, chain),
            Op::FlushChain { table, chain } => {
                self.message(last, table, msg::DELRULE, 0, |w| w.str(2, chain));
            }
            Op::DeleteChain { table, chain } => {
                self.message(last, table, msg::DELCHAIN, 0, |w| w.str(3, chain));
            }
            Op::AddRule(rule) => self.rule(last, rule, flags::CREATE | flags::APPEND, None),
            Op::InsertRule(rule) => self.rule(last, rule, flags::CREATE, None),
            Op::ReplaceRule { handle, rule } => {
                self.rule(last, rule, flags::REPLACE, Some(*handle));
            }
            Op::DeleteRule {
                table,
                chain,
                handle,
            } => {
                self.message(last, table, msg::DELRULE, 0, |w| {
                    w.str(2, chain);
                    w.be64(3, *handle);
                });
            }
            Op::AddSet(set) => {
                let id = self.set_id();
                self.message(last, &set.table, msg::NEWSET, flags::CREATE, |w| {
                    named(w, set, id)
                });
            }
            Op::DeleteSet { table, set } => {
                self.message(last, table, msg::DELSET, 0, |w| w.str(2, set));
            }
            Op::FlushSet(set) => {
                self.message(last, &set.table, msg::DELSETELEM, 0, |w| {
                    w.str(2, &set.name)
                });
            }
            Op::AddElements { set, elements } => {
                let target = Target {
                    table: &set.table,
                    name: &set.name,
                    id: None,
                };
                let kind = (msg::NEWSETELEM, flags::CREATE);
                self.elements(last, target, kind, shape(set), elements);
            }
            Op::DeleteElements { set, elements } => {
                let target = Target {
                    table: &set.table,
                    name: &set.name,
                    id: None,
                };
                self.elements(last, target, (msg::DELSETELEM, 0), shape(set), elements);
            }
            Op::AddFlowtable(table) => {
                self.message(last, &table.table, msg::NEWFLOWTABLE, flags::CREATE, |w| {
                    w.str(2, &table.name);
                    w.nest(3, |w| {
                        w.be32(1, 0);
                        w.be32(2, table.priority as u32);
                        w.nest(3, |w| table.devices.iter().for_each(|d| w.str(1, d)));
                    });
                });
            }
            Op::DeleteFlowtable { table, name } => {
                self.message(last, table, msg::DELFLOWTABLE, 0, |w| w.str(2, name));
            }
        }
    }

    fn set_id(&mut self) -> u32 {
        let id = self.next_set;
        self.next_set += 1;
        id
    }

    fn chain(&mut self, last: &mut usize, chain: &Chain) {
        self.message(last, &chain.table, msg::NEWCHAIN, flags::CREATE, |w| {
            w.str(3, &chain.name);
            if let Some(base) = &chain.base {
                base_chain(w, chain.table.family, base);
            }
            if let Some(comment) = &chain.comment {
                w.bytes(12, &user_string(0, comment));
            }
        });
    }

    fn rule(&mut self, last: &mut usize, rule: &Rule, extra: u16, handle: Option<u64>) {
        let first_set = self.next_set;
        for (set, purpose) in compile::anonymous(&rule.body) {
            self.anonymous_set(last, &rule.table, set, purpose);
        }
        self.message(last, &rule.table, msg::NEWRULE, extra, |w| {
            w.str(2, &rule.chain);
            if let Some(handle) = handle {
                w.be64(3, handle);
            }
            w.nest(4, |w| {
                Compiler::new(w, rule.table.family, first_set).body(&rule.body)
            });
            if let Some(comment) = &rule.comment {
                w.bytes(7, &user_string(0, comment));
            }
        });
    }

    fn anonymous_set(&mut self, last: &mut usize, table: &Table, set: &SetRef, purpose: SetUse) {
        let SetRef::Anonymous { elements } = set else {
            return;
        };
        let id = self.set_id();
        let shape = anonymous_shape(elements);
        let sample = elements.first();
        self.message(last, table, msg::NEWSET, flags::CREATE, |w| {
            w.str(2, purpose.name());
            let map = if purpose == SetUse::Set { 0 } else { 8 };
            let interval = if shape.interval { 4 } else { 0 };
            let concatenated = if shape.interval && shape.components > 1 {
                0x80
            } else {
                0
            };
            w.be32(3, 1 | 2 | map | interval | concatenated);
            let key = sample.map(sample_key).unwrap_or_default();
            key_type(w, 4, &key);
            match sample.and_then(|e| e.data.as_ref()) {
                Some(ElementData::Verdict(_)) => {
                    w.be32(6, DATA_VERDICT);
                    w.be32(7, 16);
                }
                Some(ElementData::Value(value)) => {
                    let data: Vec<_> = value.0.iter().map(Datum::type_and_length).collect();
                    key_type(w, 6, &data);
                }
                None => {}
            }
            w.nest(9, |w| {
                w.be32(
                    1,
                    elements.len() as u32 * if shape.paired() { 2 } else { 1 },
                );
                if concatenated != 0 {
                    fields(w, key.iter().map(|(_, length)| *length));
                }
            });
            w.be32(10, id);
            let order = match key.as_slice() {
                // Types 7 to 18 of `nft` are the big-endian ones among those used here.
                [(id, _)] if (7..=18).contains(id) => 2,
                [_] => 1,
                _ => 0,
            };
            w.bytes(13, &byte_order(0, order));
        });
        let target = Target {
            table,
            name: purpose.name(),
            id: Some(id),
        };
        self.elements(
            last,
            target,
            (msg::NEWSETELEM, flags::CREATE),
            shape,
            elements,
        );
    }

    fn elements(
        &mut self,
        last: &mut usize,
        target: Target<'_>,
        (kind, extra): (u8, u16),
        shape: Shape,
        elements: &[Element],
    ) {
        let adding = kind == msg::NEWSETELEM;
        let mut rest = elements;
        while !rest.is_empty() {
            let mut taken = 0;
            let pending = rest;
            self.message(last, target.table, kind, extra, |w| {
                w.str(2, target.name);
                if let Some(id) = target.id {
                    w.be32(4, id);
                }
                w.nest(3, |w| {
                    let start = w.bytes.len();
                    for item in pending {
                        if w.bytes.len() - start > LIST_LIMIT {
                            break;
                        }
                        element(w, item, shape, adding);
                        taken += 1;
                    }
                });
            });
            rest = &rest[taken..];
        }
    }
}

fn flags_at(bytes: &mut [u8], message: usize) -> &mut [u8] {
    &mut bytes[message + 6..message + 8]
}

/// The set that elements go to.
#[derive(Clone, Copy)]
struct Target<'a> {
    table: &'a Table,
    name: &'a str,
    id: Option<u32>,
}

/// How a set's elements are encoded.
#[derive(Clone, Copy)]
struct Shape {
    interval: bool,
    components: usize,
}

impl Shape {
    /// Intervals of a single component are two elements: where they begin and where they ended.
    fn paired(self) -> bool {
        self.interval && self.components == 1
    }
}

fn shape(set: &Set) -> Shape {
    Shape {
        interval: set.flags.interval,
        components: set.key.len(),
    }
}

fn anonymous_shape(elements: &[Element]) -> Shape {
    let interval = elements
        .iter()
        .any(|e| matches!(e.key, ElementKey::Range(..)));
    let components = elements.iter().find_map(|e| match &e.key {
        ElementKey::One(key) | ElementKey::Range(key, _) => Some(key.0.len()),
        ElementKey::CatchAll => None,
    });
    Shape {
        interval,
        components: components.unwrap_or(1),
    }
}

fn sample_key(element: &Element) -> Vec<(u32, usize)> {
    match &element.key {
        ElementKey::One(key) | ElementKey::Range(key, _) => {
            key.0.iter().map(Datum::type_and_length).collect()
        }
        ElementKey::CatchAll => Vec::new(),
    }
}

/// The packed type number at `kind` and the length at `kind + 1`.
fn key_type(w: &mut Writer, kind: u16, components: &[(u32, usize)]) {
    let packed = components
        .iter()
        .fold(0u32, |packed, (id, _)| packed << 6 | id);
    let length = match components {
        [(_, length)] => *length,
        several => several
            .iter()
            .map(|(_, length)| length.next_multiple_of(4))
            .sum(),
    };
    w.be32(kind, packed);
    w.be32(kind + 1, length as u32);
}

/// `NFTA_SET_DESC_CONCAT`.
fn fields(w: &mut Writer, lengths: impl Iterator<Item = usize>) {
    w.nest(2, |w| {
        lengths.for_each(|length| w.nest(1, |w| w.be32(1, length as u32)))
    });
}

fn named(w: &mut Writer, set: &Set, id: u32) {
    w.str(2, &set.name);
    let concatenated = set.flags.interval && set.key.len() > 1;
    let bits = [
        (set.flags.constant, 2),
        (set.flags.interval, 4),
        (set.kind != SetKind::Set, 8),
        (set.flags.timeout || set.timeout.is_some(), 0x10),
        (set.flags.dynamic, 0x20),
        (concatenated, 0x80),
    ];
    w.be32(
        3,
        bits.into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, bit)| bit)
            .sum(),
    );
    let typed = |kinds: &[DataType]| -> Vec<(u32, usize)> {
        kinds.iter().map(|kind| (kind.id(), kind.width())).collect()
    };
    key_type(w, 4, &typed(&set.key));
    match &set.kind {
        SetKind::Set => {}
        SetKind::VerdictMap => {
            w.be32(6, DATA_VERDICT);
            w.be32(7, 16);
        }
        SetKind::Map(data) => key_type(w, 6, &typed(data)),
    }
    if set.size.is_some() || concatenated {
        w.nest(9, |w| {
            if let Some(size) = set.size {
                w.be32(1, size);
            }
            if concatenated {
                fields(w, set.key.iter().map(|kind| kind.width()));
            }
        });
    }
    w.be32(10, id);
    if let Some(timeout) = set.timeout {
        w.be64(11, timeout.as_millis() as u64);
    }
    w.bytes(13, &set_userdata(set));
}

/// What `nft` wants to know to print a set: byte orders, the meaning of plain numbers, and the
/// comment.
fn set_userdata(set: &Set) -> Vec<u8> {
    let order = |kinds: &[DataType]| -> u32 {
        match kinds {
            [kind] if kind.host_order() => 1,
            [_] => 2,
            _ => 0,
        }
    };
    let data: &[DataType] = if let SetKind::Map(data) = &set.kind {
        data
    } else {
        &[]
    };
    let mut out = byte_order(0, order(&set.key));
    out.extend(byte_order(1, order(data)));
    if set.key.contains(&DataType::Number) || data.contains(&DataType::Number) {
        out.extend(typeof_data(3, &set.key).unwrap_or_default());
        out.extend(typeof_data(4, data).unwrap_or_default());
    }
    if let Some(comment) = &set.comment {
        out.extend_from_slice(&user_string(7, comment));
    }
    out
}

/// A byte order in `nft`'s numbers: 0 unknown, 1 host, 2 big endian.
fn byte_order(kind: u8, order: u32) -> Vec<u8> {
    user_data(kind, &order.to_ne_bytes())
}

fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, value.len() as u8];
    out.extend_from_slice(value);
    out
}

/// `nft`'s description of the expressions that a key or value is made of.
fn typeof_data(kind: u8, types: &[DataType]) -> Option<Vec<u8>> {
    const CONCATENATION: u32 = 13;
    let expression = |etype: u32, data: Vec<u8>| {
        [user_data(0, &etype.to_ne_bytes()), user_data(1, &data)].concat()
    };
    let mut parts = Vec::new();
    for kind in types {
        let (etype, numbers) = typeof_numbers(*kind)?;
        let data = numbers
            .iter()
            .zip(0u8..)
            .flat_map(|(number, index)| user_data(index, &number.to_ne_bytes()))
            .collect();
        parts.push(expression(etype, data));
    }
    match parts.as_slice() {
        [] => None,
        [only] => Some(user_data(kind, only)),
        several => {
            let data = several
                .iter()
                .zip(0u8..)
                .flat_map(|(p, i)| user_data(i, p))
                .collect();
            Some(user_data(kind, &expression(CONCATENATION, data)))
        }
    }
}

/// The kind of an expression that yields the type, and its parameters, in `nft`'s numbers.
fn typeof_numbers(kind: DataType) -> Option<(u32, &'static [u32])> {
    const PAYLOAD: u32 = 7;
    const META: u32 = 9;
    const NUMGEN: u32 = 23;
    Some(match kind {
        DataType::Ipv4Addr => (PAYLOAD, &[12, 12]),
        DataType::Ipv6Addr => (PAYLOAD, &[13, 9]),
        DataType::InetService => (PAYLOAD, &[11, 2]),
        DataType::InetProto => (META, &[16]),
        DataType::Mark => (META, &[3]),
        DataType::Ifname => (META, &[6]),
        DataType::Number => (NUMGEN, &[1, 2, 0]),
        DataType::EtherAddr | DataType::Ifindex => return None,
    })
}

/// A string as `nft` keeps it in user data; cut to what the kernel stores.
fn user_string(kind: u8, text: &str) -> Vec<u8> {
    let mut end = text.len().min(240);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = vec![kind, end as u8 + 1];
    out.extend_from_slice(&text.as_bytes()[..end]);
    out.push(0);
    out
}

fn element(w: &mut Writer, element: &Element, shape: Shape, adding: bool) {
    let paired = shape.paired();
    match &element.key {
        ElementKey::CatchAll => list_element(w, element, None, None, 2, adding),
        ElementKey::One(key) if paired => {
            list_element(w, element, Some(&key.bytes()), None, 0, adding);
            interval_end(w, key);
        }
        ElementKey::Range(from, to) if paired => {
            list_element(w, element, Some(&from.bytes()), None, 0, adding);
            interval_end(w, to);
        }
        ElementKey::One(key) if shape.interval => {
            let bytes = key.bytes();
            list_element(w, element, Some(&bytes), Some(&bytes), 0, adding);
        }
        ElementKey::One(key) => list_element(w, element, Some(&key.bytes()), None, 0, adding),
        ElementKey::Range(from, to) => {
            list_element(
                w,
                element,
                Some(&from.bytes()),
                Some(&to.bytes()),
                0,
                adding,
            );
        }
    }
}

/// The element that marks where an interval has ended; the last value of the type needs none.
fn interval_end(w: &mut Writer, last: &Key) {
    if let Some(after) = last.0.first().and_then(Datum::successor) {
        w.nest(1, |w| {
            w.value(1, &after);
            w.be32(3, 1);
        });
    }
}

fn list_element(
    w: &mut Writer,
    element: &Element,
    key: Option<&[u8]>,
    end: Option<&[u8]>,
    flags: u32,
    adding: bool,
) {
    w.nest(1, |w| {
        if let Some(key) = key {
            w.value(1, key);
        }
        if flags != 0 {
            w.be32(3, flags);
        }
        if let Some(end) = end {
            w.value(10, end);
        }
        if !adding {
            return;
        }
        match &element.data {
            Some(ElementData::Verdict(verdict)) => compile::verdict(w, 2, verdict),
            Some(ElementData::Value(value)) => w.value(2, &value.bytes()),
            None => {}
        }
        if let Some(timeout) = element.timeout {
            w.be64(4, timeout.as_millis() as u64);
        }
        if let Some(comment) = &element.comment {
            w.bytes(6, &user_string(0, comment));
        }
    });
}

fn base_chain(w: &mut Writer, family: super::Family, base: &BaseChain) {
    let number = match (base.hook, family) {
        (Hook::Ingress, super::Family::Netdev) => 0,
        (Hook::Egress, _) => 1,
        (Hook::Input, super::Family::Arp) => 0,
        (Hook::Output, super::Family::Arp) => 1,
        (Hook::Prerouting, _) => 0,
        (Hook::Input, _) => 1,
        (Hook::Forward, _) => 2,
        (Hook::Output, _) => 3,
        (Hook::Postrouting, _) => 4,
        (Hook::Ingress, _) => 5,
    };
    w.nest(4, |w| {
        w.be32(1, number);
        w.be32(2, base.priority as u32);
        match base.devices.as_slice() {
            [] => {}
            [device] => w.str(3, device),
            devices => w.nest(4, |w| devices.iter().for_each(|d| w.str(1, d))),
        }
    });
    w.be32(5, u32::from(base.policy == Policy::Accept));
    w.str(
        7,
        match base.kind {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
            ChainType::Route => "route",
        },
    );
}
