//! The cluster's nodes as a full mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

use crate::config::{Config, Origination, Peer, RESTART_TIME};

/// A node's AS where it is not the cluster's; the same annotation as Calico users know.
const AS_ANNOTATION: &str = "projectcalico.org/ASNumber";
/// As many as Linux hashes over evenly.
const MULTIPATH: usize = 16;

pub(crate) fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    let listed = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_ref());
    listed
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

pub(crate) fn pod_ranges(node: &Node) -> BTreeSet<IpNetwork> {
    let listed = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    listed
        .into_iter()
        .flatten()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn as_number(node: &Node, default: u32) -> u32 {
    let annotations = node.metadata.annotations.as_ref();
    let own = annotations.and_then(|own| own.get(AS_ANNOTATION));
    own.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The address that sessions with a node use: IPv4 where it has it.
fn session_address(node: &Node) -> Option<IpAddr> {
    addresses(node).into_iter().min_by_key(IpAddr::is_ipv6)
}

/// This node's configuration in the mesh; `None` until it has an address.
pub(crate) fn mesh(own_name: &str, default_as: u32, nodes: &[Arc<Node>]) -> Option<Config> {
    let is_own = |node: &Arc<Node>| node.metadata.name.as_deref() == Some(own_name);
    let own = nodes.iter().find(|node| is_own(node))?;
    let own_addresses = addresses(own);
    let own_session = session_address(own)?;
    let v4 = own_addresses.iter().find_map(|address| match address {
        IpAddr::V4(own) => Some(*own),
        IpAddr::V6(_) => None,
    });
    let v6 = own_addresses.iter().find_map(|address| match address {
        IpAddr::V6(own) => Some(*own),
        IpAddr::V4(_) => None,
    });
    let local_as = as_number(own, default_as);
    let router_id = router_id(v4, v6);
    let mut peers = BTreeMap::new();
    for node in nodes.iter().filter(|node| !is_own(node)) {
        let Some(address) = session_address(node).filter(|a| a.is_ipv4() == own_session.is_ipv4())
        else {
            continue;
        };
        let asn = as_number(node, default_as);
        // One side of each pair connects; a collision is only a detour.
        let passive = address < own_session;
        let peer = Peer {
            passive,
            next_hop_self: true,
            ..Peer::internal(asn)
        };
        peers.insert(address, peer);
    }
    let own_range = || Origination {
        blackhole: true,
        ..Origination::default()
    };
    Some(Config {
        local_as,
        router_id,
        cluster_id: router_id.to_bits(),
        next_hop_v4: v4,
        next_hop_v6: v6,
        own_addresses,
        originate: pod_ranges(own)
            .into_iter()
            .map(|range| (range, own_range()))
            .collect(),
        peers,
        restart_time: RESTART_TIME,
        multipath: MULTIPATH,
    })
}

/// The IPv4 address, or 32 bits of the IPv6 one that tell nodes apart.
fn router_id(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Ipv4Addr {
    v4.unwrap_or_else(|| {
        let octets = v6.unwrap_or(Ipv6Addr::LOCALHOST).octets();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> Arc<Node> {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|a| json!({"type": "InternalIP", "address": a}))
            .collect();
        let node = json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges},
            "status": {"addresses": addresses}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn every_other_node_is_a_peer_and_one_side_of_each_pair_connects() {
        let nodes = [
            node(
                "a",
                &["10.0.0.1", "fd00::1"],
                &["10.244.0.0/24", "fd01::/64"],
            ),
            node("b", &["10.0.0.2"], &["10.244.1.0/24"]),
            node("homeless", &[], &[]),
        ];
        let a = mesh("a", 64512, &nodes).unwrap();
        let b = mesh("b", 64512, &nodes).unwrap();
        assert_eq!(a.originate.len(), 2);
        assert_eq!(
            a.peers.keys().collect::<Vec<_>>(),
            [&IpAddr::from([10, 0, 0, 2])]
        );
        let passive = |config: &Config| config.peers.values().next().unwrap().passive;
        assert_ne!(passive(&a), passive(&b));
        assert_eq!(mesh("homeless", 64512, &nodes), None);
        assert_eq!(mesh("missing", 64512, &nodes), None);
    }
}
