//! The speaker of a cluster's node: configured by Nodes, Services and resources, which learn in
//! turn how the sessions are.
//!
//! ```text
//! watch caches --Inputs--> topology --Config--> serve
//!      ^                      '--problems--.      |
//!      '------------------ status <--------'--sessions
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use watch_cache::{Cacheable, WatchCache, WatchCaches};

use crate::config::{Config, PORT};
use crate::driver::{Error, Serving, serve};
use crate::report::Neighbor;
use crate::resources::{
    self, BgpConfiguration, BgpFilter, BgpPeer, IpPool, SecretKeyRef, VxlanMode,
};
use crate::status;
use crate::topology::{Compiled, Host, Inputs};

/// Where Secrets with passwords are.
const SECRETS: &str = "kube-system";
/// How often it is looked whether the resources' definitions are there by now.
const DEFINITIONS: Duration = Duration::from_secs(10);
/// How often Secrets and the links' networks are read again: nobody tells when they change.
const REREAD: Duration = Duration::from_secs(30);
/// Changes that come together are one configuration.
const SETTLE: Duration = Duration::from_millis(20);

/// The speaker of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_name: String,
    /// The AS where nothing else is configured.
    pub as_number: Option<u32>,
    pub port: u16,
    /// The socket that `fairlead bgp` asks.
    pub control: Option<PathBuf>,
    pub metrics: Option<std::net::SocketAddr>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            as_number: None,
            port: PORT,
            control: Some(crate::CONTROL_SOCKET.into()),
            metrics: None,
        }
    }
}

pub struct Deps {
    pub caches: WatchCaches,
}

/// Runs the node's speaker until `shutdown`. Routes stay in the kernel, and peers keep theirs for
/// the time of a graceful restart.
pub async fn run(config: NodeConfig, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let nodes: WatchCache<Node> = deps.caches.of();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = nodes.synced() => {}
    }
    let (configs, arriving) = mpsc::channel(1);
    let (sessions, sessions_seen) = watch::channel(Vec::new());
    let (problems, problems_seen) = watch::channel(Vec::new());
    let serving = Serving {
        port: config.port,
        control: config.control.clone(),
        metrics: config.metrics,
        sessions: Some(sessions),
        problems: Some(problems_seen),
    };
    let follower = Follower {
        sources: Sources::new(&deps.caches, nodes),
        client: deps.caches.client(),
        config,
        secrets: BTreeMap::new(),
        last: None,
        configs,
        problems,
    };
    let serving = serve(arriving, serving, shutdown.clone());
    tokio::select! {
        () = follower.follow(sessions_seen) => {
            shutdown.cancelled().await;
            Ok(())
        }
        result = serving => result,
    }
}

/// What each pool's range wants tunnels for.
pub type Tunnels = BTreeMap<IpNetwork, VxlanMode>;

/// What pools want tunnels for, as it changes. Without definitions there are no pools.
pub fn tunnels(caches: &WatchCaches, shutdown: CancellationToken) -> watch::Receiver<Tunnels> {
    let (sender, receiver) = watch::channel(Tunnels::new());
    let caches = caches.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow_pools(&caches, &sender) => {}
        }
    });
    receiver
}

async fn follow_pools(caches: &WatchCaches, sender: &watch::Sender<Tunnels>) {
    use tokio::sync::broadcast::error::RecvError;
    while !is_defined(&caches.client()).await {
        tokio::time::sleep(DEFINITIONS).await;
    }
    let pools: WatchCache<IpPool> = caches.of();
    pools.synced().await;
    let mut changes = pools.subscribe();
    loop {
        let all = pools.list();
        let each = all.iter().filter_map(|pool| {
            let range = pool.spec.cidr.parse().ok()?;
            Some((range, pool.spec.vxlan_mode.unwrap_or_default()))
        });
        let wanted: Tunnels = each.collect();
        sender.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
        if let Err(RecvError::Closed) = changes.recv().await {
            return;
        }
    }
}

/// Whether the API server knows the resources; every other answer is asked for again later.
async fn is_defined(client: &Client) -> bool {
    let peers: Api<IpPool> = Api::all(client.clone());
    peers.list(&ListParams::default().limit(1)).await.is_ok()
}

struct Custom {
    configurations: WatchCache<BgpConfiguration>,
    peers: WatchCache<BgpPeer>,
    filters: WatchCache<BgpFilter>,
    pools: WatchCache<IpPool>,
}

struct Sources {
    caches: WatchCaches,
    nodes: WatchCache<Node>,
    services: WatchCache<Service>,
    slices: WatchCache<EndpointSlice>,
    /// Nothing until the definitions are there.
    custom: Option<Custom>,
    changed: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
}

/// Wakes whoever waits when the cache changes.
fn wake<K: Cacheable>(cache: &WatchCache<K>, changed: mpsc::Sender<()>) {
    let mut changes = cache.subscribe();
    tokio::spawn(async move {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            let ended = tokio::select! {
                change = changes.recv() => matches!(change, Err(RecvError::Closed)),
                () = changed.closed() => true,
            };
            if ended {
                return;
            }
            // One that waits already is enough.
            let _ = changed.try_send(());
        }
    });
}

impl Sources {
    fn new(caches: &WatchCaches, nodes: WatchCache<Node>) -> Self {
        let (changed, changes) = mpsc::channel(1);
        let (services, slices) = (caches.of::<Service>(), caches.of::<EndpointSlice>());
        wake(&nodes, changed.clone());
        wake(&services, changed.clone());
        wake(&slices, changed.clone());
        Self {
            caches: caches.clone(),
            nodes,
            services,
            slices,
            custom: None,
            changed,
            changes,
        }
    }

    /// Starts to watch the resources once they are defined.
    async fn look_for_custom(&mut self) {
        if self.custom.is_some() || !is_defined(&self.caches.client()).await {
            return;
        }
        let custom = Custom {
            configurations: self.caches.of(),
            peers: self.caches.of(),
            filters: self.caches.of(),
            pools: self.caches.of(),
        };
        // A configuration that is not there yet must not look like one that is gone.
        custom.configurations.synced().await;
        custom.peers.synced().await;
        custom.filters.synced().await;
        custom.pools.synced().await;
        wake(&custom.configurations, self.changed.clone());
        wake(&custom.peers, self.changed.clone());
        wake(&custom.filters, self.changed.clone());
        wake(&custom.pools, self.changed.clone());
        self.custom = Some(custom);
    }

    fn inputs(&self, config: &NodeConfig) -> Inputs {
        let hosts = self.nodes.list();
        let mut inputs = Inputs {
            own_name: config.node_name.clone(),
            default_as: config.as_number,
            hosts: hosts.iter().map(|node| Host::of(node)).collect(),
            on_link: on_link(),
            ..Inputs::default()
        };
        let Some(custom) = &self.custom else {
            return inputs;
        };
        if let Some(own) = custom.configurations.get("", resources::DEFAULT) {
            inputs.configuration = own.spec.clone();
        }
        let of_node = resources::of_node(&config.node_name);
        let own = custom.configurations.get("", &of_node);
        inputs.own_configuration = own.map(|own| own.spec.clone());
        inputs.peers = specs(custom.peers.list(), |own| &own.spec);
        inputs.filters = specs(custom.filters.list(), |own| &own.spec);
        inputs.pools = specs(custom.pools.list(), |own| &own.spec);
        inputs.services = self.services.list();
        inputs.slices = self.slices.list();
        inputs
    }
}

fn specs<K: kube::Resource, S: Clone>(all: Vec<Arc<K>>, spec: fn(&K) -> &S) -> BTreeMap<String, S> {
    let each = all.iter().map(|own| {
        (
            own.meta().name.clone().unwrap_or_default(),
            spec(own).clone(),
        )
    });
    each.collect()
}

/// The networks of this machine's interfaces.
pub(crate) fn on_link() -> Vec<IpNetwork> {
    let list = || -> Result<Vec<IpNetwork>, kernel::netlink::Error> {
        let mut socket = kernel::netlink::Socket::route()?;
        let addresses = kernel::address::list(&mut socket, None)?;
        Ok(addresses.into_iter().map(|own| own.network).collect())
    };
    list().unwrap_or_else(|error| {
        tracing::warn!(%error, "the links' networks are not known");
        Vec::new()
    })
}

struct Follower {
    sources: Sources,
    client: Client,
    config: NodeConfig,
    secrets: BTreeMap<SecretKeyRef, String>,
    last: Option<Config>,
    configs: mpsc::Sender<Config>,
    problems: watch::Sender<Vec<String>>,
}

impl Follower {
    /// Until nobody takes configurations any more.
    async fn follow(mut self, mut sessions: watch::Receiver<Vec<Neighbor>>) {
        self.sources.look_for_custom().await;
        let mut definitions = tokio::time::interval(DEFINITIONS);
        let mut reread = tokio::time::interval(REREAD);
        loop {
            let Some(compiled) = self.round().await else {
                return;
            };
            if let (Some(compiled), Some(custom)) = (compiled, &self.sources.custom) {
                let neighbors = sessions.borrow_and_update().clone();
                self.tell(custom, &compiled, &neighbors).await;
            }
            let missing = self.sources.custom.is_none();
            tokio::select! {
                _ = self.sources.changes.recv() => {}
                Ok(()) = sessions.changed() => {}
                _ = definitions.tick(), if missing => self.sources.look_for_custom().await,
                _ = reread.tick(), if !missing => self.read_secrets().await,
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Compiles what is there; `None` when nobody wants it any more.
    async fn round(&mut self) -> Option<Option<Compiled>> {
        let mut inputs = self.sources.inputs(&self.config);
        let wanted = inputs.wanted_secrets();
        if wanted.iter().any(|own| !self.secrets.contains_key(own)) {
            self.read_secrets().await;
        }
        inputs.secrets = self.secrets.clone();
        let Some(compiled) = inputs.compile() else {
            return Some(None);
        };
        let problems: Vec<String> = compiled
            .problems
            .iter()
            .map(|((kind, name), what)| format!("{kind:?} {name}: {what}"))
            .collect();
        self.problems.send_if_modified(|old| {
            let differs = *old != problems;
            *old = problems;
            differs
        });
        if self.last.as_ref() != Some(&compiled.config) {
            self.last = Some(compiled.config.clone());
            self.configs.send(compiled.config.clone()).await.ok()?;
        }
        Some(Some(compiled))
    }

    async fn read_secrets(&mut self) {
        let wanted = self.sources.inputs(&self.config).wanted_secrets();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SECRETS);
        let mut found = BTreeMap::new();
        for reference in wanted {
            match secrets.get_opt(&reference.name).await {
                Ok(Some(secret)) => {
                    let bytes = secret.data.and_then(|mut data| data.remove(&reference.key));
                    if let Some(text) = bytes.and_then(|own| String::from_utf8(own.0).ok()) {
                        found.insert(reference, text.trim_end_matches('\n').to_owned());
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(secret = reference.name, %error, "a password is not read");
                    // What was known stays: a session is not given up for a server that is away.
                    if let Some(old) = self.secrets.get(&reference) {
                        found.insert(reference, old.clone());
                    }
                }
            }
        }
        self.secrets = found;
    }

    async fn tell(&self, custom: &Custom, compiled: &Compiled, neighbors: &[Neighbor]) {
        let author = status::Author::new(&self.client, &self.config.node_name);
        let told = status::Told {
            problems: &compiled.problems,
            neighbors,
        };
        author
            .configurations(&custom.configurations.list(), &told)
            .await;
        author.filters(&custom.filters.list(), &told).await;
        author.peers(&custom.peers.list(), &told).await;
    }
}
