//! The backend-neutral picture of Services: plain ordered data, chosen once by all the rules
//! of the API. The backends differ only in how they bring it into the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

/// The IP family of a picture. A dual-stack Service appears in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }

    pub fn is_v6(self) -> bool {
        self == Self::V6
    }

    /// The networks of this family.
    pub fn networks(self, all: &[IpNetwork]) -> impl Iterator<Item = IpNetwork> {
        all.iter()
            .copied()
            .filter(move |network| network.is_ipv6() == self.is_v6())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The name in lower case, as iptables takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service. Its text is `namespace/name:port`, without the colon for a port
/// that has no name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    pub service: ServiceKey,
    pub port: Arc<str>,
}

impl std::fmt::Display for PortId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.service.fmt(f)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// Which back ends a kind of traffic may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    /// Only those on this node.
    Local,
}

/// A back end: where a connection can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// It runs on this node.
    pub local: bool,
}

/// One port of a Service in one family, with the back ends that its traffic may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub id: PortId,
    pub protocol: Protocol,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: BTreeSet<IpAddr>,
    /// Addresses of load balancers that deliver packets unchanged (`ipMode: VIP`).
    pub load_balancer_ips: BTreeSet<IpAddr>,
    /// Who may use the load balancer's addresses; everybody where it is empty.
    pub source_ranges: Vec<IpNetwork>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// Seconds for which a client stays with its back end.
    pub affinity: Option<u32>,
    /// What traffic under [`TrafficPolicy::Cluster`] may reach, ordered.
    pub cluster: Vec<Backend>,
    /// What traffic under [`TrafficPolicy::Local`] may reach, ordered.
    pub local: Vec<Backend>,
    /// Back ends that are about to end and get no new traffic, but keep their flows. Only of
    /// protocols without connections that end by themselves (UDP, SCTP).
    pub leaving: Vec<Backend>,
    /// Some node has a back end, if not this one: traffic under the local policy is dropped
    /// and not rejected, since elsewhere it would be served.
    pub served: bool,
    /// Options that only the IPVS backend knows.
    pub ipvs: IpvsOptions,
}

/// What annotations say to the IPVS backend; empty for its defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpvsOptions {
    pub scheduler: Option<Arc<str>>,
    pub flags: Option<Arc<str>>,
    /// Weights of back ends by address, where they are not all the same.
    pub weights: Option<Arc<[(IpAddr, u32)]>>,
}

/// What becomes of a packet that no back end serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unserved {
    /// Answered at once.
    Reject,
    /// Silently lost, since another node would serve it.
    Drop,
}

impl ServicePort {
    pub fn family(&self) -> Family {
        Family::of(self.cluster_ip)
    }

    /// Whether it can be reached from outside of the cluster.
    pub fn external(&self) -> bool {
        self.node_port.is_some()
            || !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
    }

    /// The back ends of a policy.
    pub fn backends(&self, policy: TrafficPolicy) -> &[Backend] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// What happens to traffic to the cluster IP, where it has no back end.
    pub fn internal_unserved(&self) -> Option<Unserved> {
        self.unserved(self.internal_policy)
    }

    /// What happens to traffic from outside, where it has no back end.
    pub fn external_unserved(&self) -> Option<Unserved> {
        self.unserved(self.external_policy)
    }

    fn unserved(&self, policy: TrafficPolicy) -> Option<Unserved> {
        if !self.backends(policy).is_empty() {
            return None;
        }
        match policy {
            TrafficPolicy::Local if self.served => Some(Unserved::Drop),
            _ => Some(Unserved::Reject),
        }
    }
}

/// The health of a Service's local back ends, for a load balancer to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    pub local_endpoints: usize,
}

/// A Service as a whole: its ports in each family, and its health check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePicture {
    pub ports: Vec<ServicePort>,
    pub health: Option<HealthCheck>,
}
