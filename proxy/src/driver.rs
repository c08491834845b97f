//! From watch events to the kernel.
//!
//! ```text
//! Service, EndpointSlice, Node ──> Index ──(gathered for some ms)──> Writer's thread
//!                                    ^                                    │
//!                                    └── refused Services, broken rules ──┘
//! ```
//!
//! One job is with the writer at a time; what changes meanwhile is gathered for the next one.
//! A Service that the kernel refused is tried again later, with growing pauses. Nothing is
//! polled but the counters by which foreign changes are noticed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use watch_cache::{Change, WatchCache};

use crate::applier::Applier;
use crate::backend::{BackendError, Desired, Outcome};
use crate::config::{Config, Mode};
use crate::events::Events;
use crate::health::Health;
use crate::metrics::{metrics, seconds_now, trigger};
use crate::model::ServiceKey;
use crate::picture::{Changes, Index};
use crate::writer::{Done, Job, Writer};
use crate::{Deps, Error};

/// How often foreign changes are looked for.
const CHECK: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// In which zone a node is.
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Runs until shutdown.
pub(crate) async fn run(
    config: Config,
    deps: Deps,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mode = deps
        .mode
        .as_ref()
        .map_or(config.mode, |mode| *mode.borrow());
    // A backend that cannot work is told of at once.
    let applier = Applier::new(&config, mode).map_err(|error| Error::Unusable {
        mode,
        reason: error.to_string(),
    })?;
    crate::tracking::ensure(&config.conntrack);
    run_with(Writer::start(applier), mode, config, deps, shutdown).await;
    Ok(())
}

/// Runs until shutdown with this writer.
async fn run_with(
    writer: Writer,
    mode: Mode,
    config: Config,
    deps: Deps,
    shutdown: CancellationToken,
) {
    let health = Health::start(&config, &shutdown);
    let mut sources = Sources::new(&deps, &config);
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = sources.synced() => {}
    }
    let index = Index::new(&config.node_name, config.proxy_name.as_deref());
    let events = Events::new(deps.client, &config.node_name, sources.services.clone());
    let mut driver = Driver {
        config,
        events,
        index,
        ranges: Vec::new(),
        writer,
        health,
        mode,
        in_force: None,
        busy: None,
        gather_until: None,
        last_write: None,
        resync: Resync::Now,
        failed: BTreeMap::new(),
        triggers: Vec::new(),
    };
    driver.read_all(&sources);
    driver.work(&mut sources, deps.mode, &shutdown).await;
}

/// The caches that the picture is made of, and their changes.
struct Sources {
    services: WatchCache<Service>,
    slices: WatchCache<EndpointSlice>,
    nodes: WatchCache<Node>,
    ranges: WatchCache<ServiceCIDR>,
    service_changes: tokio::sync::broadcast::Receiver<Change<Service>>,
    slice_changes: tokio::sync::broadcast::Receiver<Change<EndpointSlice>>,
    node_changes: tokio::sync::broadcast::Receiver<Change<Node>>,
    range_changes: tokio::sync::broadcast::Receiver<Change<ServiceCIDR>>,
}

impl Sources {
    fn new(deps: &Deps, config: &Config) -> Self {
        let services = deps.caches.of::<Service>();
        let slices = deps.caches.of::<EndpointSlice>();
        let nodes = deps
            .caches
            .selected::<Node>(&format!("metadata.name={}", config.node_name));
        let ranges = deps.caches.of::<ServiceCIDR>();
        Self {
            service_changes: services.subscribe(),
            slice_changes: slices.subscribe(),
            node_changes: nodes.subscribe(),
            range_changes: ranges.subscribe(),
            services,
            slices,
            nodes,
            ranges,
        }
    }

    /// Nothing is written, and so nothing deleted, before everything is known. Ranges may be
    /// unknown to an old API server.
    async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
    }

    /// The next event; when events were lost, everything has to be read again.
    async fn next(&mut self) -> Event {
        fn or_lost<K>(
            received: Result<Change<K>, RecvError>,
            event: impl FnOnce(Change<K>) -> Event,
        ) -> Event {
            received.map_or(Event::Lost, event)
        }
        tokio::select! {
            change = self.service_changes.recv() => or_lost(change, Event::Service),
            change = self.slice_changes.recv() => or_lost(change, Event::Slice),
            change = self.node_changes.recv() => or_lost(change, |_| Event::Node),
            change = self.range_changes.recv() => or_lost(change, |_| Event::Range),
        }
    }
}

enum Event {
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Node,
    Range,
    Lost,
}

/// Whether everything has to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resync {
    No,
    Now,
    /// After a failure.
    At {
        when: Instant,
        pause: Duration,
    },
}

struct Failed {
    when: Instant,
    pause: Duration,
}

struct InFlight {
    done: oneshot::Receiver<Done>,
    /// In which the job writes.
    mode: Mode,
    started: Instant,
    /// What the job writes; `None` for everything or nothing.
    changes: Option<Changes>,
    check: bool,
    /// The pause before it, where it is another attempt.
    pause: Option<Duration>,
    triggers: Vec<f64>,
}

struct Driver {
    config: Config,
    index: Index,
    /// Where cluster IPs come from.
    ranges: Vec<IpNetwork>,
    writer: Writer,
    health: Health,
    events: Events,
    mode: Mode,
    /// The mode of the rules that are in the kernel.
    in_force: Option<Mode>,
    busy: Option<InFlight>,
    gather_until: Option<Instant>,
    last_write: Option<Instant>,
    resync: Resync,
    failed: BTreeMap<ServiceKey, Failed>,
    /// When the changes happened that the next write brings into the kernel, in seconds since
    /// 1970.
    triggers: Vec<f64>,
}

impl Driver {
    async fn work(
        &mut self,
        sources: &mut Sources,
        mut mode: Option<watch::Receiver<Mode>>,
        shutdown: &CancellationToken,
    ) {
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_job();
            let wake = self.wake();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = sources.next() => {
                    self.event(event, sources);
                    self.gather_until.get_or_insert_with(|| Instant::now() + self.config.gather);
                }
                done = finished(&mut self.busy) => self.finish(done),
                () = sleep_until(wake) => {}
                Some(new) = changed(&mut mode) => {
                    if new != self.mode {
                        self.mode = new;
                        self.resync = Resync::Now;
                    }
                }
                _ = check.tick() => {
                    if self.busy.is_none() && self.resync == Resync::No {
                        self.submit(Job::Check, None, true);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event, sources: &Sources) {
        match &event {
            Event::Service(_) => metrics().service_changes.inc(),
            Event::Slice(_) => metrics().endpoint_changes.inc(),
            _ => 0,
        };
        match event {
            Event::Service(Change::Applied { new, .. }) => self.index.service_applied(&new),
            Event::Service(Change::Deleted { old }) => {
                let (namespace, name) = names(&old.metadata);
                self.index
                    .service_deleted(&ServiceKey::new(namespace, name));
            }
            Event::Slice(Change::Applied { new, .. }) => {
                self.triggers.extend(trigger(&new));
                self.index.slice_applied(&new);
            }
            Event::Slice(Change::Deleted { old }) => {
                let (namespace, name) = names(&old.metadata);
                self.index.slice_deleted(namespace, name);
            }
            Event::Node => self.read_node(sources),
            Event::Range => self.read_ranges(sources),
            Event::Lost => self.read_all(sources),
        }
    }

    /// Reads everything from the caches, at the start and after events were lost.
    fn read_all(&mut self, sources: &Sources) {
        self.read_ranges(sources);
        self.read_node(sources);
        let services = sources.services.list();
        let present: std::collections::BTreeSet<ServiceKey> =
            services.iter().map(|s| key(&s.metadata)).collect();
        self.index.retain_services(&present);
        services
            .iter()
            .for_each(|service| self.index.service_applied(service));
        let slices = sources.slices.list();
        let present = slices.iter().map(|s| key(&s.metadata)).collect();
        self.index.retain_slices(&present);
        slices
            .iter()
            .for_each(|slice| self.index.slice_applied(slice));
    }

    fn read_node(&mut self, sources: &Sources) {
        let node = sources.nodes.get("", &self.config.node_name);
        let labels = node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL));
        self.health.node(node.as_deref());
        if self.index.set_zone(zone.map(String::as_str)) {
            sources
                .slices
                .list()
                .iter()
                .for_each(|slice| self.index.slice_applied(slice));
        }
    }

    fn read_ranges(&mut self, sources: &Sources) {
        let mut ranges = self.config.service_cidrs.clone();
        for range in sources.ranges.list() {
            let texts = range.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
            ranges.extend(
                texts
                    .into_iter()
                    .flatten()
                    .filter_map(|text| text.parse::<IpNetwork>().ok()),
            );
        }
        ranges.sort();
        ranges.dedup();
        if self.ranges != ranges {
            self.index.set_service_cidrs(&ranges);
            self.ranges = ranges;
            self.resync = Resync::Now;
        }
    }

    /// Gives the writer something to do, if it is idle and something is due.
    fn start_job(&mut self) {
        let now = Instant::now();
        if self.busy.is_some() {
            return;
        }
        let due = match self.resync {
            Resync::Now => true,
            Resync::At { when, .. } => when <= now,
            Resync::No => false,
        };
        if due {
            let before = std::mem::replace(&mut self.resync, Resync::No);
            self.index.take_changes();
            self.gather_until = None;
            let services = self.index.pictures().clone();
            let desired = Desired {
                services,
                service_cidrs: self.ranges.clone(),
            };
            self.submit(
                Job::Resync {
                    mode: self.mode,
                    desired,
                },
                None,
                false,
            );
            if let (Some(job), Resync::At { pause, .. }) = (&mut self.busy, before) {
                job.pause = Some(pause);
            }
            return;
        }
        if self.resync != Resync::No || !self.may_write(now) {
            return;
        }
        let mut changes = match self.gather_until {
            Some(until) if until <= now => {
                self.gather_until = None;
                self.index.take_changes()
            }
            _ => Changes::new(),
        };
        for (key, _) in self.failed.iter().filter(|(_, failed)| failed.when <= now) {
            let picture = self.index.pictures().get(key).cloned();
            changes.entry(key.clone()).or_insert(picture);
        }
        if !changes.is_empty() {
            let job = Job::Apply {
                changes: changes.clone(),
            };
            self.submit(job, Some(changes), false);
        }
    }

    fn may_write(&self, now: Instant) -> bool {
        self.last_write
            .is_none_or(|last| last + self.config.min_sync <= now)
    }

    fn submit(&mut self, job: Job, changes: Option<Changes>, check: bool) {
        let done = self.writer.submit(job);
        let triggers = match check {
            true => Vec::new(),
            false => std::mem::take(&mut self.triggers),
        };
        self.busy = Some(InFlight {
            done,
            mode: self.mode,
            started: Instant::now(),
            changes,
            check,
            pause: None,
            triggers,
        });
        if !check {
            metrics().queued.set(seconds_now());
            self.health.pending();
        }
    }

    /// When something becomes due by itself.
    fn wake(&self) -> Option<Instant> {
        if self.busy.is_some() {
            return None;
        }
        let write = self.last_write.map(|last| last + self.config.min_sync);
        let gathered = self
            .gather_until
            .map(|until| write.map_or(until, |w| w.max(until)));
        let resync = match self.resync {
            Resync::At { when, .. } => Some(when),
            _ => None,
        };
        let failed = self.failed.values().map(|failed| failed.when).min();
        [gathered, resync, failed].into_iter().flatten().min()
    }

    fn finish(&mut self, done: Option<Done>) {
        let Some(job) = self.busy.take() else { return };
        match done {
            Some(Done::Intact(true)) => {}
            Some(Done::Intact(false)) => {
                self.tell_foreign_change();
                self.resync = Resync::Now;
            }
            Some(Done::Written(outcome)) => self.written(&job, outcome),
            Some(Done::Failed(error)) => self.write_failed(&job, &error),
            None => self.postpone_resync(job.pause),
        }
    }

    fn tell_foreign_change(&self) {
        tracing::warn!("somebody changed the proxy's rules, they are written anew");
        metrics().repairs.inc();
        self.events.repaired(self.mode);
    }

    fn written(&mut self, job: &InFlight, outcome: Outcome) {
        if outcome.foreign {
            self.tell_foreign_change();
            if job.changes.is_some() {
                self.resync = Resync::Now;
                return;
            }
        }
        let now = Instant::now();
        let seconds = job.started.elapsed().as_secs_f64();
        self.count(job, seconds);
        tracing::debug!(
            seconds,
            full = job.changes.is_none(),
            "the kernel is up to date"
        );
        self.last_write = Some(now);
        match &job.changes {
            Some(changes) => {
                for key in changes
                    .keys()
                    .filter(|key| !outcome.failed.contains_key(*key))
                {
                    self.failed.remove(key);
                }
            }
            None => {
                self.in_force = Some(job.mode);
                self.failed
                    .retain(|key, _| outcome.failed.contains_key(key));
            }
        }
        for (key, message) in outcome.failed {
            self.events.refused(&key, &message);
            tracing::error!(service = %key, %message, "the kernel refused a Service, it is tried again");
            metrics().refused.inc();
            let pause = self
                .failed
                .get(&key)
                .map_or(FIRST_PAUSE, |f| longer(f.pause));
            self.failed.insert(
                key,
                Failed {
                    when: now + pause,
                    pause,
                },
            );
        }
        self.health.written(job.mode, self.index.pictures());
    }

    fn count(&self, job: &InFlight, seconds: f64) {
        let (metrics, now) = (metrics(), seconds_now());
        metrics.sync_duration.observe(seconds);
        match job.changes {
            Some(_) => metrics.partial_sync_duration.observe(seconds),
            None => metrics.full_sync_duration.observe(seconds),
        }
        for happened in &job.triggers {
            metrics
                .programming_duration
                .observe((now - happened).max(0.0));
        }
        metrics.written.set(now);
        let services = i64::try_from(self.index.pictures().len());
        metrics.services.set(services.unwrap_or(i64::MAX));
    }

    fn write_failed(&mut self, job: &InFlight, error: &BackendError) {
        tracing::error!(%error, check = job.check, "the kernel could not be brought up to date");
        metrics().failures.inc();
        if !job.check {
            self.events.failed(job.mode, &error.to_string());
        }
        let failed = Some(job.mode).filter(|mode| *mode == self.mode);
        if let (Some(wanted), Some(mode)) = (failed, self.in_force)
            && wanted != mode
        {
            // Better the old way than one that does not work.
            tracing::error!(%wanted, stays = %mode, "the proxy's mode cannot change");
            self.mode = mode;
            self.resync = Resync::Now;
            return;
        }
        match &job.changes {
            Some(_) => self.resync = Resync::Now,
            None => self.postpone_resync(job.pause),
        }
    }

    /// Unless something made it due at once, it is tried again after a longer pause.
    fn postpone_resync(&mut self, before: Option<Duration>) {
        if self.resync == Resync::No {
            let pause = before.map_or(FIRST_PAUSE, longer);
            self.resync = Resync::At {
                when: Instant::now() + pause,
                pause,
            };
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

fn names(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (&str, &str) {
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn key(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ServiceKey {
    let (namespace, name) = names(metadata);
    ServiceKey::new(namespace, name)
}

/// Waits for the job in flight; forever where there is none.
async fn finished(busy: &mut Option<InFlight>) -> Option<Done> {
    match busy {
        Some(job) => (&mut job.done).await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// The next mode; waits forever where nobody will change it.
async fn changed(mode: &mut Option<watch::Receiver<Mode>>) -> Option<Mode> {
    let receiver = match mode {
        Some(receiver) => receiver,
        None => return std::future::pending().await,
    };
    if receiver.changed().await.is_err() {
        *mode = None;
        return std::future::pending().await;
    }
    Some(*receiver.borrow_and_update())
}

#[cfg(test)]
mod tests;
