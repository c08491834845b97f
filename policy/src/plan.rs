//! From what is wanted to one nftables transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::nftables::{
    BaseChain, Chain, CtField, DataType, Datum, Element, Family, Field, Hook, Name, Right, Rule,
    Set, Statement, Table, Transaction, Verdict, ct_state,
};

use crate::index::SetContent;
use crate::render::dropping;
pub use crate::render::{Compiled, LOG_GROUP, Log, Names, compile};

/// Our table; nobody else writes it.
pub const TABLE: &str = "fairlead-policy";

pub(crate) const FROM_POD: &str = "from-pod";
pub(crate) const TO_ANY: &str = "to-any";
pub(crate) const TO_POD: &str = "to-pod";
const EGRESS: &str = "egress";
const INGRESS: &str = "ingress";
/// Each pod's interface with itself: a pod cannot block the way to itself, through a Service.
const ITSELF: &str = "itself";
/// Before other filters of the same hook, after Service translation.
const PRIORITY: i32 = -10;
/// Neighbour discovery between a pod and its node: ICMPv6 types 133 to 136.
const NEIGHBOUR_DISCOVERY: (u8, u8) = (133, 136);

pub fn table() -> Table {
    Table::new(Family::Inet, TABLE)
}

/// The operations that turn the committed content into the wanted one; with nothing committed,
/// those that replace whatever has our table's name.
pub fn plan(committed: Option<&Compiled>, wanted: &Compiled) -> Transaction {
    let mut transaction = Transaction::new();
    let none = Compiled::default();
    let old = committed.unwrap_or(&none);
    if committed.is_none() {
        transaction.reset_table(&table());
        frame_targets(&mut transaction);
    }
    grow_sets(old, wanted, &mut transaction);
    write_chains(old, wanted, &mut transaction);
    if committed.is_none() {
        frame(wanted.log, &mut transaction);
    }
    write_map(EGRESS, &old.egress, &wanted.egress, &mut transaction);
    write_map(INGRESS, &old.ingress, &wanted.ingress, &mut transaction);
    write_itself(old, wanted, &mut transaction);
    let gone: Vec<&String> = old
        .chains
        .keys()
        .filter(|name| !wanted.chains.contains_key(*name))
        .collect();
    for name in &gone {
        transaction.flush_chain(&table(), name.as_str());
    }
    for name in gone {
        transaction.delete_chain(&table(), name.as_str());
    }
    for (name, content) in &old.sets {
        if !wanted.sets.contains_key(name) {
            transaction.delete_set(&set(name, content));
        }
    }
    transaction
}

fn write_chains(old: &Compiled, wanted: &Compiled, transaction: &mut Transaction) {
    let changed: Vec<(&String, &Vec<Vec<Statement>>)> = wanted
        .chains
        .iter()
        .filter(|(name, rules)| old.chains.get(*name) != Some(rules))
        .collect();
    for (name, _) in &changed {
        if old.chains.contains_key(*name) {
            transaction.flush_chain(&table(), name.as_str());
        } else {
            transaction.add_chain(Chain::new(&table(), name.as_str()));
        }
    }
    for (name, rules) in changed {
        for rule in rules {
            transaction.add_rule(Rule::new(&table(), name.as_str(), rule.clone()));
        }
    }
}

fn verdict_map(name: &str) -> Arc<Set> {
    Arc::new(Set::verdict_map(&table(), name, [DataType::Ifname]))
}

fn itself() -> Arc<Set> {
    Arc::new(Set::new(
        &table(),
        ITSELF,
        [DataType::Ifname, DataType::Ifname],
    ))
}

fn write_itself(old: &Compiled, wanted: &Compiled, transaction: &mut Transaction) {
    let only_in = |a: &Compiled, b: &Compiled| -> Vec<Element> {
        let names = a.egress.keys().filter(|name| !b.egress.contains_key(*name));
        let datum = |name: &String| Datum::Ifname(name.as_str().into());
        names
            .map(|name| Element::new([datum(name), datum(name)]))
            .collect()
    };
    let (gone, new) = (only_in(old, wanted), only_in(wanted, old));
    if !gone.is_empty() {
        transaction.delete_elements(&itself(), gone);
    }
    if !new.is_empty() {
        transaction.add_elements(&itself(), new);
    }
}

/// What other rules refer to.
fn frame_targets(transaction: &mut Transaction) {
    for name in [FROM_POD, TO_ANY, TO_POD] {
        transaction.add_chain(Chain::new(&table(), name));
    }
    transaction.add_set(&verdict_map(EGRESS));
    transaction.add_set(&verdict_map(INGRESS));
    transaction.add_set(&itself());
}

/// The rules that every packet passes.
fn frame(log: Log, transaction: &mut Transaction) {
    let table = table();
    let pods = |field| {
        let prefix: Name = kernel::POD_INTERFACE_PREFIX.into();
        Statement::eq(field, Right::NamePrefix(prefix))
    };
    let replies = vec![
        Statement::ct_state(ct_state::ESTABLISHED | ct_state::RELATED),
        Statement::eq(Field::Ct(CtField::Direction), Datum::CtDirection(1)),
        Statement::accept(),
    ];
    let errors = vec![Statement::ct_state(ct_state::RELATED), Statement::accept()];
    let mut rule = |chain: &str, body: Vec<Statement>| {
        transaction.add_rule(Rule::new(&table, chain, body));
    };
    rule(FROM_POD, vec![Statement::vmap([Field::Iifname], EGRESS)]);
    for body in dropping(&[], log, FROM_POD, 0) {
        rule(FROM_POD, body);
    }
    rule(TO_ANY, vec![pods(Field::Oifname), Statement::goto(TO_POD)]);
    rule(TO_ANY, vec![Statement::accept()]);
    rule(TO_POD, vec![Statement::vmap([Field::Oifname], INGRESS)]);
    for body in dropping(&[], log, TO_POD, 0) {
        rule(TO_POD, body);
    }
    for (name, hook) in [("forward", Hook::Forward), ("input", Hook::Input)] {
        let base = BaseChain::filter(hook, PRIORITY);
        transaction.add_chain(Chain::new(&table, name).base(base));
        let mut rule = |body: Vec<Statement>| {
            transaction.add_rule(Rule::new(&table, name, body));
        };
        rule(replies.clone());
        rule(errors.clone());
        if hook == Hook::Input {
            let (first, last) = NEIGHBOUR_DISCOVERY;
            let types = Right::Range(Datum::Byte(first), Datum::Byte(last));
            rule(vec![
                pods(Field::Iifname),
                Statement::eq(Field::Icmpv6Type, types),
                Statement::accept(),
            ]);
        }
        if hook == Hook::Forward {
            let ends = [Field::Iifname, Field::Oifname];
            rule(vec![Statement::is_in(ends, ITSELF), Statement::accept()]);
        }
        rule(vec![pods(Field::Iifname), Statement::goto(FROM_POD)]);
        if hook == Hook::Forward {
            rule(vec![pods(Field::Oifname), Statement::goto(TO_POD)]);
        }
    }
}

fn set(name: &str, content: &SetContent) -> Arc<Set> {
    let address = DataType::address(name.ends_with("v6"));
    Arc::new(match content {
        SetContent::Addresses(_) => Set::new(&table(), name, [address]),
        SetContent::Ports(_) => Set::new(
            &table(),
            name,
            [address, DataType::InetProto, DataType::InetService],
        ),
    })
}

/// The set's elements of the family that its name tells.
fn elements(name: &str, content: &SetContent) -> BTreeSet<Vec<Datum>> {
    let v6 = name.ends_with("v6");
    match content {
        SetContent::Addresses(addresses) => addresses
            .iter()
            .filter(|address| address.is_ipv6() == v6)
            .map(|address| vec![Datum::from(*address)])
            .collect(),
        SetContent::Ports(ports) => ports
            .iter()
            .filter(|(address, _, _)| address.is_ipv6() == v6)
            .map(|(address, protocol, port)| {
                vec![
                    Datum::from(*address),
                    Datum::Proto(protocol.number()),
                    Datum::Port(*port),
                ]
            })
            .collect(),
    }
}

fn is_shared(a: &SetContent, b: &SetContent) -> bool {
    match (a, b) {
        (SetContent::Addresses(a), SetContent::Addresses(b)) => Arc::ptr_eq(a, b),
        (SetContent::Ports(a), SetContent::Ports(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn grow_sets(old: &Compiled, wanted: &Compiled, transaction: &mut Transaction) {
    for (name, content) in &wanted.sets {
        let set = set(name, content);
        let have = match old.sets.get(name) {
            Some(old) if is_shared(old, content) => continue,
            Some(old) => elements(name, old),
            None => {
                transaction.add_set(&set);
                BTreeSet::new()
            }
        };
        let want = elements(name, content);
        let keys = |keys: Vec<Vec<Datum>>| keys.into_iter().map(Element::new).collect::<Vec<_>>();
        let gone = keys(have.difference(&want).cloned().collect());
        let new = keys(want.difference(&have).cloned().collect());
        if !gone.is_empty() {
            transaction.delete_elements(&set, gone);
        }
        if !new.is_empty() {
            transaction.add_elements(&set, new);
        }
    }
}

fn write_map(
    name: &str,
    old: &BTreeMap<String, Verdict>,
    wanted: &BTreeMap<String, Verdict>,
    transaction: &mut Transaction,
) {
    let map = verdict_map(name);
    let key = |interface: &str| Datum::Ifname(interface.into());
    // A map's element has to be deleted with the verdict that it has.
    let stale: Vec<Element> = old
        .iter()
        .filter(|(interface, verdict)| wanted.get(*interface) != Some(verdict))
        .map(|(interface, verdict)| Element::new(key(interface)).verdict(verdict.clone()))
        .collect();
    let new: Vec<Element> = wanted
        .iter()
        .filter(|(interface, verdict)| old.get(*interface) != Some(verdict))
        .map(|(interface, verdict)| Element::new(key(interface)).verdict(verdict.clone()))
        .collect();
    if !stale.is_empty() {
        transaction.delete_elements(&map, stale);
    }
    if !new.is_empty() {
        transaction.add_elements(&map, new);
    }
}
