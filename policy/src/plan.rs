//! From what is wanted to one nftables transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use kernel::nftables::{
    BaseChain, Chain, CtField, DataType, Datum, Element, Family, FibKey, FibResult, Field, Hook,
    Name, Right, Rule, Set, Statement, Table, Transaction, Verdict, address_type, ct_state,
};

use crate::index::{Lease, SetContent};
pub use crate::render::{Compiled, LOG_GROUP, Log, Names, Told, compile};
use crate::render::{Layout, Rules as ChainRules, dropping};

/// Our table; nobody else writes it.
pub const TABLE: &str = "fairlead-policy";

pub(crate) const FROM_POD: &str = "from-pod";
pub(crate) const TO_NODE: &str = "to-node";
pub(crate) const TO_ANY: &str = "to-any";
pub(crate) const TO_POD: &str = "to-pod";
const EGRESS: &str = "egress";
const EGRESS_TO_NODE: &str = "egress-to-node";
const INGRESS: &str = "ingress";
/// Each pod's interface with itself: a pod cannot block the way to itself, through a Service.
const ITSELF: &str = "itself";
/// Before other filters of the same hook, after Service translation.
const PRIORITY: i32 = -10;
/// After IPVS has taken what is sent to its Services (at 98 and 99): that is judged on its way out,
/// with the real back end.
const PRIORITY_OF_INPUT: i32 = 150;
/// An element outlives its lease by this: the agent takes it away or renews it before, and only
/// where no agent runs does the kernel end it.
const LONGEST_WITHOUT_AGENT: Duration = Duration::from_secs(60);
/// Neighbour discovery between a pod and its node: ICMPv6 types 133 to 136.
const NEIGHBOUR_DISCOVERY: (u8, u8) = (133, 136);
/// fe80::/10, from its first address to its last.
const LINK_LOCAL: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
    Ipv6Addr::from_bits((0xfec0 << 112) - 1),
];

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
    let (before, after) = (&*old.layout, &*wanted.layout);
    let same_layout = Arc::ptr_eq(&old.layout, &wanted.layout);
    if !same_layout {
        write_chains(before, after, &mut transaction);
    }
    if committed.is_none() {
        frame(wanted.log, &mut transaction);
    }
    if !same_layout {
        write_maps(before, after, &mut transaction);
        write_itself(before, after, &mut transaction);
        delete_chains(before, after, &mut transaction);
    }
    for (name, content) in &old.sets {
        if !wanted.sets.contains_key(name) {
            transaction.delete_set(&set(name, content));
        }
    }
    transaction
}

fn delete_chains(old: &Layout, wanted: &Layout, transaction: &mut Transaction) {
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
}

fn write_chains(old: &Layout, wanted: &Layout, transaction: &mut Transaction) {
    let is_same = |a: &ChainRules, b: &ChainRules| Arc::ptr_eq(a, b) || a == b;
    let changed: Vec<(&String, &ChainRules)> = wanted
        .chains
        .iter()
        .filter(|(name, rules)| {
            let old = old.chains.get(*name);
            !old.is_some_and(|old| is_same(old, rules))
        })
        .collect();
    for (name, _) in &changed {
        if old.chains.contains_key(*name) {
            transaction.flush_chain(&table(), name.as_str());
        } else {
            transaction.add_chain(Chain::new(&table(), name.as_str()));
        }
    }
    for (name, rules) in changed {
        for rule in rules.iter() {
            transaction.add_rule(Rule::new(&table(), name.as_str(), rule.clone()));
        }
    }
}

fn verdict_map(name: &str) -> Arc<Set> {
    Arc::new(Set::verdict_map(&table(), name, [DataType::Ifname]))
}

/// The way out of the pod that has an address.
fn by_source(v6: bool) -> Arc<Set> {
    let name = format!("{EGRESS}-{}", family(v6));
    let address = DataType::address(v6);
    Arc::new(Set::verdict_map(&table(), name.as_str(), [address]))
}

fn itself() -> Arc<Set> {
    let interface = DataType::Ifname;
    Arc::new(Set::new(&table(), ITSELF, [interface, interface]))
}

/// Each pod's address with its interface.
fn itself_by_source(v6: bool) -> Arc<Set> {
    let name = format!("{ITSELF}-{}", family(v6));
    let key = [DataType::address(v6), DataType::Ifname];
    Arc::new(Set::new(&table(), name.as_str(), key))
}

fn family(v6: bool) -> &'static str {
    if v6 { "v6" } else { "v4" }
}

fn interface(name: &str) -> Datum {
    Datum::Ifname(name.into())
}

fn write_itself(old: &Layout, wanted: &Layout, transaction: &mut Transaction) {
    let interfaces = |of: &Layout| -> BTreeSet<Vec<Datum>> {
        let names = of.egress.keys();
        names
            .map(|name| vec![interface(name), interface(name)])
            .collect()
    };
    write_set(
        &itself(),
        &interfaces(old),
        &interfaces(wanted),
        transaction,
    );
    for v6 in [false, true] {
        let addresses = |of: &Layout| -> BTreeSet<Vec<Datum>> {
            let own = of
                .addresses
                .iter()
                .filter(|(address, _)| address.is_ipv6() == v6);
            own.map(|(address, name)| vec![Datum::from(*address), interface(name)])
                .collect()
        };
        let set = itself_by_source(v6);
        write_set(&set, &addresses(old), &addresses(wanted), transaction);
    }
}

fn write_set(
    set: &Arc<Set>,
    old: &BTreeSet<Vec<Datum>>,
    wanted: &BTreeSet<Vec<Datum>>,
    transaction: &mut Transaction,
) {
    let only_in = |a: &BTreeSet<Vec<Datum>>, b: &BTreeSet<Vec<Datum>>| -> Vec<Element> {
        a.difference(b).cloned().map(Element::new).collect()
    };
    let (gone, new) = (only_in(old, wanted), only_in(wanted, old));
    if !gone.is_empty() {
        transaction.delete_elements(set, gone);
    }
    if !new.is_empty() {
        transaction.add_elements(set, new);
    }
}

/// What other rules refer to.
fn frame_targets(transaction: &mut Transaction) {
    for name in [FROM_POD, TO_NODE, TO_ANY, TO_POD] {
        transaction.add_chain(Chain::new(&table(), name));
    }
    for name in [EGRESS, EGRESS_TO_NODE, INGRESS] {
        transaction.add_set(&verdict_map(name));
    }
    transaction.add_set(&itself());
    for v6 in [false, true] {
        transaction.add_set(&by_source(v6));
        transaction.add_set(&itself_by_source(v6));
    }
}

fn pods(field: Field) -> Statement {
    let prefix: Name = kernel::POD_INTERFACE_PREFIX.into();
    Statement::eq(field, Right::NamePrefix(prefix))
}

/// Writes rules into one chain.
struct Rules<'a> {
    table: Table,
    transaction: &'a mut Transaction,
}

impl Rules<'_> {
    fn add(&mut self, chain: &str, body: Vec<Statement>) {
        let rule = Rule::new(&self.table, chain, body);
        self.transaction.add_rule(rule);
    }

    fn base(&mut self, name: &str, hook: Hook, priority: i32) {
        let base = BaseChain::filter(hook, priority);
        let chain = Chain::new(&self.table, name).base(base);
        self.transaction.add_chain(chain);
        // Replies, and errors about what was sent.
        self.add(
            name,
            vec![
                Statement::ct_state(ct_state::ESTABLISHED | ct_state::RELATED),
                Statement::eq(Field::Ct(CtField::Direction), Datum::CtDirection(1)),
                Statement::accept(),
            ],
        );
        self.add(
            name,
            vec![Statement::ct_state(ct_state::RELATED), Statement::accept()],
        );
    }

    fn neighbour_discovery(&mut self, chain: &str, field: Field) {
        let (first, last) = NEIGHBOUR_DISCOVERY;
        let types = Right::Range(Datum::Byte(first), Datum::Byte(last));
        let body = vec![
            pods(field),
            Statement::eq(Field::Icmpv6Type, types),
            Statement::accept(),
        ];
        self.add(chain, body);
    }

    /// Asks a map, and drops what it does not know.
    fn ask(&mut self, chain: &str, field: Field, map: &str, log: Log) {
        self.add(chain, vec![Statement::vmap([field], map)]);
        for body in dropping(&[], log, chain, 0) {
            self.add(chain, body);
        }
    }
}

/// The rules that every packet passes.
fn frame(log: Log, transaction: &mut Transaction) {
    let table = table();
    let mut rules = Rules { table, transaction };
    rules.ask(FROM_POD, Field::Iifname, EGRESS, log);
    rules.ask(TO_NODE, Field::Iifname, EGRESS_TO_NODE, log);
    rules.add(TO_ANY, vec![pods(Field::Oifname), Statement::goto(TO_POD)]);
    rules.add(TO_ANY, vec![Statement::accept()]);
    rules.ask(TO_POD, Field::Oifname, INGRESS, log);

    rules.base("forward", Hook::Forward, PRIORITY);
    let ends = [Field::Iifname, Field::Oifname];
    let itself = vec![Statement::is_in(ends, ITSELF), Statement::accept()];
    rules.add("forward", itself);
    rules.add(
        "forward",
        vec![pods(Field::Iifname), Statement::goto(FROM_POD)],
    );
    rules.add(
        "forward",
        vec![pods(Field::Oifname), Statement::goto(TO_POD)],
    );

    rules.base("input", Hook::Input, PRIORITY_OF_INPUT);
    rules.neighbour_discovery("input", Field::Iifname);
    rules.add(
        "input",
        vec![pods(Field::Iifname), Statement::goto(TO_NODE)],
    );

    frame_output(&mut rules);
}

/// What IPVS sends on has no incoming interface, and the source that it came with; what the node
/// sends itself is allowed.
fn frame_output(rules: &mut Rules<'_>) {
    let chain = "output";
    rules.base(chain, Hook::Output, PRIORITY);
    let source = Field::Fib(vec![FibKey::Saddr], FibResult::Type);
    let local = Datum::AddressType(address_type::LOCAL);
    rules.add(
        chain,
        vec![Statement::eq(source, local), Statement::accept()],
    );
    // Nothing is sent on from an address that is good on one link only.
    let (first, last) = LINK_LOCAL.map(Datum::V6).into();
    let link_local = Statement::eq(Field::saddr(true), Right::Range(first, last));
    rules.add(chain, vec![link_local, Statement::accept()]);
    rules.neighbour_discovery(chain, Field::Oifname);
    for v6 in [false, true] {
        let ends = [Field::saddr(v6), Field::Oifname];
        let itself = Statement::is_in(ends, itself_by_source(v6).name.clone());
        rules.add(chain, vec![itself, Statement::accept()]);
    }
    for v6 in [false, true] {
        let map = by_source(v6).name.clone();
        rules.add(chain, vec![Statement::vmap([Field::saddr(v6)], map)]);
    }
    rules.add(chain, vec![pods(Field::Oifname), Statement::goto(TO_POD)]);
}

fn set(name: &str, content: &SetContent) -> Arc<Set> {
    let address = DataType::address(name.ends_with("v6"));
    Arc::new(match content {
        SetContent::Addresses(_) => Set::new(&table(), name, [address]),
        SetContent::Learnt(_) => Set::new(&table(), name, [address]).with_timeouts(),
        SetContent::Ports(_) => {
            let key = [address, DataType::InetProto, DataType::InetService];
            Set::new(&table(), name, key)
        }
    })
}

/// What a set is to lose and to get: keys, and how long those stay that are learnt.
type Difference = (Vec<Vec<Datum>>, Vec<(Vec<Datum>, Option<Lease>)>);

fn difference<T: Ord>(
    old: &BTreeSet<T>,
    new: &BTreeSet<T>,
    key: impl Fn(&T) -> Option<Vec<Datum>>,
) -> Difference {
    let gone = old.difference(new).filter_map(&key).collect();
    let added = new.difference(old).filter_map(&key);
    (gone, added.map(|key| (key, None)).collect())
}

/// From one content to the next, of the family that the set's name tells.
fn set_difference(name: &str, old: Option<&SetContent>, new: &SetContent) -> Difference {
    let v6 = name.ends_with("v6");
    let address = |own: &IpAddr| (own.is_ipv6() == v6).then(|| Datum::from(*own));
    match new {
        SetContent::Addresses(new) => {
            let none = Arc::default();
            let old = match old {
                Some(SetContent::Addresses(old)) => old,
                _ => &none,
            };
            difference(old, new, |own| Some(vec![address(own)?]))
        }
        SetContent::Ports(new) => {
            let none = Arc::default();
            let old = match old {
                Some(SetContent::Ports(old)) => old,
                _ => &none,
            };
            difference(old, new, |(own, protocol, port)| {
                let protocol = Datum::Proto(protocol.number());
                Some(vec![address(own)?, protocol, Datum::Port(*port)])
            })
        }
        SetContent::Learnt(new) => {
            let none = Arc::default();
            let old = match old {
                Some(SetContent::Learnt(old)) => old,
                _ => &none,
            };
            // A changed lease is an element anew: the kernel does not change that of an old one.
            let gone = old
                .iter()
                .filter(|(own, lease)| new.get(own) != Some(*lease));
            let gone = gone.filter_map(|(own, _)| Some(vec![address(own)?]));
            let added = new
                .iter()
                .filter(|(own, lease)| old.get(own) != Some(*lease));
            let added = added.filter_map(|(own, lease)| Some((vec![address(own)?], Some(*lease))));
            (gone.collect(), added.collect())
        }
    }
}

fn is_shared(a: &SetContent, b: &SetContent) -> bool {
    match (a, b) {
        (SetContent::Addresses(a), SetContent::Addresses(b)) => Arc::ptr_eq(a, b),
        (SetContent::Ports(a), SetContent::Ports(b)) => Arc::ptr_eq(a, b),
        (SetContent::Learnt(a), SetContent::Learnt(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn grow_sets(old: &Compiled, wanted: &Compiled, transaction: &mut Transaction) {
    for (name, content) in &wanted.sets {
        let old = old.sets.get(name);
        if old.is_some_and(|old| is_shared(old, content)) {
            continue;
        }
        let set = set(name, content);
        if old.is_none() {
            transaction.add_set(&set);
        }
        let (gone, new) = set_difference(name, old, content);
        let gone: Vec<Element> = gone.into_iter().map(Element::new).collect();
        let new = new.into_iter().map(|(key, lease)| match lease {
            Some(lease) => Element::new(key).timeout(lease.lifetime + LONGEST_WITHOUT_AGENT),
            None => Element::new(key),
        });
        let new: Vec<Element> = new.collect();
        if !gone.is_empty() {
            transaction.delete_elements(&set, gone);
        }
        if !new.is_empty() {
            transaction.add_elements(&set, new);
        }
    }
}

/// Verdicts by the key of a map.
type Goals<'a> = BTreeMap<Datum, &'a Verdict>;

fn write_maps(old: &Layout, wanted: &Layout, transaction: &mut Transaction) {
    type Of = fn(&Layout) -> &BTreeMap<String, Verdict>;
    let by_interface: [(&str, Of); 3] = [
        (EGRESS, |of| &of.egress),
        (EGRESS_TO_NODE, |of| &of.to_node),
        (INGRESS, |of| &of.ingress),
    ];
    for (name, of) in by_interface {
        let (old, wanted) = (of(old), of(wanted));
        if old != wanted {
            let goals = |of| -> Goals<'_> { goals_by_interface(of) };
            write_map(&verdict_map(name), &goals(old), &goals(wanted), transaction);
        }
    }
    for v6 in [false, true] {
        let goals = |of| -> Goals<'_> { goals_by_source(of, v6) };
        write_map(&by_source(v6), &goals(old), &goals(wanted), transaction);
    }
}

fn goals_by_interface(goals: &BTreeMap<String, Verdict>) -> Goals<'_> {
    goals
        .iter()
        .map(|(name, goal)| (interface(name), goal))
        .collect()
}

fn goals_by_source(of: &Layout, v6: bool) -> Goals<'_> {
    let own = of
        .addresses
        .iter()
        .filter(|(address, _)| address.is_ipv6() == v6);
    own.filter_map(|(address, name)| Some((Datum::from(*address), of.egress.get(name)?)))
        .collect()
}

fn write_map(map: &Arc<Set>, old: &Goals<'_>, wanted: &Goals<'_>, transaction: &mut Transaction) {
    let only_in = |a: &Goals<'_>, b: &Goals<'_>| -> Vec<Element> {
        a.iter()
            .filter(|(key, goal)| b.get(*key) != Some(*goal))
            .map(|(key, goal)| Element::new([key.clone()]).verdict((*goal).clone()))
            .collect()
    };
    // A map's element has to be deleted with the verdict that it has.
    let (stale, new) = (only_in(old, wanted), only_in(wanted, old));
    if !stale.is_empty() {
        transaction.delete_elements(map, stale);
    }
    if !new.is_empty() {
        transaction.add_elements(map, new);
    }
}
