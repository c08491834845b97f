//! From nodes, Services and resources to the configuration of one node's speaker. Pure.

mod overrides;
mod peers;
mod policy;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::config::{Config, DEFAULT_AS, Origination, RESTART_TIME};
use crate::resources::{
    BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec, IpPoolSpec, SecretKeyRef, VxlanMode,
};
use crate::wire::attribute::community;
use ip_pools::selector::Selector;

/// A node's AS where it is not the cluster's; the same annotations as Calico users know.
const AS_ANNOTATION: &str = "projectcalico.org/ASNumber";
const CLUSTER_ID_ANNOTATION: &str = "projectcalico.org/RouteReflectorClusterID";
/// `true`: peers are asked to prefer other ways (RFC 8326).
const SHUTDOWN_ANNOTATION: &str = "fairlead.io/bgp-graceful-shutdown";
/// As many as Linux hashes over evenly.
const MULTIPATH: usize = 16;

/// A machine that speaks BGP: a node of the cluster, or one that a file describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) ranges: BTreeSet<IpNetwork>,
    pub(crate) asn: Option<u32>,
    pub(crate) router_id: Option<Ipv4Addr>,
    /// It reflects routes under this identifier.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) shutting_down: bool,
    /// Seconds; the oldest nodes reflect.
    pub(crate) created: i64,
}

impl Host {
    pub(crate) fn of(node: &Node) -> Self {
        let annotations = node.metadata.annotations.clone().unwrap_or_default();
        let parsed = |name: &str| annotations.get(name).map(String::as_str);
        let listed = node
            .status
            .as_ref()
            .and_then(|own| own.addresses.as_deref());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            addresses: listed
                .unwrap_or_default()
                .iter()
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            ranges: ip_pools::model::pod_ranges(node).into_iter().collect(),
            asn: parsed(AS_ANNOTATION).and_then(|text| text.parse().ok()),
            router_id: None,
            cluster_id: parsed(CLUSTER_ID_ANNOTATION).and_then(|text| text.parse().ok()),
            shutting_down: parsed(SHUTDOWN_ANNOTATION) == Some("true"),
            created: node
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
        }
    }

    /// The address that sessions with it use: IPv4 where it has it.
    fn session_address(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().min_by_key(IpAddr::is_ipv6)
    }

    fn v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(own) => Some(*own),
            IpAddr::V6(_) => None,
        })
    }

    fn v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(own) => Some(*own),
            IpAddr::V4(_) => None,
        })
    }

    /// What was given, the IPv4 address, or 32 bits of the IPv6 one that tell nodes apart.
    fn router_id(&self) -> Ipv4Addr {
        self.router_id.or_else(|| self.v4()).unwrap_or_else(|| {
            let octets = self.v6().unwrap_or(Ipv6Addr::LOCALHOST).octets();
            let folded = octets.chunks(4).fold([0_u8; 4], |mut folded, chunk| {
                folded
                    .iter_mut()
                    .zip(chunk)
                    .for_each(|(into, byte)| *into ^= byte);
                folded
            });
            // Zero is not allowed.
            Ipv4Addr::from(u32::from_be_bytes(folded).max(1))
        })
    }
}

/// An object that something is said about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Configuration,
    Peer,
    Filter,
    Pool,
    Service,
}

pub(crate) type Problems = BTreeMap<(Kind, String), String>;

/// Everything that decides on a node's configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    pub(crate) own_name: String,
    /// Of nodes that nothing else says about.
    pub(crate) default_as: Option<u32>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) configuration: BgpConfigurationSpec,
    /// What the object `node.NAME` says in the place of the one for all nodes.
    pub(crate) own_configuration: Option<BgpConfigurationSpec>,
    pub(crate) peers: BTreeMap<String, BgpPeerSpec>,
    pub(crate) filters: BTreeMap<String, BgpFilterSpec>,
    pub(crate) pools: BTreeMap<String, IpPoolSpec>,
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) secrets: BTreeMap<SecretKeyRef, String>,
    /// Networks on the links of this node.
    pub(crate) on_link: Vec<IpNetwork>,
}

/// What became of the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) config: Config,
    /// What cannot be used, and why; everything else is.
    pub(crate) problems: Problems,
}

impl Inputs {
    fn own(&self) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == self.own_name)
    }

    fn cluster_as(&self) -> u32 {
        let fallback = self.default_as.unwrap_or(DEFAULT_AS);
        self.configuration.as_number.unwrap_or(fallback)
    }

    fn as_of(&self, host: &Host) -> u32 {
        host.asn.unwrap_or_else(|| self.cluster_as())
    }

    /// The keys of Secrets that peers are configured with.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<SecretKeyRef> {
        let of_peers = self.peers.values().map(|peer| &peer.password);
        let all = of_peers.chain([&self.configuration.node_mesh_password]);
        all.flatten()
            .filter_map(|password| password.secret_key_ref.clone())
            .collect()
    }

    /// The node's configuration; `None` until it has an address.
    pub(crate) fn compile(&self) -> Option<Compiled> {
        let mut problems = Problems::new();
        self.with_overrides(&mut problems).compile_into(problems)
    }

    fn compile_into(&self, mut problems: Problems) -> Option<Compiled> {
        let own = self.own()?;
        own.session_address()?;
        let router_id = own.router_id();
        let maximum = self.configuration.max_paths;
        let mut config = Config {
            cluster_id: own.cluster_id.unwrap_or(router_id).to_bits(),
            next_hop_v4: own.v4(),
            next_hop_v6: own.v6(),
            own_addresses: own.addresses.clone(),
            restart_time: self
                .configuration
                .node_mesh_max_restart_time
                .unwrap_or(RESTART_TIME),
            multipath: maximum.map_or(MULTIPATH, usize::from),
            graceful_shutdown: own.shutting_down,
            ..Config::new(self.as_of(own), router_id)
        };
        self.originate_ranges(own, &mut config, &mut problems);
        services::originate(self, own, &mut config, &mut problems);
        policy::tag(self, &mut config, &mut problems);
        config
            .not_for_kernel
            .extend(self.tunnelled(own, &mut problems));
        peers::mesh(self, own, &mut config, &mut problems);
        peers::explicit(self, own, &mut config, &mut problems);
        Some(Compiled { config, problems })
    }

    fn originate_ranges(&self, own: &Host, config: &mut Config, problems: &mut Problems) {
        for range in &own.ranges {
            let pool = self.pool_of(range, problems);
            let hidden = pool.is_some_and(|pool| pool.disable_bgp_export);
            let no_advertise = crate::config::Community::Standard(community::NO_ADVERTISE);
            let origination = Origination {
                communities: hidden.then_some(no_advertise).into_iter().collect(),
                // A single address is a pod's; its block, which is another node's, has one.
                blackhole: !ip_pools::span::is_host(range),
            };
            config.originate.insert(*range, origination);
        }
    }

    /// The smallest pool that contains the range.
    fn pool_of(&self, range: &IpNetwork, problems: &mut Problems) -> Option<&IpPoolSpec> {
        let mut found: Option<(u8, &IpPoolSpec)> = None;
        for (name, pool) in &self.pools {
            match pool.cidr.parse::<IpNetwork>() {
                Ok(cidr) if contains(&cidr, range) => {
                    if found.is_none_or(|(length, _)| length < cidr.prefix()) {
                        found = Some((cidr.prefix(), pool));
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    let what = format!("cidr: {:?} is no network such as 10.0.0.0/8", pool.cidr);
                    problems.insert((Kind::Pool, name.clone()), what);
                }
            }
        }
        found.map(|(_, pool)| pool)
    }

    /// Pod ranges that a tunnel leads to.
    fn tunnelled(&self, own: &Host, problems: &mut Problems) -> BTreeSet<IpNetwork> {
        let mut ranges = BTreeSet::new();
        for host in self.hosts.iter().filter(|host| host.name != own.name) {
            for range in &host.ranges {
                let pool = self.pool_of(range, problems);
                let tunnel = match pool.and_then(|pool| pool.vxlan_mode).unwrap_or_default() {
                    VxlanMode::Never => false,
                    VxlanMode::Always => true,
                    VxlanMode::CrossSubnet => !self.is_on_link(host, range.is_ipv4()),
                };
                if tunnel {
                    ranges.insert(*range);
                }
            }
        }
        ranges
    }

    /// Whether packets of the family reach the node without a router between.
    fn is_on_link(&self, host: &Host, ipv4: bool) -> bool {
        let mut of_family = host.addresses.iter().filter(|own| own.is_ipv4() == ipv4);
        let on_link = |address: &IpAddr| self.on_link.iter().any(|net| net.contains(*address));
        of_family.any(on_link)
    }
}

/// Whether the whole of `inner` is in `outer`.
fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4()
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}
