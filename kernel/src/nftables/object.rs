//! Tables, chains, rules and sets, and the operations on them.

use std::sync::Arc;
use std::time::Duration;

use super::datum::{DataType, Element};
use super::statement::Statement;

/// A name of an object, cheap to copy.
pub type Name = Arc<str>;

/// Which packets a table sees. The number is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Arp = 3,
    Netdev = 5,
    Bridge = 7,
    Ip6 = 10,
}

impl Family {
    /// `ip` or `ip6`.
    pub fn ip(v6: bool) -> Self {
        if v6 { Self::Ip6 } else { Self::Ip }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [
            Self::Inet,
            Self::Ip,
            Self::Arp,
            Self::Netdev,
            Self::Bridge,
            Self::Ip6,
        ]
        .into_iter()
        .find(|family| *family as u8 == number)
    }
}

/// A table's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    pub family: Family,
    pub name: Name,
}

impl Table {
    pub fn new(family: Family, name: impl Into<Name>) -> Self {
        Self {
            family,
            name: name.into(),
        }
    }
}

/// Where a base chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// `netdev` tables, and `inet` since Linux 5.10.
    Ingress,
    /// `netdev` tables since Linux 5.16.
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainType {
    Filter,
    Nat,
    /// Routes again after a rule changed the packet (`output` only).
    Route,
}

/// What happens to a packet that reaches the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    Accept,
    Drop,
}

/// The part of a chain that the kernel calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseChain {
    pub kind: ChainType,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
    /// Devices, for ingress and egress only.
    pub devices: Vec<Name>,
}

impl BaseChain {
    /// A filter chain that accepts by default.
    pub fn filter(hook: Hook, priority: i32) -> Self {
        let kind = ChainType::Filter;
        Self {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
            devices: Vec::new(),
        }
    }

    /// A NAT chain.
    pub fn nat(hook: Hook, priority: i32) -> Self {
        Self {
            kind: ChainType::Nat,
            ..Self::filter(hook, priority)
        }
    }

    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    pub fn device(mut self, device: impl Into<Name>) -> Self {
        self.devices.push(device.into());
        self
    }
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    pub table: Table,
    pub name: Name,
    /// `None` for a chain that is only jumped to.
    pub base: Option<BaseChain>,
    pub comment: Option<Name>,
}

impl Chain {
    /// A chain that rules jump to.
    pub fn new(table: &Table, name: impl Into<Name>) -> Self {
        Self {
            table: table.clone(),
            name: name.into(),
            base: None,
            comment: None,
        }
    }

    /// The same chain, called by the kernel.
    pub fn base(mut self, base: BaseChain) -> Self {
        self.base = Some(base);
        self
    }

    pub fn comment(mut self, comment: impl Into<Name>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// A rule. The comment is what a person reads and what we recognise our rules by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub table: Table,
    pub chain: Name,
    pub body: Vec<Statement>,
    /// At most 250 bytes.
    pub comment: Option<Name>,
}

impl Rule {
    pub fn new(table: &Table, chain: impl Into<Name>, body: Vec<Statement>) -> Self {
        Self {
            table: table.clone(),
            chain: chain.into(),
            body,
            comment: None,
        }
    }

    pub fn comment(mut self, comment: impl Into<Name>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// What a set's elements carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    Set,
    VerdictMap,
    Map(Vec<DataType>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetFlags {
    /// Elements may be ranges.
    pub interval: bool,
    /// Elements may expire.
    pub timeout: bool,
    /// Rules may add elements.
    pub dynamic: bool,
    /// Elements are given only in the transaction that makes the set.
    pub constant: bool,
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    pub table: Table,
    pub name: Name,
    /// Several types make a concatenation.
    pub key: Vec<DataType>,
    pub kind: SetKind,
    pub flags: SetFlags,
    /// The timeout of elements that have none of their own.
    pub timeout: Option<Duration>,
    /// The most elements it may hold; also lets the kernel choose a table of fixed size.
    pub size: Option<u32>,
    pub comment: Option<Name>,
}

impl Set {
    pub fn new(table: &Table, name: impl Into<Name>, key: impl Into<Vec<DataType>>) -> Self {
        Self {
            table: table.clone(),
            name: name.into(),
            key: key.into(),
            kind: SetKind::Set,
            flags: SetFlags::default(),
            timeout: None,
            size: None,
            comment: None,
        }
    }

    /// A map from keys to verdicts.
    pub fn verdict_map(
        table: &Table,
        name: impl Into<Name>,
        key: impl Into<Vec<DataType>>,
    ) -> Self {
        Self {
            kind: SetKind::VerdictMap,
            ..Self::new(table, name, key)
        }
    }

    /// A map from keys to values.
    pub fn map(
        table: &Table,
        name: impl Into<Name>,
        key: impl Into<Vec<DataType>>,
        data: impl Into<Vec<DataType>>,
    ) -> Self {
        Self {
            kind: SetKind::Map(data.into()),
            ..Self::new(table, name, key)
        }
    }

    pub fn interval(mut self) -> Self {
        self.flags.interval = true;
        self
    }

    /// Rules add elements, which expire.
    pub fn dynamic(mut self, timeout: Duration) -> Self {
        self.flags.dynamic = true;
        self.flags.timeout = true;
        self.timeout = Some(timeout);
        self
    }

    /// Elements may expire.
    pub fn with_timeouts(mut self) -> Self {
        self.flags.timeout = true;
        self
    }

    pub fn comment(mut self, comment: impl Into<Name>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// A table of established connections that bypass the rules (needs kernel support).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flowtable {
    pub table: Table,
    pub name: Name,
    pub priority: i32,
    pub devices: Vec<Name>,
}

/// One change. Adding what exists is no error (rules excepted: they are appended).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable(Table),
    /// With everything in it. Fails where the table is missing; see [`Transaction::reset_table`].
    DeleteTable(Table),
    AddChain(Chain),
    /// Deletes the chain's rules.
    FlushChain {
        table: Table,
        chain: Name,
    },
    /// The chain must be empty or flushed before, and not referred to.
    DeleteChain {
        table: Table,
        chain: Name,
    },
    /// Appends.
    AddRule(Rule),
    /// Puts the rule first in its chain.
    InsertRule(Rule),
    ReplaceRule {
        handle: u64,
        rule: Rule,
    },
    DeleteRule {
        table: Table,
        chain: Name,
        handle: u64,
    },
    AddSet(Arc<Set>),
    FlushSet(Arc<Set>),
    DeleteSet {
        table: Table,
        set: Name,
    },
    AddElements {
        set: Arc<Set>,
        elements: Vec<Element>,
    },
    /// Fails where one of the elements is missing.
    DeleteElements {
        set: Arc<Set>,
        elements: Vec<Element>,
    },
    AddFlowtable(Flowtable),
    DeleteFlowtable {
        table: Table,
        name: Name,
    },
}

/// Operations that the kernel performs together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub ops: Vec<Op>,
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn push(&mut self, op: Op) -> &mut Self {
        self.ops.push(op);
        self
    }

    pub fn add_table(&mut self, table: &Table) -> &mut Self {
        self.push(Op::AddTable(table.clone()))
    }

    /// Makes an empty table, whether or not there was one.
    pub fn reset_table(&mut self, table: &Table) -> &mut Self {
        self.remove_table(table).add_table(table)
    }

    /// Removes the table, whether or not there was one.
    pub fn remove_table(&mut self, table: &Table) -> &mut Self {
        self.add_table(table).push(Op::DeleteTable(table.clone()))
    }

    pub fn add_chain(&mut self, chain: Chain) -> &mut Self {
        self.push(Op::AddChain(chain))
    }

    pub fn flush_chain(&mut self, table: &Table, chain: impl Into<Name>) -> &mut Self {
        self.push(Op::FlushChain {
            table: table.clone(),
            chain: chain.into(),
        })
    }

    /// Empties the chain and deletes it.
    pub fn delete_chain(&mut self, table: &Table, chain: impl Into<Name>) -> &mut Self {
        let chain = chain.into();
        self.flush_chain(table, chain.clone());
        self.push(Op::DeleteChain {
            table: table.clone(),
            chain,
        })
    }

    pub fn add_rule(&mut self, rule: Rule) -> &mut Self {
        self.push(Op::AddRule(rule))
    }

    pub fn add_set(&mut self, set: &Arc<Set>) -> &mut Self {
        self.push(Op::AddSet(set.clone()))
    }

    pub fn delete_set(&mut self, set: &Set) -> &mut Self {
        self.push(Op::DeleteSet {
            table: set.table.clone(),
            set: set.name.clone(),
        })
    }

    /// Does nothing for no elements.
    pub fn add_elements(&mut self, set: &Arc<Set>, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() {
            return self;
        }
        self.push(Op::AddElements {
            set: set.clone(),
            elements,
        })
    }

    /// Does nothing for no elements.
    pub fn delete_elements(&mut self, set: &Arc<Set>, elements: Vec<Element>) -> &mut Self {
        if elements.is_empty() {
            return self;
        }
        self.push(Op::DeleteElements {
            set: set.clone(),
            elements,
        })
    }
}
