//! From what is wanted to one nftables transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::nftables::{
    BaseChain, Chain, CtField, DataType, Datum, Element, Family, Field, Hook, Name, Right, Rule,
    Set, Statement, Table, Transaction, Verdict, ct_state,
};

use crate::index::{CompiledPeer, CompiledPort, CompiledRule, Desired, Isolation, SetContent};
use crate::model::{Direction, ObjectName};

/// Our table; nobody else writes it.
pub const TABLE: &str = "fairlead-policy";

const FROM_POD: &str = "from-pod";
const TO_ANY: &str = "to-any";
const TO_POD: &str = "to-pod";
const EGRESS: &str = "egress";
const INGRESS: &str = "ingress";
/// Before other filters of the same hook, after Service translation.
const PRIORITY: i32 = -10;
/// Neighbour discovery between a pod and its node: ICMPv6 types 133 to 136.
const NEIGHBOUR_DISCOVERY: (u8, u8) = (133, 136);

pub fn table() -> Table {
    Table::new(Family::Inet, TABLE)
}

/// The content of our table, with what is shared kept shared, so that equal parts of two
/// states are found by comparing pointers.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    sets: BTreeMap<String, SetContent>,
    chains: BTreeMap<String, Vec<Vec<Statement>>>,
    egress: BTreeMap<String, Verdict>,
    ingress: BTreeMap<String, Verdict>,
}

/// Names for the chains of sets of policies. A name stays with its policies for the life of the
/// process.
#[derive(Debug, Default)]
pub struct Names {
    chains: BTreeMap<(Direction, ChainOf), u32>,
    next: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ChainOf {
    Policy(ObjectName),
    Policies(BTreeSet<ObjectName>),
}

impl Names {
    fn of(&mut self, direction: Direction, of: ChainOf) -> String {
        let kind = match (&of, direction) {
            (ChainOf::Policy(_), Direction::Ingress) => "policy-in",
            (ChainOf::Policy(_), Direction::Egress) => "policy-out",
            (ChainOf::Policies(_), Direction::Ingress) => "pods-in",
            (ChainOf::Policies(_), Direction::Egress) => "pods-out",
        };
        let id = *self.chains.entry((direction, of)).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        format!("{kind}-{id}")
    }

    /// Forgets the names that are not in use, so that the table of names stays small.
    fn retain(&mut self, used: &BTreeMap<String, Vec<Vec<Statement>>>) {
        let suffixes: BTreeSet<u32> = used
            .keys()
            .filter_map(|name| name.rsplit('-').next()?.parse().ok())
            .collect();
        self.chains.retain(|_, id| suffixes.contains(id));
    }
}

/// Renders what is wanted as the table's content.
pub fn compile(desired: &Desired, names: &mut Names) -> Compiled {
    let mut compiled = Compiled::default();
    for (id, content) in &desired.sets {
        match content {
            SetContent::Addresses(_) => {
                compiled.sets.insert(set_name(*id, false), content.clone());
                compiled.sets.insert(set_name(*id, true), content.clone());
            }
            SetContent::Ports(_) => {
                compiled
                    .sets
                    .insert(port_set_name(*id, false), content.clone());
                compiled
                    .sets
                    .insert(port_set_name(*id, true), content.clone());
            }
        }
    }
    for ((policy, direction), rules) in &desired.policies {
        let name = names.of(*direction, ChainOf::Policy(policy.clone()));
        let rules = rules
            .iter()
            .flat_map(|rule| statements(rule, *direction))
            .collect();
        compiled.chains.insert(name, rules);
    }
    for (interface, rules) in &desired.endpoints {
        let egress = verdict(
            &rules.egress,
            Direction::Egress,
            names,
            &mut compiled.chains,
        );
        let ingress = verdict(
            &rules.ingress,
            Direction::Ingress,
            names,
            &mut compiled.chains,
        );
        compiled.egress.insert(interface.clone(), egress);
        compiled.ingress.insert(interface.clone(), ingress);
    }
    names.retain(&compiled.chains);
    compiled
}

/// Where an interface's packets go: the chain of its policies, or on if nothing isolates it.
fn verdict(
    isolation: &Isolation,
    direction: Direction,
    names: &mut Names,
    chains: &mut BTreeMap<String, Vec<Vec<Statement>>>,
) -> Verdict {
    let Some(policies) = isolation else {
        return allowed(direction);
    };
    let name = names.of(direction, ChainOf::Policies(policies.clone()));
    chains.entry(name.clone()).or_insert_with(|| {
        let mut rules: Vec<Vec<Statement>> = policies
            .iter()
            .map(|policy| {
                let chain = names.of(direction, ChainOf::Policy(policy.clone()));
                vec![Statement::jump(chain.as_str())]
            })
            .collect();
        rules.push(vec![Statement::drop()]);
        rules
    });
    Verdict::Goto(name.as_str().into())
}

/// What is allowed to leave a pod may still have to enter another one.
fn allowed(direction: Direction) -> Verdict {
    match direction {
        Direction::Ingress => Verdict::Accept,
        Direction::Egress => Verdict::Goto(TO_ANY.into()),
    }
}

fn set_name(id: u32, v6: bool) -> String {
    format!("peers-{id}-{}", if v6 { "v6" } else { "v4" })
}

fn port_set_name(id: u32, v6: bool) -> String {
    format!("ports-{id}-{}", if v6 { "v6" } else { "v4" })
}

/// One rule of a policy as rules of nftables: any of its peers with any of its ports.
fn statements(rule: &CompiledRule, direction: Direction) -> Vec<Vec<Statement>> {
    let peers: Vec<Vec<Statement>> = match &rule.peers {
        None => vec![Vec::new()],
        Some(peers) => peers
            .iter()
            .flat_map(|peer| peer_statements(peer, direction))
            .collect(),
    };
    let ports: Vec<Vec<Statement>> = match &rule.ports {
        None => vec![Vec::new()],
        Some(ports) => port_statements(ports),
    };
    let verdict = Statement::Verdict(allowed(direction));
    peers
        .iter()
        .flat_map(|peer| {
            ports
                .iter()
                .map(move |port| [peer.as_slice(), port].concat())
        })
        .map(|mut statements| {
            statements.push(verdict.clone());
            statements
        })
        .collect()
}

fn peer_field(direction: Direction, v6: bool) -> Field {
    match direction {
        Direction::Ingress => Field::saddr(v6),
        Direction::Egress => Field::daddr(v6),
    }
}

fn peer_statements(peer: &CompiledPeer, direction: Direction) -> Vec<Vec<Statement>> {
    match peer {
        CompiledPeer::Set(id) => [false, true]
            .into_iter()
            .map(|v6| {
                let name = set_name(*id, v6);
                vec![Statement::is_in([peer_field(direction, v6)], name.as_str())]
            })
            .collect(),
        CompiledPeer::Block { network, except } => {
            let field = || peer_field(direction, network.is_ipv6());
            let mut statements = vec![Statement::eq(field(), *network)];
            statements.extend(except.iter().map(|not| Statement::ne(field(), *not)));
            vec![statements]
        }
    }
}

/// Single ports go into one set of the rule's own; ranges and names each need a rule.
fn port_statements(ports: &[CompiledPort]) -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    let mut single = BTreeSet::new();
    for port in ports {
        match port {
            CompiledPort::Any(protocol) => {
                rules.push(vec![Statement::protocol(protocol.number())]);
            }
            CompiledPort::Range(protocol, from, to) if from == to => {
                single.insert((protocol.number(), *from));
            }
            CompiledPort::Range(protocol, from, to) => {
                let range = Right::Range(Datum::Port(*from), Datum::Port(*to));
                rules.push(vec![
                    Statement::protocol(protocol.number()),
                    Statement::eq(Field::Dport, range),
                ]);
            }
            CompiledPort::Set(id) => rules.extend([false, true].map(|v6| {
                let key = [Field::daddr(v6), Field::L4Proto, Field::Dport];
                vec![Statement::is_in(key, port_set_name(*id, v6).as_str())]
            })),
        }
    }
    if !single.is_empty() {
        let elements = single
            .into_iter()
            .map(|(protocol, port)| Element::new([Datum::Proto(protocol), Datum::Port(port)]))
            .collect();
        rules.insert(
            0,
            vec![Statement::one_of([Field::L4Proto, Field::Dport], elements)],
        );
    }
    rules
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
        frame(&mut transaction);
    }
    write_map(EGRESS, &old.egress, &wanted.egress, &mut transaction);
    write_map(INGRESS, &old.ingress, &wanted.ingress, &mut transaction);
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

/// What other rules refer to.
fn frame_targets(transaction: &mut Transaction) {
    for name in [FROM_POD, TO_ANY, TO_POD] {
        transaction.add_chain(Chain::new(&table(), name));
    }
    transaction.add_set(&verdict_map(EGRESS));
    transaction.add_set(&verdict_map(INGRESS));
}

/// The rules that every packet passes.
fn frame(transaction: &mut Transaction) {
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
    rule(FROM_POD, vec![Statement::drop()]);
    rule(TO_ANY, vec![pods(Field::Oifname), Statement::goto(TO_POD)]);
    rule(TO_ANY, vec![Statement::accept()]);
    rule(TO_POD, vec![Statement::vmap([Field::Oifname], INGRESS)]);
    rule(TO_POD, vec![Statement::drop()]);
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
