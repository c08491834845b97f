//! Where does a packet to a Service go, and what is its source there? Pure code over the same
//! picture that the kernel is programmed from.
//!
//! ```
//! # use std::collections::{BTreeMap, BTreeSet};
//! use proxy::trace::{Node, Packet, trace};
//! let node = Node { addresses: BTreeSet::new(), config: &proxy::Config::default() };
//! let packet = Packet {
//!     source: "10.244.1.2".parse()?,
//!     destination: "10.96.0.10".parse()?,
//!     protocol: proxy::model::Protocol::Tcp,
//!     port: 80,
//! };
//! for step in trace(&BTreeMap::new(), &node, &packet) {
//!     println!("{step}");
//! }
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::backend::Pictures;
use crate::config::{Config, Mode};
use crate::driver::ZONE_LABEL;
use crate::model::{Backend, PortId, Protocol, ServicePort, TrafficPolicy, Unserved};
use crate::picture::Index;

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// The node that the packet comes through.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Its own addresses, without virtual ones.
    pub addresses: BTreeSet<IpAddr>,
    pub config: &'a Config,
}

/// What the API knows that decides over a packet.
#[derive(Debug, Clone, Copy)]
pub struct Objects<'a> {
    pub services: &'a [Service],
    pub slices: &'a [EndpointSlice],
    /// The node that the packet comes through.
    pub node: &'a ApiNode,
}

/// Follows a packet through the proxy of a node, from the objects of the API. The ranges of
/// pods and Services, the mode and all else that a proxy is told are the configuration's.
pub fn trace_objects(objects: &Objects<'_>, config: &Config, packet: &Packet) -> Vec<Step> {
    let metadata = &objects.node.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let zone = metadata.labels.as_ref().and_then(|all| all.get(ZONE_LABEL));
    let mut index = Index::new(name, config.proxy_name.as_deref());
    index.set_zone(zone.map(String::as_str));
    index.set_service_cidrs(&config.service_cidrs);
    let services = objects.services.iter();
    services.for_each(|service| index.service_applied(service));
    let slices = objects.slices.iter();
    slices.for_each(|slice| index.slice_applied(slice));
    index.take_changes();
    let status = objects.node.status.as_ref();
    let listed = status
        .into_iter()
        .flat_map(|s| s.addresses.iter().flatten());
    let addresses = listed.filter_map(|own| own.address.parse().ok()).collect();
    let node = Node { addresses, config };
    trace(index.pictures(), &node, packet)
}

/// As what a Service was addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

/// Where the packet comes from, which decides about policies and masquerading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Pod,
    Node,
    Outside,
}

/// One step of a packet's way. The last step of a trace says how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    From(Origin),
    /// The destination is a Service's.
    Addressed {
        service: PortId,
        front: Front,
    },
    /// The destination is in the Service range or a cluster IP, but no Service has the port.
    Undefined,
    /// The load balancer's source ranges do not have the source.
    OutsideSourceRanges,
    /// A policy narrows or widens the choice.
    Policy(TrafficPolicy),
    /// A client stays with its back end for so many seconds.
    Affinity(u32),
    /// End: a reset, or an ICMP error.
    Refused,
    /// End: no answer.
    Dropped,
    /// End: one of these gets it.
    Served(Vec<Served>),
    /// End: it is not a Service's, and passes unchanged.
    Unchanged,
}

/// A back end, and what it sees as the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    pub by: SocketAddr,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The sender's own address.
    Kept,
    /// An address of this node, so that answers come back through it.
    Masqueraded,
}

/// Follows a packet.
pub fn trace(pictures: &Pictures, node: &Node<'_>, packet: &Packet) -> Vec<Step> {
    let origin = node.origin(packet.source);
    let mut steps = vec![Step::From(origin)];
    let ports = || pictures.values().flat_map(|picture| &picture.ports);
    let found = ports().find_map(|port| Some((port, node.front(port, packet)?)));
    let Some((port, front)) = found else {
        let virtual_one = ports().any(|port| port.cluster_ip == packet.destination);
        let ranges = &node.config.service_cidrs;
        if virtual_one
            || ranges
                .iter()
                .any(|range| range.contains(packet.destination))
        {
            steps.extend([Step::Undefined, Step::Refused]);
        } else {
            steps.push(Step::Unchanged);
        }
        return steps;
    };
    let service = port.id.clone();
    steps.push(Step::Addressed { service, front });
    let ranges = &port.source_ranges;
    if front == Front::LoadBalancer
        && !ranges.is_empty()
        && !ranges.iter().any(|range| range.contains(packet.source))
    {
        steps.extend([Step::OutsideSourceRanges, Step::Dropped]);
        return steps;
    }
    steps.extend(node.choose(port, front, origin, packet.source));
    steps
}

impl Node<'_> {
    fn origin(&self, source: IpAddr) -> Origin {
        let cidrs = &self.config.cluster_cidrs;
        if self.addresses.contains(&source) || source.is_loopback() {
            Origin::Node
        } else if cidrs.iter().any(|range| range.contains(source)) {
            Origin::Pod
        } else {
            Origin::Outside
        }
    }

    fn front(&self, port: &ServicePort, packet: &Packet) -> Option<Front> {
        let to = packet.destination;
        if port.protocol != packet.protocol || port.cluster_ip.is_ipv6() != to.is_ipv6() {
            return None;
        }
        if port.port == packet.port {
            if port.cluster_ip == to {
                return Some(Front::ClusterIp);
            }
            if port.load_balancer_ips.contains(&to) {
                return Some(Front::LoadBalancer);
            }
            if port.external_ips.contains(&to) {
                return Some(Front::ExternalIp);
            }
        }
        let node_port = port.node_port == Some(packet.port) && self.serves_node_ports(to);
        node_port.then_some(Front::NodePort)
    }

    fn serves_node_ports(&self, address: IpAddr) -> bool {
        let config = self.config;
        let wanted = config.allows_node_ports(address);
        if address.is_loopback() {
            let able = address.is_ipv4() && config.mode != Mode::Ipvs;
            return able && config.localhost_nodeports && wanted;
        }
        wanted && self.addresses.contains(&address)
    }

    fn choose(
        &self,
        port: &ServicePort,
        front: Front,
        origin: Origin,
        source: IpAddr,
    ) -> Vec<Step> {
        use TrafficPolicy::{Cluster, Local};
        let internal = front == Front::ClusterIp;
        let policy = match (internal, port.external_policy, origin) {
            (true, ..) => port.internal_policy,
            // What begins in the cluster ignores the external policy.
            (false, Local, Origin::Pod | Origin::Node) if !port.cluster.is_empty() => Cluster,
            (false, policy, _) => policy,
        };
        let mut steps = vec![Step::Policy(policy)];
        let unserved = match internal {
            true => port.internal_unserved(),
            false => port.external_unserved(),
        };
        let backends = port.backends(policy);
        if backends.is_empty() {
            steps.push(match unserved {
                Some(Unserved::Drop) => Step::Dropped,
                _ => Step::Refused,
            });
            return steps;
        }
        steps.extend(port.affinity.map(Step::Affinity));
        let cidrs = &self.config.cluster_cidrs;
        let masqueraded = match (internal, port.external_policy) {
            (true, _) => self.config.masquerade_all || (!cidrs.is_empty() && origin != Origin::Pod),
            (false, Cluster) => true,
            (false, Local) => origin == Origin::Node,
        };
        // A back end that reaches itself must get the answer from the Service's address. That of
        // another node does so by its own node; only iptables has a rule for it here too.
        let itself = |backend: &Backend| {
            backend.address == source && (backend.local || self.config.mode == Mode::Iptables)
        };
        let served = |backend: &Backend| Served {
            by: SocketAddr::new(backend.address, backend.port),
            source: match masqueraded || itself(backend) {
                true => Source::Masqueraded,
                false => Source::Kept,
            },
        };
        steps.push(Step::Served(backends.iter().map(served).collect()));
        steps
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster IP",
            Self::ExternalIp => "external IP",
            Self::LoadBalancer => "load balancer's address",
            Self::NodePort => "node port",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(Origin::Pod) => f.write_str("it comes from a pod"),
            Self::From(Origin::Node) => f.write_str("it comes from the node itself"),
            Self::From(Origin::Outside) => f.write_str("it comes from outside of the cluster"),
            Self::Addressed { service, front } => {
                write!(f, "it is sent to the {front} of {service}")
            }
            Self::Undefined => f.write_str("no Service has this address and port"),
            Self::OutsideSourceRanges => f.write_str("the Service's source ranges leave it out"),
            Self::Policy(TrafficPolicy::Cluster) => f.write_str("any back end may serve it"),
            Self::Policy(TrafficPolicy::Local) => {
                f.write_str("only back ends on this node may serve it")
            }
            Self::Affinity(seconds) => {
                write!(f, "its client stays with one back end for {seconds} s")
            }
            Self::Refused => f.write_str("it is refused"),
            Self::Dropped => f.write_str("it is dropped"),
            Self::Served(all) => {
                f.write_str("it goes to ")?;
                for (index, served) in all.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let source = match served.source {
                        Source::Kept => "its own source",
                        Source::Masqueraded => "this node's address as its source",
                    };
                    write!(f, "{separator}{} with {source}", served.by)?;
                }
                Ok(())
            }
            Self::Unchanged => f.write_str("it is not sent to a Service, and passes unchanged"),
        }
    }
}

#[cfg(test)]
mod tests;
