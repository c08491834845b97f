//! nf_tables: rules as plain data, written as one netlink transaction.
//!
//! A [`Transaction`] is an ordered list of [`Op`]s over tables, chains, rules, sets and
//! elements. It is data: planners build it, golden tests print it (every part implements
//! [`std::fmt::Display`] in the syntax of `nft -f`), and [`Connection::apply`] sends it to the
//! kernel as one batch that takes effect wholly or not at all. A refused batch names the
//! operations that the kernel refused ([`Error::Rejected`]).
//!
//! [`Ruleset`] is the same thing in memory: transactions can be applied to it in tests, and
//! [`Ruleset::trace`] answers where a packet goes.
//!
//! **Invariant:** nothing here starts a program, and only [`Connection`] and [`Monitor`] open
//! sockets.

mod changes;
mod compile;
mod connection;
mod datum;
mod encode;
mod field;
mod list;
mod object;

mod statement;
mod statement_text;
mod text;
mod wire;

pub use changes::Changes;
pub use connection::{Connection, Error, Failure, Monitor, Notice};
pub use datum::{DataType, Datum, Element, ElementData, ElementKey, Key};
pub use field::{CtField, Direction, FibKey, FibResult, Field, NumgenMode, Version};
pub use list::{ListedChain, ListedElement, ListedRule, ListedSet, ListedTable};
pub use object::{
    BaseChain, Chain, ChainType, Family, Flowtable, Hook, Name, Op, Policy, Rule, Set, SetFlags,
    SetKind, Table, Transaction,
};

pub use statement::{
    Assignment, CmpOp, DynsetOp, LimitUnit, NatKind, NatTarget, Reject, Right, SetRef, Source,
    Statement, Verdict,
};

/// Bits of `ct state`.
pub mod ct_state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status`.
pub mod ct_status {
    pub const SEEN_REPLY: u32 = 2;
    pub const ASSURED: u32 = 4;
    pub const CONFIRMED: u32 = 8;
    pub const SNAT: u32 = 16;
    pub const DNAT: u32 = 32;
}

/// Kinds of address that `fib ... type` answers with.
pub mod address_type {
    pub const UNICAST: u32 = 1;
    pub const LOCAL: u32 = 2;
    pub const BROADCAST: u32 = 3;
    pub const MULTICAST: u32 = 5;
}

/// Layer-4 protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}
