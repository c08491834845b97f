//! The agent's loop: changes into the index, one transaction per batch, answers to the plugin.
//!
//! ```text
//! watch caches --Update--> Agent (index, committed) --Transaction--> kernel
//! gate --Waiting--^            '--> waiting plugins are answered
//! nftables monitor: our table was changed by somebody else -> written anew
//! cluster DNS --Answered--> sets of names' addresses
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kernel::conntrack;
use kernel::nflog::{Logged, Nflog};
use kernel::nftables::{Changes, Notice};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use watch_cache::{Change, WatchCache, WatchCaches};

use crate::api::{self, ClusterNetworkPolicy, NodeView, PodView};
use crate::caches::{Caches, Update};
use crate::connections::{Connections, Tracking};
use crate::flows::{self, Flow, Flows};
use crate::gate::{self, Records, Waiting};
use crate::index::{Desired, Index};
use crate::kernel_table::KernelTable;
use crate::learning::{Answered, Memory, until_next_end};
use crate::metrics::metrics;
use crate::model::{Direction, ObjectName, Pod};
use crate::plan::{self, Compiled, Log, Names};
use crate::render::LOG_GROUP;
use crate::slipped;

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
    /// What the cluster DNS answered, across restarts of the process.
    pub names: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self::below(Path::new("/run/fairlead"))
    }
}

impl Config {
    /// With everything in one directory.
    pub fn below(directory: &Path) -> Self {
        Self {
            socket: directory.join("policy.sock"),
            attachments: directory.join("policy/attachments"),
            flows: directory.join("flows.sock"),
            names: directory.join("policy/names.json"),
        }
    }
}

pub struct Deps {
    pub caches: WatchCaches,
    /// What the cluster DNS of this node answers. Without it, rules that name domains allow nothing.
    pub answers: Option<mpsc::Receiver<Answered>>,
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
    let mut logged = listen_to_verdicts();
    let mut answers = deps.answers;
    let mut agent = Agent {
        log: match logged {
            Some(_) => Log::DROPS,
            None => Log::NOTHING,
        },
        connections: Connections::default(),
        tracking: Tracking::open(),
        in_use: BTreeSet::new(),
        repaired: false,
        answered: Vec::new(),
        memory: Memory::open(&config.names),
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
    agent.index.set_learnt(agent.memory.learnt());
    agent.rebuild();
    let mut disturbances = Changes::open()?;
    let mut written = agent.write();
    // Only now: an answer promises that the rules are in the kernel.
    let listener = gate::listen(&config.socket).map_err(file(&config.socket))?;
    let (sender, mut requests) = mpsc::channel(WAITING);
    let serving = gate::serve(listener, sender, shutdown.clone());
    let serving = tokio::spawn(serving);
    let listener = gate::listen(&config.flows).map_err(file(&config.flows))?;
    let (flows, connections) = (agent.flows.clone(), agent.connections.clone());
    let telling = flows::serve(listener, flows, connections, shutdown.clone());
    let telling = tokio::spawn(telling);
    let mut wanted = agent.flows.wanted();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            update = updates.next() => {
                agent.update(update.ok_or(Error::CachesEnded)?);
                updates.extend(agent.caches.take_cluster_policies());
            }
            Some(request) = requests.recv() => agent.attach(request),
            notices = disturbances.next() => agent.disturbed(&notices?),
            packets = next_logged(&mut logged) => {
                agent.logged(&packets);
                continue;
            }
            answered = next_answer(&mut answers) => if !agent.learn(answered) { continue },
            _ = wanted.changed() => agent.log.accepted = *wanted.borrow() > 0 && agent.log.drops,
            flows = agent.tracking.next() => {
                agent.remember(&flows);
                continue;
            }
            () = tokio::time::sleep(until_next_end(&agent.index, SystemTime::now())) => {
                agent.index.forget_past(SystemTime::now(), &agent.in_use);
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
fn listen_to_verdicts() -> Option<Nflog> {
    match Nflog::open(LOG_GROUP) {
        Ok(nflog) => Some(nflog),
        Err(error) => {
            tracing::warn!(%error, "dropped packets are not told: this kernel has no NFLOG, or another process has our group");
            None
        }
    }
}

async fn next_logged(nflog: &mut Option<Nflog>) -> Vec<Logged> {
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

async fn next_answer(answers: &mut Option<mpsc::Receiver<Answered>>) -> Answered {
    if let Some(own) = answers
        && let Some(answered) = own.recv().await
    {
        return answered;
    }
    // The DNS server ended, or there is none.
    *answers = None;
    std::future::pending().await
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
    connections: Connections,
    tracking: Tracking,
    /// The addresses that connections go to.
    in_use: BTreeSet<IpAddr>,
    /// Our table was written anew: the next look at connections tells what was made meanwhile.
    repaired: bool,
    /// Clients of the cluster DNS that wait until the addresses are in the kernel.
    answered: Vec<oneshot::Sender<()>>,
    memory: Memory,
}

impl Agent {
    /// The index from the caches' whole content.
    fn rebuild(&mut self) {
        let attachments = self.index.attachments().clone();
        let learnt = self.index.learnt().clone();
        self.index = Index::default();
        self.index.set_learnt(learnt);
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

    fn logged(&self, packets: &[Logged]) {
        for own in packets {
            let Some(told) = self.names.told(&own.prefix, &self.desired) else {
                continue;
            };
            let interface = match told.direction {
                Direction::Ingress => own.out_interface.as_deref(),
                Direction::Egress => own.in_interface.as_deref(),
            };
            let flow = || Flow::of(&own.packet, &told, &self.index);
            let interface = interface.unwrap_or_default();
            self.flows
                .tell(interface, told.direction, told.accepted, flow);
        }
    }

    /// Whether the kernel has to know; who waits for it is answered when it does.
    fn learn(&mut self, (name, addresses, ready): Answered) -> bool {
        let changed = self.index.learn(&name, &addresses, SystemTime::now());
        if changed {
            self.answered.push(ready);
        } else {
            // Who hung up does not need to know.
            let _ = ready.send(());
        }
        changed
    }

    fn remember(&mut self, flows: &[conntrack::Flow]) {
        if std::mem::take(&mut self.repaired) {
            self.tell_what_slipped_through(flows);
        }
        let now = SystemTime::now();
        self.in_use = self.connections.remember(flows, &self.index, now);
    }

    /// Connections that are there although policies deny them.
    fn tell_what_slipped_through(&self, flows: &[conntrack::Flow]) {
        for flow in flows {
            let Some((packet, told)) = slipped::through(flow, &self.desired, &self.index) else {
                continue;
            };
            tracing::warn!(
                source = %packet.source, destination = %packet.destination, reason = %told.decision,
                "a connection that policies deny was made while our table was not as it has to be"
            );
            let tell = || Flow::of(&packet, &told, &self.index);
            self.flows.tell("", told.direction, true, tell);
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
            self.repaired = true;
            self.tracking.hurry();
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
                if self.committed.take().is_none() && self.log != Log::NOTHING {
                    tracing::warn!("the rules are tried again without a log of what they drop");
                    self.log = Log::NOTHING;
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
        for ready in self.answered.drain(..) {
            // Who hung up does not need to know.
            let _ = ready.send(());
        }
        if let Err(error) = self.memory.keep(self.index.learnt()) {
            tracing::warn!(%error, "what names resolve to would be lost by a restart");
        }
        self.desired = desired;
        true
    }
}
