//! The scheduler's loop: changes of the caches into the state and the queue, one decision after
//! the other, and a task for each write.
//!
//! ```text
//! watch caches --Update--> Driver (state, queue) --Writer task--> API server
//!                             ^------------Outcome---------------'
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use watch_cache::{Cacheable, Change, ObjectKey, WatchCache, WatchCaches};

use crate::api::{Nomination, WriteError, Writer};
use crate::metrics;
use crate::pod::PodInfo;
use crate::preemption;
use crate::queue::{ClusterEvent, Queue};
use crate::run::{Config, Deps, Error};
use crate::schedule::{NoFit, schedule};
use crate::state::ClusterState;
use crate::volumes;

/// Writes that are under way at once.
const PARALLEL_WRITES: usize = 64;
/// A pod that no event woke for this long is tried all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Schedules pods until `shutdown`.
pub(crate) async fn schedule_pods(
    config: &Config,
    deps: &Deps,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let caches = Caches::new(&deps.caches);
    let mut updates = caches.updates();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = caches.synced() => {}
    }
    let writer = Writer::new(
        deps.client.clone(),
        &config.scheduler_name,
        caches.claims.clone(),
    );
    let (outcomes, mut finished) = mpsc::unbounded_channel();
    let mut driver = Driver {
        scheduler_name: config.scheduler_name.clone(),
        caches,
        state: ClusterState::default(),
        queue: Queue::default(),
        writer,
        writes: Arc::new(Semaphore::new(PARALLEL_WRITES)),
        outcomes,
        turn: 0,
    };
    driver.rebuild();
    let mut flush = tokio::time::interval(LONGEST_WAIT / 10);
    loop {
        // Decide nothing on news that is already here.
        while let Some(Some(update)) = futures::FutureExt::now_or_never(updates.next()) {
            driver.update(update);
        }
        while let Ok(outcome) = finished.try_recv() {
            driver.finish(outcome);
        }
        if driver.decide_next() {
            tokio::task::yield_now().await;
            if shutdown.is_cancelled() {
                return Ok(());
            }
            continue;
        }
        metrics::pending(driver.queue.counts());
        let due = driver.queue.next_due();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            update = updates.next() => match update {
                Some(update) => driver.update(update),
                None => return Err(Error::CachesEnded),
            },
            Some(outcome) = finished.recv() => driver.finish(outcome),
            () = sleep_until(due) => {}
            _ = flush.tick() => driver.queue.flush(LONGEST_WAIT, Instant::now()),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

enum Update {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
    Plugins(Change<CSINode>),
    Budget,
    /// Changes were lost.
    Rebuild,
}

struct Caches {
    pods: WatchCache<Pod>,
    nodes: WatchCache<Node>,
    namespaces: WatchCache<Namespace>,
    claims: WatchCache<PersistentVolumeClaim>,
    volumes: WatchCache<PersistentVolume>,
    classes: WatchCache<StorageClass>,
    plugins: WatchCache<CSINode>,
    budgets: WatchCache<PodDisruptionBudget>,
}

impl Caches {
    fn new(caches: &WatchCaches) -> Self {
        Self {
            pods: caches.of(),
            nodes: caches.of(),
            namespaces: caches.of(),
            claims: caches.of(),
            volumes: caches.of(),
            classes: caches.of(),
            plugins: caches.of(),
            budgets: caches.of(),
        }
    }

    fn updates(&self) -> SelectAll<BoxStream<'static, Update>> {
        futures::stream::select_all([
            changes(&self.pods, Update::Pod),
            changes(&self.nodes, Update::Node),
            changes(&self.namespaces, Update::Namespace),
            changes(&self.claims, Update::Claim),
            changes(&self.volumes, Update::Volume),
            changes(&self.classes, Update::Class),
            changes(&self.plugins, Update::Plugins),
            changes(&self.budgets, |_| Update::Budget),
        ])
    }

    async fn synced(&self) {
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.plugins.synced().await;
        self.budgets.synced().await;
        self.pods.synced().await;
    }
}

fn changes<K: Cacheable>(
    cache: &WatchCache<K>,
    wrap: fn(Change<K>) -> Update,
) -> BoxStream<'static, Update> {
    cache.updates(wrap, || Update::Rebuild)
}

/// How a write ended that the queue waits for.
struct Outcome {
    pod: Arc<PodInfo>,
    result: Result<(), WriteError>,
}

struct Driver {
    scheduler_name: String,
    caches: Caches,
    state: ClusterState,
    queue: Queue,
    writer: Writer,
    writes: Arc<Semaphore>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    turn: u64,
}

impl Driver {
    /// The state from the caches' whole content. Pods in flight stay assumed where they are.
    fn rebuild(&mut self) {
        let old = std::mem::take(&mut self.state);
        for node in self.caches.nodes.list() {
            self.state.set_node(node);
        }
        for namespace in self.caches.namespaces.list() {
            self.set_namespace(&namespace);
        }
        for claim in self.caches.claims.list() {
            self.state
                .volumes
                .claims
                .insert(ObjectKey::of(claim.as_ref()), claim);
        }
        for volume in self.caches.volumes.list() {
            let name = volume.metadata.name.clone().unwrap_or_default();
            self.state.volumes.volumes.insert(name, volume);
        }
        for class in self.caches.classes.list() {
            let name = class.metadata.name.clone().unwrap_or_default();
            self.state.volumes.classes.insert(name, class);
        }
        for node in self.caches.plugins.list() {
            let name = node.metadata.name.clone().unwrap_or_default();
            self.state.volumes.nodes.insert(name, node);
        }
        self.state.budgets = self.caches.budgets.list();
        let pods = self.caches.pods.list();
        // Pods that went meanwhile would be tried for ever.
        let there: BTreeSet<_> = pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        self.queue.retain(|pod| there.contains(&pod.uid));
        for pod in pods {
            let info = Arc::new(PodInfo::new(pod));
            if let Some(node) = old
                .placement(&info.uid)
                .filter(|_| info.node_name().is_none())
            {
                self.state.place(node, info.clone());
            }
            self.set_pod(info);
        }
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Pod(Change::Applied { old, new }) => {
                let new = Arc::new(PodInfo::new(new));
                if let Some(old) = old.filter(|_| new.nominated_node().is_none())
                    && PodInfo::new(old).nominated_node().is_some()
                {
                    self.forget_nomination(&new.uid);
                }
                self.set_pod(new);
            }
            Update::Pod(Change::Deleted { old }) => self.remove_pod(&PodInfo::new(old)),
            Update::Node(Change::Applied { old, new }) => self.set_node(old.as_deref(), new),
            Update::Node(Change::Deleted { old }) => {
                self.state
                    .remove_node(old.metadata.name.as_deref().unwrap_or_default());
            }
            Update::Namespace(Change::Applied { new, .. }) => {
                self.set_namespace(&new);
                self.event(ClusterEvent::NamespaceLabels);
            }
            Update::Namespace(Change::Deleted { old }) => {
                self.state
                    .namespaces
                    .remove(old.metadata.name.as_deref().unwrap_or_default());
            }
            Update::Budget => self.state.budgets = self.caches.budgets.list(),
            Update::Rebuild => self.rebuild(),
            Update::Claim(_) | Update::Volume(_) | Update::Class(_) | Update::Plugins(_) => {
                self.update_volumes(update);
            }
        }
    }

    fn update_volumes(&mut self, update: Update) {
        let volumes = &mut self.state.volumes;
        match update {
            Update::Claim(change) => {
                store(&mut volumes.claims, change, ObjectKey::of);
            }
            Update::Volume(change) => {
                store(&mut volumes.volumes, change, |v| ObjectKey::of(v).name);
            }
            Update::Class(change) => {
                store(&mut volumes.classes, change, |c| ObjectKey::of(c).name);
            }
            Update::Plugins(change) => {
                store(&mut volumes.nodes, change, |n| ObjectKey::of(n).name);
            }
            _ => return,
        }
        self.event(ClusterEvent::Volumes);
    }

    fn event(&mut self, event: ClusterEvent) {
        self.queue.event(event, Instant::now());
    }

    fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        self.state.namespaces.insert(name, labels);
    }

    fn set_node(&mut self, old: Option<&Node>, new: Arc<Node>) {
        let events = node_events(old, &new);
        let images = |node: &Node| node.status.as_ref().and_then(|s| s.images.clone());
        if events.is_empty() && old.is_some_and(|old| images(old) == images(&new)) {
            return;
        }
        self.state.set_node(new);
        for event in events {
            self.event(event);
        }
    }

    fn set_pod(&mut self, pod: Arc<PodInfo>) {
        if pod.is_finished() {
            self.remove_pod(&pod);
            return;
        }
        if let Some(node) = pod.node_name().map(str::to_owned) {
            self.queue.remove(&pod.key);
            self.state.nominated.remove(&pod.uid);
            let event = placed_event(self.state.placed_pod(&pod.uid), &pod);
            self.state.place(&node, pod);
            if let Some(event) = event {
                self.event(event);
            }
            return;
        }
        let name = pod.spec().and_then(|spec| spec.scheduler_name.as_deref());
        if name.unwrap_or("default-scheduler") != self.scheduler_name {
            return;
        }
        if pod.is_terminating() {
            self.remove_pod(&pod);
            return;
        }
        if let Some(node) = pod.nominated_node().map(str::to_owned) {
            self.state
                .nominated
                .insert(pod.uid.clone(), (node, pod.clone()));
        }
        self.queue.set(pod);
    }

    fn remove_pod(&mut self, pod: &PodInfo) {
        self.queue.remove(&pod.key);
        self.forget_nomination(&pod.uid);
        if self.state.placement(&pod.uid).is_some() {
            self.state.remove_pod(&pod.uid);
            self.event(ClusterEvent::RoomMade);
        }
    }

    /// The room that was kept for a pod is free for others.
    fn forget_nomination(&mut self, uid: &str) {
        if self.state.nominated.remove(uid).is_some() {
            self.event(ClusterEvent::RoomMade);
        }
    }

    /// Decides on the next pod, if one is ready.
    fn decide_next(&mut self) -> bool {
        let Some(pod) = self.queue.pop(Instant::now()) else {
            return false;
        };
        self.turn = self.turn.wrapping_add(1);
        let started = Instant::now();
        match schedule(&self.state, &pod, self.turn) {
            Ok(node) => self.bind(pod, node),
            Err(no_fit) => self.no_fit(&pod, &no_fit),
        }
        metrics::decided(started.elapsed());
        true
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let claims = volumes::waiting_claims(&self.state.volumes, &pod);
        self.state.nominated.remove(&pod.uid);
        self.state.place(&node, pod.clone());
        let (writer, outcomes) = (self.writer.clone(), self.outcomes.clone());
        self.spawn(async move {
            let result = writer.bind(&pod, &node, &claims).await;
            // The loop is gone only when the process ends.
            let _ = outcomes.send(Outcome { pod, result });
        });
    }

    fn no_fit(&mut self, pod: &Arc<PodInfo>, no_fit: &NoFit) {
        metrics::attempted(metrics::Result::Unschedulable);
        let allowed = preemption::allowed(&self.state, pod, no_fit);
        let found = allowed
            .then(|| preemption::find(&self.state, pod, no_fit))
            .flatten();
        let mut message = no_fit.message();
        if no_fit.nodes > 0 && found.is_none() && allowed {
            let why = preemption::nothing_found(no_fit);
            message = format!("{message} {why}");
        }
        let displaced = self.nominate(pod, found.as_ref());
        let nomination = match &found {
            Some(preemption) => Nomination::To(preemption.node.clone()),
            None if allowed && pod.nominated_node().is_some() => Nomination::Over,
            None => Nomination::Unchanged,
        };
        if nomination == Nomination::Over {
            self.state.nominated.remove(&pod.uid);
        }
        let plugins = match no_fit.nodes {
            0 => BTreeSet::from([crate::filter::Plugin::NodeName]),
            _ => no_fit.plugins(),
        };
        self.queue.failed(&pod.key, plugins, Instant::now());
        let (writer, pod) = (self.writer.clone(), pod.clone());
        self.spawn(async move {
            let mut result = writer.report_failure(&pod, message, nomination).await;
            for other in &displaced {
                result = result.and(writer.end_nomination(other).await);
            }
            if let Some(preemption) = &found {
                result = result.and(writer.evict(&pod, preemption).await);
            }
            if let Err(error) = result {
                tracing::warn!(pod = %pod.key, %error, "the scheduler's answer was not written");
            }
        });
    }

    /// Keeps the room that is made for the pod. Less important pods that waited for room on the
    /// same node will not get it; they are returned.
    fn nominate(
        &mut self,
        pod: &Arc<PodInfo>,
        found: Option<&preemption::Preemption>,
    ) -> Vec<Arc<PodInfo>> {
        let Some(preemption) = found else {
            return Vec::new();
        };
        metrics::preempted(preemption.victims.len());
        let displaced = preemption::displaced(&self.state, pod, &preemption.node);
        for other in &displaced {
            self.state.nominated.remove(&other.uid);
        }
        let nominated = (preemption.node.clone(), pod.clone());
        self.state.nominated.insert(pod.uid.clone(), nominated);
        displaced
    }

    fn spawn(&self, write: impl Future<Output = ()> + Send + 'static) {
        let writes = self.writes.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = writes.acquire().await;
            write.await;
        });
    }

    /// A pod that was bound leaves the queue with the cache's update; one that could not be
    /// bound is no longer assumed on its node.
    fn finish(&mut self, outcome: Outcome) {
        let Err(error) = outcome.result else {
            metrics::attempted(metrics::Result::Scheduled);
            return;
        };
        metrics::attempted(metrics::Result::Error);
        tracing::warn!(pod = %outcome.pod.key, %error, "the pod was not bound, it is tried again");
        let bound = self
            .caches
            .pods
            .get_key(&outcome.pod.key)
            .is_some_and(|pod| {
                pod.spec
                    .as_ref()
                    .is_some_and(|spec| spec.node_name.is_some())
            });
        if !bound {
            self.state.remove_pod(&outcome.pod.uid);
            self.event(ClusterEvent::RoomMade);
            self.queue
                .failed(&outcome.pod.key, BTreeSet::new(), Instant::now());
        }
    }
}

/// What the news of a pod with a node can mean for those that wait.
fn placed_event(old: Option<&Arc<PodInfo>>, new: &PodInfo) -> Option<ClusterEvent> {
    let Some(old) = old.filter(|old| old.node_name().is_some()) else {
        return Some(ClusterEvent::PodPlaced);
    };
    if new.requests.is_below(&old.requests) {
        return Some(ClusterEvent::RoomMade);
    }
    let labels_differ = old.pod.metadata.labels != new.pod.metadata.labels;
    (labels_differ || old.is_terminating() != new.is_terminating())
        .then_some(ClusterEvent::PodPlaced)
}

fn store<I: Ord, K: Cacheable>(
    into: &mut std::collections::BTreeMap<I, Arc<K>>,
    change: Change<K>,
    index: fn(&K) -> I,
) {
    match change {
        Change::Applied { new, .. } => {
            into.insert(index(&new), new);
        }
        Change::Deleted { old } => {
            into.remove(&index(&old));
        }
    }
}

/// What of a node changed that can make a pod fit.
fn node_events(old: Option<&Node>, new: &Node) -> Vec<ClusterEvent> {
    let Some(old) = old else {
        return vec![ClusterEvent::NodeAdded];
    };
    let mut events = Vec::new();
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    let taints = |node: &Node| {
        node.spec
            .as_ref()
            .map(|spec| (spec.taints.clone(), spec.unschedulable.unwrap_or(false)))
    };
    if allocatable(old) != allocatable(new) {
        events.push(ClusterEvent::NodeAllocatable);
    }
    if old.metadata.labels != new.metadata.labels {
        events.push(ClusterEvent::NodeLabels);
    }
    if taints(old) != taints(new) {
        events.push(ClusterEvent::NodeTaints);
    }
    events
}
