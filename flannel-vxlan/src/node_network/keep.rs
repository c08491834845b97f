//! The node's part of the pod network where no overlay is run: kept as it has to be.

use std::path::PathBuf;
use std::time::Duration;

use ip_pools::model::{own_ranges, pod_ranges};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kernel::link;
use kernel::netlink::Socket;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use super::{Accept, Masquerade, NodeNetwork, Pools, with_pools};
use crate::driver::internal_addresses;

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
    /// Further destinations that see the pods' own addresses.
    pub masquerade_exceptions: Vec<IpNetwork>,
    /// The MTU of pods; from the underlay when there is none.
    pub mtu: Option<u32>,
    pub policy_socket: Option<PathBuf>,
    pub pools: Option<Pools>,
    pub conflist: PathBuf,
}

/// Writes what the node's pods need, whenever the node changes, until `shutdown`. What it made
/// stays.
pub async fn keep(mut config: Routed, caches: WatchCaches, shutdown: CancellationToken) {
    let nodes: WatchCache<Node> = caches.of();
    let mut changes = nodes.subscribe();
    let mut accept = Accept::default();
    loop {
        accept.keep(&with_pools(&config.cluster_networks, config.pools.as_ref()));
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
            () = pools_changed(&mut config.pools) => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}

/// Until pools are other ones; for ever without any.
async fn pools_changed(pools: &mut Option<Pools>) {
    let changed = match pools {
        Some(pools) => pools.ranges.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// `None` until the node has a range of pod addresses.
fn network(config: &Routed, nodes: &WatchCache<Node>) -> Option<NodeNetwork> {
    let node = nodes.get("", &config.node_name)?;
    let own = pod_ranges(&node);
    if own.is_empty() {
        return None;
    }
    let pools = config.pools.as_ref();
    let ranges = pools.map(|pools| pools.ranges.borrow().clone());
    let mut exceptions = config.cluster_networks.clone();
    exceptions.extend(&config.masquerade_exceptions);
    let masquerade = Masquerade::of(&own, exceptions, &ranges.unwrap_or_default());
    Some(NodeNetwork {
        own_ranges: own_ranges(&node),
        pool_socket: pools.map(|pools| pools.socket.clone()),
        pod_networks: own,
        mtu: config
            .mtu
            .or_else(|| underlay_mtu(&node))
            .unwrap_or(ETHERNET_MTU),
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
