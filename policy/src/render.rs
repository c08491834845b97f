//! What is wanted as the content of our table: chains, sets and the maps from interface to chain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::nftables::{
    Datum, Element, Field, LimitUnit, Right, Statement, Verdict as Goal, ct_state,
};

use crate::index::{
    CompiledPeer, CompiledPort, CompiledRule, Desired, EndpointRules, Judgement, Policies,
    SetContent,
};
use crate::model::{Action, Direction, ObjectName, PolicyId, Tier};
use crate::plan::TO_ANY;
use crate::verdict::Decision;

/// Where the kernel sends the packets that were dropped.
pub const LOG_GROUP: u16 = 4217;
/// What the prefixes of ours start with.
const DROPPED: &str = "fairlead:";
const ACCEPTED: &str = "fairlead+:";
/// Of one chain, each second; who floods is told about, not followed.
const LOGGED_PER_SECOND: u64 = 50;

/// Which packets are told about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Log {
    pub drops: bool,
    /// The first packets of connections.
    pub accepted: bool,
}

impl Log {
    pub const NOTHING: Self = Self {
        drops: false,
        accepted: false,
    };
    pub const DROPS: Self = Self {
        drops: true,
        accepted: false,
    };
}

/// What the prefix of a logged packet tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub direction: Direction,
    pub accepted: bool,
    pub decision: Decision,
}

/// The rules of a chain, each a sequence of statements.
pub(crate) type Rules = Arc<Vec<Vec<Statement>>>;

/// The content of our table, with what is shared kept shared, so that equal parts of two
/// states are found by comparing pointers.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    pub sets: BTreeMap<String, SetContent>,
    pub layout: Arc<Layout>,
    pub log: Log,
}

/// Everything but the content of sets.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub chains: BTreeMap<String, Rules>,
    /// By interface, where a packet from the pod goes.
    pub egress: BTreeMap<String, Goal>,
    /// By interface, where a packet from the pod to its own node goes.
    pub to_node: BTreeMap<String, Goal>,
    /// By interface, where a packet to the pod goes.
    pub ingress: BTreeMap<String, Goal>,
    /// The interface of each pod's address.
    pub addresses: BTreeMap<IpAddr, String>,
}

/// A layout and what it was made from, which is recognized by its pointers.
#[derive(Debug)]
struct Made {
    endpoints: Arc<BTreeMap<String, EndpointRules>>,
    policies: Arc<Policies>,
    addresses: Arc<BTreeMap<IpAddr, String>>,
    log: Log,
    layout: Arc<Layout>,
}

impl Made {
    fn of(desired: &Desired, log: Log, layout: Arc<Layout>) -> Self {
        Self {
            endpoints: desired.endpoints.clone(),
            policies: desired.policies.clone(),
            addresses: desired.addresses.clone(),
            log,
            layout,
        }
    }

    fn is_of(&self, desired: &Desired, log: Log) -> bool {
        Arc::ptr_eq(&self.endpoints, &desired.endpoints)
            && Arc::ptr_eq(&self.policies, &desired.policies)
            && Arc::ptr_eq(&self.addresses, &desired.addresses)
            && self.log == log
    }

    /// The chain of a policy whose rules are still those.
    fn chain(
        &self,
        name: &str,
        policy: &(PolicyId, Direction),
        desired: &Desired,
    ) -> Option<Rules> {
        let (old, new) = (self.policies.get(policy)?, desired.policies.get(policy)?);
        let is_same = Arc::ptr_eq(old, new);
        is_same.then(|| self.layout.chains.get(name).cloned())?
    }
}

/// Names for the chains of sets of policies. A name stays with its policies for the life of the
/// process. Beside them, what was rendered last: only what changed is rendered again.
#[derive(Debug, Default)]
pub struct Names {
    chains: BTreeMap<(Direction, ChainOf), u32>,
    next: u32,
    made: Option<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ChainOf {
    /// The rules of a NetworkPolicy.
    Policy(ObjectName),
    /// The rules of a tier's policies, one after the other, so that "return" is to pass.
    Tier(Vec<PolicyId>),
    /// Everybody who has a say, in order.
    Judgement(Judgement),
}

impl Names {
    fn of(&mut self, direction: Direction, of: ChainOf) -> String {
        let kind = match (&of, direction) {
            (ChainOf::Policy(_), Direction::Ingress) => "policy-in",
            (ChainOf::Policy(_), Direction::Egress) => "policy-out",
            (ChainOf::Tier(_), Direction::Ingress) => "tier-in",
            (ChainOf::Tier(_), Direction::Egress) => "tier-out",
            (ChainOf::Judgement(_), Direction::Ingress) => "pods-in",
            (ChainOf::Judgement(_), Direction::Egress) => "pods-out",
        };
        let id = *self.chains.entry((direction, of)).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        format!("{kind}-{id}")
    }

    /// Forgets the names that are not in use, so that the table of names stays small.
    fn retain(&mut self, used: &BTreeMap<String, Rules>) {
        let suffixes: BTreeSet<u32> = used
            .keys()
            .filter_map(|name| name.rsplit('-').next()?.parse().ok())
            .collect();
        self.chains.retain(|_, id| suffixes.contains(id));
    }

    /// Who decided about a packet, from the prefix that the kernel's log gives it.
    pub fn told(&self, prefix: &str, desired: &Desired) -> Option<Told> {
        let (rest, accepted) = match prefix.strip_prefix(ACCEPTED) {
            Some(rest) => (rest, true),
            None => (prefix.strip_prefix(DROPPED)?, false),
        };
        let (chain, rule) = rest.split_once(':')?;
        let unprotected = |direction| Told {
            direction,
            accepted,
            decision: Decision::Unprotected,
        };
        match chain {
            crate::plan::FROM_POD | crate::plan::TO_NODE => {
                return Some(unprotected(Direction::Egress));
            }
            crate::plan::TO_POD => return Some(unprotected(Direction::Ingress)),
            _ => {}
        }
        let wanted: u32 = chain.rsplit('-').next()?.parse().ok()?;
        let rule = rule.parse().ok()?;
        let ((direction, of), _) = self.chains.iter().find(|(_, id)| **id == wanted)?;
        let decision = match of {
            ChainOf::Policy(name) => Decision::Rule {
                policy: PolicyId {
                    tier: Tier::NetworkPolicy,
                    name: name.clone(),
                },
                rule,
            },
            ChainOf::Judgement(_) if accepted => Decision::Default,
            ChainOf::Judgement(judgement) => {
                Decision::NoneAllows(judgement.isolating.clone().unwrap_or_default())
            }
            ChainOf::Tier(policies) => rule_of(policies, *direction, rule, desired)?,
        };
        Some(Told {
            direction: *direction,
            accepted,
            decision,
        })
    }
}

/// The rule at a position in a tier's chain.
fn rule_of(
    policies: &[PolicyId],
    direction: Direction,
    mut position: usize,
    desired: &Desired,
) -> Option<Decision> {
    for policy in policies {
        let rules = desired.policies.get(&(policy.clone(), direction))?.len();
        if position < rules {
            return Some(Decision::Rule {
                policy: policy.clone(),
                rule: position,
            });
        }
        position -= rules;
    }
    None
}

/// Renders what is wanted as the table's content.
pub fn compile(desired: &Desired, names: &mut Names, log: Log) -> Compiled {
    let mut compiled = Compiled {
        log,
        ..Compiled::default()
    };
    for (id, content) in &desired.sets {
        let name = match content {
            SetContent::Addresses(_) | SetContent::Learnt(_) => set_name,
            SetContent::Ports(_) => port_set_name,
        };
        for v6 in [false, true] {
            compiled.sets.insert(name(*id, v6), content.clone());
        }
    }
    let made = names.made.take().filter(|made| made.log == log);
    compiled.layout = match &made {
        Some(made) if made.is_of(desired, log) => made.layout.clone(),
        _ => {
            let layout = layout(desired, names, log, made.as_ref());
            names.retain(&layout.chains);
            Arc::new(layout)
        }
    };
    names.made = Some(Made::of(desired, log, compiled.layout.clone()));
    compiled
}

fn layout(desired: &Desired, names: &mut Names, log: Log, made: Option<&Made>) -> Layout {
    let mut layout = Layout::default();
    for (policy, rules) in desired.policies.iter() {
        let (PolicyId { tier, name }, direction) = policy;
        if *tier == Tier::NetworkPolicy {
            let name = names.of(*direction, ChainOf::Policy(name.clone()));
            let kept = made.and_then(|made| made.chain(&name, policy, desired));
            let chain = kept.unwrap_or_else(|| {
                let rules = rules.iter().enumerate().flat_map(|(position, rule)| {
                    accepted_by(rule, *direction, log, &name, position)
                });
                Arc::new(rules.collect())
            });
            layout.chains.insert(name, chain);
        }
    }
    for (interface, rules) in desired.endpoints.iter() {
        let mut goal = |judgement: &Judgement, direction| {
            goal(judgement, direction, desired, names, log, &mut layout)
        };
        let egress = goal(&rules.egress, Direction::Egress);
        let to_node = goal(&rules.egress.towards_own_node(), Direction::Egress);
        let ingress = goal(&rules.ingress, Direction::Ingress);
        layout.egress.insert(interface.clone(), egress);
        layout.to_node.insert(interface.clone(), to_node);
        layout.ingress.insert(interface.clone(), ingress);
    }
    let protected = desired.addresses.iter();
    let protected = protected.filter(|(_, interface)| layout.egress.contains_key(*interface));
    layout.addresses = protected
        .map(|(address, own)| (*address, own.clone()))
        .collect();
    layout
}

/// Where an interface's packets go: the chain of who has a say, or on if nobody has.
fn goal(
    judgement: &Judgement,
    direction: Direction,
    desired: &Desired,
    names: &mut Names,
    log: Log,
    layout: &mut Layout,
) -> Goal {
    if judgement.is_open() && !log.accepted {
        return allowed(direction);
    }
    let name = names.of(direction, ChainOf::Judgement(judgement.clone()));
    if !layout.chains.contains_key(&name) {
        let rules = judgement_rules(&name, judgement, direction, desired, names, log, layout);
        layout.chains.insert(name.clone(), Arc::new(rules));
    }
    Goal::Goto(name.as_str().into())
}

fn judgement_rules(
    name: &str,
    judgement: &Judgement,
    direction: Direction,
    desired: &Desired,
    names: &mut Names,
    log: Log,
    layout: &mut Layout,
) -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    let mut jump_to_tier = |policies: &[PolicyId], names: &mut Names, rules: &mut Vec<_>| {
        if !policies.is_empty() {
            let tier = tier(policies, direction, desired, names, log, layout);
            rules.push(vec![Statement::jump(tier.as_str())]);
        }
    };
    jump_to_tier(&judgement.admin, names, &mut rules);
    let Some(isolating) = &judgement.isolating else {
        jump_to_tier(&judgement.baseline, names, &mut rules);
        rules.extend(accepting(&[], direction, log, name, 0));
        return rules;
    };
    rules.extend(isolating.iter().map(|policy| {
        let chain = names.of(direction, ChainOf::Policy(policy.clone()));
        vec![Statement::jump(chain.as_str())]
    }));
    rules.extend(dropping(&[], log, name, 0));
    rules
}

/// The chain of a tier's policies; written when somebody needs it for the first time.
fn tier(
    policies: &[PolicyId],
    direction: Direction,
    desired: &Desired,
    names: &mut Names,
    log: Log,
    layout: &mut Layout,
) -> String {
    let name = names.of(direction, ChainOf::Tier(policies.to_vec()));
    if layout.chains.contains_key(&name) {
        return name;
    }
    let of_policy = |policy: &PolicyId| desired.policies.get(&(policy.clone(), direction));
    let rules = policies
        .iter()
        .filter_map(of_policy)
        .flat_map(|own| own.iter())
        .enumerate();
    let rules = rules
        .flat_map(|(position, rule)| match rule.action {
            Action::Accept => accepted_by(rule, direction, log, &name, position),
            Action::Pass => statements(rule, direction, &[Statement::Verdict(Goal::Return)]),
            Action::Deny => statements(rule, direction, &[])
                .iter()
                .flat_map(|matching| dropping(matching, log, &name, position))
                .collect(),
        })
        .collect();
    layout.chains.insert(name.clone(), Arc::new(rules));
    name
}

/// Rules that drop what matches; the log has a rule of its own, since its limit ends a rule.
pub(crate) fn dropping(
    matching: &[Statement],
    log: Log,
    chain: &str,
    rule: usize,
) -> Vec<Vec<Statement>> {
    let with = |last: &[Statement]| [matching, last].concat();
    let dropped = with(&[Statement::drop()]);
    match log.drops {
        false => vec![dropped],
        true => vec![with(&logging(DROPPED, chain, rule)), dropped],
    }
}

/// Rules that allow what matches, and tell the first packet of each connection if that was asked for.
fn accepting(
    matching: &[Statement],
    direction: Direction,
    log: Log,
    chain: &str,
    rule: usize,
) -> Vec<Vec<Statement>> {
    let with = |last: &[Statement]| [matching, last].concat();
    let accepted = with(&[Statement::Verdict(allowed(direction))]);
    match log.accepted {
        false => vec![accepted],
        true => {
            let new = [Statement::ct_state(ct_state::NEW)];
            let logged = [&new[..], &logging(ACCEPTED, chain, rule)].concat();
            vec![with(&logged), accepted]
        }
    }
}

/// What a rule of a policy accepts.
fn accepted_by(
    rule: &CompiledRule,
    direction: Direction,
    log: Log,
    chain: &str,
    position: usize,
) -> Vec<Vec<Statement>> {
    statements(rule, direction, &[])
        .iter()
        .flat_map(|matching| accepting(matching, direction, log, chain, position))
        .collect()
}

/// Statements that tell about a packet, as long as the chain's share of this second lasts.
fn logging(prefix: &str, chain: &str, rule: usize) -> [Statement; 2] {
    [
        Statement::Limit {
            rate: LOGGED_PER_SECOND,
            unit: LimitUnit::Second,
            burst: 100,
            over: false,
        },
        Statement::Log {
            prefix: Some(format!("{prefix}{chain}:{rule}").as_str().into()),
            group: Some(LOG_GROUP),
        },
    ]
}

/// What is allowed to leave a pod may still have to enter another one.
fn allowed(direction: Direction) -> Goal {
    match direction {
        Direction::Ingress => Goal::Accept,
        Direction::Egress => Goal::Goto(TO_ANY.into()),
    }
}

fn set_name(id: u32, v6: bool) -> String {
    format!("peers-{id}-{}", if v6 { "v6" } else { "v4" })
}

fn port_set_name(id: u32, v6: bool) -> String {
    format!("ports-{id}-{}", if v6 { "v6" } else { "v4" })
}

/// One rule of a policy as rules of nftables: any of its peers with any of its ports.
fn statements(
    rule: &CompiledRule,
    direction: Direction,
    last: &[Statement],
) -> Vec<Vec<Statement>> {
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
    peers
        .iter()
        .flat_map(|peer| {
            ports
                .iter()
                .map(move |port| [peer.as_slice(), port, last].concat())
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
