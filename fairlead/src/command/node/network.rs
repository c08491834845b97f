//! The pod network of a node: the overlay or the routed mode, as the settings say.

use std::collections::BTreeMap;

use bgp_agent::resources::VxlanMode;
use flannel_vxlan::config::{Carries, When};
use flannel_vxlan::node_network::{Routed, keep};
use ipnetwork::IpNetwork;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use super::POLICY_SOCKET;
use super::settings::Settings;

pub(super) struct Config {
    pub(super) node_name: String,
    pub(super) client: Client,
    pub(super) caches: WatchCaches,
}

/// Runs the network of the settings; when they change, the old one ends before the new one
/// starts.
pub(super) async fn run(
    config: Config,
    mut settings: watch::Receiver<Settings>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let current = settings.borrow_and_update().clone();
        let stop = shutdown.child_token();
        let mut network = std::pin::pin!(run_one(&config, &current, stop.clone()));
        loop {
            tokio::select! {
                ended = &mut network => return ended,
                changed = settings.changed() => match changed {
                    Ok(()) if settings.borrow().network == current.network => continue,
                    Ok(()) => break,
                    // Nobody follows the settings any more: they stay as they are.
                    Err(_) => return network.await,
                },
            }
        }
        tracing::info!(from = current.network, "another network");
        stop.cancel();
        network.await?;
    }
}

async fn run_one(
    config: &Config,
    settings: &Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match settings.network.as_str() {
        "vxlan" => {
            let deps = flannel_vxlan::Deps {
                client: config.client.clone(),
                caches: config.caches.clone(),
            };
            Ok(flannel_vxlan::run(overlay(config, settings), deps, stop).await?)
        }
        "bgp" => {
            let speaker = bgp_agent::NodeConfig {
                node_name: config.node_name.clone(),
                ..bgp_agent::NodeConfig::default()
            };
            routed(config, settings, speaker, stop).await
        }
        other => anyhow::bail!("the network {other:?} is neither vxlan nor bgp"),
    }
}

fn overlay(config: &Config, settings: &Settings) -> flannel_vxlan::Config {
    flannel_vxlan::Config {
        node_name: config.node_name.clone(),
        cluster_networks: settings.cluster_cidrs.clone(),
        policy_socket: Some(POLICY_SOCKET.into()),
        ..flannel_vxlan::Config::default()
    }
}

/// The speaker, and beside it what pods need of their node.
async fn routed(
    config: &Config,
    settings: &Settings,
    speaker: bgp_agent::NodeConfig,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let caches = config.caches.clone();
    let tunnels = bgp_agent::tunnels(&caches, stop.clone());
    let deps = bgp_agent::Deps { caches };
    let speaking = bgp_agent::run(speaker, deps, stop.clone());
    let keeping = beside(config, settings, tunnels, stop.clone());
    let (spoken, kept) = tokio::join!(speaking, keeping);
    spoken?;
    kept
}

/// Files and rules for the pods of a routed node: by itself, or by the overlay where pools want
/// tunnels to some nodes.
async fn beside(
    config: &Config,
    settings: &Settings,
    mut tunnels: watch::Receiver<bgp_agent::Tunnels>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let wanted = tunnels.borrow_and_update().clone();
        let turn = stop.child_token();
        let carries = carries(&wanted);
        let running = async {
            if carries.values().all(|when| *when == When::Never) {
                keep(
                    routed_node(config, settings),
                    config.caches.clone(),
                    turn.clone(),
                )
                .await;
                return anyhow::Ok(());
            }
            let overlay = flannel_vxlan::Config {
                carries: Carries::Within(carries.clone()),
                ..overlay(config, settings)
            };
            let deps = flannel_vxlan::Deps {
                client: config.client.clone(),
                caches: config.caches.clone(),
            };
            Ok(flannel_vxlan::run(overlay, deps, turn.clone()).await?)
        };
        let mut running = std::pin::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = changed(&mut tunnels, &wanted) => {
                turn.cancel();
                running.await?;
            }
        }
    }
}

/// Until pools want something else; for ever when nobody looks any more.
async fn changed(tunnels: &mut watch::Receiver<bgp_agent::Tunnels>, current: &bgp_agent::Tunnels) {
    if tunnels.wait_for(|wanted| wanted != current).await.is_err() {
        std::future::pending::<()>().await;
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

fn routed_node(config: &Config, settings: &Settings) -> Routed {
    Routed {
        node_name: config.node_name.clone(),
        cluster_networks: settings.cluster_cidrs.clone(),
        masquerade: true,
        policy_socket: Some(POLICY_SOCKET.into()),
        conflist: flannel_vxlan::Config::default().conflist,
    }
}
