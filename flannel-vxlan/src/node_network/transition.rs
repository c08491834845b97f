//! From one mode to the other, node by node, while pods talk.
//!
//! A node says in [`MODE`] how far it is: `vxlan`; `bgp`, with routes to those that speak BGP as
//! well; `bgp-only`, when it has such a route to everybody and sends nothing through the tunnel
//! any more. As long as somebody uses tunnels, a node in the routed mode runs the overlay as well:
//! its routes stand behind those of BGP. When all are `bgp-only`, the overlay goes. In the other
//! direction a node deletes a route of BGP when it has one through the tunnel to the same range.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ip_pools::model::pod_ranges;
use ip_pools::span::contains;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kernel::netlink::{self, Socket, ignore_not_found};
use kernel::route::{self, Protocol, Route};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use crate::annotations;

/// On a Node: its network mode, and how far the change to it is.
pub const MODE: &str = "fairlead.io/network";
/// How often it is looked how far the change is.
const LOOK: Duration = Duration::from_secs(1);

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Vxlan,
    Bgp,
    BgpOnly,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Bgp => "bgp",
            Self::BgpOnly => "bgp-only",
        }
    }

    /// What a Node says; one that says nothing but has Flannel's annotations uses tunnels.
    pub fn of(node: &Node) -> Option<Self> {
        let all = [Self::Vxlan, Self::Bgp, Self::BgpOnly];
        match node.annotations().get(MODE) {
            Some(text) => all.into_iter().find(|stage| stage.name() == text),
            None => {
                let tunnels = annotations::decode(node.annotations());
                let any = !matches!(tunnels, Ok(tunnels) if tunnels.is_empty());
                any.then_some(Self::Vxlan)
            }
        }
    }
}

/// The mode that this node is to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Vxlan,
    Bgp,
}

/// Whether a node in the routed mode, which is at `stage`, needs the overlay beside it. Once it
/// is there (`before`) it stays until nobody sends anything through it.
pub fn needs_overlay(own: &str, stage: Stage, nodes: &[Arc<Node>], before: bool) -> bool {
    let others = nodes.iter().filter(|node| node.name_any() != own);
    let mut stages = others.map(|node| Stage::of(node));
    let done = |stage: Option<Stage>| matches!(stage, Some(Stage::BgpOnly) | None);
    match before {
        true => stage != Stage::BgpOnly || !stages.all(done),
        false => stages.any(|stage| stage == Some(Stage::Vxlan)),
    }
}

/// Whether BGP has brought a route to every range of every other node.
pub fn is_routed(own: &str, nodes: &[Arc<Node>], routes: &[Route]) -> bool {
    let learnt: BTreeSet<IpNetwork> = routes
        .iter()
        .filter(|route| route.protocol == Protocol::BGP)
        .map(|route| route.destination)
        .collect();
    let others = nodes.iter().filter(|node| node.name_any() != own);
    others
        .flat_map(|node| pod_ranges(node))
        .all(|range| learnt.contains(&range))
}

/// Routes that BGP has left on a node that uses tunnels: to pods, with another way there; those
/// to its own; and all to pods once nobody speaks BGP. `pod_networks` are all that pods have or had
/// addresses of, also by a pool that is gone.
pub fn left_by_bgp(
    own: &str,
    nodes: &[Arc<Node>],
    pod_networks: &BTreeSet<IpNetwork>,
    routes: &[Route],
) -> Vec<Route> {
    let tunnelled: BTreeSet<IpNetwork> = routes
        .iter()
        .filter(|route| route.protocol == Protocol::VXLAN)
        .map(|route| route.destination)
        .collect();
    let own_node = nodes.iter().find(|node| node.name_any() == own);
    let own_ranges = own_node.map(|node| pod_ranges(node)).unwrap_or_default();
    let own_ranges: BTreeSet<IpNetwork> = own_ranges.into_iter().collect();
    let speaks = |node: &Arc<Node>| matches!(Stage::of(node), Some(Stage::Bgp | Stage::BgpOnly));
    let nobody = !nodes
        .iter()
        .any(|node| node.name_any() != own && speaks(node));
    let is_left = |route: &&Route| {
        let to = route.destination;
        let within = |all: &BTreeSet<IpNetwork>| all.iter().any(|own| contains(own, &to));
        route.protocol == Protocol::BGP
            && within(pod_networks)
            && (nobody || tunnelled.contains(&to) || within(&own_ranges))
    };
    routes.iter().filter(is_left).cloned().collect()
}

/// What the follower needs.
#[derive(Clone)]
pub struct Transition {
    pub node_name: String,
    pub mode: Mode,
    pub vni: u32,
    /// Everything that pods have addresses of.
    pub pod_networks: Vec<IpNetwork>,
    pub client: Client,
    pub caches: WatchCaches,
}

impl Transition {
    /// Says how far this node is and takes away what the other mode has left, until `stop`. The
    /// answer says whether the overlay is needed beside the routed mode.
    pub async fn start(self, stop: CancellationToken) -> watch::Receiver<bool> {
        let nodes: WatchCache<Node> = self.caches.of();
        nodes.synced().await;
        // What the node says still is the mode that it was in.
        let own = nodes.get("", &self.node_name);
        let before = own.is_some_and(|node| Stage::of(&node) == Some(Stage::Vxlan));
        let mut pods: BTreeSet<IpNetwork> = self.pod_networks.iter().copied().collect();
        let mut needed = self.look(&nodes, &mut pods, before).await;
        let (sender, receiver) = watch::channel(needed);
        tokio::spawn(async move {
            let mut changes = nodes.subscribe();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = changes.recv() => while changes.try_recv().is_ok() {},
                    () = tokio::time::sleep(LOOK) => {}
                }
                needed = self.look(&nodes, &mut pods, needed).await;
                sender.send_if_modified(|old| std::mem::replace(old, needed) != needed);
            }
        });
        receiver
    }

    /// One look; whether the overlay is needed. A block of pods that is given back, or whose pool is
    /// deleted, meanwhile, stays in `pods`: its route would stay for ever otherwise.
    async fn look(
        &self,
        nodes: &WatchCache<Node>,
        pods: &mut BTreeSet<IpNetwork>,
        before: bool,
    ) -> bool {
        let all = nodes.list();
        pods.extend(all.iter().flat_map(|node| pod_ranges(node)));
        match self.observe(&all, pods, before) {
            Ok((stage, needed)) => {
                self.publish(&all, stage).await;
                needed
            }
            Err(error) => {
                tracing::warn!(%error, "it is not known how far the change of the network is");
                before
            }
        }
    }

    fn observe(
        &self,
        nodes: &[Arc<Node>],
        pods: &BTreeSet<IpNetwork>,
        before: bool,
    ) -> Result<(Stage, bool), netlink::Error> {
        let mut socket = Socket::route()?;
        let routes = route::list(&mut socket, route::Filter::main_table())?;
        let own = &self.node_name;
        if self.mode == Mode::Vxlan {
            for left in left_by_bgp(own, nodes, pods, &routes) {
                ignore_not_found(socket.execute(&route::delete(&left)))?;
            }
            return Ok((Stage::Vxlan, true));
        }
        let stage = match is_routed(own, nodes, &routes) {
            true => Stage::BgpOnly,
            false => Stage::Bgp,
        };
        Ok((stage, needs_overlay(own, stage, nodes, before)))
    }

    /// Says it in the Node; what is not written is written after the next look.
    async fn publish(&self, nodes: &[Arc<Node>], stage: Stage) {
        let own = nodes.iter().find(|node| node.name_any() == self.node_name);
        let said = own.and_then(|node| node.annotations().get(MODE));
        if own.is_none() || said.is_some_and(|text| text == stage.name()) {
            return;
        }
        let patch = json!({ "metadata": { "annotations": { MODE: stage.name() } } });
        if let Err(error) = annotate(&self.client, &self.node_name, patch).await {
            tracing::warn!(%error, "the network's mode is not published, it is tried again");
        }
    }

    /// Takes the overlay away: the devices with all that is on them, its routes, and what other
    /// nodes would make tunnels of.
    pub async fn leave_overlay(&self) {
        if let Err(error) = crate::sweep(self.vni) {
            tracing::warn!(%error, "the overlay is not swept");
        }
        let nodes: WatchCache<Node> = self.caches.of();
        let own = nodes.get("", &self.node_name);
        let nothing = annotations::nothing();
        let there = own.is_some_and(|node| {
            let said = node.annotations();
            nothing.keys().any(|name| said.contains_key(name))
        });
        if !there {
            return;
        }
        let patch = json!({ "metadata": { "annotations": nothing } });
        if let Err(error) = annotate(&self.client, &self.node_name, patch).await {
            tracing::warn!(%error, "the tunnels' annotations are not taken away");
        }
    }
}

async fn annotate(client: &Client, node: &str, patch: serde_json::Value) -> kube::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(patch);
    api.patch(node, &PatchParams::default(), &patch)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use kernel::Ifindex;
    use kernel::route::NextHop;

    use super::*;

    fn node(number: u8, stage: &str) -> Arc<Node> {
        let annotations = match stage {
            "" => json!({}),
            "flannel" => json!({
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:09\"}",
                "flannel.alpha.coreos.com/public-ip": "192.0.2.9",
            }),
            said => json!({ MODE: said }),
        };
        let node = json!({
            "metadata": {"name": format!("node{number}"), "annotations": annotations},
            "spec": {"podCIDRs": [format!("10.244.{number}.0/24")]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn nodes(stages: &[&str]) -> Vec<Arc<Node>> {
        let numbered = (1..).zip(stages);
        numbered
            .map(|(number, stage)| node(number, stage))
            .collect()
    }

    fn route(to: &str, protocol: Protocol) -> Route {
        Route::new(to.parse().unwrap(), protocol, NextHop::device(Ifindex(2)))
    }

    #[test]
    fn the_overlay_is_needed_until_everybody_routes() {
        for (stages, before, expected) in [
            (["bgp", "vxlan"], true, true),
            (["bgp", "vxlan"], false, true),
            (["bgp", "flannel"], false, true),
            // A cluster that was never another one, and a node that joins it.
            (["bgp", "bgp"], false, false),
            (["bgp", ""], false, false),
            // In the middle, nobody goes first.
            (["bgp", "bgp-only"], true, true),
            (["bgp-only", "bgp"], true, true),
            (["bgp-only", "bgp-only"], true, false),
        ] {
            let all = nodes(&stages);
            let own = Stage::of(&all[0]).unwrap();
            let needed = needs_overlay("node1", own, &all, before);
            assert_eq!(needed, expected, "{stages:?} {before}");
        }
    }

    #[test]
    fn a_node_routes_when_it_has_a_route_to_everybody() {
        let all = nodes(&["bgp", "bgp", "bgp"]);
        let mut routes = vec![
            route("10.244.2.0/24", Protocol::BGP),
            route("10.244.3.0/24", Protocol::VXLAN),
        ];
        assert!(!is_routed("node1", &all, &routes));
        routes.push(route("10.244.3.0/24", Protocol::BGP));
        assert!(is_routed("node1", &all, &routes));
    }

    #[test]
    fn routes_of_bgp_go_when_there_is_another_way() {
        let cluster = BTreeSet::from(["10.244.0.0/16".parse().unwrap()]);
        let routes = [
            route("10.244.1.0/24", Protocol::BGP),
            route("10.244.2.0/24", Protocol::BGP),
            route("10.244.2.0/24", Protocol::VXLAN),
            route("10.244.3.0/24", Protocol::BGP),
            route("198.51.100.0/24", Protocol::BGP),
            route("10.244.1.7/32", Protocol::CNI),
        ];
        let left = |stages: &[&str]| -> Vec<String> {
            let left = left_by_bgp("node1", &nodes(stages), &cluster, &routes);
            left.iter().map(|own| own.destination.to_string()).collect()
        };
        assert_eq!(
            left(&["vxlan", "bgp", "bgp"]),
            ["10.244.1.0/24", "10.244.2.0/24"]
        );
        assert_eq!(
            left(&["vxlan", "vxlan", "vxlan"]),
            ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]
        );
    }
}
