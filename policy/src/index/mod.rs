//! What is known of the cluster, and what follows from it for this node's pods.
//!
//! Selectors are interned: each different one that is in use has its members counted once and
//! kept up to date with every change, in sets that are shared, not copied.

mod learnt;
mod members;
mod structure;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{
    Action, Attachment, ClusterPolicy, Direction, Labels, Namespaces, Node, ObjectName, Peer, Pod,
    PodSelector, Policy, PolicyId, Port, PortMatch, Protocol, Rule, Tier,
};
pub use learnt::{Learnt, Lease};
pub use members::NamedPort;
use members::{Interned, Members};
use structure::{Stale, Structure};

/// The content of a named set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetContent {
    Addresses(Arc<BTreeSet<IpAddr>>),
    /// Addresses with the protocol and number that a port's name means there.
    Ports(Arc<BTreeSet<(IpAddr, Protocol, u16)>>),
    /// What names resolved to, for a time.
    Learnt(Arc<BTreeMap<IpAddr, Lease>>),
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

    /// Who decides about traffic between the pod and the node where it runs: NetworkPolicies
    /// always allow it, the cluster's policies speak of nodes.
    pub fn towards_own_node(&self) -> Self {
        Self {
            admin: self.admin.clone(),
            isolating: None,
            baseline: self.baseline.clone(),
        }
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
    /// The addresses of the pod's node, where the attachment names it.
    pub own_node: BTreeSet<IpAddr>,
}

impl EndpointRules {
    pub fn of(&self, direction: Direction) -> &Judgement {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The rules of policies, each in one direction.
pub type Policies = BTreeMap<(PolicyId, Direction), Arc<Vec<CompiledRule>>>;

/// What this node's kernel has to enforce. What did not change since the last time is shared with
/// what was returned then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// By host-side interface.
    pub endpoints: Arc<BTreeMap<String, EndpointRules>>,
    /// The rules of the policies that have a say here.
    pub policies: Arc<Policies>,
    pub sets: BTreeMap<u32, SetContent>,
    /// The interface of each address of a pod of this node.
    pub addresses: Arc<BTreeMap<IpAddr, String>>,
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
    learnt: Learnt,
    /// As of the last time; `None`: everything is to be looked at.
    structure: Option<Structure>,
    stale: Stale,
}

impl Index {
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        if self.namespaces.get(name) == Some(&labels) {
            return;
        }
        self.relabel_pods(name, Some(&labels));
        self.stale_where(|own| own.pod.0 == name);
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// The namespace's pods stay until they are removed themselves; no selector of namespaces picks
    /// them any more.
    pub fn remove_namespace(&mut self, name: &str) {
        self.relabel_pods(name, None);
        self.stale_where(|own| own.pod.0 == name);
        self.namespaces.remove(name);
    }

    fn relabel_pods(&mut self, namespace: &str, labels: Option<&Labels>) {
        let old = self.namespaces.get(namespace);
        let from = (namespace.to_owned(), String::new());
        let pods = self.pods.range(from..);
        for (_, pod) in pods.take_while(|((own, _), _)| own == namespace) {
            let was = Some((namespace, old, pod));
            self.members.change(was, Some((namespace, labels, pod)));
        }
    }

    pub fn set_pod(&mut self, name: ObjectName, pod: Pod) {
        let old = self.pods.get(&name);
        if old == Some(&pod) {
            return;
        }
        let labels = self.namespaces.get(&name.0);
        let was = old.map(|old| (name.0.as_str(), labels, old));
        self.members.change(was, Some((&name.0, labels, &pod)));
        self.stale_where(|own| own.pod == name);
        self.pods.insert(name, pod);
    }

    pub fn remove_pod(&mut self, name: &ObjectName) {
        if let Some(old) = self.pods.remove(name) {
            let labels = self.namespaces.get(&name.0);
            self.members.change(Some((&name.0, labels, &old)), None);
            self.stale_where(|own| own.pod == *name);
        }
    }

    pub fn pods(&self) -> &BTreeMap<ObjectName, Pod> {
        &self.pods
    }

    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.stale_policy(&policy.name);
        self.policies.insert(policy.name.clone(), policy);
    }

    pub fn remove_policy(&mut self, name: &ObjectName) {
        self.stale_policy(name);
        self.policies.remove(name);
    }

    pub fn policies(&self) -> &BTreeMap<ObjectName, Policy> {
        &self.policies
    }

    pub fn set_cluster_policy(&mut self, policy: ClusterPolicy) {
        self.structure = None;
        self.cluster_policies.insert(policy.name.clone(), policy);
    }

    pub fn remove_cluster_policy(&mut self, name: &str) {
        self.structure = None;
        self.cluster_policies.remove(name);
    }

    pub fn set_node(&mut self, name: &str, node: Node) {
        let old = self.nodes.get(name);
        if old != Some(&node) {
            self.members.change_node(old, Some(&node));
            self.stale_where(|own| own.node == name);
            self.nodes.insert(name.to_owned(), node);
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(old) = self.nodes.remove(name) {
            self.members.change_node(Some(&old), None);
            self.stale_where(|own| own.node == name);
        }
    }

    /// Whether a node has the address.
    pub fn is_node(&self, address: &IpAddr) -> bool {
        let mut nodes = self.nodes.values();
        nodes.any(|node| node.addresses.contains(address))
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    pub fn set_attachment(&mut self, interface: String, attachment: Attachment) {
        self.stale.interfaces.insert(interface.clone());
        self.attachments.insert(interface, attachment);
    }

    pub fn remove_attachment(&mut self, interface: &str) {
        self.stale.interfaces.insert(interface.to_owned());
        self.attachments.remove(interface);
    }

    /// The cluster DNS answered with these addresses, each to be kept for a time. Whether a set
    /// that is in use changes.
    pub fn learn(&mut self, name: &str, addresses: &[(IpAddr, Duration)], now: SystemTime) -> bool {
        let name = crate::model::plain_name(name);
        self.learnt.learn(&name, addresses, now) && self.members.learnt(&name)
    }

    /// Forgets what is past its time, but for addresses that are in use. Whether a set changes.
    pub fn forget_past(&mut self, now: SystemTime, in_use: &BTreeSet<IpAddr>) -> bool {
        let names = self.learnt.forget_past(now, in_use);
        let mut changed = false;
        for name in names {
            changed |= self.members.learnt(&name);
        }
        changed
    }

    /// What names resolved to; to be kept across a restart.
    pub fn learnt(&self) -> &Learnt {
        &self.learnt
    }

    pub fn set_learnt(&mut self, learnt: Learnt) {
        self.learnt = learnt;
    }

    pub fn attachments(&self) -> &BTreeMap<String, Attachment> {
        &self.attachments
    }

    /// What follows for this node. An interface whose pod is not known (yet) is left out: it
    /// passes nothing. The work is that of what changed since the last call.
    pub fn desired(&mut self) -> Desired {
        let structure = self.renewed_structure();
        let desired = Desired {
            endpoints: structure.endpoints.clone(),
            policies: structure.policies.clone(),
            sets: self.members.contents(&self.learnt),
            addresses: structure.addresses.clone(),
        };
        self.structure = Some(structure);
        desired
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
            own_node: BTreeSet::new(),
        }
    }

    fn compile(&mut self, id: &PolicyId, direction: Direction) -> Vec<CompiledRule> {
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
            self.members
                .intern(interned, &self.namespaces, &self.pods, &self.nodes)
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
            Peer::Domains(names) => CompiledPeer::Set(intern(Interned::Domains(names.clone()))),
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
