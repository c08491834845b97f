use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::reports::Report;
use super::{Beginning, Message};
use crate::context::{Context, Listed};
use crate::pod::containers;
use crate::pod::memory::{Ending, Memory, Probed, Volumes};
use crate::pod::observed::Observed;
use crate::pod::plan::Goal;
use crate::pod::probe::Probes;
use crate::pod::{phase_is_final, status};
use crate::runtime;
use crate::static_pods;
use crate::volumes::ReadyVolumes;

/// The state of one pod's worker.
pub(super) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) pod: Arc<Pod>,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    pub(super) probes: BTreeMap<String, Probes>,
    pub(super) volumes: Arc<ReadyVolumes>,
    /// When tokens in volumes are renewed.
    pub(super) renew_at: Option<Timestamp>,
    /// Volumes are being brought up to date while the pod runs.
    pub(super) refreshing: bool,
    /// Something that volumes show has changed since they were written.
    pub(super) stale: bool,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) reporter: mpsc::UnboundedSender<Report>,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
    pub(super) actions: JoinSet<()>,
    pub(super) cancel_starts: CancellationToken,
    /// The names of the containers that run, for those that wait for their turn to stop.
    pub(super) running: watch::Sender<Vec<String>>,
    /// The runtime has to be asked.
    pub(super) look: bool,
    /// The runtime did not answer: what is known may be wrong.
    pub(super) blind: bool,
    /// A container whose exit was announced, and how often it was looked for.
    pub(super) expected_exit: Option<(String, u32)>,
    pub(super) look_at: Option<Timestamp>,
    /// When the pod began to stop.
    pub(super) stopping_since: Option<Timestamp>,
    pub(super) gone: bool,
    pub(super) orphan: bool,
    pub(super) erased: bool,
    pub(super) retry_erase_at: Option<Timestamp>,
    pub(super) status: Option<PodStatus>,
    /// The last patch of the status, and when it was sent.
    pub(super) sent: Option<(serde_json::Value, Timestamp)>,
    pub(super) patching: bool,
    pub(super) patch_at: Option<Timestamp>,
    pub(super) patch_failures: u32,
    pub(super) deleting: bool,
    /// For a static pod: the uid of its mirror.
    pub(super) mirror: Option<String>,
    pub(super) is_static: bool,
    pub(super) first_seen: Instant,
    /// Time that went into calls to the runtime before the pod ran.
    pub(super) runtime_time: Duration,
    pub(super) start_measured: bool,
}

impl Worker {
    pub(super) fn new(
        context: Arc<Context>,
        beginning: Beginning,
        inbox: mpsc::UnboundedReceiver<Message>,
    ) -> Self {
        let now = Timestamp::now();
        let mut memory = Memory {
            started_at: Some(now),
            ..Memory::default()
        };
        let mut orphan = false;
        let pod = match beginning {
            Beginning::Pod(pod) => pod,
            Beginning::Rejected(pod, ending) => {
                memory.rejected = true;
                memory.ending = Some(ending);
                pod
            }
            Beginning::Orphan(pod) => {
                orphan = true;
                pod
            }
        };
        let (reporter, reports) = mpsc::unbounded_channel();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut worker = Self {
            uid,
            observed: Observed::default(),
            memory,
            probes: BTreeMap::new(),
            volumes: Arc::default(),
            renew_at: None,
            refreshing: false,
            stale: false,
            inbox,
            reporter,
            reports,
            actions: JoinSet::new(),
            cancel_starts: CancellationToken::new(),
            running: watch::Sender::new(Vec::new()),
            look: true,
            blind: false,
            expected_exit: None,
            look_at: None,
            stopping_since: None,
            gone: orphan,
            orphan,
            erased: false,
            retry_erase_at: None,
            status: None,
            sent: None,
            patching: false,
            patch_at: None,
            patch_failures: 0,
            deleting: false,
            mirror: None,
            is_static: static_pods::is_static(&pod),
            first_seen: Instant::now(),
            runtime_time: Duration::ZERO,
            start_measured: pod
                .status
                .as_ref()
                .is_some_and(|status| status.start_time.is_some()),
            pod,
            context,
        };
        worker.remember_given();
        worker.list(true);
        worker
    }

    /// What earlier processes gave the containers, as the API has it.
    fn remember_given(&mut self) {
        let Some(status) = &self.pod.status else {
            return;
        };
        for container in status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten()
        {
            if let Some(resources) = &container.resources {
                self.memory
                    .allocated
                    .insert(container.name.clone(), resources.clone());
            }
        }
    }

    /// Shows the pod to the rest of the kubelet.
    pub(super) fn list(&self, holds: bool) {
        let mut current = (*self.pod).clone();
        if self.status.is_some() {
            current.status.clone_from(&self.status);
        }
        let listed = Listed {
            pod: self.pod.clone(),
            current: Arc::new(current),
            observed: Arc::new(self.observed.clone()),
            holds: holds && !self.memory.rejected,
        };
        self.context.pods.lock().insert(self.uid.clone(), listed);
    }

    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Gone => self.gone = true,
            Message::Look => self.look = true,
            Message::Exited(id) => {
                self.expected_exit = Some((id, 0));
                self.look = true;
            }
            Message::Objects => self.objects_changed(),
            Message::Mirror(mirror) => self.take_mirror(mirror),
            Message::End(ending) => {
                self.memory.ending.get_or_insert(ending);
            }
        }
    }

    /// A static pod's own definition is on the node; of its mirror only the status counts.
    pub(super) fn take_mirror(&mut self, mirror: Option<Arc<Pod>>) {
        let news = mirror
            .as_ref()
            .and_then(|mirror| mirror.metadata.uid.clone());
        if news != self.mirror {
            self.sent = None;
        }
        self.mirror = news;
        if let Some(mirror) = mirror {
            let mut pod = (*self.pod).clone();
            pod.status.clone_from(&mirror.status);
            pod.metadata.generation = mirror.metadata.generation;
            self.pod = Arc::new(pod);
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let version =
            |pod: &Pod| -> Option<u64> { pod.metadata.resource_version.as_ref()?.parse().ok() };
        // The answer to a write may be newer than what the watch brings.
        if version(&pod) < version(&self.pod) {
            return;
        }
        let meta = |pod: &Pod| {
            (
                pod.metadata.labels.clone(),
                pod.metadata.annotations.clone(),
            )
        };
        let changed = meta(&pod) != meta(&self.pod) || pod.spec != self.pod.spec;
        let hashes = |pod: &Pod| -> Vec<String> {
            containers::all(pod)
                .iter()
                .map(containers::Spec::hash)
                .collect()
        };
        if pod.spec != self.pod.spec && hashes(&pod) != hashes(&self.pod) {
            self.memory.changed_at = Some(Timestamp::now());
        }
        self.pod = pod;
        if changed {
            self.stale = true;
            self.memory.resize_pending = None;
            self.memory.resize_error = None;
            self.retry_failed();
        }
    }

    fn objects_changed(&mut self) {
        self.stale = true;
        self.retry_failed();
    }

    /// What failed for a reason that may have just gone away is tried again at once.
    fn retry_failed(&mut self) {
        let now = Timestamp::now();
        let config = crate::pod::memory::Cause::Config;
        for failed in self
            .memory
            .failed_starts
            .values_mut()
            .filter(|failed| failed.cause == config)
        {
            failed.retry_at = now;
        }
        if let Volumes::Failed { retry_at } = &mut self.memory.volumes {
            *retry_at = now;
        }
    }

    /// Reads what the runtime has of the pod.
    pub(super) async fn observe(&mut self) {
        let runtime = self.context.runtime.clone();
        match runtime::observe(runtime.as_ref(), &self.uid, &self.observed).await {
            Ok(observed) => {
                self.look = false;
                self.blind = false;
                self.look_at = None;
                self.replace_observed(observed).await;
                self.check_expected_exit();
            }
            Err(error) => {
                tracing::debug!(pod = %runtime::PodIdentity::of(&self.pod), %error, "the runtime was not read");
                self.blind = true;
                self.look_at = Some(Timestamp::now() + SignedDuration::from_secs(1));
                self.look = false;
            }
        }
    }

    /// The runtime's event can come before the runtime's own list knows of it.
    fn check_expected_exit(&mut self) {
        let Some((id, tries)) = self.expected_exit.take() else {
            return;
        };
        let sandbox_alive = self
            .observed
            .sandboxes
            .iter()
            .any(|s| s.id == id && s.ready);
        let alive = self
            .observed
            .by_id(&id)
            .is_some_and(|record| record.is_running());
        if (alive || sandbox_alive) && tries < 12 {
            let pause = SignedDuration::from_millis(10 << tries.min(7));
            self.look_at = Some(Timestamp::now() + pause);
            self.expected_exit = Some((id, tries + 1));
        }
    }

    /// The next moment at which the worker itself has something to do.
    pub(super) fn own_wake(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look = true;
            return Some(now);
        }
        let deadline = self.deadline().filter(|_| self.memory.ending.is_none());
        let probes = self
            .probes
            .values()
            .filter_map(Probes::wake)
            .min()
            .filter(|_| !self.blind);
        let renew = self
            .renew_at
            .filter(|_| self.memory.volumes == Volumes::Ready && !self.refreshing);
        // A pod that the API no longer has is told nothing.
        let patch = self.patch_at.filter(|_| !self.gone && !self.orphan);
        [
            self.look_at,
            deadline,
            probes,
            renew,
            patch,
            self.retry_erase_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the pod's own time is over.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = containers::spec(&self.pod).active_deadline_seconds?;
        if phase_is_final(&self.pod) {
            return None;
        }
        let started = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref());
        let started = started.map(|time| time.0).or(self.memory.started_at)?;
        Some(started + SignedDuration::from_secs(seconds.clamp(0, 1 << 31)))
    }

    /// How far the pod is meant to get now.
    pub(super) fn goal(&mut self, now: Timestamp) -> Goal {
        if self.memory.ending.is_none() && self.deadline().is_some_and(|deadline| deadline <= now) {
            self.memory.ending = Some(Ending {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
                grace: None,
                disrupted: false,
            });
        }
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        let ending = self.memory.ending.as_ref();
        let over = deleted
            || self.gone
            || ending.is_some()
            || phase_is_final(&self.pod)
            || crate::pod::plan::is_finished(&self.pod, &self.observed, &self.memory);
        if !over {
            self.stopping_since = None;
            return Goal::Run;
        }
        let since = *self.stopping_since.get_or_insert(now);
        let own = containers::grace_period(&self.pod);
        let grace = match ending.and_then(|ending| ending.grace) {
            Some(grace) if !deleted => grace,
            Some(grace) => grace.min(own),
            None => own,
        };
        if self.gone {
            Goal::Vanish { since, grace }
        } else {
            Goal::Stop { since, grace }
        }
    }

    /// Whether everything of the pod has stopped for good.
    pub(super) fn ended(&self) -> bool {
        let still = self.memory.starting
            || !self.memory.stopping.is_empty()
            || self.observed.alive().next().is_some();
        self.stopping_since.is_some() && !still && !self.blind
    }

    /// What the API last said of a running container's probes.
    pub(super) fn known_probed(&self, id: &str) -> Option<Probed> {
        let statuses = self.pod.status.as_ref()?;
        let all = statuses
            .container_statuses
            .iter()
            .chain(&statuses.init_container_statuses)
            .flatten();
        all.into_iter()
            .find(|status| status.container_id.as_deref().map(status::unqualified) == Some(id))
            .map(|status| Probed {
                started: status.started == Some(true),
                ready: status.ready,
            })
    }
}
