//! What is known of the cluster, and what follows from it for this node's pods.
//!
//! Selectors are interned: each different one that is in use has its members counted once and
//! kept up to date with every change, in sets that are shared, not copied.

mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    Action, Attachment, ClusterPolicy, Direction, Labels, Namespaces, Node, ObjectName, Peer, Pod,
    PodSelector, Policy, PolicyId, Port, PortMatch, Protocol, Rule, Tier,
};
pub use members::NamedPort;
use members::{Interned, Members};

/// The content of a named set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetContent {
    Addresses(Arc<BTreeSet<IpAddr>>),
    /// Addresses with the protocol and number that a port's name means there.
    Ports(Arc<BTreeSet<(IpAddr, Protocol, u16)>>),
}

/// A rule whose selectors are replaced by the numbers of sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledRule {
    pub action: Action,
    pub peers: Option<Vec<CompiledPeer>>,
    pub ports: Option<Vec<CompiledPort>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompiledPeer {
    Set(u32),
    Block {
        network: ipnetwork::IpNetwork,
        except: Vec<ipnetwork::IpNetwork>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompiledPort {
    Any(Protocol),
    Range(Protocol, u16, u16),
    /// Destination address, protocol and port are in the set.
    Set(u32),
}

/// Who decides about one direction of a pod's traffic, in this order. If nobody does, it passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Judgement {
    pub admin: Vec<PolicyId>,
    /// The NetworkPolicies that isolate the pod; `None`: not isolated.
    pub isolating: Option<BTreeSet<ObjectName>>,
    /// Only of a pod that is not isolated: a NetworkPolicy always decides.
    pub baseline: Vec<PolicyId>,
}

impl Judgement {
    /// Every policy that has a say.
    pub fn policies(&self) -> impl Iterator<Item = PolicyId> {
        let of_namespace = self.isolating.iter().flatten().map(|name| PolicyId {
            tier: Tier::NetworkPolicy,
            name: name.clone(),
        });
        let admin = self.admin.iter().cloned();
        admin
            .chain(of_namespace)
            .chain(self.baseline.iter().cloned())
    }

    /// Whether nobody has a say.
    pub fn is_open(&self) -> bool {
        self.admin.is_empty() && self.isolating.is_none() && self.baseline.is_empty()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointRules {
    pub ingress: Judgement,
    pub egress: Judgement,
}

impl EndpointRules {
    pub fn of(&self, direction: Direction) -> &Judgement {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What this node's kernel has to enforce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// By host-side interface.
    pub endpoints: BTreeMap<String, EndpointRules>,
    /// The rules of the policies that have a say here.
    pub policies: BTreeMap<(PolicyId, Direction), Vec<CompiledRule>>,
    pub sets: BTreeMap<u32, SetContent>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<ObjectName, Pod>,
    nodes: BTreeMap<String, Node>,
    policies: BTreeMap<ObjectName, Policy>,
    cluster_policies: BTreeMap<String, ClusterPolicy>,
    attachments: BTreeMap<String, Attachment>,
    members: Members,
}

impl Index {
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        if self.namespaces.get(name) == Some(&labels) {
            return;
        }
        let of_namespace = || (name.to_owned(), String::new())..;
        let pods = self
            .pods
            .range(of_namespace())
            .take_while(|((ns, _), _)| ns == name);
        let old = self.namespaces.get(name);
        for (_, pod) in pods {
            let is = Some((name, Some(&labels), pod));
            self.members.change(Some((name, old, pod)), is);
        }
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// The namespace's pods stay until they are removed themselves.
    pub fn remove_namespace(&mut self, name: &str) {
        self.set_namespace(name, Labels::new());
        self.namespaces.remove(name);
    }

    pub fn set_pod(&mut self, name: ObjectName, pod: Pod) {
        let old = self.pods.get(&name);
        if old == Some(&pod) {
            return;
        }
        let labels = self.namespaces.get(&name.0);
        let was = old.map(|old| (name.0.as_str(), labels, old));
        self.members.change(was, Some((&name.0, labels, &pod)));
        self.pods.insert(name, pod);
    }

    pub fn remove_pod(&mut self, name: &ObjectName) {
        if let Some(old) = self.pods.remove(name) {
            let labels = self.namespaces.get(&name.0);
            self.members.change(Some((&name.0, labels, &old)), None);
        }
    }

    pub fn pods(&self) -> &BTreeMap<ObjectName, Pod> {
        &self.pods
    }

    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policies.insert(policy.name.clone(), policy);
    }

    pub fn remove_policy(&mut self, name: &ObjectName) {
        self.policies.remove(name);
    }

    pub fn policies(&self) -> &BTreeMap<ObjectName, Policy> {
        &self.policies
    }

    pub fn set_cluster_policy(&mut self, policy: ClusterPolicy) {
        self.cluster_policies.insert(policy.name.clone(), policy);
    }

    pub fn remove_cluster_policy(&mut self, name: &str) {
        self.cluster_policies.remove(name);
    }

    pub fn set_node(&mut self, name: &str, node: Node) {
        let old = self.nodes.get(name);
        if old != Some(&node) {
            self.members.change_node(old, Some(&node));
            self.nodes.insert(name.to_owned(), node);
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(old) = self.nodes.remove(name) {
            self.members.change_node(Some(&old), None);
        }
    }

    pub fn set_attachment(&mut self, interface: String, attachment: Attachment) {
        self.attachments.insert(interface, attachment);
    }

    pub fn remove_attachment(&mut self, interface: &str) {
        self.attachments.remove(interface);
    }

    pub fn attachments(&self) -> &BTreeMap<String, Attachment> {
        &self.attachments
    }

    /// What follows for this node. An interface whose pod is not known (yet) is left out: it
    /// passes nothing.
    pub fn desired(&mut self) -> Desired {
        let mut endpoints = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (interface, attachment) in &self.attachments {
            let Some(pod) = self.pods.get(&attachment.pod) else {
                continue;
            };
            let rules = self.rules_of(&attachment.pod.0, pod);
            for direction in [Direction::Ingress, Direction::Egress] {
                let policies = rules.of(direction).policies();
                used.extend(policies.map(|policy| (policy, direction)));
            }
            endpoints.insert(interface.clone(), rules);
        }
        let mut policies = BTreeMap::new();
        let mut live = BTreeSet::new();
        for (name, direction) in used {
            let rules = self.compile(&name, direction, &mut live);
            policies.insert((name, direction), rules);
        }
        self.members.retain(&live);
        Desired {
            endpoints,
            policies,
            sets: self.members.contents(),
        }
    }

    fn rules_of(&self, namespace: &str, pod: &Pod) -> EndpointRules {
        let from = (namespace.to_owned(), String::new());
        let selecting: Vec<&Policy> = self
            .policies
            .range(from..)
            .take_while(|((ns, _), _)| ns == namespace)
            .map(|(_, policy)| policy)
            .filter(|policy| policy.pods.matches(&pod.labels))
            .collect();
        let isolation = |direction| {
            let isolating: BTreeSet<ObjectName> = selecting
                .iter()
                .filter(|policy| policy.rules(direction).is_some())
                .map(|policy| policy.name.clone())
                .collect();
            (!isolating.is_empty()).then_some(isolating)
        };
        let labels = self.namespaces.get(namespace);
        let tier = |tier, direction| {
            let mut selecting: Vec<&ClusterPolicy> = self
                .cluster_policies
                .values()
                .filter(|own| own.tier == tier && !own.rules(direction).is_empty())
                .filter(|own| {
                    let subject = own.subject.as_ref();
                    subject.is_some_and(|subject| picks(subject, namespace, labels, &pod.labels))
                })
                .collect();
            // Stable: among equal priorities the name decides.
            selecting.sort_by_key(|own| own.priority);
            selecting.into_iter().map(ClusterPolicy::id).collect()
        };
        let judgement = |direction| {
            let isolating = isolation(direction);
            let baseline = match &isolating {
                Some(_) => Vec::new(),
                None => tier(Tier::Baseline, direction),
            };
            Judgement {
                admin: tier(Tier::Admin, direction),
                isolating,
                baseline,
            }
        };
        EndpointRules {
            ingress: judgement(Direction::Ingress),
            egress: judgement(Direction::Egress),
        }
    }

    fn compile(
        &mut self,
        id: &PolicyId,
        direction: Direction,
        live: &mut BTreeSet<u32>,
    ) -> Vec<CompiledRule> {
        let rules: &[Rule] = match id.tier {
            Tier::NetworkPolicy => {
                let policy = self.policies.get(&id.name);
                policy
                    .and_then(|own| own.rules(direction))
                    .map_or(&[], |own| own.as_slice())
            }
            Tier::Admin | Tier::Baseline => {
                let policy = self.cluster_policies.get(&id.name.1);
                policy.map_or(&[], |own| own.rules(direction).as_slice())
            }
        };
        let mut intern = |interned: Interned| {
            let id = self
                .members
                .intern(interned, &self.namespaces, &self.pods, &self.nodes);
            live.insert(id);
            id
        };
        rules
            .iter()
            .map(|rule| compiled(rule, &mut intern))
            .collect()
    }
}

/// The rule with the numbers of sets in the place of selectors.
fn compiled(rule: &Rule, intern: &mut impl FnMut(Interned) -> u32) -> CompiledRule {
    let peers = rule.peers.as_ref().map(|peers| {
        let of_peer = |peer: &Peer| match peer {
            Peer::Pods(selector) => CompiledPeer::Set(intern(Interned::Pods(selector.clone()))),
            Peer::Nodes(selector) => CompiledPeer::Set(intern(Interned::Nodes(selector.clone()))),
            Peer::Block { network, except } => CompiledPeer::Block {
                network: *network,
                except: except.clone(),
            },
        };
        peers.iter().map(of_peer).collect()
    });
    let ports = rule.ports.as_ref().map(|ports| {
        let of_port = |port: &PortMatch| match &port.port {
            Port::Any => CompiledPort::Any(port.protocol),
            Port::Range(from, to) => CompiledPort::Range(port.protocol, *from, *to),
            Port::Named(name) => CompiledPort::Set(intern(Interned::Port(NamedPort {
                name: name.clone(),
                protocol: port.protocol,
            }))),
        };
        ports.iter().map(of_port).collect()
    });
    CompiledRule {
        action: rule.action,
        peers,
        ports,
    }
}

/// Whether a selector of pods picks a pod.
pub fn picks(
    selector: &PodSelector,
    namespace: &str,
    namespace_labels: Option<&Labels>,
    labels: &Labels,
) -> bool {
    let in_namespace = match &selector.namespaces {
        Namespaces::One(name) => name == namespace,
        Namespaces::Selected(wanted) => namespace_labels.is_some_and(|own| wanted.matches(own)),
    };
    in_namespace && selector.pods.matches(labels)
}

#[cfg(test)]
mod tests;
