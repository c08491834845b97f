//! Statements to the kernel's expressions.
//!
//! A field is loaded into registers and looked at there. The components of a concatenation
//! lie in 32-bit registers that follow each other, from register 0 on.

use std::time::Duration;

use super::datum::{Datum, bounds};
use super::field::{CtField, Dependency, Direction, FibKey, FibResult, Field, NumgenMode, Version};
use super::object::Family;
use super::statement::{
    Assignment, CmpOp, DynsetOp, LimitUnit, NatKind, NatTarget, Reject, Right, SetRef, Source,
    Statement, Verdict,
};
use super::wire::Writer;

/// `NFT_REG32_00`.
const FIRST: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// Writes a rule's expressions.
pub(super) struct Compiler<'a> {
    writer: &'a mut Writer,
    family: Family,
    /// Tests that hold at this point of the rule.
    known: Vec<(Field, Datum)>,
    /// The batch's number of the rule's next set of its own.
    next_set: u32,
}

/// The rule's own sets, in the order in which the compiler refers to them.
pub(super) fn anonymous(body: &[Statement]) -> impl Iterator<Item = (&SetRef, SetUse)> {
    body.iter().filter_map(|statement| {
        let (set, purpose) = match statement {
            Statement::Lookup { set, .. } => (set, SetUse::Set),
            Statement::VerdictMap { map, .. } => (map, SetUse::VerdictMap),
            Statement::Assign {
                source: Source::Map { map, .. },
                ..
            }
            | Statement::Nat {
                target: NatTarget::Map { map, .. },
                ..
            } => (map, SetUse::Map),
            _ => return None,
        };
        matches!(set, SetRef::Anonymous { .. }).then_some((set, purpose))
    })
}

/// What a rule uses its own set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetUse {
    Set,
    VerdictMap,
    Map,
}

impl SetUse {
    /// The name's pattern, which the kernel completes.
    pub(super) fn name(self) -> &'static str {
        if self == Self::Set {
            "__set%d"
        } else {
            "__map%d"
        }
    }
}

fn width(field: &Field) -> u32 {
    field.width().div_ceil(4) as u32
}

/// `NFTA_VERDICT_*` within an attribute.
pub(super) fn verdict(writer: &mut Writer, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    writer.nest(kind, |w| {
        w.nest(2, |w| {
            w.be32(1, code as u32);
            if let Some(chain) = chain {
                w.str(2, chain);
            }
        });
    });
}

impl<'a> Compiler<'a> {
    pub(super) fn new(writer: &'a mut Writer, family: Family, next_set: u32) -> Self {
        Self {
            writer,
            family,
            known: Vec::new(),
            next_set,
        }
    }

    pub(super) fn body(&mut self, body: &[Statement]) {
        body.iter().for_each(|statement| self.statement(statement));
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        self.writer.nest(1, |w| {
            w.str(1, name);
            w.nest(2, body);
        });
    }

    /// Tests the protocol that the fields are of, where the rule has not done so.
    fn require(&mut self, fields: &[Field]) {
        let tests: Vec<Dependency> = fields.iter().filter_map(Field::dependency).collect();
        for dependency in tests {
            // ICMP types and the like only exist in packets of the one IP version.
            let Some((field, value)) = dependency.test(self.family) else {
                continue;
            };
            if self
                .known
                .iter()
                .any(|(known, is)| *known == field && *is == value)
            {
                continue;
            }
            self.load(&field, FIRST);
            self.compare(FIRST, CmpOp::Eq, &value.bytes());
            self.known.push((field, value));
        }
    }

    /// Loads the fields side by side, from the first register on; answers with the next free one.
    fn load_all(&mut self, fields: &[Field], first: u32) -> u32 {
        self.require(fields);
        fields.iter().fold(first, |register, field| {
            self.load(field, register);
            register + width(field)
        })
    }

    fn load(&mut self, field: &Field, register: u32) {
        match field {
            Field::Ct(field) => self.load_ct(*field, register),
            Field::Fib(keys, result) => self.load_fib(keys, *result, register),
            Field::Numgen {
                mode,
                modulus,
                offset,
            } => self.expression("numgen", |w| {
                w.be32(1, register);
                w.be32(2, *modulus);
                w.be32(3, u32::from(*mode == NumgenMode::Random));
                w.be32(4, *offset);
            }),
            Field::Jhash {
                of,
                modulus,
                seed,
                offset,
            } => {
                let end = self.load_all(of, register);
                self.expression("hash", |w| {
                    w.be32(1, register);
                    w.be32(2, register);
                    w.be32(3, (end - register) * 4);
                    w.be32(4, *modulus);
                    if let Some(seed) = seed {
                        w.be32(5, *seed);
                    }
                    w.be32(6, *offset);
                    w.be32(7, 0);
                });
            }
            _ => match (payload(field), meta(field)) {
                (Some((base, offset)), _) => {
                    let length = field.width() as u32;
                    self.expression("payload", |w| {
                        w.be32(1, register);
                        w.be32(2, base);
                        w.be32(3, offset);
                        w.be32(4, length);
                    });
                }
                (None, Some(key)) => self.expression("meta", |w| {
                    w.be32(1, register);
                    w.be32(2, key);
                }),
                (None, None) => unreachable!("every other field is handled above"),
            },
        }
    }

    fn load_ct(&mut self, field: CtField, register: u32) {
        let (key, direction) = match field {
            CtField::State => (0, None),
            CtField::Direction => (1, None),
            CtField::Status => (2, None),
            CtField::Mark => (3, None),
            CtField::Protocol => (10, Some(Direction::Original)),
            CtField::ProtoSrc(d) => (11, Some(d)),
            CtField::ProtoDst(d) => (12, Some(d)),
            CtField::Zone => (17, None),
            CtField::Saddr(d, Version::V4) => (19, Some(d)),
            CtField::Daddr(d, Version::V4) => (20, Some(d)),
            CtField::Saddr(d, Version::V6) => (21, Some(d)),
            CtField::Daddr(d, Version::V6) => (22, Some(d)),
        };
        self.expression("ct", |w| {
            w.be32(1, register);
            w.be32(2, key);
            if let Some(direction) = direction {
                w.u8(3, u8::from(direction == Direction::Reply));
            }
        });
    }

    fn load_fib(&mut self, keys: &[FibKey], result: FibResult, register: u32) {
        let mut flags = keys.iter().fold(0, |flags, key| {
            flags
                | match key {
                    FibKey::Saddr => 1,
                    FibKey::Daddr => 2,
                    FibKey::Mark => 4,
                    FibKey::Iif => 8,
                    FibKey::Oif => 16,
                }
        });
        if result == FibResult::Present {
            flags |= 32;
        }
        let result = match result {
            FibResult::Oif | FibResult::Present => 1,
            FibResult::Oifname => 2,
            FibResult::Type => 3,
        };
        self.expression("fib", |w| {
            w.be32(1, register);
            w.be32(2, result);
            w.be32(3, flags);
        });
    }

    fn compare(&mut self, register: u32, op: CmpOp, value: &[u8]) {
        let op = match op {
            CmpOp::Eq => 0,
            CmpOp::Ne => 1,
            CmpOp::Lt => 2,
            CmpOp::Le => 3,
            CmpOp::Gt => 4,
            CmpOp::Ge => 5,
        };
        self.expression("cmp", |w| {
            w.be32(1, register);
            w.be32(2, op);
            w.value(3, value);
        });
    }

    fn mask(&mut self, register: u32, mask: &[u8], xor: &[u8]) {
        self.expression("bitwise", |w| {
            w.be32(1, register);
            w.be32(2, register);
            w.be32(3, mask.len() as u32);
            w.value(4, mask);
            w.value(5, xor);
        });
    }

    fn matches(&mut self, field: &Field, op: CmpOp, right: &Right) {
        self.load_all(std::slice::from_ref(field), FIRST);
        match right {
            Right::Value(value) => {
                self.compare(FIRST, op, &value.bytes());
                if op == CmpOp::Eq {
                    self.known.push((field.clone(), value.clone()));
                }
            }
            Right::Network(network) => {
                let mask: Datum = network.mask().into();
                let (first, _) = bounds(*network);
                let full = if network.is_ipv6() { 128 } else { 32 };
                if network.prefix() != full {
                    let mask = mask.bytes();
                    self.mask(FIRST, &mask, &vec![0; mask.len()]);
                }
                self.compare(FIRST, op, &first.bytes());
            }
            Right::Range(from, to) => self.expression("range", |w| {
                w.be32(1, FIRST);
                w.be32(2, u32::from(op == CmpOp::Ne));
                w.value(3, &from.bytes());
                w.value(4, &to.bytes());
            }),
            Right::Masked { mask, value } => {
                let mask = mask.bytes();
                self.mask(FIRST, &mask, &vec![0; mask.len()]);
                self.compare(FIRST, op, &value.bytes());
            }
            Right::AnyBit(bits) => {
                let bits = bits.bytes();
                let zero = vec![0; bits.len()];
                self.mask(FIRST, &bits, &zero);
                let op = if op == CmpOp::Ne {
                    CmpOp::Eq
                } else {
                    CmpOp::Ne
                };
                self.compare(FIRST, op, &zero);
            }
            Right::NamePrefix(prefix) => self.compare(FIRST, op, prefix.as_bytes()),
        }
    }

    /// `lookup`: a test without `into`, a map's answer with it.
    fn lookup(&mut self, set: &SetRef, purpose: SetUse, from: u32, into: Option<u32>, not: bool) {
        let number = self.next_set;
        if let SetRef::Anonymous { .. } = set {
            self.next_set += 1;
        }
        self.expression("lookup", |w| {
            match set {
                SetRef::Named(name) => w.str(1, name),
                SetRef::Anonymous { .. } => w.str(1, purpose.name()),
            }
            w.be32(2, from);
            if let Some(into) = into {
                w.be32(3, into);
            }
            if let SetRef::Anonymous { .. } = set {
                w.be32(4, number);
            }
            if not {
                w.be32(5, 1);
            }
        });
    }

    fn immediate(&mut self, register: u32, value: &Datum) {
        let value = value.bytes();
        self.expression("immediate", |w| {
            w.be32(1, register);
            w.value(2, &value);
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match { field, op, right } => self.matches(field, *op, right),
            Statement::Lookup { key, negate, set } => {
                self.load_all(key, FIRST);
                self.lookup(set, SetUse::Set, FIRST, None, *negate);
            }
            Statement::VerdictMap { key, map } => {
                self.load_all(key, FIRST);
                self.lookup(
                    map,
                    SetUse::VerdictMap,
                    FIRST,
                    Some(VERDICT_REGISTER),
                    false,
                );
            }
            Statement::Verdict(what) => self.expression("immediate", |w| {
                w.be32(1, VERDICT_REGISTER);
                verdict(w, 2, what);
            }),
            Statement::Counter => self.expression("counter", |_| {}),
            Statement::Notrack => self.expression("notrack", |_| {}),
            Statement::Log { prefix, group } => self.expression("log", |w| {
                if let Some(group) = group {
                    w.be16(1, *group);
                }
                if let Some(prefix) = prefix {
                    w.str(2, prefix);
                }
            }),
            Statement::Limit {
                rate,
                unit,
                burst,
                over,
            } => {
                self.limit(*rate, *unit, *burst, *over);
            }
            Statement::Reject(reject) => self.reject(*reject),
            Statement::Assign { target, source } => self.assign(*target, source),
            Statement::Nat { kind, v6, target } => self.nat(*kind, *v6, target),
            Statement::Masquerade { fully_random } => self.expression("masq", |w| {
                if *fully_random {
                    w.be32(1, 0x10);
                }
            }),
            Statement::Redirect { port } => {
                if let Some(port) = port {
                    self.immediate(FIRST, &Datum::Port(*port));
                }
                self.expression("redir", |w| {
                    if port.is_some() {
                        w.be32(1, FIRST);
                    }
                });
            }
            Statement::Dynset {
                op,
                set,
                key,
                timeout,
            } => self.dynset(*op, set, key, *timeout),
            Statement::FlowAdd(table) => self.expression("flow_offload", |w| w.str(1, table)),
            Statement::ClampMss => self.clamp_mss(),
        }
    }

    fn limit(&mut self, rate: u64, unit: LimitUnit, burst: u32, over: bool) {
        let seconds = match unit {
            LimitUnit::Second => 1,
            LimitUnit::Minute => 60,
            LimitUnit::Hour => 3600,
        };
        self.expression("limit", |w| {
            w.be64(1, rate);
            w.be64(2, seconds);
            w.be32(3, burst);
            w.be32(4, 0);
            w.be32(5, u32::from(over));
        });
    }

    fn reject(&mut self, reject: Reject) {
        let (kind, code) = match reject {
            Reject::Icmp(code) | Reject::Icmpv6(code) => (0, Some(code)),
            Reject::TcpReset => (1, None),
            Reject::Icmpx(code) => (2, Some(code)),
        };
        self.expression("reject", |w| {
            w.be32(1, kind);
            if let Some(code) = code {
                w.u8(2, code);
            }
        });
    }

    fn assign(&mut self, target: Assignment, source: &Source) {
        match source {
            Source::Value(value) => self.immediate(FIRST, value),
            Source::Field(field) => {
                self.load_all(std::slice::from_ref(field), FIRST);
            }
            Source::Bits { field, and, xor } => {
                self.load_all(std::slice::from_ref(field), FIRST);
                self.mask(FIRST, &and.to_ne_bytes(), &xor.to_ne_bytes());
            }
            Source::Map { key, map } => {
                self.load_all(key, FIRST);
                self.lookup(map, SetUse::Map, FIRST, Some(FIRST), false);
            }
        }
        let (name, key, register) = match target {
            Assignment::MetaMark => ("meta", 3, 3),
            Assignment::Nftrace => ("meta", 12, 3),
            Assignment::PktType => ("meta", 19, 3),
            Assignment::CtMark => ("ct", 3, 4),
            Assignment::CtZone => ("ct", 17, 4),
        };
        self.expression(name, |w| {
            w.be32(2, key);
            w.be32(register, FIRST);
        });
    }

    fn nat(&mut self, kind: NatKind, v6: bool, target: &NatTarget) {
        let after_address = FIRST + if v6 { 4 } else { 1 };
        let (address, port) = match target {
            NatTarget::Fixed { address, port } => {
                if let Some(address) = address {
                    self.immediate(FIRST, &(*address).into());
                }
                if let Some(port) = port {
                    self.immediate(after_address, &Datum::Port(*port));
                }
                (address.is_some(), port.is_some())
            }
            NatTarget::Map { key, map, port } => {
                self.load_all(key, FIRST);
                self.lookup(map, SetUse::Map, FIRST, Some(FIRST), false);
                (true, *port)
            }
        };
        let family = Family::ip(v6) as u32;
        self.expression("nat", |w| {
            w.be32(1, u32::from(kind == NatKind::Dnat));
            w.be32(2, family);
            if address {
                w.be32(3, FIRST);
            }
            if port {
                w.be32(5, after_address);
            }
        });
    }

    fn dynset(&mut self, op: DynsetOp, set: &str, key: &[Field], timeout: Option<Duration>) {
        self.load_all(key, FIRST);
        let op = match op {
            DynsetOp::Add => 0,
            DynsetOp::Update => 1,
            DynsetOp::Delete => 2,
        };
        self.expression("dynset", |w| {
            w.str(1, set);
            w.be32(3, op);
            w.be32(4, FIRST);
            if let Some(timeout) = timeout {
                w.be64(6, timeout.as_millis() as u64);
            }
        });
    }

    fn clamp_mss(&mut self) {
        self.expression("rt", |w| {
            w.be32(1, FIRST);
            w.be32(2, 3);
        });
        self.expression("byteorder", |w| {
            w.be32(1, FIRST);
            w.be32(2, FIRST);
            w.be32(3, 1);
            w.be32(4, 2);
            w.be32(5, 2);
        });
        self.expression("exthdr", |w| {
            w.u8(2, 2);
            w.be32(3, 2);
            w.be32(4, 2);
            w.be32(6, 1);
            w.be32(7, FIRST);
        });
    }
}

/// Header base and offset of the fields that lie in the packet.
fn payload(field: &Field) -> Option<(u32, u32)> {
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    Some(match field {
        Field::Saddr(Version::V4) => (NETWORK, 12),
        Field::Daddr(Version::V4) => (NETWORK, 16),
        Field::Saddr(Version::V6) => (NETWORK, 8),
        Field::Daddr(Version::V6) => (NETWORK, 24),
        Field::Sport => (TRANSPORT, 0),
        Field::Dport => (TRANSPORT, 2),
        Field::TcpFlags => (TRANSPORT, 13),
        Field::IcmpType | Field::Icmpv6Type => (TRANSPORT, 0),
        Field::NdTarget => (TRANSPORT, 8),
        Field::EtherDaddr => (LINK, 0),
        Field::EtherSaddr => (LINK, 6),
        Field::ArpOperation => (NETWORK, 6),
        Field::ArpSaddrEther => (NETWORK, 8),
        Field::ArpSaddrIp => (NETWORK, 14),
        Field::ArpDaddrIp => (NETWORK, 24),
        _ => return None,
    })
}

/// The number of the fields that are metadata.
fn meta(field: &Field) -> Option<u32> {
    Some(match field {
        Field::Length => 0,
        Field::Protocol => 1,
        Field::Mark => 3,
        Field::Iif => 4,
        Field::Oif => 5,
        Field::Iifname => 6,
        Field::Oifname => 7,
        Field::NfProto => 15,
        Field::L4Proto => 16,
        Field::PktType => 19,
        _ => return None,
    })
}
