//! Pods, as a machine reaches them that runs the control plane and is no node.
//!
//! The API server asks webhooks, aggregated servers and what `proxy` names: pods. Its machine has
//! no part in the pod network, so it sends packets for a node's pods to the node, which routes
//! them on; answers come back by themselves. This works where server and node share a link. It
//! owns the routes with protocol number [`PROTOCOL`] and nothing else.
//!
//! **Invariants:** a machine that is a node gets no such routes; nothing is deleted before the
//! first full list of nodes; a route of anybody else for the same range comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ::kernel::address;
use ::kernel::netlink::{self, Socket};
use ::kernel::route::{self, Filter, NextHop, Protocol, Route};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

/// The protocol number of these routes.
pub const PROTOCOL: Protocol = Protocol(205);
/// Behind whatever another part of this machine has for the same range.
const PRIORITY: u32 = 4096;
/// Changes that come together are handled together.
const SETTLE: Duration = Duration::from_millis(50);
/// Routes that somebody deleted, and nodes that could not be reached, are looked at so often.
const AGAIN: Duration = Duration::from_secs(30);

/// Ranges of pods and the node that leads to each.
pub type Ways = BTreeMap<IpNetwork, IpAddr>;

/// What changes one set of ways into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Set(IpNetwork, IpAddr),
    Delete(IpNetwork, IpAddr),
}

/// The ways to all nodes' pods; none on a machine that is a node itself.
pub fn desired<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &BTreeSet<IpAddr>) -> Ways {
    let mut ways = Ways::new();
    for node in nodes {
        let addresses = internal_addresses(node);
        if addresses.iter().any(|address| own.contains(address)) {
            return Ways::new();
        }
        for range in pod_ranges(node) {
            let same_family = |address: &&IpAddr| address.is_ipv4() == range.is_ipv4();
            if let Some(address) = addresses.iter().find(same_family) {
                ways.insert(range, *address);
            }
        }
    }
    ways
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.iter();
    status
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

fn pod_ranges(node: &Node) -> Vec<IpNetwork> {
    let spec = node.spec.iter();
    spec.flat_map(|spec| spec.pod_cidrs.iter().flatten())
        .filter_map(|range| range.parse().ok())
        .collect()
}

/// Deletions first: a range may have moved to another node.
pub fn plan(desired: &Ways, actual: &Ways) -> Vec<Op> {
    let stale = actual
        .iter()
        .filter(|(range, node)| desired.get(range) != Some(node))
        .map(|(range, node)| Op::Delete(*range, *node));
    let missing = desired
        .iter()
        .filter(|(range, node)| actual.get(range) != Some(node))
        .map(|(range, node)| Op::Set(*range, *node));
    stale.chain(missing).collect()
}

/// Keeps the routes until `shutdown`; they stay when this process ends.
pub async fn run(caches: WatchCaches, shutdown: CancellationToken) {
    let nodes = caches.of::<Node>();
    let mut changes = nodes.subscribe();
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = nodes.synced() => {}
    }
    let mut told = BTreeSet::new();
    let mut wake = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = changes.recv() => match change {
                Ok(_) | Err(RecvError::Lagged(_)) => wake = wake.min(Instant::now() + SETTLE),
                Err(RecvError::Closed) => return,
            },
            () = sleep_until(wake) => {
                let all = nodes.list();
                if let Err(error) = round(all.iter().map(AsRef::as_ref), &mut told) {
                    tracing::warn!(%error, "cannot look at this machine's routes to pods");
                    return;
                }
                wake = Instant::now() + AGAIN;
            }
        }
    }
}

/// `told` has the ways of which a failure was told.
fn round<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    told: &mut BTreeSet<IpNetwork>,
) -> Result<(), netlink::Error> {
    let mut socket = Socket::route()?;
    let own = address::list(&mut socket, None)?;
    let own = own.iter().map(|address| address.network.ip()).collect();
    let wanted = desired(nodes, &own);
    let actual = observe(&mut socket)?;
    for op in plan(&wanted, &actual) {
        match (apply(&mut socket, &op), op) {
            (Ok(()), Op::Set(range, _)) => drop(told.remove(&range)),
            (Ok(()), Op::Delete(..)) => {}
            (Err(error), Op::Set(range, node)) => {
                if told.insert(range) {
                    tracing::warn!(%range, %node, %error,
                        "webhooks and aggregated servers in this range cannot be reached");
                }
            }
            (Err(error), Op::Delete(range, _)) => tracing::warn!(%range, %error, "a stale route"),
        }
    }
    Ok(())
}

fn observe(socket: &mut Socket) -> Result<Ways, netlink::Error> {
    let routes = route::list(socket, Filter::protocol(PROTOCOL))?;
    let way = |route: &Route| Some((route.destination, route.next_hops.first()?.gateway?));
    Ok(routes.iter().filter_map(way).collect())
}

fn apply(socket: &mut Socket, op: &Op) -> Result<(), netlink::Error> {
    let route = |range: &IpNetwork, node: &IpAddr| {
        Route::new(*range, PROTOCOL, NextHop::via(*node)).with_priority(PRIORITY)
    };
    match op {
        Op::Set(range, node) => socket.execute(&route::replace(&route(range, node))),
        Op::Delete(range, node) => socket.execute(&route::delete(&route(range, node))),
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    fn node(name: &str, address: &str, ranges: &[&str]) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "podCIDRs": ranges },
            "status": { "addresses": [
                { "type": "Hostname", "address": name },
                { "type": "InternalIP", "address": address },
            ]},
        }))
        .unwrap()
    }

    fn ways(text: &[(&str, &str)]) -> Ways {
        let parse = |(range, node): &(&str, &str)| (range.parse().unwrap(), node.parse().unwrap());
        text.iter().map(parse).collect()
    }

    #[test]
    fn every_range_leads_to_its_node_by_the_address_of_its_family() {
        let nodes = [
            node("a", "10.0.0.1", &["10.244.0.0/24", "fd00::/64"]),
            node("b", "10.0.0.2", &["10.244.1.0/24"]),
        ];
        let own = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        let expect = ways(&[("10.244.0.0/24", "10.0.0.1"), ("10.244.1.0/24", "10.0.0.2")]);
        assert_eq!(desired(&nodes, &own), expect);
    }

    #[test]
    fn a_machine_that_is_a_node_has_no_such_ways() {
        let nodes = [
            node("a", "10.0.0.1", &["10.244.0.0/24"]),
            node("b", "10.0.0.2", &["10.244.1.0/24"]),
        ];
        let own = BTreeSet::from(["10.0.0.2".parse().unwrap()]);
        assert_eq!(desired(&nodes, &own), Ways::new());
    }

    #[test]
    fn a_plan_deletes_what_is_stale_adds_what_is_missing_and_leaves_the_rest() {
        let wanted = ways(&[("10.1.0.0/24", "10.0.0.1"), ("10.2.0.0/24", "10.0.0.2")]);
        let actual = ways(&[("10.1.0.0/24", "10.0.0.7"), ("10.3.0.0/24", "10.0.0.3")]);
        let (one, two) = (
            "10.1.0.0/24".parse().unwrap(),
            "10.2.0.0/24".parse().unwrap(),
        );
        let three = "10.3.0.0/24".parse().unwrap();
        assert_eq!(
            plan(&wanted, &actual),
            [
                Op::Delete(one, "10.0.0.7".parse().unwrap()),
                Op::Delete(three, "10.0.0.3".parse().unwrap()),
                Op::Set(one, "10.0.0.1".parse().unwrap()),
                Op::Set(two, "10.0.0.2".parse().unwrap()),
            ]
        );
        assert_eq!(plan(&wanted, &wanted), []);
    }
}
