//! What becomes of a packet and who decides it: the same words for the tracer and for the log of
//! what the kernel dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::index::{CompiledPeer, CompiledPort, CompiledRule, Desired, SetContent};
use crate::model::{Action, Direction, ObjectName, PolicyId, Protocol, Tier};

/// The first packet of a connection, behind Service translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The rule at this position, counted from 0, in its direction's list.
    Rule { policy: PolicyId, rule: usize },
    /// These isolate the pod, and no rule of theirs allows the packet.
    NoneAllows(BTreeSet<ObjectName>),
    /// Nobody has a say, or everybody passed.
    Default,
    /// A pod and the node where it runs: NetworkPolicies do not count.
    OwnNode,
    /// The interface has no rules (yet).
    Unprotected,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, rule } => write!(f, "rule {} of {policy}", rule + 1),
            Self::NoneAllows(policies) => {
                let names: Vec<String> = policies
                    .iter()
                    .map(|(ns, name)| format!("{ns}/{name}"))
                    .collect();
                let kind = match names.len() {
                    1 => "NetworkPolicy",
                    _ => "NetworkPolicies",
                };
                write!(f, "no rule of {kind} {} allows it", names.join(", "))
            }
            Self::Default => f.write_str("no policy decides, the default is to allow"),
            Self::OwnNode => f.write_str("NetworkPolicies always allow a pod's own node"),
            Self::Unprotected => f.write_str("the pod's rules are not in the kernel"),
        }
    }
}

/// What becomes of a packet in one direction of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub decision: Decision,
    /// The policies that were asked, in order.
    pub asked: Vec<PolicyId>,
}

/// Follows the packet through the rules of one direction of a pod, in the order of the kernel's.
pub fn judge(desired: &Desired, interface: &str, direction: Direction, packet: &Packet) -> Verdict {
    let Some(rules) = desired.endpoints.get(interface) else {
        return Verdict {
            allowed: false,
            decision: Decision::Unprotected,
            asked: Vec::new(),
        };
    };
    let from_own_node = direction == Direction::Ingress && rules.own_node.contains(&packet.source);
    if from_own_node {
        // Probes: no policy of any kind keeps the node away.
        return Verdict {
            allowed: true,
            decision: Decision::OwnNode,
            asked: Vec::new(),
        };
    }
    let to_own_node = rules.own_node.contains(&packet.destination);
    let judgement = match to_own_node {
        true => &rules.of(direction).towards_own_node(),
        false => rules.of(direction),
    };
    let mut asked = Vec::new();
    let mut first_match = |policies: &[PolicyId]| {
        for policy in policies {
            asked.push(policy.clone());
            let rules = desired.policies.get(&(policy.clone(), direction));
            for (rule, own) in rules.into_iter().flat_map(|own| own.iter()).enumerate() {
                if matches(own, direction, packet, desired) {
                    let policy = policy.clone();
                    return Some((own.action, Decision::Rule { policy, rule }));
                }
            }
        }
        None
    };
    let of_namespace = |name: &ObjectName| PolicyId {
        tier: Tier::NetworkPolicy,
        name: name.clone(),
    };
    let mut decided = first_match(&judgement.admin).filter(|(action, _)| *action != Action::Pass);
    if decided.is_none() {
        decided = match &judgement.isolating {
            Some(isolating) => {
                let policies: Vec<PolicyId> = isolating.iter().map(of_namespace).collect();
                let none = || (Action::Deny, Decision::NoneAllows(isolating.clone()));
                Some(first_match(&policies).unwrap_or_else(none))
            }
            None => first_match(&judgement.baseline),
        };
    }
    let (action, decision) = match decided {
        Some((Action::Pass, _)) | None if to_own_node => (Action::Accept, Decision::OwnNode),
        Some((Action::Pass, _)) | None => (Action::Accept, Decision::Default),
        Some(decided) => decided,
    };
    Verdict {
        allowed: action == Action::Accept,
        decision,
        asked,
    }
}

fn matches(rule: &CompiledRule, direction: Direction, packet: &Packet, desired: &Desired) -> bool {
    let peer = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let is_peer = |own: &CompiledPeer| match own {
        CompiledPeer::Set(id) => match desired.sets.get(id) {
            Some(SetContent::Addresses(addresses)) => addresses.contains(&peer),
            Some(SetContent::Learnt(addresses)) => addresses.contains_key(&peer),
            _ => false,
        },
        CompiledPeer::Block { network, except } => {
            network.contains(peer) && !except.iter().any(|not| not.contains(peer))
        }
    };
    let is_port = |own: &CompiledPort| match own {
        CompiledPort::Any(protocol) => *protocol == packet.protocol,
        CompiledPort::Range(protocol, from, to) => {
            *protocol == packet.protocol && (*from..=*to).contains(&packet.port)
        }
        CompiledPort::Set(id) => match desired.sets.get(id) {
            Some(SetContent::Ports(ports)) => {
                ports.contains(&(packet.destination, packet.protocol, packet.port))
            }
            _ => false,
        },
    };
    rule.peers
        .as_ref()
        .is_none_or(|peers| peers.iter().any(is_peer))
        && rule
            .ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(is_port))
}
