//! Policies as plain ordered data, without Kubernetes types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub type Labels = BTreeMap<String, String>;

/// Namespace and name.
pub type ObjectName = (String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As the API spells it; absent means TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => kernel::nftables::protocol::TCP,
            Self::Udp => kernel::nftables::protocol::UDP,
            Self::Sctp => kernel::nftables::protocol::SCTP,
        }
    }
}

/// One demand on labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    DoesNotExist(String),
    /// Of a selector that cannot be understood: never holds.
    Never,
}

/// All requirements have to hold; none pick everything. Equal selectors compare equal however
/// they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(pub BTreeSet<Requirement>);

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
            Requirement::Never => false,
        })
    }
}

/// Which namespaces a peer's pods are in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    One(String),
    Selected(Selector),
}

/// Pods anywhere in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSelector {
    pub namespaces: Namespaces,
    pub pods: Selector,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Pods(PodSelector),
    Block {
        network: IpNetwork,
        except: Vec<IpNetwork>,
    },
    /// The addresses of the cluster's nodes.
    Nodes(Selector),
    /// What the cluster DNS answered for names that one of the patterns matches.
    Domains(BTreeSet<DomainPattern>),
}

/// A domain name, or `*.` and a name for everything below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainPattern(String);

impl DomainPattern {
    pub fn new(text: &str) -> Self {
        Self(plain_name(text))
    }

    /// Whether a [`plain_name`] is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(parent) => name
                .strip_suffix(parent)
                .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
            None => self.0 == name,
        }
    }
}

/// A domain name as names are compared: lower case, without the final dot.
pub fn plain_name(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    Any,
    /// Both ends belong to it.
    Range(u16, u16),
    /// A name that may mean another number on each pod.
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    pub protocol: Protocol,
    pub port: Port,
}

/// What a rule does with the packets that it matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    #[default]
    Accept,
    Deny,
    /// The rest of the tier does not count.
    Pass,
}

/// One rule of a policy. Those of a NetworkPolicy accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    /// `None`: everybody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: every protocol and port.
    pub ports: Option<Vec<PortMatch>>,
}

/// A NetworkPolicy. A direction without rules (`None`) is not isolated by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub name: ObjectName,
    pub pods: Selector,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    pub fn id(&self) -> PolicyId {
        PolicyId {
            tier: Tier::NetworkPolicy,
            name: self.name.clone(),
        }
    }

    pub fn rules(&self, direction: Direction) -> Option<&Vec<Rule>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Which policies are asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    Admin,
    NetworkPolicy,
    Baseline,
}

/// Which policy: that of a namespace, or of the cluster (with an empty namespace).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    pub tier: Tier,
    pub name: ObjectName,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = &self.name;
        match self.tier {
            Tier::NetworkPolicy => write!(f, "NetworkPolicy {namespace}/{name}"),
            Tier::Admin => write!(f, "ClusterNetworkPolicy {name} (Admin)"),
            Tier::Baseline => write!(f, "ClusterNetworkPolicy {name} (Baseline)"),
        }
    }
}

/// A ClusterNetworkPolicy: its rules are asked in their order, the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    pub name: String,
    /// [`Tier::Admin`] or [`Tier::Baseline`].
    pub tier: Tier,
    /// Lower is asked first; among equals the name decides.
    pub priority: i32,
    /// `None`: a subject that cannot be understood selects nobody.
    pub subject: Option<PodSelector>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

impl ClusterPolicy {
    pub fn id(&self) -> PolicyId {
        PolicyId {
            tier: self.tier,
            name: (String::new(), self.name.clone()),
        }
    }

    pub fn rules(&self, direction: Direction) -> &Vec<Rule> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What policies need of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub labels: Labels,
    pub addresses: BTreeSet<IpAddr>,
}

/// What policies need of a pod anywhere in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    pub labels: Labels,
    pub addresses: BTreeSet<IpAddr>,
    pub named_ports: BTreeSet<(String, Protocol, u16)>,
    /// `KIND/NAME` of who made it and its labels.
    pub owner: Option<String>,
}

/// A pod's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    pub pod: ObjectName,
    pub addresses: BTreeSet<IpAddr>,
    /// The name of the pod's node, where that is asked for: the kernel knows its own addresses.
    pub node: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_labels() {
        for (pattern, name, expected) in [
            ("kubernetes.io", "kubernetes.io", true),
            ("Kubernetes.IO.", "kubernetes.io", true),
            ("kubernetes.io", "www.kubernetes.io", false),
            ("*.kubernetes.io", "www.kubernetes.io", true),
            ("*.kubernetes.io", "latest.blog.kubernetes.io", true),
            ("*.kubernetes.io", "kubernetes.io", false),
            ("*.kubernetes.io", ".kubernetes.io", false),
            ("*.kubernetes.io", "my-kubernetes.io", false),
        ] {
            let matches = DomainPattern::new(pattern).matches(name);
            assert_eq!(matches, expected, "{pattern} {name}");
        }
    }
}
