//! A node's process: it joins the cluster, then runs the kubelet, the pod network, the Service
//! proxy, cluster DNS and the policy agent beside each other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kubelet::bootstrap::{self, Member, NodeNames};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use super::part::{node_name, proxy_mode, selection};
use super::running::{Components, block_on};
use super::server::{ControlPlane, announce, start_server};
use crate::cli::{Join, NodeSettings, Up};

const KUBELET_PORT: u16 = 10250;
const POLICY_SOCKET: &str = "/run/fairlead/policy.sock";
const CONFLIST: &str = "/etc/cni/net.d/10-fairlead.conflist";
const SETTINGS_RETRY: Duration = Duration::from_millis(500);

/// `fairlead join`
pub(crate) fn join(options: Join) -> anyhow::Result<ExitCode> {
    require_root()?;
    block_on(async {
        let names = names(&options.node)?;
        let member = match (bootstrap::resume(&names).await?, &options.token) {
            (Some(member), _) => member,
            (None, Some(token)) => {
                let ca_cert_hash = options
                    .ca_cert_hash
                    .clone()
                    .context("--ca-cert-hash is missing: `fairlead token create` prints it")?;
                let (server, token) = (options.server.clone(), token.clone());
                let join = bootstrap::Join { server, token, ca_cert_hash, node: names.clone() };
                bootstrap::join(&join).await?
            }
            (None, None) => {
                bail!("--token is missing: `fairlead token create` on the server prints one")
            }
        };
        let mut components = Components::new()?;
        start(&options.node, names, member, &mut components).await?;
        components.finish().await
    })
}

/// `fairlead up`
pub(crate) fn up(options: Up) -> anyhow::Result<ExitCode> {
    require_root()?;
    let everything = selection(&["*".to_owned()])?;
    block_on(async {
        let mut components = Components::new()?;
        let server = start_server(&options.server, &mut components).await?;
        let parts = ControlPlane { controllers: Some(everything), scheduler: true };
        parts.start(&options.server, &server, &mut components);
        announce(&options.server, &server)?;
        let names = names(&options.node)?;
        let member = match bootstrap::resume(&names).await? {
            Some(member) => member,
            None => {
                bootstrap::join(&bootstrap::Join {
                    server: server.join.url.clone(),
                    token: server.join.token.clone(),
                    ca_cert_hash: server.join.ca_hash.clone(),
                    node: names.clone(),
                })
                .await?
            }
        };
        start(&options.node, names, member, &mut components).await?;
        components.spawn("apiserver", async move {
            server.wait().await;
            Ok::<_, anyhow::Error>(())
        });
        components.finish().await
    })
}

fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("a node needs root: it makes namespaces, interfaces and mounts; run it with sudo")
}

fn names(settings: &NodeSettings) -> anyhow::Result<NodeNames> {
    let ips = match settings.node_ip.as_slice() {
        [] => default_addresses(),
        given => given.to_vec(),
    };
    if ips.is_empty() {
        bail!("this machine has no default route: say its address with --node-ip");
    }
    let name = node_name(settings.node_name.as_deref())?;
    Ok(NodeNames { name, ips, state_dir: settings.node_dir.clone() })
}

/// The addresses that packets to elsewhere leave with. Connecting a datagram socket only asks
/// the routes; nothing is sent to these documentation addresses.
fn default_addresses() -> Vec<IpAddr> {
    let toward: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let address = |(any, far): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_unspecified() && !own.is_loopback()).then_some(own)
    };
    toward.into_iter().filter_map(address).collect()
}

/// What the cluster says of its networks: the ConfigMap `kube-system/fairlead`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClusterSettings {
    network: NetworkMode,
    proxy: proxy::Mode,
    cluster_cidrs: Vec<IpNetwork>,
    service_cidrs: Vec<IpNetwork>,
    cluster_dns: Vec<IpAddr>,
    cluster_domain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkMode {
    Vxlan,
    Bgp,
}

impl ClusterSettings {
    fn read(map: &ConfigMap) -> anyhow::Result<Self> {
        let text = |key: &str| map.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
        let network = match text("network") {
            Some("vxlan") | None => NetworkMode::Vxlan,
            Some("bgp") => NetworkMode::Bgp,
            Some(other) => bail!("the network {other:?} is neither vxlan nor bgp"),
        };
        Ok(Self {
            network,
            proxy: proxy_mode(text("proxy").unwrap_or("iptables"))?,
            cluster_cidrs: list(text("clusterCIDRs")).context("clusterCIDRs")?,
            service_cidrs: list(text("serviceCIDRs")).context("serviceCIDRs")?,
            cluster_dns: list(text("clusterDNS")).context("clusterDNS")?,
            cluster_domain: text("clusterDomain").unwrap_or("cluster.local").to_owned(),
        })
    }
}

fn list<T: FromStr>(text: Option<&str>) -> anyhow::Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let items = text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse::<T>().with_context(|| item.to_owned())).collect()
}

/// Waits for the settings: a server that has just started may not have written them yet.
async fn first_settings(client: &Client) -> anyhow::Result<ClusterSettings> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    loop {
        match api.get_opt("fairlead").await {
            Ok(Some(map)) => {
                return ClusterSettings::read(&map).context("ConfigMap kube-system/fairlead");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the cluster's settings were not read"),
        }
        tokio::time::sleep(SETTINGS_RETRY).await;
    }
}

/// Follows the settings; what cannot be understood changes nothing.
async fn follow_settings(
    map: WatchCache<ConfigMap>,
    settings: watch::Sender<ClusterSettings>,
    shutdown: CancellationToken,
) {
    let mut changes = map.subscribe();
    loop {
        let found = map.get("kube-system", "fairlead");
        match found.as_deref().map(ClusterSettings::read) {
            Some(Ok(new)) => {
                settings.send_if_modified(|old| {
                    let differs = *old != new;
                    *old = new;
                    differs
                });
            }
            Some(Err(error)) => {
                tracing::error!("ConfigMap kube-system/fairlead is not taken: {error:#}");
            }
            None => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = changes.recv() => {}
        }
    }
}

/// Starts the parts of a node that is a member of the cluster.
async fn start(
    options: &NodeSettings,
    names: NodeNames,
    member: Member,
    components: &mut Components,
) -> anyhow::Result<()> {
    let client = member.client.clone();
    let first = first_settings(&client).await?;
    let caches = WatchCaches::new(client.clone());
    let (sender, settings) = watch::channel(first.clone());
    let node = Node { names, client, caches: caches.clone(), first, settings };
    let shutdown = components.shutdown();
    let map = caches.selected("metadata.namespace=kube-system,metadata.name=fairlead");
    let following = follow_settings(map, sender, shutdown.clone());
    components.spawn("settings", always_well(following));
    let keeping = bootstrap::keep_certificates(member.clone(), shutdown.clone());
    components.spawn("certificates", always_well(keeping));

    let policy = policy::run(policy::Config::default(), policy::Deps { caches }, shutdown.clone());
    components.spawn("policy", policy);
    let proxy = proxy::run(node.proxy(), node.proxy_deps(&shutdown), shutdown.clone());
    components.spawn("proxy", proxy);
    let dns = dns::Deps { client: node.client.clone(), caches: node.caches.clone() };
    components.spawn("dns", dns::run(node.dns(), dns, shutdown.clone()));
    let deps = kubelet::Deps::new(node.client.clone(), node.caches.clone());
    let kubelet = node.kubelet(options, &member)?;
    components.spawn("kubelet", kubelet::run(kubelet, deps, shutdown.clone()));
    components.spawn("network", node.network(shutdown));
    Ok(())
}

async fn always_well(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

struct Node {
    names: NodeNames,
    client: Client,
    caches: WatchCaches,
    first: ClusterSettings,
    settings: watch::Receiver<ClusterSettings>,
}

impl Node {
    fn kubelet(&self, options: &NodeSettings, member: &Member) -> anyhow::Result<kubelet::Config> {
        let labels: Option<BTreeMap<String, String>> = options
            .node_labels
            .iter()
            .map(|label| label.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        let any: IpAddr = match self.names.ips.iter().any(IpAddr::is_ipv6) {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        Ok(kubelet::Config {
            node_name: self.names.name.clone(),
            runtime_socket: options.container_runtime.clone(),
            node_ips: self.names.ips.clone(),
            labels: labels.context("--node-labels: write KEY=VALUE")?,
            cluster_dns: self.first.cluster_dns.clone(),
            cluster_domain: self.first.cluster_domain.clone(),
            listen: Some(SocketAddr::new(any, KUBELET_PORT)),
            serving: Some(member.serving.clone()),
            ..kubelet::Config::default()
        })
    }

    fn proxy(&self) -> proxy::Config {
        proxy::Config {
            mode: self.first.proxy,
            node_name: self.names.name.clone(),
            cluster_cidrs: self.first.cluster_cidrs.clone(),
            service_cidrs: self.first.service_cidrs.clone(),
            ..proxy::Config::default()
        }
    }

    /// With the mode that the settings have, also when they change.
    fn proxy_deps(&self, shutdown: &CancellationToken) -> proxy::Deps {
        let (sender, mode) = watch::channel(self.first.proxy);
        let (mut settings, shutdown) = (self.settings.clone(), shutdown.clone());
        tokio::spawn(async move {
            loop {
                let new = settings.borrow_and_update().proxy;
                sender.send_if_modified(|old| std::mem::replace(old, new) != new);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = settings.changed() => if changed.is_err() { return },
                }
            }
        });
        let (client, caches) = (self.client.clone(), self.caches.clone());
        proxy::Deps { client, caches, mode: Some(mode) }
    }

    fn dns(&self) -> dns::Config {
        let ranges = self.first.cluster_cidrs.iter().chain(&self.first.service_cidrs);
        dns::Config {
            node_name: self.names.name.clone(),
            addresses: self.names.ips.clone(),
            cluster_domain: self.first.cluster_domain.clone(),
            cluster_ranges: ranges.copied().collect(),
            ..dns::Config::default()
        }
    }

    /// The pod network of the mode that the settings have. When they change, the new mode's
    /// routes replace those of the old one.
    async fn network(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut settings = self.settings.clone();
        loop {
            let now = settings.borrow_and_update().clone();
            let own = shutdown.child_token();
            let running = self.run_network(&now, own.clone());
            tokio::pin!(running);
            tokio::select! {
                ended = &mut running => return ended,
                () = changed_network(&mut settings, now.network) => {}
            }
            tracing::info!(from = ?now.network, "the network mode changes");
            own.cancel();
            running.await?;
        }
    }

    async fn run_network(
        &self,
        settings: &ClusterSettings,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        match settings.network {
            NetworkMode::Vxlan => {
                let config = flannel_vxlan::Config {
                    node_name: self.names.name.clone(),
                    cluster_networks: settings.cluster_cidrs.clone(),
                    policy_socket: Some(PathBuf::from(POLICY_SOCKET)),
                    conflist: PathBuf::from(CONFLIST),
                    ..flannel_vxlan::Config::default()
                };
                let (client, caches) = (self.client.clone(), self.caches.clone());
                let deps = flannel_vxlan::Deps { client, caches };
                Ok(flannel_vxlan::run(config, deps, shutdown).await?)
            }
            NetworkMode::Bgp => {
                let routed = flannel_vxlan::node_network::Routed {
                    node_name: self.names.name.clone(),
                    cluster_networks: settings.cluster_cidrs.clone(),
                    masquerade: true,
                    policy_socket: Some(PathBuf::from(POLICY_SOCKET)),
                    conflist: PathBuf::from(CONFLIST),
                };
                let node_name = self.names.name.clone();
                let config = bgp_agent::NodeConfig { node_name, ..Default::default() };
                let deps = bgp_agent::Deps { caches: self.caches.clone() };
                let keeping = flannel_vxlan::node_network::keep(
                    routed,
                    self.caches.clone(),
                    shutdown.clone(),
                );
                let (result, ()) =
                    tokio::join!(bgp_agent::run(config, deps, shutdown.clone()), keeping);
                Ok(result?)
            }
        }
    }
}

/// Ends when the settings name another network; never if they cannot change any more.
async fn changed_network(settings: &mut watch::Receiver<ClusterSettings>, now: NetworkMode) {
    if settings.wait_for(|settings| settings.network != now).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> ConfigMap {
        let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn settings_are_read_and_what_is_wrong_is_named() {
        let settings = ClusterSettings::read(&map(&[
            ("network", "bgp"),
            ("proxy", "nftables"),
            ("clusterCIDRs", "10.244.0.0/16, fd00:10:244::/56"),
            ("clusterDNS", "10.96.0.10"),
        ]))
        .unwrap();
        assert_eq!(settings.network, NetworkMode::Bgp);
        assert_eq!(settings.cluster_cidrs.len(), 2);
        assert_eq!(settings.cluster_domain, "cluster.local");
        let error = ClusterSettings::read(&map(&[("clusterCIDRs", "10.244.0.0/99")])).unwrap_err();
        assert!(format!("{error:#}").starts_with("clusterCIDRs: 10.244.0.0/99"), "{error:#}");
        assert!(ClusterSettings::read(&map(&[("network", "carrier-pigeon")])).is_err());
    }
}
