//! The planned rules, followed by hand: what the kernel would do with them.

use std::net::IpAddr;

use kernel::nftables::{
    CmpOp, CtField, Datum, ElementKey, Field, Right, SetRef, Statement, Verdict, ct_state,
};
use policy::index::SetContent;
use policy::model::Protocol;
use policy::plan::Compiled;

pub(crate) struct Seen {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Whether the rules of the interface let the packet on, in this direction.
pub(crate) fn passes(goal: &Verdict, compiled: &Compiled, packet: &Seen) -> bool {
    match goal {
        Verdict::Goto(chain) if is_onwards(chain) => true,
        Verdict::Goto(chain) => match follow(chain, compiled, packet) {
            Some(passes) => passes,
            None => panic!("{} ends without a verdict", &**chain),
        },
        Verdict::Accept => true,
        other => panic!("{other:?}"),
    }
}

/// Out of the pod; whether it may enter another one is asked there.
fn is_onwards(chain: &str) -> bool {
    chain == "to-any"
}

/// `None`: the chain returns.
fn follow(chain: &str, compiled: &Compiled, packet: &Seen) -> Option<bool> {
    for rule in compiled.layout.chains[chain].iter() {
        match run(rule, compiled, packet) {
            Some(Verdict::Accept) => return Some(true),
            Some(Verdict::Drop) => return Some(false),
            Some(Verdict::Return) => return None,
            Some(Verdict::Goto(next)) if is_onwards(&next) => return Some(true),
            Some(Verdict::Goto(next)) => return follow(&next, compiled, packet),
            Some(Verdict::Jump(next)) => {
                if let Some(decided) = follow(&next, compiled, packet) {
                    return Some(decided);
                }
            }
            Some(Verdict::Continue) | None => {}
        }
    }
    None
}

fn run(rule: &[Statement], compiled: &Compiled, packet: &Seen) -> Option<Verdict> {
    for statement in rule {
        match statement {
            Statement::Match { field, op, right } => {
                let value = value(field, packet)?;
                let holds = matches(&value, right);
                if holds != (*op == CmpOp::Eq) {
                    return None;
                }
            }
            Statement::Lookup { key, negate, set } => {
                let values: Option<Vec<Datum>> =
                    key.iter().map(|field| value(field, packet)).collect();
                if contains(set, &values?, compiled) == *negate {
                    return None;
                }
            }
            Statement::Verdict(verdict) => return Some(verdict.clone()),
            Statement::Log { .. } | Statement::Limit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    None
}

/// Nothing where the packet is of the other family.
fn value(field: &Field, packet: &Seen) -> Option<Datum> {
    let is = |v6: bool, of: &dyn Fn(bool) -> Field| *field == of(v6);
    for v6 in [false, true] {
        if is(v6, &Field::saddr) {
            return (packet.from.is_ipv6() == v6).then(|| Datum::from(packet.from));
        }
        if is(v6, &Field::daddr) {
            return (packet.to.is_ipv6() == v6).then(|| Datum::from(packet.to));
        }
    }
    match field {
        Field::Ct(CtField::State) => Some(Datum::CtState(ct_state::NEW)),
        Field::L4Proto => Some(Datum::Proto(packet.protocol.number())),
        Field::Dport => Some(Datum::Port(packet.port)),
        other => panic!("{other:?}"),
    }
}

fn matches(value: &Datum, right: &Right) -> bool {
    let address = |value: &Datum| -> IpAddr {
        match value {
            Datum::V4(address) => (*address).into(),
            Datum::V6(address) => (*address).into(),
            other => panic!("{other:?}"),
        }
    };
    match right {
        Right::Value(own) => value == own,
        Right::AnyBit(bits) => value == bits,
        Right::Network(network) => network.contains(address(value)),
        Right::Range(first, last) => first <= value && value <= last,
        other => panic!("{other:?}"),
    }
}

fn contains(set: &SetRef, values: &[Datum], compiled: &Compiled) -> bool {
    match set {
        SetRef::Anonymous { elements } => elements.iter().any(|element| match &element.key {
            ElementKey::One(key) => *key.0 == *values,
            other => panic!("{other:?}"),
        }),
        SetRef::Named(name) => {
            let v6 = name.ends_with("v6");
            match (&compiled.sets[&**name], values) {
                (SetContent::Learnt(own), [address]) => own
                    .keys()
                    .any(|own| own.is_ipv6() == v6 && Datum::from(*own) == *address),
                (SetContent::Addresses(own), [address]) => own
                    .iter()
                    .any(|own| own.is_ipv6() == v6 && Datum::from(*own) == *address),
                (SetContent::Ports(own), [address, protocol, port]) => {
                    own.iter().any(|(own, own_protocol, own_port)| {
                        own.is_ipv6() == v6
                            && Datum::from(*own) == *address
                            && Datum::Proto(own_protocol.number()) == *protocol
                            && Datum::Port(*own_port) == *port
                    })
                }
                (own, _) => panic!("{own:?}"),
            }
        }
    }
}
