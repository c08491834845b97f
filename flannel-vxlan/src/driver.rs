//! Waits for changes of nodes and of the kernel, and brings the one in line with the other.
//!
//! ```text
//!  Node cache ──┐
//!  kernel's     ├─▶ wake ─▶ observe ─▶ desired ─▶ plan ─▶ apply ─▶ files ─▶ annotations
//!  notifications│              ▲                              │
//!  clock ───────┘              └───── a failed step: soon again
//! ```
//!
//! Every round looks at everything: what woke it up is only a hint. So what is lost, doubled
//! or comes in a strange order changes nothing but the time of the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::kernel::monitor::{self, Event, Group, Monitor};
use ::kernel::nftables::{self, Connection};
use ::kernel::route::Protocol;
use ::kernel::{Ifindex, MacAddress, netns, sysctl};
use ip_pools::model::{own_ranges, pod_ranges};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Event as NodeEvent, EventSource, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use crate::annotations::{self, Endpoint};
use crate::config::{Config, InvalidConfig};
use crate::desired::{
    Local, LocalEndpoint, Problem, Remote, Settings, desired, pod_mtu, published,
};
use crate::kernel::{self as hand, Kernel};
use crate::model::{Actual, Outer};
use crate::node_network::{Accept, Masquerade, NodeNetwork, with_pools, write_if_changed};
use crate::plan::{Deletions, plan};
use crate::underlay::{self, Choice};

/// Changes that come together are handled together.
const SETTLE: Duration = Duration::from_millis(5);
/// How soon what failed is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Where events about nodes are kept.
const EVENT_NAMESPACE: &str = "default";
/// How often the rules' generation is looked at: one small message.
const RULES_CHECK: Duration = Duration::from_millis(500);

/// What the overlay is given.
#[derive(Clone)]
pub struct Deps {
    pub client: Client,
    pub caches: WatchCaches,
}

/// Faults that an operator has to mend. Everything else is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("the overlay needs the right to change the network: {0}")]
    Kernel(#[from] hand::Error),
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("cannot talk to nf_tables: {0}")]
    Nftables(#[from] nftables::Error),
}

/// Why a round did not get to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    #[error("the node {0} is not in the cluster yet")]
    NoNode(String),
    #[error("the node has no range of pod addresses yet")]
    NoPodNetwork,
    #[error(transparent)]
    Underlay(#[from] underlay::NoUnderlay),
    #[error("{} steps failed, the first: {first}", .count)]
    Steps { count: usize, first: hand::Error },
    #[error(transparent)]
    Kernel(#[from] hand::Error),
    #[error(transparent)]
    Files(#[from] crate::node_network::Error),
    #[error(
        "the interface {0} is no VXLAN device, but has the overlay's name: rename or delete it"
    )]
    ForeignDevice(String),
    #[error("cannot publish the node's tunnels: {0}")]
    Publish(Box<kube::Error>),
}

/// Runs the overlay of one node until `shutdown`. What it made in the kernel stays: pods go
/// on talking while it is restarted.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    // The monitor first: what changes after the first look is told.
    let groups = [
        Group::Links,
        Group::Addresses,
        Group::Routes,
        Group::Neighbours,
    ];
    let mut monitor = Monitor::open(&groups)?;
    let kernel = Kernel::open(config.vni)?;
    let rules = Connection::open()?;
    let nodes = deps.caches.of::<Node>();
    let mut changes = nodes.subscribe();
    let mut driver = Driver::new(config, &deps, kernel, rules, nodes);
    let mut wake = Instant::now();
    let mut rules_check = Instant::now() + RULES_CHECK;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            change = changes.recv() => match change {
                Ok(_) | Err(RecvError::Lagged(_)) => wake = wake.min(Instant::now() + SETTLE),
                Err(RecvError::Closed) => changes = driver.nodes.subscribe(),
            },
            event = monitor.next() => {
                if driver.concerns_us(&event?) {
                    wake = wake.min(Instant::now() + SETTLE);
                }
            }
            () = sleep_until(rules_check) => {
                rules_check = Instant::now() + RULES_CHECK;
                if driver.rules_changed() {
                    wake = wake.min(Instant::now());
                }
            }
            () = driver.pools_changed() => wake = wake.min(Instant::now() + SETTLE),
            () = sleep_until(wake) => wake = Instant::now() + driver.round().await,
        }
    }
}

struct Driver {
    config: Config,
    client: Client,
    nodes: WatchCache<Node>,
    kernel: Kernel,
    rules: Connection,
    generation: Option<u32>,
    /// The interfaces to other nodes.
    underlay: BTreeMap<Outer, Choice>,
    no_tx_checksum: bool,
    retry: Duration,
    /// What has been told already.
    told: BTreeSet<String>,
    accept: Accept,
}

/// Our own node, as the API has it.
struct OwnNode {
    node: Arc<Node>,
    pod_networks: Vec<IpNetwork>,
    addresses: Vec<IpAddr>,
}

impl Driver {
    fn new(
        config: Config,
        deps: &Deps,
        kernel: Kernel,
        rules: Connection,
        nodes: WatchCache<Node>,
    ) -> Self {
        let release = sysctl::read("kernel/osrelease").unwrap_or_default();
        Self {
            client: deps.client.clone(),
            no_tx_checksum: config.checksum_offload.must_be_off(&release),
            config,
            nodes,
            kernel,
            rules,
            generation: None,
            underlay: BTreeMap::new(),
            retry: RETRY_FIRST,
            told: BTreeSet::new(),
            accept: Accept::default(),
        }
    }

    /// One round; says when the next one is due at the latest.
    async fn round(&mut self) -> Duration {
        let mut messages = BTreeSet::new();
        let outcome = self.reconcile(&mut messages).await;
        let due = match &outcome {
            Ok(()) => {
                self.retry = RETRY_FIRST;
                self.config.resync
            }
            Err(incomplete) => {
                messages.insert(incomplete.to_string());
                let due = self.retry;
                self.retry = (self.retry * 2).min(RETRY_MOST);
                due
            }
        };
        self.tell(messages).await;
        due
    }

    async fn reconcile(&mut self, messages: &mut BTreeSet<String>) -> Result<(), Incomplete> {
        let deletions = if self.nodes.is_synced() {
            Deletions::Allowed
        } else {
            Deletions::Forbidden
        };
        let own = self.own_node()?;
        let actual = self.kernel.observe()?;
        let local = self.local(&own, &actual)?;
        let settings = self.settings();
        let (wanted, problems) = desired(&settings, &local, &self.remotes(messages));
        messages.extend(problems.iter().map(Problem::to_string));
        let ops = plan(&wanted, &actual, deletions);
        if !ops.is_empty() {
            tracing::debug!(?ops, "changing the overlay");
        }
        let failed = self.kernel.apply(&ops);
        self.publish(&own, &settings, &local).await?;
        if let Some(foreign) = actual
            .devices
            .values()
            .find(|device| device.vxlan.is_none())
        {
            return Err(Incomplete::ForeignDevice(foreign.name.clone()));
        }
        if let Some(mtu) = pod_mtu(&settings, &wanted) {
            self.node_files(&own, mtu)?;
            self.accept.keep(&with_pools(
                &self.config.cluster_networks,
                self.config.pools.as_ref(),
            ));
        }
        let count = failed.len();
        match failed.into_iter().next() {
            Some((_, first)) => Err(Incomplete::Steps { count, first }),
            None => Ok(()),
        }
    }

    /// Until pools are other ones; for ever without any.
    async fn pools_changed(&mut self) {
        let changed = match &mut self.config.pools {
            Some(pools) => pools.ranges.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            vni: self.config.vni,
            port: self.config.port,
            direct_routing: self.config.direct_routing,
            carries: self.config.carries.clone(),
            no_tx_checksum: self.no_tx_checksum,
            mtu: self.config.mtu,
        }
    }

    fn own_node(&self) -> Result<OwnNode, Incomplete> {
        let name = &self.config.node_name;
        let node = self
            .nodes
            .get("", name)
            .ok_or_else(|| Incomplete::NoNode(name.clone()))?;
        let pod_networks = pod_ranges(&node);
        if pod_networks.is_empty() {
            return Err(Incomplete::NoPodNetwork);
        }
        let addresses = internal_addresses(&node);
        Ok(OwnNode {
            node,
            pod_networks,
            addresses,
        })
    }

    fn local(&mut self, own: &OwnNode, actual: &Actual) -> Result<Local, Incomplete> {
        let interfaces = self.kernel.interfaces(&self.config.underlay)?;
        let choices = underlay::choose(&self.config.underlay, &own.addresses, &interfaces);
        let choices = match choices {
            Err(_) if !self.underlay.is_empty() => BTreeMap::new(),
            other => other?,
        };
        let choices = underlay::keep_missing(choices, &self.underlay, &own.addresses, &interfaces);
        self.underlay = choices.clone();
        let published = annotations::decode(own.node.annotations()).unwrap_or_default();
        let endpoint = |(outer, choice): (&Outer, &Choice)| {
            let mac = own_mac(*outer, &self.config.node_name, actual, &published);
            let endpoint = LocalEndpoint {
                address: choice.address,
                interface: choice.interface,
                underlay_mtu: choice.mtu,
                mac,
            };
            (*outer, endpoint)
        };
        Ok(Local {
            name: self.config.node_name.clone(),
            pod_networks: own.pod_networks.clone(),
            endpoints: choices.iter().map(endpoint).collect(),
            on_link: underlay::on_link(&choices, &interfaces),
        })
    }

    /// The other nodes, oldest first.
    fn remotes(&self, messages: &mut BTreeSet<String>) -> Vec<Remote> {
        let mut nodes = self.nodes.list();
        nodes.sort_by_key(|node| (node.meta().creation_timestamp.clone(), node.name_any()));
        nodes
            .iter()
            .filter(|node| node.name_any() != self.config.node_name)
            .map(|node| {
                let endpoints = annotations::decode(node.annotations()).unwrap_or_else(|error| {
                    messages.insert(format!("node {} is left out: {error}", node.name_any()));
                    BTreeMap::new()
                });
                Remote {
                    name: node.name_any(),
                    pod_networks: pod_ranges(node),
                    endpoints,
                }
            })
            .collect()
    }

    /// Says in our node's annotations where our tunnels end.
    async fn publish(
        &self,
        own: &OwnNode,
        settings: &Settings,
        local: &Local,
    ) -> Result<(), Incomplete> {
        let mut endpoints = published(settings, local);
        for (outer, endpoint) in &mut endpoints {
            if let Ok(Some(address)) = annotations::overwrite(own.node.annotations(), *outer) {
                endpoint.public_ip = address;
            }
        }
        let wanted = annotations::encode(&endpoints);
        let there = own.node.annotations();
        if wanted
            .iter()
            .all(|(key, value)| there.get(key) == value.as_ref())
        {
            return Ok(());
        }
        let patch = serde_json::json!({ "metadata": { "annotations": wanted } });
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch(
            &self.config.node_name,
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(drop)
        .map_err(|error| Incomplete::Publish(Box::new(error)))
    }

    /// What container runtimes and Flannel's own plugin read, forwarding and masquerading.
    fn node_files(&self, own: &OwnNode, mtu: u32) -> Result<(), Incomplete> {
        let config = &self.config;
        let mut exceptions = config.cluster_networks.clone();
        exceptions.extend(config.masquerade_exceptions.iter().copied());
        let pools = config.pools.as_ref();
        let ranges = pools.map(|pools| pools.ranges.borrow().clone());
        let masquerade = Masquerade::of(&own.pod_networks, exceptions, &ranges.unwrap_or_default());
        let network = NodeNetwork {
            pod_networks: own.pod_networks.clone(),
            own_ranges: own_ranges(&own.node),
            pool_socket: pools.map(|pools| pools.socket.clone()),
            mtu,
            masquerade: config.masquerade.then_some(masquerade),
            policy_socket: config.policy_socket.clone(),
            conflist: config.conflist.clone(),
            underlay: Vec::new(),
        };
        let env = subnet_env(
            &config.cluster_networks,
            &own.pod_networks,
            mtu,
            config.masquerade,
        );
        write_if_changed(&config.subnet_env, env.as_bytes())?;
        let changes = network.apply()?;
        if changes.conflist {
            tracing::info!(path = %config.conflist.display(), mtu, "the pod network is configured");
        }
        Ok(())
    }

    /// Whether anybody has changed any rule since the last look.
    fn rules_changed(&mut self) -> bool {
        let generation = self.rules.generation().ok();
        let changed = generation != self.generation;
        self.generation = generation;
        changed
    }

    /// Other interfaces' neighbours and routes come and go all the time.
    fn concerns_us(&self, event: &Event) -> bool {
        let device = |index: &Ifindex| self.kernel.indexes().values().any(|own| own == index);
        let underlay = |index: Ifindex| {
            self.underlay.is_empty() || self.underlay.values().any(|c| c.interface == index)
        };
        let route = |route: &::kernel::route::Route| {
            route.protocol == Protocol::VXLAN
                || route.destination.prefix() == 0
                || route
                    .next_hops
                    .iter()
                    .filter_map(|hop| hop.interface.as_ref())
                    .any(device)
        };
        // What hindered the last round may be gone now.
        let failing = self.retry != RETRY_FIRST;
        match event {
            Event::Lost => true,
            Event::NewLink(_) | Event::DeletedLink(_) | Event::NewAddress(_) if failing => true,
            Event::NewLink(link) | Event::DeletedLink(link) => {
                device(&link.index)
                    || underlay(link.index)
                    || Outer::ALL
                        .iter()
                        .any(|o| o.device_name(self.config.vni) == link.name)
            }
            Event::NewAddress(address) | Event::DeletedAddress(address) => {
                device(&address.interface) || underlay(address.interface)
            }
            Event::NewRoute(changed) | Event::DeletedRoute(changed) => route(changed),
            Event::NewNeighbour(n) | Event::DeletedNeighbour(n) => device(&n.interface),
            Event::NewFdbEntry(e) | Event::DeletedFdbEntry(e) => device(&e.interface),
            Event::RulesChanged => false,
        }
    }

    /// Says each thing once: in the log and as an event of the Node.
    async fn tell(&mut self, messages: BTreeSet<String>) {
        let new: Vec<String> = messages.difference(&self.told).cloned().collect();
        self.told = messages;
        let node = self.nodes.get("", &self.config.node_name);
        for message in new {
            tracing::warn!(node = %self.config.node_name, "{message}");
            let Some(node) = &node else { continue };
            post_warning(&self.client, node, &message).await;
        }
    }
}

/// Says it in an event of the Node.
pub(crate) async fn post_warning(client: &Client, node: &Node, message: &str) {
    let event = warning(node, message);
    let api: Api<NodeEvent> = Api::namespaced(client.clone(), EVENT_NAMESPACE);
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::debug!(%error, "an event could not be written"),
    }
}

/// The event that says it. Its name comes from the text: the same is not told twice.
fn warning(node: &Node, message: &str) -> NodeEvent {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(message);
    let suffix: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let now = Time(Timestamp::now());
    NodeEvent {
        metadata: ObjectMeta {
            name: Some(format!("{}.vxlan-{suffix}", node.name_any())),
            namespace: Some(EVENT_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: node.object_ref(&()),
        type_: Some("Warning".to_owned()),
        reason: Some("PodNetwork".to_owned()),
        message: Some(message.to_owned()),
        source: Some(EventSource {
            component: Some("fairlead-vxlan".to_owned()),
            host: Some(node.name_any()),
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..NodeEvent::default()
    }
}

/// Keeps the address that the device has; a new one is always the same for a node.
fn own_mac(
    outer: Outer,
    node: &str,
    actual: &Actual,
    published: &BTreeMap<Outer, Endpoint>,
) -> MacAddress {
    let device = actual
        .devices
        .get(&outer)
        .filter(|device| device.vxlan.is_some());
    device
        .and_then(|device| device.mac)
        .or_else(|| published.get(&outer).map(|endpoint| endpoint.mac))
        .unwrap_or_else(|| derived_mac(outer, node))
}

fn derived_mac(outer: Outer, node: &str) -> MacAddress {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{outer:?}/{node}"));
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&digest[..6]);
    MacAddress::local(bytes)
}

/// The addresses that the node is known by inside the cluster.
pub fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// What Flannel's own CNI plugin reads.
fn subnet_env(cluster: &[IpNetwork], own: &[IpNetwork], mtu: u32, masquerade: bool) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (v6, infix) in [(false, ""), (true, "IPV6_")] {
        let find = |list: &[IpNetwork]| list.iter().copied().find(|n| n.is_ipv6() == v6);
        if let (Some(cluster), Some(own)) = (find(cluster), find(own)) {
            let _ = writeln!(text, "FLANNEL_{infix}NETWORK={cluster}");
            // Flannel writes the address that a bridge would have: the second one.
            let gateway = match own.network() {
                IpAddr::V4(first) => IpAddr::V4((u32::from(first) + 1).into()),
                IpAddr::V6(first) => IpAddr::V6((u128::from(first) + 1).into()),
            };
            let _ = writeln!(text, "FLANNEL_{infix}SUBNET={gateway}/{}", own.prefix());
        }
    }
    let _ = writeln!(text, "FLANNEL_MTU={mtu}");
    let _ = writeln!(text, "FLANNEL_IPMASQ={masquerade}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_env_is_as_flannel_writes_it() {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>();
        let cluster = nets(&["10.244.0.0/16", "fd00:10:244::/56"]);
        let own = nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(
            subnet_env(&cluster, &own, 1430, true),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n\
             FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
        );
    }

    #[test]
    fn a_node_has_its_own_address_for_its_tunnels() {
        let of = |node| derived_mac(Outer::V4, node);
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert_ne!(of("a"), derived_mac(Outer::V6, "a"));
        assert!(!of("a").is_multicast());
    }
}
