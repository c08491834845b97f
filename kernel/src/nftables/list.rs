//! What the kernel holds, as it lists it.

use std::time::Duration;

use super::datum::{DataType, Datum, Key};
use super::object::{Family, Table};
use super::wire::{Attributes, Message, be32, be64, find, text};

/// A table in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedTable {
    pub table: Table,
    pub handle: u64,
}

/// A chain in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedChain {
    pub table: Table,
    pub name: String,
    pub handle: u64,
    /// Whether the kernel calls it.
    pub base: bool,
    pub comment: Option<String>,
}

/// A rule in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedRule {
    pub table: Table,
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
    /// Packets and bytes of its first counter.
    pub counter: Option<(u64, u64)>,
    /// The names of its expressions, in order.
    pub expressions: Vec<String>,
}

/// A set or map in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedSet {
    pub table: Table,
    pub name: String,
    /// `None` where a component is of a type that we do not use.
    pub key: Option<Vec<DataType>>,
    pub map: bool,
    pub anonymous: bool,
}

/// An element in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedElement {
    pub key: Vec<u8>,
    /// The inclusive end, in sets of concatenated intervals.
    pub key_end: Option<Vec<u8>>,
    /// The mark behind an interval, in sets of intervals.
    pub interval_end: bool,
    /// A map's value.
    pub value: Option<Vec<u8>>,
    /// A verdict map's chain.
    pub chain: Option<String>,
    pub timeout: Option<Duration>,
    /// What is left of the timeout.
    pub expires: Option<Duration>,
}

impl ListedElement {
    /// The key as values of these types.
    pub fn decode(&self, types: &[DataType]) -> Option<Key> {
        decode(&self.key, types)
    }

    /// A map's value as values of these types.
    pub fn decode_value(&self, types: &[DataType]) -> Option<Key> {
        decode(self.value.as_deref()?, types)
    }
}

fn decode(bytes: &[u8], types: &[DataType]) -> Option<Key> {
    let mut at = 0;
    let mut data = Vec::with_capacity(types.len());
    for kind in types {
        data.push(Datum::read(*kind, bytes.get(at..)?)?);
        at += kind.width().next_multiple_of(4);
    }
    Some(data.into())
}

fn table(message: &Message<'_>) -> Option<Table> {
    let family = Family::from_number(message.family())?;
    Some(Table::new(family, text(find(message.attributes(), 1)?)))
}

/// The string of a kind in user data, as `nft` stores it.
fn user_string(data: &[u8], wanted: u8) -> Option<String> {
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == wanted {
            return Some(text(value));
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

pub(super) fn listed_table(message: &Message<'_>) -> Option<ListedTable> {
    let handle = be64(find(message.attributes(), 4)?)?;
    Some(ListedTable {
        table: table(message)?,
        handle,
    })
}

pub(super) fn listed_chain(message: &Message<'_>) -> Option<ListedChain> {
    let attributes = message.attributes();
    Some(ListedChain {
        table: table(message)?,
        name: text(find(attributes, 3)?),
        handle: be64(find(attributes, 2)?)?,
        base: find(attributes, 4).is_some(),
        comment: find(attributes, 12).and_then(|data| user_string(data, 0)),
    })
}

pub(super) fn listed_rule(message: &Message<'_>) -> Option<ListedRule> {
    let attributes = message.attributes();
    let mut counter = None;
    let mut expressions = Vec::new();
    for (_, expression) in Attributes(find(attributes, 4).unwrap_or_default()) {
        let name = text(find(expression, 1)?);
        let data = find(expression, 2).unwrap_or_default();
        if name == "counter" && counter.is_none() {
            counter = Some((be64(find(data, 2)?)?, be64(find(data, 1)?)?));
        }
        expressions.push(name);
    }
    Some(ListedRule {
        table: table(message)?,
        chain: text(find(attributes, 2)?),
        handle: be64(find(attributes, 3)?)?,
        comment: find(attributes, 7).and_then(|data| user_string(data, 0)),
        counter,
        expressions,
    })
}

pub(super) fn listed_set(message: &Message<'_>) -> Option<ListedSet> {
    let attributes = message.attributes();
    let flags = be32(find(attributes, 3).unwrap_or(&[0; 4]))?;
    let mut packed = be32(find(attributes, 4)?)?;
    let mut key = Vec::new();
    while packed != 0 {
        key.push(DataType::from_id(packed & 0x3f));
        packed >>= 6;
    }
    key.reverse();
    Some(ListedSet {
        table: table(message)?,
        name: text(find(attributes, 2)?),
        key: key.into_iter().collect(),
        map: flags & 8 != 0,
        anonymous: flags & 1 != 0,
    })
}

/// Appends the elements of one message.
pub(super) fn listed_elements(message: &Message<'_>, out: &mut Vec<ListedElement>) -> Option<()> {
    let millis = |element: &[u8], kind| {
        find(element, kind)
            .and_then(be64)
            .map(Duration::from_millis)
    };
    for (_, element) in Attributes(find(message.attributes(), 3)?) {
        let value = |kind| {
            find(element, kind)
                .and_then(|data| find(data, 1))
                .map(<[u8]>::to_vec)
        };
        let chain = find(element, 2)
            .and_then(|data| find(data, 2))
            .and_then(|verdict| find(verdict, 2))
            .map(text);
        let flags = find(element, 3).and_then(be32).unwrap_or_default();
        out.push(ListedElement {
            key: value(1).unwrap_or_default(),
            key_end: value(10),
            interval_end: flags & 1 != 0,
            value: value(2),
            chain,
            timeout: millis(element, 4),
            expires: millis(element, 5),
        });
    }
    Some(())
}
