//! The node's part of the pod network where no overlay is run: kept as it has to be.

use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kernel::link;
use kernel::netlink::Socket;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use super::{Accept, Masquerade, NodeNetwork};
use crate::driver::{internal_addresses, pod_networks};

/// How often everything is compared although nothing has been heard of.
const RESYNC: Duration = Duration::from_secs(5);
/// Of an interface that cannot be asked.
const ETHERNET_MTU: u32 = 1500;

/// A routed node's settings.
#[derive(Debug, Clone)]
pub struct Routed {
    pub node_name: String,
    /// The ranges that all pods of the cluster are in.
    pub cluster_networks: Vec<IpNetwork>,
    /// What pods send to anywhere else gets the node's address.
    pub masquerade: bool,
    pub policy_socket: Option<PathBuf>,
    pub conflist: PathBuf,
}

/// Writes what the node's pods need, whenever the node changes, until `shutdown`. What it made
/// stays.
pub async fn keep(config: Routed, caches: WatchCaches, shutdown: CancellationToken) {
    let nodes: WatchCache<Node> = caches.of();
    let mut changes = nodes.subscribe();
    let mut accept = Accept::default();
    loop {
        accept.keep(&config.cluster_networks);
        if let Some(network) = network(&config, &nodes)
            && let Err(error) = network.apply()
        {
            tracing::warn!(%error, "the node's network is not complete, it is tried again");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = changes.recv() => {
                // Heartbeats of many nodes are one look.
                while changes.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}

/// `None` until the node has a range of pod addresses.
fn network(config: &Routed, nodes: &WatchCache<Node>) -> Option<NodeNetwork> {
    let node = nodes.get("", &config.node_name)?;
    let own = pod_networks(&node);
    if own.is_empty() {
        return None;
    }
    let mut exceptions = config.cluster_networks.clone();
    exceptions.extend(own.iter().copied());
    let masquerade = Masquerade {
        sources: own.clone(),
        exceptions,
    };
    Some(NodeNetwork {
        pod_networks: own,
        mtu: underlay_mtu(&node).unwrap_or(ETHERNET_MTU),
        masquerade: config.masquerade.then_some(masquerade),
        policy_socket: config.policy_socket.clone(),
        conflist: config.conflist.clone(),
        underlay: Vec::new(),
    })
}

/// The MTU of the interface that has the node's address.
fn underlay_mtu(node: &Node) -> Option<u32> {
    let mut socket = Socket::route().ok()?;
    let own = internal_addresses(node);
    let addresses = kernel::address::list(&mut socket, None).ok()?;
    let address = addresses
        .iter()
        .find(|address| own.contains(&address.network.ip()))?;
    let links = link::list(&mut socket).ok()?;
    links
        .iter()
        .find(|link| link.index == address.interface)
        .map(|link| link.mtu)
}
