//! The agent's loop: changes into the index, one transaction per batch, answers to the plugin.
//!
//! ```text
//! watch caches --Update--> Agent (index, committed) --Transaction--> kernel
//! gate --Waiting--^            '--> waiting plugins are answered
//! nftables monitor: our table was changed by somebody else -> written anew
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kernel::nflog::{Logged, Nflog};
use kernel::nftables::{Changes, Notice};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch_cache::{Change, WatchCache, WatchCaches};

use crate::api::{self, ClusterNetworkPolicy, NodeView, PodView};
use crate::caches::{Caches, Update};
use crate::flows::{self, Flow, Flows};
use crate::gate::{self, Records, Waiting};
use crate::index::{Desired, Index};
use crate::kernel_table::KernelTable;
use crate::metrics::metrics;
use crate::model::{Direction, ObjectName, Pod};
use crate::plan::{self, Compiled, Log, Names};
use crate::render::LOG_GROUP;

/// How long after a refused transaction the whole table is written anew.
const RETRY: Duration = Duration::from_millis(500);
const WAITING: usize = 256;

/// Where `fairlead flows` asks when nothing else is said.
pub const FLOWS_SOCKET: &str = "/run/fairlead/flows.sock";

#[derive(Debug, Clone)]
pub struct Config {
    /// Where the CNI plugin asks.
    pub socket: PathBuf,
    /// What is known of this node's interfaces, across restarts of the process.
    pub attachments: PathBuf,
    /// Where people ask what was dropped.
    pub flows: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/fairlead/policy.sock"),
            attachments: PathBuf::from("/run/fairlead/policy/attachments"),
            flows: PathBuf::from(FLOWS_SOCKET),
        }
    }
}

pub struct Deps {
    pub caches: WatchCaches,
}

/// Faults that an operator has to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("policy: nftables cannot be used: {0}; run as root on a kernel with nf_tables")]
    Nftables(#[from] kernel::nftables::Error),
    #[error("policy: {path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("policy: the watch caches ended, restart the process")]
    CachesEnded,
}

/// Enforces until `shutdown`. What is in the kernel then stays there.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let file = |path: &PathBuf| {
        let path = path.clone();
        move |source| Error::File { path, source }
    };
    let table = KernelTable::open()?;
    let records = Records::open(config.attachments.clone()).map_err(file(&config.attachments))?;
    let mut caches = Caches::new(&deps.caches);
    let mut updates = caches.updates();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = caches.synced() => {}
    }
    updates.extend(caches.take_cluster_policies());
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = caches.cluster_policies_synced() => {}
    }
    let mut dropped = listen_to_drops();
    let mut agent = Agent {
        log: match dropped {
            Some(_) => Log::Drops,
            None => Log::Nothing,
        },
        flows: Flows::new(),
        desired: Desired::default(),
        index: Index::default(),
        caches,
        names: Names::default(),
        committed: None,
        own_generations: BTreeSet::new(),
        table,
        waiting: Vec::new(),
        records,
    };
    for (interface, attachment) in agent.records.load().map_err(file(&config.attachments))? {
        agent.index.set_attachment(interface, attachment);
    }
    agent.rebuild();
    let mut disturbances = Changes::open()?;
    let mut written = agent.write();
    // Only now: an answer promises that the rules are in the kernel.
    let listener = gate::listen(&config.socket).map_err(file(&config.socket))?;
    let (sender, mut requests) = mpsc::channel(WAITING);
    let serving = gate::serve(listener, sender, shutdown.clone());
    let serving = tokio::spawn(serving);
    let listener = gate::listen(&config.flows).map_err(file(&config.flows))?;
    let telling = flows::serve(listener, agent.flows.clone(), shutdown.clone());
    let telling = tokio::spawn(telling);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            update = updates.next() => {
                agent.update(update.ok_or(Error::CachesEnded)?);
                updates.extend(agent.caches.take_cluster_policies());
            }
            Some(request) = requests.recv() => agent.attach(request),
            notices = disturbances.next() => agent.disturbed(&notices?),
            logged = next_dropped(&mut dropped) => {
                agent.dropped(&logged);
                continue;
            }
            () = tokio::time::sleep(RETRY), if !written => {}
        }
        while let Some(Some(update)) = updates.next().now_or_never() {
            agent.update(update);
        }
        while let Ok(request) = requests.try_recv() {
            agent.attach(request);
        }
        written = agent.write();
    }
    // Their end needs no notice: they stop with the token.
    let _ = serving.await;
    let _ = telling.await;
    Ok(())
}

/// Enforcement does not depend on it.
fn listen_to_drops() -> Option<Nflog> {
    match Nflog::open(LOG_GROUP) {
        Ok(nflog) => Some(nflog),
        Err(error) => {
            tracing::warn!(%error, "dropped packets are not told: this kernel has no NFLOG, or another process has our group");
            None
        }
    }
}

async fn next_dropped(nflog: &mut Option<Nflog>) -> Vec<Logged> {
    let Some(own) = nflog else {
        return std::future::pending().await;
    };
    match own.next().await {
        Ok(logged) => logged,
        Err(error) => {
            tracing::warn!(%error, "dropped packets are not told any more");
            *nflog = None;
            Vec::new()
        }
    }
}

struct Agent {
    index: Index,
    log: Log,
    flows: Flows,
    /// What the committed rules were made from.
    desired: Desired,
    caches: Caches,
    names: Names,
    /// What the kernel has; `None`: unknown.
    committed: Option<Compiled>,
    /// The generations of the ruleset that this process made and whose notice is to come.
    own_generations: BTreeSet<u32>,
    table: KernelTable,
    waiting: Vec<Waiting>,
    records: Records,
}

impl Agent {
    /// The index from the caches' whole content.
    fn rebuild(&mut self) {
        let attachments = self.index.attachments().clone();
        self.index = Index::default();
        for (interface, attachment) in attachments {
            self.index.set_attachment(interface, attachment);
        }
        for namespace in self.caches.namespaces.list() {
            self.set_namespace(&namespace);
        }
        for policy in self.caches.policies.list() {
            self.set_policy(&policy);
        }
        let cluster_policies = self.caches.cluster_policies.as_ref();
        for policy in cluster_policies.map(WatchCache::list).unwrap_or_default() {
            self.set_cluster_policy(&policy);
        }
        for node in self.caches.nodes.list() {
            self.set_node(&node);
        }
        for slice in self.caches.slices.list() {
            self.set_slice(&slice);
        }
        for pod in self.caches.pods.list() {
            self.set_pod(&pod);
        }
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Pod(Change::Applied { new, .. }) => self.set_pod(&new),
            Update::Pod(Change::Deleted { old }) => {
                self.index.remove_pod(&api::name(&old.metadata));
                self.forget_gone_interfaces();
            }
            Update::Namespace(Change::Applied { new, .. }) => self.set_namespace(&new),
            Update::Namespace(Change::Deleted { old }) => {
                self.index
                    .remove_namespace(old.metadata.name.as_deref().unwrap_or_default());
            }
            Update::Policy(Change::Applied { new, .. }) => self.set_policy(&new),
            Update::Policy(Change::Deleted { old }) => {
                self.index.remove_policy(&api::name(&old.metadata));
            }
            Update::Slice(Change::Applied { new, .. }) => self.set_slice(&new),
            Update::Slice(Change::Deleted { old }) => {
                if let Some((name, _)) = api::dns_pod(&old) {
                    self.index.remove_pod(&name);
                }
            }
            Update::Node(Change::Applied { new, .. }) => self.set_node(&new),
            Update::Node(Change::Deleted { old }) => {
                self.index.remove_node(&api::name(&old.metadata).1);
            }
            Update::ClusterPolicy(Change::Applied { new, .. }) => self.set_cluster_policy(&new),
            Update::ClusterPolicy(Change::Deleted { old }) => {
                self.index
                    .remove_cluster_policy(&api::name(&old.metadata).1);
            }
            Update::Definition => {}
            Update::Rebuild => self.rebuild(),
        }
    }

    fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        self.index
            .set_namespace(name, namespace.metadata.labels.clone().unwrap_or_default());
    }

    fn set_policy(&mut self, object: &NetworkPolicy) {
        let (policy, faults) = api::policy(object);
        for fault in faults {
            let (namespace, name) = &policy.name;
            tracing::warn!(%namespace, %name, %fault, "a part of a NetworkPolicy allows nothing");
        }
        self.index.set_policy(policy);
    }

    fn set_cluster_policy(&mut self, object: &ClusterNetworkPolicy) {
        let (policy, faults) = api::cluster_policy(object);
        for fault in faults {
            let name = &policy.name;
            tracing::warn!(%name, %fault, "a part of a ClusterNetworkPolicy fails closed");
        }
        self.index.set_cluster_policy(policy);
    }

    fn set_node(&mut self, object: &NodeView) {
        self.index
            .set_node(&api::name(&object.metadata).1, api::node(object));
    }

    fn set_slice(&mut self, slice: &EndpointSlice) {
        if let Some((name, pod)) = api::dns_pod(slice) {
            self.index.set_pod(name, pod);
        }
    }

    fn set_pod(&mut self, object: &PodView) {
        let name = api::name(&object.metadata);
        match api::pod(object) {
            Some(pod) => self.set_known_pod(name, pod),
            None => self.index.remove_pod(&name),
        }
    }

    /// The plugin tells a local pod's addresses before the API does.
    fn set_known_pod(&mut self, name: ObjectName, mut pod: Pod) {
        let local = self
            .index
            .attachments()
            .values()
            .filter(|own| own.pod == name);
        let told: BTreeSet<_> = local
            .flat_map(|own| own.addresses.iter().copied())
            .collect();
        pod.addresses.extend(told);
        self.index.set_pod(name, pod);
    }

    fn attach(&mut self, request: Waiting) {
        self.forget_gone_interfaces();
        let told = &request.told;
        if let Err(error) = self.records.store(told) {
            tracing::warn!(interface = %told.host_interface, %error, "an interface was not recorded");
            return;
        }
        let attachment = told.attachment();
        let name = attachment.pod.clone();
        self.index
            .set_attachment(told.host_interface.clone(), attachment);
        if let Some(pod) = self.caches.pods.get(&name.0, &name.1) {
            self.set_pod(&pod);
        }
        self.waiting.push(request);
    }

    fn dropped(&self, logged: &[Logged]) {
        for own in logged {
            let Some((direction, decision)) = self.names.decision(&own.prefix, &self.desired)
            else {
                continue;
            };
            let interface = match direction {
                Direction::Ingress => own.out_interface.as_deref(),
                Direction::Egress => own.in_interface.as_deref(),
            };
            let flow = || Flow::of(own, direction, &decision, &self.index);
            self.flows
                .tell(interface.unwrap_or_default(), direction, flow);
        }
    }

    fn forget_gone_interfaces(&mut self) {
        let gone: Vec<String> = self
            .index
            .attachments()
            .keys()
            .filter(|name| !gate::exists(name))
            .cloned()
            .collect();
        for interface in gone {
            self.index.remove_attachment(&interface);
            self.records.remove(&interface);
        }
        let attachments = self.index.attachments();
        self.flows
            .retain(|interface| attachments.contains_key(interface));
    }

    /// Changes of the ruleset, this process's own among them. What a foreign one did to our
    /// table is not known: it is written anew.
    fn disturbed(&mut self, notices: &[Notice]) {
        let table = plan::table();
        let mut foreign = false;
        for notice in notices {
            let ours = self.own_generations.remove(&notice.generation);
            let touched = notice
                .tables
                .as_ref()
                .is_none_or(|tables| tables.contains(&table));
            foreign |= touched && !ours;
            if notice.tables.is_none() {
                self.own_generations.clear();
            }
        }
        if foreign {
            metrics().repairs.inc();
            tracing::warn!("somebody else changed our table, it is written anew");
            self.committed = None;
        }
    }

    /// Brings the kernel to what is wanted and answers who waited for it; false if it has to be
    /// tried again.
    fn write(&mut self) -> bool {
        let started = Instant::now();
        let desired = self.index.desired();
        let compiled = plan::compile(&desired, &mut self.names, self.log);
        let transaction = plan::plan(self.committed.as_ref(), &compiled);
        match self.table.apply(&transaction) {
            Ok(generation) => self.own_generations.extend(generation),
            Err(error) => {
                tracing::error!(%error, "policies were not written, the whole table is tried again");
                metrics().failures.inc();
                if self.committed.take().is_none() && self.log == Log::Drops {
                    tracing::warn!("the rules are tried again without a log of what they drop");
                    self.log = Log::Nothing;
                }
                return false;
            }
        }
        self.committed = Some(compiled);
        if !transaction.is_empty() {
            metrics()
                .write_duration
                .observe(started.elapsed().as_secs_f64());
        }
        metrics()
            .endpoints
            .set(i64::try_from(desired.endpoints.len()).unwrap_or(i64::MAX));
        let known =
            |waiting: &Waiting| desired.endpoints.contains_key(&waiting.told.host_interface);
        for waiting in self.waiting.extract_if(.., |waiting| known(waiting)) {
            // Who hung up asks again.
            let _ = waiting.protected.send(());
        }
        self.waiting
            .retain(|waiting| !waiting.protected.is_closed());
        self.desired = desired;
        true
    }
}
