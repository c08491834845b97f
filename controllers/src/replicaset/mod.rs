//! ReplicaSet and ReplicationController: keep so many pods of one template.
//!
//! Both kinds are one controller over [`kinds::ReplicaOwner`]. [`plan`] counts and chooses;
//! this module claims pods, creates and deletes them, and writes the status.

mod kinds;
mod plan;

use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use kube::api::DeleteParams;
use watch_cache::{ControllerIndex, ObjectKey, WatchCache};

use crate::framework::owners::{self, controller_of};
use crate::framework::{
    Context, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act, pods, related,
};
use kinds::{Failure, ReplicaOwner};
use plan::Counts;

/// Starts the controller of ReplicaSets.
pub(crate) fn start_replicasets(context: &Context) {
    start::<ReplicaSet>(context, "replicaset-controller");
}

/// Starts the controller of ReplicationControllers.
pub(crate) fn start_replicationcontrollers(context: &Context) {
    start::<ReplicationController>(context, "replicationcontroller-controller");
}

fn start<O: ReplicaOwner>(context: &Context, name: &'static str) {
    let owners = context.caches.of::<O>();
    let all_pods = context.caches.of::<Pod>();
    let matching = owners.clone();
    context
        .controller(name)
        .watch(&owners, |change| [change.key()])
        .watch(&all_pods, move |change| {
            let mut keys = related::owner_keys::<O, Pod>(change);
            if let Some(pod) = related::orphan(change).filter(|_| related::labels_changed(change)) {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let candidates = matching.list_namespace(namespace);
                let selecting = candidates.iter().filter(|owner| owner.selects(pod));
                keys.extend(selecting.map(|owner| ObjectKey::of(owner.as_ref())));
            }
            keys
        })
        .run(
            context.config.workers,
            Controller {
                name,
                context: context.clone(),
                by_owner: all_pods.by_controller(),
                siblings: owners.by_controller(),
                owners,
                all_pods,
                expectations: Expectations::default(),
            },
        );
}

struct Controller<O: ReplicaOwner> {
    name: &'static str,
    context: Context,
    owners: WatchCache<O>,
    all_pods: WatchCache<Pod>,
    by_owner: ControllerIndex<Pod>,
    siblings: ControllerIndex<O>,
    expectations: Expectations,
}

impl<O: ReplicaOwner> Reconciler for Controller<O> {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(owner) = self.owners.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        let now = Timestamp::now();
        let fresh = self.expectations.fresh(key, &self.all_pods, Instant::now());
        let pods = self.claim(key, &owner).await?;
        let managed = match fresh {
            Ok(()) if owner.meta().deletion_timestamp.is_none() => {
                self.manage(key, &owner, &pods, now).await
            }
            _ => Ok(()),
        };
        let counts = plan::count(owner.as_ref(), &pods, now);
        // While the cache lags, what it shows is not told: it would be wrong for a moment.
        if fresh.is_ok() {
            self.write_status(owner.as_ref(), counts, managed.as_ref().err())
                .await?;
        }
        managed.map_err(|failure| failure.error)?;
        let soon = pods::next_availability(&pods, owner.desired().min_ready_seconds, now);
        Ok(Outcome::after(soon.into_iter().chain(fresh.err()).min()))
    }
}

impl<O: ReplicaOwner> Controller<O> {
    async fn claim(&self, key: &ObjectKey, owner: &Arc<O>) -> Result<Vec<Arc<Pod>>, Error> {
        let candidates = self
            .by_owner
            .claimable(&key.namespace, &owner.uid().unwrap_or_default());
        let candidates: Vec<_> = candidates
            .into_iter()
            .filter(|pod| !pods::is_terminal(pod) || owners::controller(pod.as_ref()).is_some())
            .collect();
        let claim = owners::claim(owner.as_ref(), candidates, |pod| owner.selects(pod));
        let owners_api = self.context.api::<O>(&key.namespace);
        act::claim(
            &self.context.api::<Pod>(&key.namespace),
            &controller_of(owner.as_ref()),
            claim,
            act::still_there(&owners_api, owner.as_ref()),
            |pod| self.expectations.wrote(key, pod, Instant::now()),
        )
        .await
    }

    async fn manage(
        &self,
        key: &ObjectKey,
        owner: &Arc<O>,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let neighbours = self.neighbours(owner, pods);
        let plan = plan::plan(owner.as_ref(), pods, &neighbours, now);
        if plan.create > 0 {
            return self
                .create_pods(key, owner, plan.create)
                .await
                .map_err(Failure::create);
        }
        let deleted = plan
            .delete
            .iter()
            .map(|pod| self.delete_pod(key, owner, pod));
        let mut results = join_all(deleted).await.into_iter();
        results
            .find_map(Result::err)
            .map_or(Ok(()), |error| Err(Failure::delete(error)))
    }

    /// Creates in batches of 1, 2, 4 and so on, so that what makes all creations fail is met
    /// once and not five hundred times.
    async fn create_pods(
        &self,
        key: &ObjectKey,
        owner: &Arc<O>,
        count: usize,
    ) -> Result<(), Error> {
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.create_pod(key, owner))).await;
            for result in results {
                match result {
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    other => other?,
                }
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_pod(&self, key: &ObjectKey, owner: &Arc<O>) -> Result<(), Error> {
        let Some(template) = owner.template() else {
            return Ok(());
        };
        let reference = controller_of(owner.as_ref());
        let pod = pods::from_template(template, &key.namespace, &key.name, reference);
        let recorder = &self.context.recorder;
        match act::create(&self.context.api(&key.namespace), &pod).await {
            Ok(pod) => {
                self.expectations.wrote(key, &pod, Instant::now());
                let message = format!("Created pod: {}", pod.name_any());
                let kind = EventType::Normal;
                recorder.event(self.name, owner.as_ref(), kind, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {}", error.message());
                    let kind = EventType::Warning;
                    recorder.event(self.name, owner.as_ref(), kind, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete_pod(&self, key: &ObjectKey, owner: &Arc<O>, pod: &Pod) -> Result<(), Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let recorder = &self.context.recorder;
        match act::delete(&api, pod, DeleteParams::default()).await {
            Ok(_) => {
                self.expectations.deleted(key, pod, Instant::now());
                let message = format!("Deleted pod: {}", pod.name_any());
                let kind = EventType::Normal;
                recorder.event(self.name, owner.as_ref(), kind, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message = format!("Error deleting: {}", error.message());
                let kind = EventType::Warning;
                recorder.event(self.name, owner.as_ref(), kind, "FailedDelete", message);
                Err(error)
            }
        }
    }

    /// The pods of all sets with the same controller: one Deployment's.
    fn neighbours(&self, owner: &Arc<O>, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(deployment) = owners::controller(owner.as_ref()) else {
            return pods.to_vec();
        };
        let siblings = self.siblings.controlled_by(&deployment.uid);
        siblings
            .iter()
            .flat_map(|sibling| {
                self.by_owner
                    .controlled_by(&sibling.uid().unwrap_or_default())
            })
            .collect()
    }

    async fn write_status(
        &self,
        owner: &O,
        counts: Counts,
        failure: Option<&Failure>,
    ) -> Result<(), Error> {
        let Some(updated) = owner.with_status(counts, failure, Timestamp::now()) else {
            return Ok(());
        };
        let namespace = owner.namespace().unwrap_or_default();
        act::replace_status(&self.context.api::<O>(&namespace), &updated)
            .await
            .unless_gone()?;
        Ok(())
    }
}
