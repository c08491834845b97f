//! DaemonSet: one pod on every node that fits.
//!
//! [`placement`] says where, [`plan`] what to make and delete; revisions of the template are
//! ControllerRevisions. The scheduler binds the pods, by their node affinity.

mod placement;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_rules::selector::label_selector_matches;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use watch_cache::{Change, ControllerIndex, ObjectKey, WatchCache};

use crate::framework::history::{self, Current, HASH_LABEL, Snapshot};
use crate::framework::owners::{self, controller_of};
use crate::framework::{
    Context, During, Ended, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act,
    hash, pods, related,
};
use plan::{Plan, View};

/// Pods that end again and again on a node are replaced ever more slowly, up to this.
const LONGEST_DELAY: Duration = Duration::from_secs(900);

const NAME: &str = "daemonset-controller";
/// Pods made or deleted in one sync.
const BURST: usize = 250;

pub(crate) fn start(context: &Context) {
    let sets = context.caches.of::<DaemonSet>();
    let all_pods = context.caches.of::<Pod>();
    let nodes = context.caches.of::<Node>();
    let revisions = context.caches.of::<ControllerRevision>();
    let (for_pods, for_nodes) = (sets.clone(), sets.clone());
    context
        .controller(NAME)
        .watch(&sets, |change| [change.key()])
        .watch(&all_pods, move |change| {
            let mut keys = related::owner_keys::<DaemonSet, Pod>(change);
            if let Some(pod) = related::orphan(change).filter(|_| related::labels_changed(change)) {
                let candidates = for_pods.list_namespace(&pod.namespace().unwrap_or_default());
                let selecting = candidates.iter().filter(|set| selects(set, pod));
                keys.extend(selecting.map(|set| ObjectKey::of(set.as_ref())));
            }
            keys
        })
        .watch(
            &revisions,
            related::owner_keys::<DaemonSet, ControllerRevision>,
        )
        .watch(&nodes, move |change| {
            let all = if placement_changed(change) {
                for_nodes.list()
            } else {
                Vec::new()
            };
            all.iter()
                .map(|set| ObjectKey::of(set.as_ref()))
                .collect::<Vec<_>>()
        })
        .run(
            context.config.workers.min(2),
            Controller {
                context: context.clone(),
                pods_of: all_pods.by_controller(),
                revisions_of: revisions.by_controller(),
                sets,
                all_pods,
                nodes,
                revisions,
                expectations: Expectations::default(),
                history_expectations: Expectations::default(),
                ended: Ended::new(LONGEST_DELAY),
            },
        );
}

fn placement_changed(change: &Change<Node>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            old.labels() != new.labels() || taints(old) != taints(new)
        }
        _ => true,
    }
}

fn selects(set: &DaemonSet, object: &impl kube::Resource) -> bool {
    let labels = object.meta().labels.clone().unwrap_or_default();
    set.spec.as_ref().is_some_and(|spec| {
        spec.selector != LabelSelector::default() && label_selector_matches(&spec.selector, &labels)
    })
}

struct Controller {
    context: Context,
    sets: WatchCache<DaemonSet>,
    all_pods: WatchCache<Pod>,
    pods_of: ControllerIndex<Pod>,
    nodes: WatchCache<Node>,
    revisions: WatchCache<ControllerRevision>,
    revisions_of: ControllerIndex<ControllerRevision>,
    expectations: Expectations,
    history_expectations: Expectations,
    ended: Ended,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            self.history_expectations.forget(key);
            self.ended.forget(key);
            return Ok(Outcome::Done);
        };
        let now = Instant::now();
        if let Err(wait) = self.history_expectations.fresh(key, &self.revisions, now) {
            return Ok(Outcome::After(wait));
        }
        if set
            .spec
            .as_ref()
            .is_none_or(|spec| spec.selector == LabelSelector::default())
        {
            return Ok(Outcome::Done);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let (hash, history) = self.revision(key, &set).await?;
        let fresh = self.expectations.fresh(key, &self.all_pods, now);
        let owned = self.claim_pods(key, &set).await?;
        let placed = placement::by_node(&owned);
        let nodes = self.nodes.list();
        let view = View {
            set: &set,
            nodes: &nodes,
            placed: &placed,
            hash: &hash,
            now: Timestamp::now(),
        };
        let mut managed = Ok(None);
        if fresh.is_ok() {
            let mut plan = plan::manage(&view);
            if plan.is_empty() {
                plan = plan::update(&view);
            }
            managed = self.carry_out(key, &set, &hash, plan).await;
        }
        if fresh.is_ok() {
            self.write_status(&set, plan::status(&view)).await?;
        }
        let slowed = managed?;
        self.clean_up(key, &set, &hash, &owned, &history).await?;
        let min_ready = set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        let soon = pods::next_availability(&owned, min_ready, view.now);
        Ok(Outcome::after(
            soon.into_iter().chain(slowed).chain(fresh.err()).min(),
        ))
    }
}

type History = Vec<Arc<ControllerRevision>>;

impl Controller {
    async fn claim_pods(&self, key: &ObjectKey, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, Error> {
        let candidates = self
            .pods_of
            .claimable(&key.namespace, &set.uid().unwrap_or_default());
        let claim = owners::claim(set, candidates, |pod| selects(set, pod));
        act::claim(
            &self.context.api::<Pod>(&key.namespace),
            &controller_of(set),
            claim,
            act::still_there(&self.context.api(&key.namespace), set),
            |pod| self.expectations.wrote(key, pod, Instant::now()),
        )
        .await
    }

    /// The hash of the set's template as its newest revision, made where it is missing.
    async fn revision(&self, key: &ObjectKey, set: &DaemonSet) -> Result<(String, History), Error> {
        let encode = |source| Error::Encode {
            object: key.to_string(),
            source,
        };
        let history = self
            .revisions_of
            .controlled_by(&set.uid().unwrap_or_default());
        let template = set
            .spec
            .as_ref()
            .map(|spec| spec.template.clone())
            .unwrap_or_default();
        let data = history::data(&template).map_err(encode)?;
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        match history::current(&history, &data) {
            Current::Newest(found) => Ok((history::hash(&found), history)),
            Current::Again(found, number) => {
                let changed = act::merge(&api, found.as_ref(), json!({"revision": number})).await?;
                self.history_expectations
                    .wrote(key, &changed, Instant::now());
                Ok((history::hash(&found), history))
            }
            Current::Missing(number) => {
                let collisions = set
                    .status
                    .as_ref()
                    .and_then(|status| status.collision_count);
                let hash = hash::of(&template, collisions).map_err(encode)?;
                let revision = history::snapshot(Snapshot {
                    owner: controller_of(set),
                    namespace: key.namespace.clone(),
                    labels: template
                        .metadata
                        .and_then(|meta| meta.labels)
                        .unwrap_or_default(),
                    annotations: set.annotations().clone(),
                    hash: &hash,
                    number,
                    data,
                });
                self.create_revision(key, set, &revision).await?;
                Ok((hash, history))
            }
        }
    }

    async fn create_revision(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        revision: &ControllerRevision,
    ) -> Result<(), Error> {
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        let error = match act::create(&api, revision).await {
            Ok(created) => {
                self.history_expectations
                    .wrote(key, &created, Instant::now());
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_already_exists() {
            let name = revision.name_any();
            let live = api
                .get_opt(&name)
                .await
                .during("reading ControllerRevision", &name)?;
            let data =
                |revision: &ControllerRevision| revision.data.as_ref().map(|data| data.0.clone());
            if live
                .as_ref()
                .is_some_and(|live| data(live) == data(revision))
            {
                return Ok(());
            }
            let mut status = set.status.clone().unwrap_or_default();
            *status.collision_count.get_or_insert(0) += 1;
            self.write_status(set, status).await?;
        }
        Err(error)
    }

    /// Carries the plan out; returns how long the replacement of ended pods is put off.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: Plan,
    ) -> Result<Option<Duration>, Error> {
        let mut slowed: Option<Duration> = None;
        let mut delete = plan.delete;
        for (node, pod) in plan.ended {
            match self.ended.may_replace(key, &node, Instant::now()) {
                Ok(()) => {
                    self.tell_ended(set, &node, &pod);
                    delete.push(pod);
                }
                Err(rest) => slowed = slowed.into_iter().chain([rest]).min(),
            }
        }
        let mut create = plan.create;
        create.truncate(BURST);
        delete.truncate(BURST);
        let mut batch = 1;
        let mut left = create.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let made = now.iter().map(|node| self.create_pod(key, set, node, hash));
            for result in join_all(made).await {
                result?;
            }
            (left, batch) = (later, batch * 2);
        }
        let deleted = delete.iter().map(|pod| self.delete_pod(key, set, pod));
        for result in join_all(deleted).await {
            result?;
        }
        Ok(slowed)
    }

    fn tell_ended(&self, set: &DaemonSet, node: &str, pod: &Pod) {
        let failed = pods::phase(pod) == "Failed";
        let (reason, state) = if failed {
            ("FailedDaemonPod", "failed")
        } else {
            ("SucceededDaemonPod", "succeeded")
        };
        let pod = ObjectKey::of(pod);
        let message = format!("Found {state} daemon pod {pod} on node {node}, will try to kill it");
        let kind = if failed {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.context
            .recorder
            .event(NAME, set, kind, reason, message);
    }

    async fn create_pod(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        node: &str,
        hash: &str,
    ) -> Result<(), Error> {
        let pod = placement::pod(set, node, hash);
        let recorder = &self.context.recorder;
        match act::create(&self.context.api(&key.namespace), &pod).await {
            Ok(pod) => {
                self.expectations.wrote(key, &pod, Instant::now());
                let message = format!("Created pod: {}", pod.name_any());
                recorder.event(NAME, set, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", error.message());
                recorder.event(NAME, set, EventType::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete_pod(&self, key: &ObjectKey, set: &DaemonSet, pod: &Pod) -> Result<(), Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        act::delete(&api, pod, DeleteParams::default()).await?;
        self.expectations.deleted(key, pod, Instant::now());
        let message = format!("Deleted pod: {}", pod.name_any());
        self.context
            .recorder
            .event(NAME, set, EventType::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    async fn write_status(
        &self,
        set: &DaemonSet,
        status: k8s_openapi::api::apps::v1::DaemonSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        let api = self
            .context
            .api::<DaemonSet>(&set.namespace().unwrap_or_default());
        act::replace_status(&api, &updated).await.unless_gone()?;
        Ok(())
    }

    async fn clean_up(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        owned: &[Arc<Pod>],
        history: &[Arc<ControllerRevision>],
    ) -> Result<(), Error> {
        let mut in_use: BTreeSet<String> = owned
            .iter()
            .filter_map(|pod| pod.labels().get(HASH_LABEL).cloned())
            .collect();
        in_use.insert(hash.to_owned());
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        for revision in history::surplus(history, &in_use, limit) {
            act::delete(&api, revision.as_ref(), DeleteParams::default()).await?;
            self.history_expectations
                .deleted(key, revision.as_ref(), Instant::now());
        }
        Ok(())
    }
}
