//! The cluster's settings: the ConfigMap `kube-system/fairlead`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "fairlead";
const MODES: [&str; 2] = ["vxlan", "bgp"];
/// Somebody else brings network and policies.
const NO_NETWORK: &str = "none";
const RETRY: Duration = Duration::from_millis(500);

/// What holds for every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `vxlan`, `bgp` or `none`.
    pub(crate) network: String,
    /// `ipvs`, `iptables` or `nftables`.
    pub(crate) proxy: String,
    pub(crate) cluster_cidrs: Vec<IpNetwork>,
    pub(crate) service_cidrs: Vec<IpNetwork>,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
}

impl Settings {
    /// What a kubelet has to know where others keep network and Services.
    pub(super) fn of_pods(cluster_dns: Vec<IpAddr>, cluster_domain: String) -> Self {
        Self {
            network: String::new(),
            proxy: String::new(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_dns,
            cluster_domain,
        }
    }

    /// Whether the nodes' network and policies are ours to bring.
    pub(super) fn has_network(&self) -> bool {
        self.network != NO_NETWORK
    }

    /// What is missing is as it is in a new cluster.
    fn read(data: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let text = |name: &str, default: &str| {
            data.get(name)
                .map_or(default, String::as_str)
                .trim()
                .to_owned()
        };
        let network = text("network", "vxlan");
        ensure!(
            MODES.contains(&network.as_str()) || network == NO_NETWORK,
            "the network {network:?} is none of vxlan, bgp and none"
        );
        let proxy = text("proxy", "iptables");
        proxy.parse::<proxy::Mode>()?;
        Ok(Self {
            network,
            proxy,
            cluster_cidrs: list("clusterCIDRs", &text("clusterCIDRs", "10.244.0.0/16"))?,
            service_cidrs: list("serviceCIDRs", &text("serviceCIDRs", "10.96.0.0/12"))?,
            cluster_dns: list("clusterDNS", &text("clusterDNS", "10.96.0.10"))?,
            cluster_domain: text("clusterDomain", "cluster.local"),
        })
    }
}

/// Values with commas between.
fn list<T>(name: &str, text: &str) -> anyhow::Result<Vec<T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| item.parse().with_context(|| format!("{name}: {item}")))
        .collect()
}

/// The settings of a cluster of ours; `None` for another one.
pub(crate) async fn get(client: Client) -> anyhow::Result<Option<Settings>> {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let map = maps.get_opt(NAME).await?;
    map.map(|map| Settings::read(&map.data.unwrap_or_default()))
        .transpose()
}

/// Reads the settings; a server that has just started may not have written them yet.
pub(crate) async fn wait(client: Client) -> anyhow::Result<Settings> {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    loop {
        match maps.get_opt(NAME).await {
            Ok(Some(map)) => {
                return Settings::read(&map.data.unwrap_or_default())
                    .context("the ConfigMap kube-system/fairlead");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the cluster's settings cannot be read yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the settings as they change.
pub(crate) fn follow(
    caches: &WatchCaches,
    first: Settings,
    shutdown: CancellationToken,
) -> watch::Receiver<Settings> {
    let (sender, receiver) = watch::channel(first);
    let maps: Api<ConfigMap> = Api::namespaced(caches.client(), NAMESPACE);
    tokio::spawn(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let changes = watcher(maps, config).default_backoff().applied_objects();
        let mut changes = std::pin::pin!(changes);
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = futures::StreamExt::next(&mut changes) => next,
            };
            match next {
                Some(Ok(map)) => match Settings::read(&map.data.unwrap_or_default()) {
                    Ok(new) if new.has_network() != sender.borrow().has_network() => {
                        tracing::error!(
                            "the ConfigMap kube-system/fairlead is not taken: whether nodes have \
                             our network is decided when they start"
                        );
                    }
                    Ok(new) => drop(sender.send_if_modified(|old| {
                        let differs = *old != new;
                        *old = new;
                        differs
                    })),
                    // What cannot be understood changes nothing.
                    Err(error) => {
                        tracing::error!(
                            "the ConfigMap kube-system/fairlead is not taken: {error:#}"
                        );
                    }
                },
                Some(Err(error)) => tracing::warn!(%error, "the cluster's settings"),
                None => return,
            }
        }
    });
    receiver
}

/// On a Node: the network's mode there, whatever the settings say. So a cluster changes over node by
/// node.
const MODE_LABEL: &str = "fairlead.io/network-mode";

/// The network's mode as the node's label says it, or else the settings.
pub(crate) async fn network_mode(
    mut settings: watch::Receiver<Settings>,
    caches: &WatchCaches,
    node_name: &str,
) -> watch::Receiver<String> {
    let nodes: WatchCache<Node> = caches.of();
    nodes.synced().await;
    let mut changes = nodes.subscribe();
    let node_name = node_name.to_owned();
    let read = move |settings: &Settings| {
        let node = nodes.get("", &node_name);
        let label = node.and_then(|node| node.labels().get(MODE_LABEL).cloned());
        let known = label.filter(|mode| MODES.contains(&mode.as_str()));
        known.unwrap_or_else(|| settings.network.clone())
    };
    let (sender, receiver) = watch::channel(read(&settings.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            let ended = tokio::select! {
                changed = settings.changed() => changed.is_err(),
                changed = changes.recv() => matches!(changed, Err(RecvError::Closed)),
                () = sender.closed() => true,
            };
            if ended {
                return;
            }
            let mode = read(&settings.borrow_and_update());
            sender.send_if_modified(|old| {
                let differs = *old != mode;
                *old = mode;
                differs
            });
        }
    });
    receiver
}

/// The proxy's mode as the settings say it.
pub(crate) fn proxy_mode(mut settings: watch::Receiver<Settings>) -> watch::Receiver<proxy::Mode> {
    let read = |settings: &Settings| settings.proxy.parse::<proxy::Mode>();
    let first = read(&settings.borrow_and_update()).unwrap_or_default();
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        while settings.changed().await.is_ok() {
            match read(&settings.borrow_and_update()) {
                Ok(mode) => {
                    sender.send_if_modified(|old| std::mem::replace(old, mode) != mode);
                }
                Err(error) => tracing::warn!(%error, "the proxy stays as it is"),
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::read(&pairs.collect())
    }

    #[test]
    fn settings_are_read_and_what_is_missing_has_a_default() {
        let settings = read(&[
            ("proxy", "nftables"),
            ("clusterCIDRs", "10.1.0.0/16, fd00::/56"),
        ])
        .unwrap();
        assert_eq!(settings.proxy, "nftables");
        assert_eq!(settings.network, "vxlan");
        let cidrs: Vec<String> = settings
            .cluster_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(cidrs, ["10.1.0.0/16", "fd00::/56"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = read(&[("clusterCIDRs", "10.244.0.0/99")]).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("clusterCIDRs: 10.244.0.0/99"),
            "{error:#}"
        );
        assert!(read(&[("network", "carrier-pigeon")]).is_err());
        assert!(read(&[("proxy", "magic")]).is_err());
    }
}
