//! StatefulSet: pods with a name and storage of their own, in an order.
//!
//! [`plan`] decides the next steps, [`pods`] says what a pod and its claims look like;
//! revisions of the template are ControllerRevisions.

mod plan;
mod pods;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_rules::selector::label_selector_matches;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use watch_cache::{ControllerIndex, ObjectKey, WatchCache};

use crate::framework::history::{self, Current, Snapshot};
use crate::framework::owners::{self, controller_of};
use crate::framework::pods::next_availability;
use crate::framework::{
    Context, During, Ended, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act,
    hash, related,
};
use plan::{Op, View, spec};

/// A pod that ends again and again, as one that its node refuses, is made anew ever more slowly,
/// up to this: the set's owner waits for it.
const LONGEST_DELAY: Duration = Duration::from_secs(15);

const NAME: &str = "statefulset-controller";

pub(crate) fn start(context: &Context) {
    let sets = context.caches.of::<StatefulSet>();
    let all_pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let revisions = context.caches.of::<ControllerRevision>();
    let matching = sets.clone();
    context
        .controller(NAME)
        .watch(&sets, |change| [change.key()])
        .watch(&all_pods, move |change| {
            let mut keys = related::owner_keys::<StatefulSet, Pod>(change);
            if let Some(pod) = related::orphan(change).filter(|_| related::labels_changed(change)) {
                let candidates = matching.list_namespace(&pod.namespace().unwrap_or_default());
                let selecting = candidates.iter().filter(|set| selects(set, pod));
                keys.extend(selecting.map(|set| ObjectKey::of(set.as_ref())));
            }
            keys
        })
        .watch(
            &revisions,
            related::owner_keys::<StatefulSet, ControllerRevision>,
        )
        .reads(&claims)
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                pods_of: all_pods.by_controller(),
                revisions_of: revisions.by_controller(),
                sets,
                all_pods,
                claims,
                revisions,
                expectations: Expectations::default(),
                history_expectations: Expectations::default(),
                ended: Ended::new(LONGEST_DELAY),
            },
        );
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    pods::ordinal(&set.name_any(), &pod.name_any()).is_some()
        && set.spec.as_ref().is_some_and(|spec| {
            spec.selector != LabelSelector::default()
                && label_selector_matches(&spec.selector, pod.labels())
        })
}

struct Controller {
    context: Context,
    sets: WatchCache<StatefulSet>,
    all_pods: WatchCache<Pod>,
    pods_of: ControllerIndex<Pod>,
    claims: WatchCache<PersistentVolumeClaim>,
    revisions: WatchCache<ControllerRevision>,
    revisions_of: ControllerIndex<ControllerRevision>,
    expectations: Expectations,
    history_expectations: Expectations,
    ended: Ended,
}

/// The current and the update revision, which are one while nothing is rolled out.
struct Revisions {
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
    history: Vec<Arc<ControllerRevision>>,
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
        let fresh = self.expectations.fresh(key, &self.all_pods, now);
        if let Err(wait) = fresh.and(self.history_expectations.fresh(key, &self.revisions, now)) {
            return Ok(Outcome::After(wait));
        }
        if set
            .spec
            .as_ref()
            .is_none_or(|spec| spec.selector == LabelSelector::default())
        {
            return Ok(Outcome::Done);
        }
        let owned = self.claim(key, &set).await?;
        let revisions = self.revisions(key, &set).await?;
        let view = View {
            set: &set,
            pods: &owned,
            current: &revisions.current.name_any(),
            update: &revisions.update.name_any(),
            now: Timestamp::now(),
        };
        let plan = plan::plan(&view);
        let mut done = self.identify(key, &set, &owned).await;
        let mut slowed = None;
        for op in plan.ops {
            if done.is_err() {
                break;
            }
            if let Op::Recreate(pod) = &op
                && let Err(rest) = self.ended.may_replace(key, &pod.name_any(), now)
            {
                slowed = slowed.into_iter().chain([rest]).min();
                continue;
            }
            done = self.carry_out(key, &set, &revisions, op).await;
        }
        self.write_status(&set, plan.status).await?;
        done?;
        self.clean_up(key, &set, &revisions, &owned).await?;
        let min_ready = spec(&set).min_ready_seconds.unwrap_or(0);
        let soon = next_availability(&owned, min_ready, view.now);
        Ok(Outcome::after(soon.into_iter().chain(slowed).min()))
    }
}

impl Controller {
    async fn claim(&self, key: &ObjectKey, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, Error> {
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

    async fn revisions(&self, key: &ObjectKey, set: &StatefulSet) -> Result<Revisions, Error> {
        let encode = |source| Error::Encode {
            object: key.to_string(),
            source,
        };
        let mut history = self
            .revisions_of
            .controlled_by(&set.uid().unwrap_or_default());
        let template = spec(set).template;
        let data = history::data(&template).map_err(encode)?;
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        let update = match history::current(&history, &data) {
            Current::Newest(found) => found,
            Current::Again(found, number) => {
                let changed = act::merge(&api, found.as_ref(), json!({"revision": number})).await?;
                self.history_expectations
                    .wrote(key, &changed, Instant::now());
                Arc::new(changed)
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
                let made = Arc::new(self.create_revision(key, set, &revision).await?);
                history.push(made.clone());
                made
            }
        };
        let told = set
            .status
            .as_ref()
            .and_then(|status| status.current_revision.clone());
        let known = history
            .iter()
            .find(|revision| Some(revision.name_any()) == told);
        let current = known.cloned().unwrap_or_else(|| update.clone());
        Ok(Revisions {
            current,
            update,
            history,
        })
    }

    async fn create_revision(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        revision: &ControllerRevision,
    ) -> Result<ControllerRevision, Error> {
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        let error = match act::create(&api, revision).await {
            Ok(created) => {
                self.history_expectations
                    .wrote(key, &created, Instant::now());
                return Ok(created);
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
            if let Some(live) = live.filter(|live| data(live) == data(revision)) {
                return Ok(live);
            }
            let mut status = set.status.clone().unwrap_or_default();
            *status.collision_count.get_or_insert(0) += 1;
            self.write_status(set, status).await?;
        }
        Err(error)
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        revisions: &Revisions,
        op: Op,
    ) -> Result<(), Error> {
        match op {
            Op::Create { ordinal, current } => {
                let revision = if current {
                    &revisions.current
                } else {
                    &revisions.update
                };
                let template = history::template(revision);
                let template = template.unwrap_or_else(|| spec(set).template);
                self.create(key, set, &template, &revision.name_any(), ordinal)
                    .await
            }
            Op::Recreate(pod) => {
                let failed = crate::framework::pods::phase(&pod) == "Failed";
                let (reason, state) = if failed {
                    ("RecreatingFailedPod", "failed")
                } else {
                    ("RecreatingTerminatedPod", "terminated")
                };
                let name = pod.name_any();
                let set_name = ObjectKey::of(set);
                let message = format!("StatefulSet {set_name} is recreating {state} Pod {name}");
                let recorder = &self.context.recorder;
                recorder.event(NAME, set, EventType::Warning, reason, message);
                self.delete(key, set, &pod).await
            }
            Op::Condemn(pod) => {
                self.own_claims(key, set, &pod, true).await?;
                self.delete(key, set, &pod).await
            }
            Op::Update(pod) => self.delete(key, set, &pod).await,
        }
    }

    /// Claims first: a pod whose claim is missing would wait for it.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        template: &PodTemplateSpec,
        revision: &str,
        ordinal: i32,
    ) -> Result<(), Error> {
        let pod = pods::pod(set, template, revision, ordinal);
        let name = pod.name_any();
        let set_name = set.name_any();
        let recorder = &self.context.recorder;
        let failed = |error: &Error| {
            let message = format!(
                "create Pod {name} in StatefulSet {set_name} failed error: {}",
                error.message()
            );
            recorder.event(NAME, set, EventType::Warning, "FailedCreate", message);
        };
        if let Err(error) = self.ensure_claims(key, set, ordinal).await {
            failed(&error);
            return Err(error);
        }
        match act::create(&self.context.api(&key.namespace), &pod).await {
            Ok(created) => {
                self.expectations.wrote(key, &created, Instant::now());
                let message = format!("create Pod {name} in StatefulSet {set_name} successful");
                recorder.event(NAME, set, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                failed(&error);
                Err(error)
            }
        }
    }

    async fn ensure_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        ordinal: i32,
    ) -> Result<(), Error> {
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for (_, mut claim) in pods::claims(set, ordinal) {
            let name = claim.name_any();
            match self.claims.get(&key.namespace, &name) {
                Some(known) if known.metadata.deletion_timestamp.is_some() => {
                    let reason = "it is being deleted".to_owned();
                    let object = format!("PersistentVolumeClaim {name}");
                    return Err(Error::Invalid {
                        object,
                        field: "metadata",
                        reason,
                    });
                }
                Some(_) => {}
                None => {
                    let owners = pods::claim_owners(set, &claim, None, false);
                    claim.metadata.owner_references = owners;
                    match act::create(&api, &claim).await {
                        Err(error) if !error.is_already_exists() => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn own_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &Pod,
        condemned: bool,
    ) -> Result<(), Error> {
        let Some(ordinal) = pods::ordinal(&set.name_any(), &pod.name_any()) else {
            return Ok(());
        };
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for (_, wanted) in pods::claims(set, ordinal) {
            let Some(claim) = self.claims.get(&key.namespace, &wanted.name_any()) else {
                continue;
            };
            if let Some(owners) = pods::claim_owners(set, &claim, Some(pod), condemned) {
                let change = json!({"metadata": {"ownerReferences": owners}});
                act::merge(&api, claim.as_ref(), change)
                    .await
                    .unless_gone()?;
            }
        }
        Ok(())
    }

    /// Sees to it that pods that stay have the labels of their identity, and their claims the
    /// owners that the retention policy wants.
    async fn identify(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        owned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let first = plan::first_ordinal(set);
        let wanted = first..first + spec(set).replicas.unwrap_or(1);
        for pod in owned
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        {
            let Some(ordinal) = pods::ordinal(&set.name_any(), &pod.name_any()) else {
                continue;
            };
            if !wanted.contains(&ordinal) {
                continue;
            }
            if pod.labels().get(pods::POD_NAME) != Some(&pod.name_any()) {
                let labels = json!({pods::POD_NAME: pod.name_any(),
                    pods::POD_INDEX: ordinal.to_string()});
                let change = json!({"metadata": {"labels": labels}});
                let patched = act::merge(&api, pod.as_ref(), change).await.unless_gone()?;
                if let Some(patched) = patched {
                    self.expectations.wrote(key, &patched, Instant::now());
                }
            }
            self.own_claims(key, set, pod, false).await?;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let (name, set_name) = (pod.name_any(), set.name_any());
        let recorder = &self.context.recorder;
        match act::delete(&api, pod, DeleteParams::default()).await {
            Ok(_) => {
                self.expectations.deleted(key, pod, Instant::now());
                let message = format!("delete Pod {name} in StatefulSet {set_name} successful");
                recorder.event(NAME, set, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message = format!(
                    "delete Pod {name} in StatefulSet {set_name} failed error: {}",
                    error.message()
                );
                recorder.event(NAME, set, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = StatefulSet {
            status: Some(status),
            ..set.clone()
        };
        let api = self
            .context
            .api::<StatefulSet>(&set.namespace().unwrap_or_default());
        act::replace_status(&api, &updated).await.unless_gone()?;
        Ok(())
    }

    async fn clean_up(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        revisions: &Revisions,
        owned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let mut in_use: BTreeSet<String> = owned
            .iter()
            .map(|pod| pods::revision(pod).to_owned())
            .collect();
        in_use.insert(revisions.current.name_any());
        in_use.insert(revisions.update.name_any());
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        for revision in history::surplus(&revisions.history, &in_use, limit) {
            act::delete(&api, revision.as_ref(), DeleteParams::default()).await?;
            self.history_expectations
                .deleted(key, revision.as_ref(), Instant::now());
        }
        Ok(())
    }
}
