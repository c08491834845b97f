//! Who judges which of this node's pods, by which rules: kept, and looked at again only where
//! something changed. A pod elsewhere that changes is none of its business; it concerns sets alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{CompiledPeer, CompiledPort, CompiledRule, EndpointRules, Index, Policies};
use crate::model::{Attachment, Direction, ObjectName, PolicyId, Tier};

/// What [`super::Desired`] says besides the content of sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Structure {
    pub(super) endpoints: Arc<BTreeMap<String, EndpointRules>>,
    pub(super) policies: Arc<Policies>,
    pub(super) addresses: Arc<BTreeMap<IpAddr, String>>,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Interfaces whose pod, or whoever judges it, changed.
    pub(super) interfaces: BTreeSet<String>,
    /// NetworkPolicies whose rules changed.
    policies: BTreeSet<ObjectName>,
}

/// Keeps what is there where the new value is equal, so that it stays shared.
fn replace<T: PartialEq>(old: &mut Arc<T>, new: T) {
    if **old != new {
        *old = Arc::new(new);
    }
}

impl Index {
    /// The interfaces of these attachments are to be looked at again.
    pub(super) fn stale_where(&mut self, concerned: impl Fn(&Attachment) -> bool) {
        // Everything is, until there is something to keep.
        if self.structure.is_none() {
            return;
        }
        let concerned = self.attachments.iter().filter(|(_, own)| concerned(own));
        let interfaces = concerned.map(|(interface, _)| interface.clone());
        self.stale.interfaces.extend(interfaces);
    }

    pub(super) fn stale_policy(&mut self, name: &ObjectName) {
        self.stale_where(|own| own.pod.0 == name.0);
        self.stale.policies.insert(name.clone());
    }

    /// The structure as it is now, which is taken out of the index.
    pub(super) fn renewed_structure(&mut self) -> Structure {
        let stale = std::mem::take(&mut self.stale);
        let (mut structure, interfaces, mut concerned) = match self.structure.take() {
            Some(structure) => (structure, stale.interfaces, !stale.policies.is_empty()),
            None => {
                let all = self.attachments.keys().cloned();
                (Structure::default(), all.collect(), true)
            }
        };
        if interfaces.is_empty() && !concerned {
            return structure;
        }
        replace(&mut structure.addresses, self.addresses_of_pods());
        for interface in interfaces {
            let new = self.endpoint(&interface);
            if structure.endpoints.get(&interface) == new.as_ref() {
                continue;
            }
            concerned = true;
            let endpoints = Arc::make_mut(&mut structure.endpoints);
            match new {
                Some(rules) => endpoints.insert(interface, rules),
                None => endpoints.remove(&interface),
            };
        }
        if concerned {
            self.renew_policies(&mut structure, &stale.policies);
        }
        structure
    }

    /// Of the pods that are known.
    fn addresses_of_pods(&self) -> BTreeMap<IpAddr, String> {
        let known = self.attachments.iter();
        let known = known.filter(|(_, own)| self.pods.contains_key(&own.pod));
        known
            .flat_map(|(interface, own)| {
                let addresses = own.addresses.iter();
                addresses.map(|address| (*address, interface.clone()))
            })
            .collect()
    }

    fn endpoint(&self, interface: &str) -> Option<EndpointRules> {
        let attachment = self.attachments.get(interface)?;
        let pod = self.pods.get(&attachment.pod)?;
        let mut rules = self.rules_of(&attachment.pod.0, pod);
        if let Some(node) = self.nodes.get(&attachment.node) {
            rules.own_node.clone_from(&node.addresses);
        }
        Some(rules)
    }

    /// The rules of whoever has a say; sets that none of them names are forgotten.
    fn renew_policies(&mut self, structure: &mut Structure, stale: &BTreeSet<ObjectName>) {
        let mut used = BTreeSet::new();
        for rules in structure.endpoints.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let policies = rules.of(direction).policies();
                used.extend(policies.map(|policy| (policy, direction)));
            }
        }
        let is_stale = |id: &PolicyId| id.tier == Tier::NetworkPolicy && stale.contains(&id.name);
        let mut policies = Policies::new();
        for (id, direction) in used {
            let key = (id, direction);
            let old = structure.policies.get(&key);
            let rules = match old {
                Some(old) if !is_stale(&key.0) => old.clone(),
                _ => {
                    let mut rules = old.cloned().unwrap_or_default();
                    replace(&mut rules, self.compile(&key.0, direction));
                    rules
                }
            };
            policies.insert(key, rules);
        }
        replace(&mut structure.policies, policies);
        let rules = structure.policies.values().flat_map(|rules| rules.iter());
        let live = rules.flat_map(sets_of).collect();
        self.members.retain(&live);
    }
}

/// The numbers of the sets that a rule names.
fn sets_of(rule: &CompiledRule) -> impl Iterator<Item = u32> {
    let peers = rule.peers.iter().flatten();
    let peers = peers.filter_map(|peer| match peer {
        CompiledPeer::Set(id) => Some(*id),
        CompiledPeer::Block { .. } => None,
    });
    let ports = rule.ports.iter().flatten();
    peers.chain(ports.filter_map(|port| match port {
        CompiledPort::Set(id) => Some(*id),
        CompiledPort::Any(_) | CompiledPort::Range(..) => None,
    }))
}
