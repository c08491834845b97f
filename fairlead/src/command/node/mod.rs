//! `fairlead join`: kubelet, pod network, policy, Service proxy and DNS of one node.

pub(crate) mod alone;
mod machine;
mod membership;
pub(crate) mod network;
pub(crate) mod pools;
pub(crate) mod served;
pub(crate) mod settings;

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use flannel_vxlan::node_network::Pools;
use kubelet::bootstrap::{Member, keep_certificates};
use tokio::sync::{mpsc, watch};
use watch_cache::WatchCaches;

use self::settings::Settings;
use super::part::selection;
use super::running::{Components, block_on};
use super::server::{ControlPlane, announce, start_server};
use crate::cli::{Join, NodeSettings, Up};

/// Where the CNI plugin asks whether a pod's policy is in the kernel.
pub(crate) const POLICY_SOCKET: &str = "/run/fairlead/policy.sock";
const KUBELET_PORT: u16 = 10250;
/// Answers of the cluster DNS that the policies have not learnt yet.
const ANSWERS: usize = 256;
const CNI_DIRECTORY: &str = "/opt/cni/bin";

pub(crate) fn run(options: Join) -> anyhow::Result<ExitCode> {
    machine::require_root("joining a cluster")?;
    block_on(async {
        let mut components = Components::new()?;
        let identity = Identity::of(&options.node)?;
        let invitation = membership::Invitation {
            server: options.server,
            token: options.token,
            ca_cert_hash: options.ca_cert_hash,
        };
        let member = membership::obtain(invitation, &options.node, &identity).await?;
        start(identity, member, &options.node, &mut components).await?;
        components.finish().await
    })
}

/// `fairlead up`: server and node in one process.
pub(crate) fn up(options: Up) -> anyhow::Result<ExitCode> {
    machine::require_root("a cluster's node")?;
    block_on(async {
        let mut components = Components::new()?;
        let server = start_server(&options.server, &mut components).await?;
        let everything = selection(&["*".to_owned()])?;
        let parts = ControlPlane {
            controllers: Some(everything),
            scheduler: true,
        };
        parts.start(&options.server, &server, &mut components);
        announce(&options.server, &server)?;
        let identity = Identity::of(&options.node)?;
        let invitation = membership::Invitation {
            server: server.join.url.clone(),
            token: Some(server.join.token.clone()),
            ca_cert_hash: Some(server.join.ca_hash.clone()),
        };
        components.spawn("apiserver", async move {
            server.wait().await;
            Ok::<_, anyhow::Error>(())
        });
        let member = membership::obtain(invitation, &options.node, &identity).await?;
        start(identity, member, &options.node, &mut components).await?;
        components.finish().await
    })
}

/// Who a node is.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Identity {
    pub(crate) fn of(options: &NodeSettings) -> anyhow::Result<Self> {
        let name = super::part::node_name(options.node_name.as_deref())?;
        let addresses = match options.node_ip.as_slice() {
            [] => machine::addresses()?,
            given => given.to_vec(),
        };
        Ok(Self { name, addresses })
    }
}

/// Starts the components of a node that belongs to its cluster.
pub(crate) async fn start(
    identity: Identity,
    member: Member,
    options: &NodeSettings,
    components: &mut Components,
) -> anyhow::Result<()> {
    machine::install_plugin(Path::new(CNI_DIRECTORY))?;
    let shutdown = components.shutdown();
    let settings = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        settings = settings::wait(member.client.clone()) => settings?,
    };
    let caches = WatchCaches::new(member.client.clone());
    let changes = settings::follow(&caches, settings.clone(), shutdown.clone());
    let node = Node {
        identity,
        member,
        caches,
        settings,
    };
    components.spawn("kubelet", {
        let mut deps = kubelet::Deps::new(node.member.client.clone(), node.caches.clone());
        deps.beside = served::beside();
        kubelet::run(node.kubelet(options)?, deps, shutdown.clone())
    });
    let listener = match node.settings.has_network() {
        true => Some(node.start_network(&changes, components).await),
        false => None,
    };
    components.spawn("proxy", {
        let mode = Some(settings::proxy_mode(changes));
        let (client, caches) = (node.member.client.clone(), node.caches.clone());
        proxy::run(
            node.proxy()?,
            proxy::Deps {
                client,
                caches,
                mode,
            },
            shutdown.clone(),
        )
    });
    components.spawn("dns", {
        let (client, caches) = (node.member.client.clone(), node.caches.clone());
        let deps = dns::Deps {
            client,
            caches,
            listener,
        };
        dns::run(node.dns(), deps, shutdown.clone())
    });
    let member = node.member.clone();
    components.spawn("certificates", async move {
        keep_certificates(member, shutdown).await;
        Ok::<_, anyhow::Error>(())
    });
    Ok(())
}

/// What the configurations of the components are made of.
struct Node {
    identity: Identity,
    member: Member,
    caches: WatchCaches,
    settings: Settings,
}

impl Node {
    /// Policies, the network and its pools. Who resolves names tells the result what it answers.
    async fn start_network(
        &self,
        changes: &watch::Receiver<Settings>,
        components: &mut Components,
    ) -> mpsc::Sender<policy::Answered> {
        let shutdown = components.shutdown();
        let (listener, answers) = mpsc::channel(ANSWERS);
        components.spawn("policy", {
            let deps = policy::Deps {
                caches: self.caches.clone(),
                answers: Some(answers),
            };
            let config = policy::Config {
                socket: POLICY_SOCKET.into(),
                ..Default::default()
            };
            policy::run(config, deps, shutdown.clone())
        });
        let name = &self.identity.name;
        let mode = settings::network_mode(changes.clone(), &self.caches, name).await;
        let pools = pools::followed(&self.caches, shutdown.clone());
        let network = network::run(self.network(pools), mode, shutdown.clone());
        components.spawn("network", network);
        let pools = pools::run(name, self.caches.clone(), shutdown);
        components.spawn("pools", pools);
        listener
    }

    fn kubelet(&self, options: &NodeSettings) -> anyhow::Result<kubelet::Config> {
        let label = |text: &String| -> anyhow::Result<(String, String)> {
            let (key, value) = text
                .split_once('=')
                .with_context(|| format!("--node-labels {text}: write KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        Ok(kubelet::Config {
            node_name: self.identity.name.clone(),
            node_ips: self.identity.addresses.clone(),
            runtime_socket: options.container_runtime.clone(),
            labels: options
                .node_labels
                .iter()
                .map(label)
                .collect::<Result<_, _>>()?,
            cluster_dns: self.settings.cluster_dns.clone(),
            cluster_domain: self.settings.cluster_domain.clone(),
            listen: Some((any_of(&self.identity.addresses), KUBELET_PORT).into()),
            serving: Some(self.member.serving.clone()),
            eviction: options.eviction_hard,
            manifests: Some(options.pod_manifest_path.clone()),
            images: kubelet::ImageCollection::above(options.image_gc_high_threshold),
            ..kubelet::Config::default()
        })
    }

    fn network(&self, pools: Pools) -> network::Config {
        let overlay = flannel_vxlan::Config {
            node_name: self.identity.name.clone(),
            cluster_networks: self.settings.cluster_cidrs.clone(),
            policy_socket: Some(POLICY_SOCKET.into()),
            pools: Some(pools),
            ..flannel_vxlan::Config::default()
        };
        network::Config {
            client: self.member.client.clone(),
            caches: self.caches.clone(),
            overlay,
        }
    }

    fn proxy(&self) -> anyhow::Result<proxy::Config> {
        Ok(proxy::Config {
            mode: super::part::proxy_mode(&self.settings.proxy)?,
            node_name: self.identity.name.clone(),
            cluster_cidrs: self.settings.cluster_cidrs.clone(),
            service_cidrs: self.settings.service_cidrs.clone(),
            ..proxy::Config::default()
        })
    }

    fn dns(&self) -> dns::Config {
        let ranges = self
            .settings
            .cluster_cidrs
            .iter()
            .chain(&self.settings.service_cidrs);
        dns::Config {
            node_name: self.identity.name.clone(),
            addresses: self.identity.addresses.clone(),
            cluster_domain: self.settings.cluster_domain.clone(),
            cluster_ranges: ranges.copied().collect(),
            ..dns::Config::default()
        }
    }
}

pub(crate) use machine::{install_plugin, require_root};

/// Where the plugin is on a node of ours.
pub(crate) fn plugin_path() -> std::path::PathBuf {
    Path::new(CNI_DIRECTORY).join(machine::PLUGIN)
}

/// The address that stands for all of the node's.
fn any_of(addresses: &[IpAddr]) -> IpAddr {
    match addresses.iter().any(IpAddr::is_ipv6) {
        true => std::net::Ipv6Addr::UNSPECIFIED.into(),
        false => std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}
