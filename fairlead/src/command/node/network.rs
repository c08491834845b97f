//! The pod network of a node: the overlay or the routed mode, as the settings say.

use flannel_vxlan::node_network::{Routed, keep};
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
        "bgp" => routed(config, settings, stop).await,
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

/// The speaker, and beside it what pods need of their node, which the overlay does by itself.
async fn routed(
    config: &Config,
    settings: &Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let own = Routed {
        node_name: config.node_name.clone(),
        cluster_networks: settings.cluster_cidrs.clone(),
        masquerade: true,
        policy_socket: Some(POLICY_SOCKET.into()),
        conflist: flannel_vxlan::Config::default().conflist,
    };
    let speaker = bgp_agent::NodeConfig {
        node_name: config.node_name.clone(),
        ..bgp_agent::NodeConfig::default()
    };
    let deps = bgp_agent::Deps {
        caches: config.caches.clone(),
    };
    let keeping = keep(own, config.caches.clone(), stop.clone());
    let (result, ()) = tokio::join!(bgp_agent::run(speaker, deps, stop.clone()), keeping);
    Ok(result?)
}
