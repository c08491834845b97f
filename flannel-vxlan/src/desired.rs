//! From the cluster's nodes to what is to be in the kernel of one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ip_pools::ranges::Ranges;
use ip_pools::span::is_host;
use ipnetwork::IpNetwork;
use kernel::link::Vxlan;
use kernel::{Ifindex, MacAddress};

use crate::annotations::Endpoint;
use crate::config::{Carries, When};
use crate::model::{Desired, Device, Outer, Via};

/// The settings that the result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub vni: u32,
    pub port: u16,
    pub direct_routing: bool,
    pub carries: Carries,
    pub no_tx_checksum: bool,
    pub mtu: Option<u32>,
}

/// Our own node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Local {
    pub name: String,
    pub pod_networks: Vec<IpNetwork>,
    pub endpoints: BTreeMap<Outer, LocalEndpoint>,
    /// Networks that are on an interface's link.
    pub on_link: Vec<(IpNetwork, Ifindex)>,
}

/// Our own end of the tunnels of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    pub address: IpAddr,
    pub interface: Ifindex,
    pub underlay_mtu: u32,
    pub mac: MacAddress,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remote {
    pub name: String,
    pub pod_networks: Vec<IpNetwork>,
    pub endpoints: BTreeMap<Outer, Endpoint>,
}

/// Something between nodes that cannot be as they say. Everything else works on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    #[error("nodes {first} and {second} both have the address {address}: {second} is left out")]
    SameAddress {
        first: String,
        second: String,
        address: IpAddr,
    },
    #[error(
        "nodes {first} and {second} both have the Ethernet address {mac}: {second} is left out"
    )]
    SameMac {
        first: String,
        second: String,
        mac: MacAddress,
    },
    #[error(
        "the pod ranges {theirs} of node {second} and {ours} of node {first} overlap: that of {second} is left out"
    )]
    SameNetwork {
        first: String,
        second: String,
        ours: IpNetwork,
        theirs: IpNetwork,
    },
    #[error("node {node} uses VNI {theirs}, this one {ours}")]
    OtherVni {
        node: String,
        ours: u32,
        theirs: u32,
    },
    #[error("there is no tunnel to node {node} for its pod range {network}")]
    NoTunnel { node: String, network: IpNetwork },
}

/// Everything that the nodes want of this one's kernel. `remotes` are in order of age: of two
/// that contradict each other the first is believed.
pub fn desired(
    settings: &Settings,
    local: &Local,
    remotes: &[Remote],
) -> (Desired, BTreeSet<Problem>) {
    let mut builder = Builder {
        settings,
        local,
        desired: Desired {
            devices: devices(settings, local),
            ..Desired::default()
        },
        problems: BTreeSet::new(),
        claims: Claims::of(local),
    };
    for remote in remotes.iter().filter(|remote| remote.name != local.name) {
        builder.remote(remote);
    }
    (builder.desired, builder.problems)
}

/// The MTU of pods: what fits through every tunnel.
pub fn pod_mtu(settings: &Settings, desired: &Desired) -> Option<u32> {
    settings
        .mtu
        .or_else(|| desired.devices.values().map(|device| device.mtu).min())
}

/// The tunnels that this node publishes.
pub fn published(settings: &Settings, local: &Local) -> BTreeMap<Outer, Endpoint> {
    devices(settings, local)
        .into_iter()
        .filter_map(|(outer, device)| {
            let public_ip = local.endpoints.get(&outer)?.address;
            Some((
                outer,
                Endpoint {
                    public_ip,
                    mac: device.mac,
                    vni: settings.vni,
                },
            ))
        })
        .collect()
}

/// The tunnel that carries a family of pod addresses: its own where the node has an address of
/// it, the other one otherwise.
fn carrier(local: &Local, family: Outer) -> Option<Outer> {
    [family, family.other()]
        .into_iter()
        .find(|outer| local.endpoints.contains_key(outer))
}

fn devices(settings: &Settings, local: &Local) -> BTreeMap<Outer, Device> {
    let mut devices = BTreeMap::<Outer, Device>::new();
    for network in &local.pod_networks {
        let Some(outer) = carrier(local, Outer::of_network(network)) else {
            continue;
        };
        let Some(endpoint) = local.endpoints.get(&outer) else {
            continue;
        };
        let fits = endpoint.underlay_mtu.saturating_sub(outer.overhead());
        let device = devices.entry(outer).or_insert_with(|| Device {
            name: outer.device_name(settings.vni),
            vxlan: Vxlan {
                vni: settings.vni,
                port: settings.port,
                local: Some(endpoint.address),
                device: Some(endpoint.interface),
                learning: false,
                group_policy: false,
            },
            mac: endpoint.mac,
            no_tx_checksum: settings.no_tx_checksum,
            mtu: settings.mtu.unwrap_or(fits),
            addresses: BTreeSet::new(),
        });
        // A single address is a pod's, borrowed of another node's block.
        if !is_host(network) {
            device.addresses.insert(network.network());
        }
    }
    devices
}

/// Who was the first to say that something is his.
struct Claims {
    addresses: BTreeMap<IpAddr, String>,
    macs: BTreeMap<MacAddress, String>,
    networks: Ranges,
}

impl Claims {
    fn of(local: &Local) -> Self {
        let name = || local.name.clone();
        Self {
            addresses: local
                .endpoints
                .values()
                .map(|e| (e.address, name()))
                .collect(),
            macs: local.endpoints.values().map(|e| (e.mac, name())).collect(),
            networks: local
                .pod_networks
                .iter()
                .fold(Ranges::default(), |mut all, network| {
                    all.insert(*network, name());
                    all
                }),
        }
    }
}

struct Builder<'a> {
    settings: &'a Settings,
    local: &'a Local,
    desired: Desired,
    problems: BTreeSet<Problem>,
    claims: Claims,
}

impl Builder<'_> {
    fn remote(&mut self, remote: &Remote) {
        let endpoints: BTreeMap<Outer, Endpoint> = remote
            .endpoints
            .iter()
            .filter(|(_, endpoint)| self.claim_endpoint(remote, endpoint))
            .map(|(outer, endpoint)| (*outer, *endpoint))
            .collect();
        // A node that has said nothing yet is no problem.
        if endpoints.is_empty() {
            return;
        }
        for network in &remote.pod_networks {
            if self.claim_network(remote, *network) {
                self.network(remote, *network, &endpoints);
            }
        }
    }

    fn claim_endpoint(&mut self, remote: &Remote, endpoint: &Endpoint) -> bool {
        let second = || remote.name.clone();
        let problem = if endpoint.vni != self.settings.vni {
            let (ours, theirs) = (self.settings.vni, endpoint.vni);
            Some(Problem::OtherVni {
                node: second(),
                ours,
                theirs,
            })
        } else if let Some(first) = self.claims.addresses.get(&endpoint.public_ip) {
            let (first, address) = (first.clone(), endpoint.public_ip);
            Some(Problem::SameAddress {
                first,
                second: second(),
                address,
            })
        } else {
            // Flannel may give both of a node's devices one address: only others' count.
            let first = self
                .claims
                .macs
                .get(&endpoint.mac)
                .filter(|name| **name != remote.name);
            first.cloned().map(|first| Problem::SameMac {
                first,
                second: second(),
                mac: endpoint.mac,
            })
        };
        if let Some(problem) = problem {
            self.problems.insert(problem);
            return false;
        }
        self.claims.addresses.insert(endpoint.public_ip, second());
        self.claims.macs.insert(endpoint.mac, second());
        true
    }

    fn claim_network(&mut self, remote: &Remote, network: IpNetwork) -> bool {
        if let Some((ours, first)) = self.claims.networks.clash(&network) {
            self.problems.insert(Problem::SameNetwork {
                first: first.to_owned(),
                second: remote.name.clone(),
                ours,
                theirs: network,
            });
            return false;
        }
        self.claims.networks.insert(network, remote.name.clone());
        true
    }

    fn network(
        &mut self,
        remote: &Remote,
        network: IpNetwork,
        endpoints: &BTreeMap<Outer, Endpoint>,
    ) {
        let family = Outer::of_network(&network);
        let direct = self.direct(family, endpoints);
        match (self.settings.carries.of(&network), direct) {
            (When::Never, _) | (When::OtherLinks, Some(_)) => return,
            (When::Always, Some(via)) if self.settings.direct_routing => {
                self.desired.routes.insert(network, via);
                return;
            }
            _ => {}
        }
        let both = |outer: &Outer| {
            self.desired.devices.contains_key(outer) && endpoints.contains_key(outer)
        };
        let tunnel = [family, family.other()].into_iter().find(both);
        let Some((outer, endpoint)) = tunnel.and_then(|o| Some((o, endpoints.get(&o)?))) else {
            self.problems.insert(Problem::NoTunnel {
                node: remote.name.clone(),
                network,
            });
            return;
        };
        let gateway = network.network();
        self.desired
            .routes
            .insert(network, Via::Tunnel { outer, gateway });
        self.desired
            .neighbours
            .insert((outer, gateway), endpoint.mac);
        self.desired
            .fdb
            .insert((outer, endpoint.mac), endpoint.public_ip);
    }

    /// A plain route, where the node is on a link of ours.
    fn direct(&self, family: Outer, endpoints: &BTreeMap<Outer, Endpoint>) -> Option<Via> {
        let gateway = endpoints.get(&family)?.public_ip;
        let on_link = self
            .local
            .on_link
            .iter()
            .find(|(network, _)| network.contains(gateway))?;
        Some(Via::Direct {
            gateway,
            interface: on_link.1,
        })
    }
}

#[cfg(test)]
mod tests;
