//! The agent's loop: changes into the index, one transaction per batch, answers to the plugin.
//!
//! ```text
//! watch caches --Update--> Agent (index, committed) --Transaction--> kernel
//! gate --Waiting--^            '--> waiting plugins are answered
//! nftables monitor: our table was changed by somebody else -> written anew
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kernel::nftables::{Changes, Notice};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch_cache::{Cacheable, Change, WatchCache, WatchCaches};

use crate::api;
use crate::gate::{self, Records, Waiting};
use crate::index::Index;
use crate::kernel_table::KernelTable;
use crate::model::{ObjectName, Pod};
use crate::plan::{self, Compiled, Names};
use crate::pod_view::PodView;

/// How long after a refused transaction the whole table is written anew.
const RETRY: Duration = Duration::from_millis(500);
const WAITING: usize = 256;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where the CNI plugin asks.
    pub socket: PathBuf,
    /// What is known of this node's interfaces, across restarts of the process.
    pub attachments: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/fairlead/policy.sock"),
            attachments: PathBuf::from("/run/fairlead/policy/attachments"),
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
    let caches = Caches::new(&deps.caches);
    let mut updates = caches.updates();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = caches.synced() => {}
    }
    let mut agent = Agent {
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
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            update = updates.next() => agent.update(update.ok_or(Error::CachesEnded)?),
            Some(request) = requests.recv() => agent.attach(request),
            notices = disturbances.next() => agent.disturbed(&notices?),
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
    // Its end needs no notice: it stops with the token.
    let _ = serving.await;
    Ok(())
}

enum Update {
    Pod(Change<PodView>),
    Namespace(Change<Namespace>),
    Policy(Change<NetworkPolicy>),
    Slice(Change<EndpointSlice>),
    /// Changes were lost.
    Rebuild,
}

struct Caches {
    pods: WatchCache<PodView>,
    namespaces: WatchCache<Namespace>,
    policies: WatchCache<NetworkPolicy>,
    slices: WatchCache<EndpointSlice>,
}

impl Caches {
    fn new(caches: &WatchCaches) -> Self {
        Self {
            pods: caches.of(),
            namespaces: caches.of(),
            policies: caches.of(),
            slices: caches.of(),
        }
    }

    fn updates(&self) -> SelectAll<BoxStream<'static, Update>> {
        futures::stream::select_all([
            changes(&self.pods, Update::Pod),
            changes(&self.namespaces, Update::Namespace),
            changes(&self.policies, Update::Policy),
            changes(&self.slices, Update::Slice),
        ])
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.policies.synced().await;
        self.slices.synced().await;
    }
}

fn changes<K: Cacheable>(
    cache: &WatchCache<K>,
    wrap: fn(Change<K>) -> Update,
) -> BoxStream<'static, Update> {
    futures::stream::unfold(cache.subscribe(), move |mut receiver| async move {
        match receiver.recv().await {
            Ok(change) => Some((wrap(change), receiver)),
            Err(RecvError::Lagged(_)) => Some((Update::Rebuild, receiver)),
            Err(RecvError::Closed) => None,
        }
    })
    .boxed()
}

struct Agent {
    index: Index,
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
            tracing::warn!("somebody else changed our table, it is written anew");
            self.committed = None;
        }
    }

    /// Brings the kernel to what is wanted and answers who waited for it; false if it has to be
    /// tried again.
    fn write(&mut self) -> bool {
        let desired = self.index.desired();
        let compiled = plan::compile(&desired, &mut self.names);
        let transaction = plan::plan(self.committed.as_ref(), &compiled);
        match self.table.apply(&transaction) {
            Ok(generation) => self.own_generations.extend(generation),
            Err(error) => {
                tracing::error!(%error, "policies were not written, the whole table is tried again");
                self.committed = None;
                return false;
            }
        }
        self.committed = Some(compiled);
        let known =
            |waiting: &Waiting| desired.endpoints.contains_key(&waiting.told.host_interface);
        for waiting in self.waiting.extract_if(.., |waiting| known(waiting)) {
            // Who hung up asks again.
            let _ = waiting.protected.send(());
        }
        self.waiting
            .retain(|waiting| !waiting.protected.is_closed());
        true
    }
}
