//! Job: runs pods until so many have succeeded.
//!
//! [`tally`] counts pods, [`policy`] says what failures and successes mean, [`plan`] decides,
//! [`track`] keeps the books of ended pods so that each counts exactly once, whatever crashes;
//! [`release`] says which pods a Job lets go.

mod create;
mod indexes;
mod plan;
mod policy;
mod release;
mod tally;
mod track;
pub(crate) mod ttl;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use api_rules::selector::label_selector_matches;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use parking_lot::Mutex;
use serde_json::{Value, json};
use watch_cache::{Change, ControllerIndex, ObjectKey, WatchCache};

use crate::framework::owners::{self, controller_of};
use crate::framework::{
    Context, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act, related,
};
use plan::{Backoff, NewPod, Plan};
use tally::{FINALIZER, Tally, is_tracked};

const NAME: &str = "job-controller";
const MANAGER: &str = "kubernetes.io/job-controller";

pub(crate) use plan::{find as find_condition, is_finished};

pub(crate) fn start(context: &Context) {
    let jobs = context.caches.of::<Job>();
    let all_pods = context.caches.of::<Pod>();
    let matching = jobs.clone();
    context
        .controller(NAME)
        .watch(&jobs, |change| [change.key()])
        .watch(&all_pods, move |change| {
            let mut keys = related::owner_keys::<Job, Pod>(change);
            if let Some(pod) = related::orphan(change).filter(|_| related::labels_changed(change)) {
                let candidates = matching.list_namespace(&pod.namespace().unwrap_or_default());
                let selecting = candidates.iter().filter(|job| selects(job, pod));
                keys.extend(selecting.map(|job| ObjectKey::of(job.as_ref())));
            }
            if let Change::Applied { new, .. } = change {
                let guardian = release::guardian(new);
                keys.extend(guardian.map(|name| ObjectKey::new(&change.key().namespace, &name)));
            }
            keys
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                pods_of: all_pods.by_controller(),
                jobs,
                all_pods,
                expectations: Expectations::default(),
                own: Expectations::default(),
                backoffs: Mutex::default(),
            },
        );
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        *selector != Default::default() && label_selector_matches(selector, pod.labels())
    })
}

struct Controller {
    context: Context,
    jobs: WatchCache<Job>,
    all_pods: WatchCache<Pod>,
    pods_of: ControllerIndex<Pod>,
    expectations: Expectations,
    /// Writes to the Job itself: with an old Job ended pods would be counted again.
    own: Expectations,
    backoffs: Mutex<HashMap<String, Backoff>>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(job) = self.jobs.get_key(key) else {
            self.expectations.forget(key);
            self.own.forget(key);
            self.release_abandoned(key, None).await?;
            return Ok(Outcome::Done);
        };
        let manager = job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(Outcome::Done);
        }
        let now = Instant::now();
        let fresh = self.expectations.fresh(key, &self.all_pods, now);
        if let Err(wait) = fresh.and(self.own.fresh(key, &self.jobs, now)) {
            return Ok(Outcome::After(wait));
        }
        self.release_abandoned(key, Some(&job)).await?;
        let pods = self.claim(key, &job).await?;
        let uid = job.uid().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        if is_finished(&status) || job.metadata.deletion_timestamp.is_some() {
            self.backoffs.lock().remove(&uid);
            let tracked: Vec<_> = pods.into_iter().filter(|pod| is_tracked(pod)).collect();
            self.release(key, &tracked).await?;
            return Ok(Outcome::Done);
        }
        let now = Timestamp::now();
        let tally = tally::count(&job, &pods);
        let backoff = self.backoffs.lock().get(&uid).copied().unwrap_or_default();
        let backoff = backoff.after(&tally.new_succeeded, &tally.new_failed, now);
        let plan = plan::plan(&job, &tally, backoff, now);
        let managed = self.manage(key, &job, &plan).await;
        self.track(key, &job, &tally, &plan, &pods).await?;
        self.backoffs.lock().insert(uid, backoff);
        self.tell(&job, &plan);
        managed?;
        Ok(Outcome::after(plan.wait))
    }
}

impl Controller {
    async fn claim(&self, key: &ObjectKey, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        let uid = job.uid().unwrap_or_default();
        if job.spec.as_ref().is_none_or(|spec| spec.selector.is_none()) {
            return Ok(self.pods_of.controlled_by(&uid));
        }
        let candidates = self.pods_of.claimable(&key.namespace, &uid);
        let claim = owners::claim(job, candidates, |pod| selects(job, pod));
        let api = self.context.api::<Pod>(&key.namespace);
        // A pod that is let go must not be held by our finalizer either.
        self.let_go(key, &claim.release, |pod| release::disowned(pod, &uid))
            .await?;
        let claim = owners::Claim {
            release: Vec::new(),
            ..claim
        };
        let owned = act::claim(
            &api,
            &controller_of(job),
            claim,
            act::still_there(&self.context.api(&key.namespace), job),
            |pod| self.expectations.wrote(key, pod, Instant::now()),
        )
        .await?;
        let mut tracked = Vec::with_capacity(owned.len());
        for pod in owned {
            // An adopted pod is tracked from now on, if it can still be told of.
            if is_tracked(&pod) || pod.metadata.deletion_timestamp.is_some() {
                tracked.push(pod);
                continue;
            }
            let was_ours = self.pods_of.controlled_by(&uid);
            if was_ours.iter().any(|known| known.uid() == pod.uid()) {
                tracked.push(pod);
                continue;
            }
            let mut finalizers = pod.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            let change = json!({"metadata": {"finalizers": finalizers}});
            let changed = act::merge(&api, pod.as_ref(), change).await?;
            self.expectations.wrote(key, &changed, Instant::now());
            tracked.push(Arc::new(changed));
        }
        Ok(tracked)
    }

    /// Pods of a Job that is gone are nobody's: their finalizers must not hold them.
    async fn release_abandoned(&self, key: &ObjectKey, job: Option<&Job>) -> Result<(), Error> {
        let pods = self.all_pods.list_namespace(&key.namespace);
        let abandoned = release::abandoned(&key.name, job, pods);
        self.release(key, &abandoned).await?;
        Ok(())
    }

    /// Takes our finalizer from pods; returns the uids of those that are without it now.
    async fn release(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Result<BTreeSet<String>, Error> {
        self.let_go(key, pods, release::untracked).await
    }

    async fn let_go(
        &self,
        key: &ObjectKey,
        pods: &[Arc<Pod>],
        change: impl Fn(&Pod) -> Value,
    ) -> Result<BTreeSet<String>, Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let mut released = BTreeSet::new();
        for batch in pods.chunks(50) {
            let patched = join_all(batch.iter().map(|pod| async {
                act::merge(&api, pod.as_ref(), change(pod))
                    .await
                    .unless_gone()
            }));
            for (pod, result) in batch.iter().zip(patched.await) {
                if let Some(patched) = result? {
                    self.expectations.wrote(key, &patched, Instant::now());
                }
                released.extend(pod.uid());
            }
        }
        Ok(released)
    }

    async fn manage(&self, key: &ObjectKey, job: &Job, plan: &Plan) -> Result<(), Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let recorder = &self.context.recorder;
        for pod in &plan.delete {
            if act::delete(&api, pod.as_ref(), DeleteParams::default()).await? {
                self.expectations.deleted(key, pod.as_ref(), Instant::now());
                let message = format!("Deleted pod: {}", pod.name_any());
                recorder.event(NAME, job, EventType::Normal, "SuccessfulDelete", message);
            }
        }
        let (mut left, mut batch) = (plan.create.as_slice(), 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            for result in join_all(now.iter().map(|new| self.create(key, job, *new))).await {
                result?;
            }
            (left, batch) = (later, batch * 2);
        }
        Ok(())
    }

    async fn create(&self, key: &ObjectKey, job: &Job, new: NewPod) -> Result<(), Error> {
        let recorder = &self.context.recorder;
        match act::create(&self.context.api(&key.namespace), &create::pod(job, new)).await {
            Ok(pod) => {
                self.expectations.wrote(key, &pod, Instant::now());
                let message = format!("Created pod: {}", pod.name_any());
                recorder.event(NAME, job, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", error.message());
                recorder.event(NAME, job, EventType::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn track(
        &self,
        key: &ObjectKey,
        job: &Job,
        tally: &Tally,
        plan: &Plan,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let first = track::first(job, tally, &plan.status);
        let Some(written) = self.write(key, job, first.clone()).await? else {
            return Ok(());
        };
        let releasable = track::releasable(&first, tally, pods);
        let released = self.release(key, &releasable).await?;
        let tracked = pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.uid())
            .filter(|uid| !released.contains(uid))
            .collect();
        let second = track::second(job, &first, &plan.status, &tracked);
        self.write(key, &written, second).await?;
        Ok(())
    }

    /// Writes a status where it differs; None if the Job is gone.
    async fn write(
        &self,
        key: &ObjectKey,
        job: &Job,
        status: JobStatus,
    ) -> Result<Option<Job>, Error> {
        if job
            .status
            .as_ref()
            .is_some_and(|known| track::same(known, &status))
        {
            return Ok(Some(job.clone()));
        }
        let updated = Job {
            status: Some(status),
            ..job.clone()
        };
        let api = self.context.api::<Job>(&key.namespace);
        let written = act::replace_status(&api, &updated).await.unless_gone()?;
        if let Some(written) = &written {
            self.own.wrote(key, written, Instant::now());
        }
        Ok(written)
    }

    fn tell(&self, job: &Job, plan: &Plan) {
        for (reason, message) in &plan.news {
            let kind = if *reason == "Failed" {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let message = match *reason {
                "Completed" => "Job completed".to_owned(),
                _ => message.clone(),
            };
            self.context
                .recorder
                .event(NAME, job, kind, reason, message);
        }
    }
}
