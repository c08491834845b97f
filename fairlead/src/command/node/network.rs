//! The pod network of a node: the overlay or the routed mode, as the settings say.

use std::collections::BTreeMap;

use bgp_agent::resources::VxlanMode;
use flannel_vxlan::config::{Carries, When};
use flannel_vxlan::node_network::transition::{Mode, Transition};
use flannel_vxlan::node_network::{Routed, keep};
use ipnetwork::IpNetwork;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

pub(crate) struct Config {
    pub(crate) client: Client,
    pub(crate) caches: WatchCaches,
    /// The overlay's settings; those that both modes have come from here as well.
    pub(crate) overlay: flannel_vxlan::Config,
}

/// Runs the network of that mode; when it changes, the old one ends before the new one starts.
pub(crate) async fn run(
    config: Config,
    mut mode: watch::Receiver<String>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::spawn(flannel_vxlan::conflicts::watch(
        config.overlay.node_name.clone(),
        config.overlay_deps(),
        shutdown.clone(),
    ));
    loop {
        let current = mode.borrow_and_update().clone();
        let stop = shutdown.child_token();
        let mut network = std::pin::pin!(run_one(&config, &current, stop.clone()));
        tokio::select! {
            ended = &mut network => return ended,
            () = other_than(&mut mode, &current) => {}
        }
        tracing::info!(from = current, "another network");
        stop.cancel();
        network.await?;
    }
}

/// Until it is another mode; for ever when nobody tells any more.
async fn other_than(mode: &mut watch::Receiver<String>, current: &str) {
    if mode.wait_for(|wanted| wanted != current).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn run_one(config: &Config, mode: &str, stop: CancellationToken) -> anyhow::Result<()> {
    match mode {
        "vxlan" => {
            let transition = config.transition(Mode::Vxlan);
            // Whoever holds it follows; the overlay itself needs no answer.
            let _following = transition.start(stop.clone()).await;
            Ok(flannel_vxlan::run(config.overlay.clone(), config.overlay_deps(), stop).await?)
        }
        "bgp" => routed(config, stop).await,
        other => anyhow::bail!("the network {other:?} is neither vxlan nor bgp"),
    }
}

impl Config {
    fn overlay_deps(&self) -> flannel_vxlan::Deps {
        flannel_vxlan::Deps {
            client: self.client.clone(),
            caches: self.caches.clone(),
        }
    }

    fn transition(&self, mode: Mode) -> Transition {
        let mut pod_networks = self.overlay.cluster_networks.clone();
        if let Some(pools) = &self.overlay.pools {
            pod_networks.extend(&pools.ranges.borrow().all);
        }
        Transition {
            node_name: self.overlay.node_name.clone(),
            mode,
            vni: self.overlay.vni,
            pod_networks,
            client: self.client.clone(),
            caches: self.caches.clone(),
        }
    }
}

/// The speaker, and beside it what pods need of their node.
async fn routed(config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    let caches = config.caches.clone();
    let transition = config.transition(Mode::Bgp);
    let speaker = bgp_agent::NodeConfig {
        node_name: config.overlay.node_name.clone(),
        ..bgp_agent::NodeConfig::default()
    };
    let wishes = Wishes {
        tunnels: bgp_agent::tunnels(&caches, stop.clone()),
        overlay: transition.clone().start(stop.clone()).await,
        transition,
    };
    let speaking = bgp_agent::run(speaker, bgp_agent::Deps { caches }, stop.clone());
    let keeping = beside(config, wishes, stop.clone());
    let (spoken, kept) = tokio::join!(speaking, keeping);
    spoken?;
    kept
}

/// Who wants the overlay beside the routed mode.
struct Wishes {
    tunnels: watch::Receiver<bgp_agent::Tunnels>,
    /// Nodes that are in the other mode.
    overlay: watch::Receiver<bool>,
    transition: Transition,
}

impl Wishes {
    /// What the overlay is to carry; nothing when it is not needed.
    fn carried(&mut self) -> Option<Carries> {
        let carries = carries(&self.tunnels.borrow_and_update());
        let everything = *self.overlay.borrow_and_update();
        let nothing = carries.values().all(|when| *when == When::Never);
        match (everything, nothing) {
            (true, _) => Some(Carries::Everything),
            (false, true) => None,
            (false, false) => Some(Carries::Within(carries)),
        }
    }

    /// Until something else is wanted; for ever when nobody tells any more.
    async fn changed(&mut self, current: &Option<Carries>) {
        loop {
            let told = tokio::select! {
                told = self.tunnels.changed() => told,
                told = self.overlay.changed() => told,
            };
            match told {
                Ok(()) if self.carried() != *current => return,
                Ok(()) => {}
                Err(_) => std::future::pending::<()>().await,
            }
        }
    }
}

/// Files and rules for the pods of a routed node: by itself, or by the overlay where pools or
/// nodes in the other mode want tunnels.
async fn beside(
    config: &Config,
    mut wishes: Wishes,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let turn = stop.child_token();
        let wanted = wishes.carried();
        if wanted.is_none() {
            wishes.transition.leave_overlay().await;
        }
        let running = async {
            let Some(carries) = wanted.clone() else {
                keep(routed_node(config), config.caches.clone(), turn.clone()).await;
                return anyhow::Ok(());
            };
            let overlay = flannel_vxlan::Config {
                carries,
                ..config.overlay.clone()
            };
            Ok(flannel_vxlan::run(overlay, config.overlay_deps(), turn.clone()).await?)
        };
        let mut running = std::pin::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = wishes.changed(&wanted) => {
                turn.cancel();
                running.await?;
            }
        }
    }
}

fn carries(tunnels: &bgp_agent::Tunnels) -> BTreeMap<IpNetwork, When> {
    let each = tunnels.iter().map(|(range, mode)| {
        let when = match mode {
            VxlanMode::Never => When::Never,
            VxlanMode::CrossSubnet => When::OtherLinks,
            VxlanMode::Always => When::Always,
        };
        (*range, when)
    });
    each.collect()
}

fn routed_node(config: &Config) -> Routed {
    let overlay = &config.overlay;
    Routed {
        node_name: overlay.node_name.clone(),
        cluster_networks: overlay.cluster_networks.clone(),
        masquerade: overlay.masquerade,
        masquerade_exceptions: overlay.masquerade_exceptions.clone(),
        mtu: overlay.mtu,
        policy_socket: overlay.policy_socket.clone(),
        pools: overlay.pools.clone(),
        conflist: overlay.conflist.clone(),
    }
}
