//! Brings the pods of the API, the runtime's exits and the workers together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use events::EventType;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use watch_cache::{Change, WatchCache};

use crate::context::Context;
use crate::mirrors;
use crate::pod::admission;
use crate::pod::memory::Ending;
use crate::pod::phase_is_final;
use crate::runtime::{self, Seen};
use crate::static_pods::{self, StaticPods};
use crate::worker::{self, Beginning, Mailbox, Message};

/// How often the runtime is asked for everything while it tells of exits by itself.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(30);
/// And while it does not.
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

pub(crate) struct Manager {
    context: Arc<Context>,
    pods: WatchCache<Pod>,
    workers: BTreeMap<String, Mailbox>,
    finished: mpsc::UnboundedReceiver<String>,
    finisher: mpsc::UnboundedSender<String>,
    news: News,
    /// Static pods by uid.
    static_pods: BTreeMap<String, Arc<Pod>>,
    /// New versions of static pods, by the uid of the version that has to end before.
    successors: BTreeMap<String, Arc<Pod>>,
    seen: BTreeMap<String, Seen>,
    runtime_was_away: bool,
}

/// What the rest of the kubelet tells the manager.
pub(crate) struct News {
    /// The uids of pods whose objects have changed.
    pub objects: mpsc::UnboundedReceiver<String>,
    pub evictions: mpsc::UnboundedReceiver<(String, Ending)>,
    pub static_pods: watch::Receiver<StaticPods>,
}

impl Manager {
    pub(crate) fn new(context: Arc<Context>, pods: WatchCache<Pod>, news: News) -> Self {
        let (finisher, finished) = mpsc::unbounded_channel();
        Self {
            context,
            pods,
            workers: BTreeMap::new(),
            finished,
            finisher,
            news,
            static_pods: BTreeMap::new(),
            successors: BTreeMap::new(),
            seen: BTreeMap::new(),
            runtime_was_away: false,
        }
    }

    /// Runs until the shutdown. Containers go on running after it.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.pods.subscribe();
        let (exit_sender, mut exits) = mpsc::unbounded_channel();
        let listener = tokio::spawn(listen(self.context.clone(), exit_sender));
        self.take_static();
        self.take_all();
        self.relist().await;
        self.sweep_directories().await;
        let mut relist = ticker(RELIST_WITHOUT_EVENTS);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = changes.recv() => match change {
                    Ok(change) => self.take(change),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.take_all(),
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                Some(notice) = exits.recv() => match notice {
                    Notice::Exit(id) => self.exited(&id).await,
                    Notice::Listening(true) => relist = ticker(RELIST_WITH_EVENTS),
                    Notice::Listening(false) => relist = ticker(RELIST_WITHOUT_EVENTS),
                },
                Ok(()) = self.news.static_pods.changed() => self.take_static(),
                Some(uid) = self.news.objects.recv() => self.tell(&uid, Message::Objects),
                Some((uid, ending)) = self.news.evictions.recv() => self.tell(&uid, Message::End(ending)),
                Some(uid) = self.finished.recv() => self.forget(&uid),
                _ = relist.tick() => self.relist().await,
            }
        }
        listener.abort();
    }

    fn tell(&self, uid: &str, message: Message) {
        if let Some(mailbox) = self.workers.get(uid) {
            let _ = mailbox.send(message);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.context.pods.lock().remove(uid);
        self.context.objects.release(uid);
        self.context.tokens.release(uid);
        self.count();
        if let Some(next) = self.successors.remove(uid) {
            self.run_static(next);
        }
    }

    /// Compares the manifests with the static pods that run.
    fn take_static(&mut self) {
        let wanted = self.news.static_pods.borrow_and_update().clone();
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let uids: BTreeSet<String> = wanted.values().map(|pod| uid(pod)).collect();
        let gone: Vec<Arc<Pod>> = self
            .static_pods
            .extract_if(.., |uid, _| !uids.contains(uid))
            .map(|(_, pod)| pod)
            .collect();
        self.successors.clear();
        let name = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        for pod in wanted.into_values() {
            let old = gone.iter().find(|old| name(old) == name(&pod));
            let old = old
                .map(|old| uid(old))
                .filter(|old| self.workers.contains_key(old));
            match old {
                Some(old) => {
                    self.successors.insert(old, pod);
                }
                None => self.run_static(pod),
            }
        }
        for old in gone {
            self.tell(&uid(&old), Message::Gone);
            if let Some(shown) = self.mirror_of(&old) {
                mirrors::remove(self.context.clone(), shown);
            }
        }
    }

    fn run_static(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.static_pods.insert(uid.clone(), pod.clone()).is_none() {
            self.start(uid, pod.clone());
        }
        match self.mirror_of(&pod) {
            Some(shown) => self.take_mirror(shown),
            None => mirrors::create(self.context.clone(), pod),
        }
    }

    fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        let meta = &pod.metadata;
        self.pods
            .get(meta.namespace.as_deref()?, meta.name.as_deref()?)
    }

    /// A mirror as the API has it: of one of our pods, or of nothing any more.
    fn take_mirror(&self, shown: Arc<Pod>) {
        let own = self
            .static_pods
            .iter()
            .find(|(_, pod)| static_pods::is_mirror_of(&shown, pod) && same_name(&shown, pod));
        match own {
            Some((uid, _)) => self.tell(uid, Message::Mirror(Some(shown))),
            None => mirrors::remove(self.context.clone(), shown),
        }
    }

    fn mirror_deleted(&self, old: &Pod) {
        for (uid, pod) in &self.static_pods {
            if same_name(old, pod) {
                self.tell(uid, Message::Mirror(None));
                mirrors::create(self.context.clone(), pod.clone());
            }
        }
    }

    fn count(&self) {
        self.context
            .metrics
            .pods
            .set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
    }

    fn take(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied { old, new } => {
                // The same name, but another pod: the old one was deleted meanwhile.
                let old_uid = old.as_ref().and_then(|old| old.metadata.uid.clone());
                if let Some(old_uid) = old_uid.filter(|uid| Some(uid) != new.metadata.uid.as_ref())
                {
                    // Of a mirror nobody has this uid.
                    self.tell(&old_uid, Message::Gone);
                }
                self.applied(new);
            }
            Change::Deleted { old } => {
                if static_pods::mirrored(&old).is_some() {
                    return self.mirror_deleted(&old);
                }
                let uid = old.metadata.uid.clone().unwrap_or_default();
                self.tell(&uid, Message::Gone);
            }
        }
    }

    fn take_all(&mut self) {
        let list = self.pods.list();
        let uids: BTreeSet<String> = list
            .iter()
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        for (uid, mailbox) in &self.workers {
            if !uids.contains(uid) && !self.static_pods.contains_key(uid) {
                let _ = mailbox.send(Message::Gone);
            }
        }
        // Those that ran before come first: they were admitted already.
        let (old, new): (Vec<_>, Vec<_>) = list.into_iter().partition(|pod| is_admitted(pod));
        for pod in old.into_iter().chain(new) {
            self.applied(pod);
        }
    }

    fn applied(&mut self, pod: Arc<Pod>) {
        if static_pods::mirrored(&pod).is_some() {
            return self.take_mirror(pod);
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.workers.contains_key(&uid) {
            self.tell(&uid, Message::Pod(pod));
            return;
        }
        self.start(uid, pod);
    }

    fn start(&mut self, uid: String, pod: Arc<Pod>) {
        let beginning = match self.admit(&uid, &pod) {
            Ok(()) => Beginning::Pod(pod),
            Err(ending) => {
                let reason = "FailedAdmission";
                let (events, message) = (&self.context.events, ending.message.clone());
                events.pod(&pod, None, EventType::Warning, reason, message);
                Beginning::Rejected(pod, ending)
            }
        };
        self.spawn(uid, beginning);
    }

    fn spawn(&mut self, uid: String, beginning: Beginning) {
        let mailbox = worker::spawn(self.context.clone(), beginning, self.finisher.clone());
        self.workers.insert(uid, mailbox);
        self.count();
    }

    fn admit(&self, uid: &str, pod: &Pod) -> Result<(), Ending> {
        if is_admitted(pod) || pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.context
            .with_room(uid, |room| admission::admit(pod, room))
            .map_err(|rejection| Ending {
                reason: rejection.reason,
                message: rejection.message,
                grace: Some(0),
                disrupted: false,
            })
    }

    /// A container's process has ended: its pod's worker looks at it.
    async fn exited(&mut self, id: &str) {
        let owner = |seen: &BTreeMap<String, Seen>| {
            let found = seen.iter().find(|(_, seen)| seen.mark.contains_key(id));
            found.map(|(uid, _)| uid.clone())
        };
        let listed = self.context.list().into_iter().find(|listed| {
            listed.observed.by_id(id).is_some()
                || listed.observed.sandboxes.iter().any(|s| s.id == id)
        });
        let mut uid = listed
            .and_then(|listed| listed.pod.metadata.uid.clone())
            .or_else(|| owner(&self.seen));
        if uid.is_none() {
            // Started so recently that nobody has it listed yet.
            self.relist().await;
            uid = owner(&self.seen);
        }
        if let Some(uid) = uid {
            self.tell(&uid, Message::Exited(id.to_owned()));
        }
    }

    /// Compares everything that the runtime has with the last time.
    async fn relist(&mut self) {
        let found = match runtime::identities(self.context.runtime.as_ref()).await {
            Ok(found) => found,
            Err(error) => {
                if !self.runtime_was_away {
                    tracing::warn!(%error, "the container runtime is away");
                }
                self.runtime_was_away = true;
                return;
            }
        };
        if std::mem::take(&mut self.runtime_was_away) {
            tracing::info!("the container runtime is back");
            for mailbox in self.workers.values() {
                let _ = mailbox.send(Message::Look);
            }
        }
        for (uid, seen) in &found {
            if self.workers.contains_key(uid) {
                if self
                    .seen
                    .get(uid)
                    .is_none_or(|before| before.mark != seen.mark)
                {
                    self.tell(uid, Message::Look);
                }
            } else if self.pods.is_synced() {
                self.adopt_orphan(uid.clone(), seen);
            }
        }
        for uid in self.seen.keys().filter(|uid| !found.contains_key(*uid)) {
            self.tell(uid, Message::Look);
        }
        self.seen = found;
    }

    /// The API knows no such pod (any more): it is removed.
    fn adopt_orphan(&mut self, uid: String, seen: &Seen) {
        let Seen {
            identity, grace, ..
        } = seen;
        tracing::info!(pod = %identity, uid, "the runtime has a pod that the API does not know: removing it");
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(identity.name.clone()),
                namespace: Some(identity.namespace.clone()),
                uid: Some(identity.uid.clone()),
                deletion_timestamp: Some(Timestamp::now().into()),
                deletion_grace_period_seconds: Some(grace.unwrap_or(30)),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        self.spawn(uid, Beginning::Orphan(Arc::new(pod)));
    }

    /// Directories of pods that neither the API nor the runtime knows.
    async fn sweep_directories(&mut self) {
        let context = self.context.clone();
        let known: BTreeSet<String> = self.workers.keys().cloned().collect();
        let work = move || {
            for entry in std::fs::read_dir(context.paths.pods())
                .into_iter()
                .flatten()
                .flatten()
            {
                let uid = entry.file_name().to_string_lossy().into_owned();
                if known.contains(&uid) {
                    continue;
                }
                if let Err(error) = crate::volumes::erase(&context.paths, &uid) {
                    tracing::warn!(uid, %error, "the files of a pod that is gone were not removed");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn same_name(a: &Pod, b: &Pod) -> bool {
    a.metadata.namespace == b.metadata.namespace && a.metadata.name == b.metadata.name
}

/// Whether a kubelet has let the pod in before.
fn is_admitted(pod: &Pod) -> bool {
    phase_is_final(pod)
        || pod
            .status
            .as_ref()
            .is_some_and(|status| status.start_time.is_some())
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

enum Notice {
    Exit(String),
    /// Whether exits are told from now on.
    Listening(bool),
}

/// Follows the runtime's exits, again and again when the runtime restarts.
async fn listen(context: Arc<Context>, notices: mpsc::UnboundedSender<Notice>) {
    loop {
        match context.runtime.exits().await {
            Ok(mut exits) => {
                let _ = notices.send(Notice::Listening(true));
                while let Some(id) = exits.next().await {
                    let _ = notices.send(Notice::Exit(id));
                }
                let _ = notices.send(Notice::Listening(false));
            }
            Err(cri::Error::Unimplemented { .. }) => return,
            Err(error) => tracing::debug!(%error, "the runtime's events are not to be had"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
