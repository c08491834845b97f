//! Deployment: moves pods from one template to the next through ReplicaSets.
//!
//! [`plan`] decides one step from the Deployment and its sets; [`strategy`] does the
//! arithmetic, [`status`] the conditions. This module claims sets, carries the step out, and
//! writes the status. Every write is shown by a watch, and its event starts the next step.

mod plan;
mod sets;
mod status;
pub(crate) mod strategy;

use std::sync::Arc;
use std::time::Instant;

use api_rules::selector::label_selector_matches;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use watch_cache::{Change, ControllerIndex, ObjectKey, WatchCache};

use crate::framework::owners::{self, controller_of};
use crate::framework::{
    Context, During, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act, pods,
    related,
};
use plan::{OldPods, Op, Plan};
use sets::Set;

const NAME: &str = "deployment-controller";

pub(crate) fn start(context: &Context) {
    let deployments = context.caches.of::<Deployment>();
    let replica_sets = context.caches.of::<ReplicaSet>();
    let all_pods = context.caches.of::<Pod>();
    let matching = deployments.clone();
    let (of_pod, recreating) = (replica_sets.clone(), deployments.clone());
    context
        .controller(NAME)
        .watch(&deployments, |change| [change.key()])
        .watch(&replica_sets, move |change| {
            let mut keys = related::owner_keys::<Deployment, ReplicaSet>(change);
            if let Some(set) = related::orphan(change) {
                let candidates = matching.list_namespace(&set.namespace().unwrap_or_default());
                let selecting = candidates.iter().filter(|owner| selects(owner, set));
                keys.extend(selecting.map(|owner| ObjectKey::of(owner.as_ref())));
            }
            keys
        })
        .watch(&all_pods, move |change| {
            waiting_for_pod(change, &of_pod, &recreating)
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                sets_of: replica_sets.by_controller(),
                pods_of: all_pods.by_controller(),
                deployments,
                replica_sets,
                expectations: Expectations::default(),
            },
        );
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    deployment.spec.as_ref().is_some_and(|spec| {
        spec.selector != LabelSelector::default()
            && label_selector_matches(&spec.selector, set.labels())
    })
}

/// A pod that has ended may be the last that a Deployment with `Recreate` waits for.
fn waiting_for_pod(
    change: &Change<Pod>,
    sets: &WatchCache<ReplicaSet>,
    deployments: &WatchCache<Deployment>,
) -> Option<ObjectKey> {
    let ended = match change {
        Change::Applied { new, .. } => pods::is_terminal(new),
        Change::Deleted { .. } => true,
    };
    let pod = change.object();
    let owner = owners::controller_of_kind::<ReplicaSet>(pod.as_ref()).filter(|_| ended)?;
    let namespace = pod.namespace().unwrap_or_default();
    let set = sets.get(&namespace, &owner.name)?;
    let owner = owners::controller_of_kind::<Deployment>(set.as_ref())?;
    let deployment = deployments.get(&namespace, &owner.name)?;
    strategy::Bounds::of(&deployment)
        .recreate
        .then(|| ObjectKey::of(deployment.as_ref()))
}

struct Controller {
    context: Context,
    deployments: WatchCache<Deployment>,
    replica_sets: WatchCache<ReplicaSet>,
    sets_of: ControllerIndex<ReplicaSet>,
    pods_of: ControllerIndex<Pod>,
    expectations: Expectations,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(deployment) = self.deployments.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        if let Err(wait) = self
            .expectations
            .fresh(key, &self.replica_sets, Instant::now())
        {
            return Ok(Outcome::After(wait));
        }
        if deployment
            .spec
            .as_ref()
            .is_none_or(|spec| spec.selector == LabelSelector::default())
        {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            let kind = EventType::Warning;
            self.context
                .recorder
                .event(NAME, deployment.as_ref(), kind, "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let sets = self.claim(key, &deployment).await?;
        let old_pods = |old: &[Set]| OldPods {
            running: self.any_running(old),
        };
        let plan = plan::plan(&deployment, sets, old_pods, Timestamp::now()).map_err(|source| {
            Error::Encode {
                object: key.to_string(),
                source,
            }
        })?;
        self.carry_out(key, &deployment, plan).await
    }
}

impl Controller {
    async fn claim(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
    ) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let uid = deployment.uid().unwrap_or_default();
        let candidates = self.sets_of.claimable(&key.namespace, &uid);
        let claim = owners::claim(deployment.as_ref(), candidates, |set| {
            selects(deployment, set)
        });
        act::claim(
            &self.context.api::<ReplicaSet>(&key.namespace),
            &controller_of(deployment.as_ref()),
            claim,
            act::still_there(&self.context.api(&key.namespace), deployment.as_ref()),
            |set| self.expectations.wrote(key, set, Instant::now()),
        )
        .await
    }

    fn any_running(&self, old: &[Set]) -> bool {
        old.iter()
            .flat_map(|set| {
                self.pods_of
                    .controlled_by(&set.object.uid().unwrap_or_default())
            })
            .any(|pod| !pods::is_terminal(&pod))
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        plan: Plan,
    ) -> Result<Outcome, Error> {
        let Plan {
            ops,
            revision,
            mut status,
            check_after,
        } = plan;
        let mut failed = Ok(());
        for op in ops {
            failed = self.apply(key, deployment, op, &mut status).await;
            if failed.is_err() {
                break;
            }
        }
        let mut current = deployment.as_ref().clone();
        let api = self.context.api::<Deployment>(&key.namespace);
        if let Some(revision) = revision.filter(|_| failed.is_ok()) {
            let change = json!({"metadata": {"annotations": {sets::REVISION: revision}}});
            match act::merge(&api, &current, change).await.unless_gone()? {
                Some(changed) => current = changed,
                None => return Ok(Outcome::Done),
            }
        }
        if current.status.as_ref() != Some(&status) {
            current.status = Some(status);
            act::replace_status(&api, &current).await.unless_gone()?;
        }
        failed?;
        Ok(Outcome::after(check_after))
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        op: Op,
        status: &mut DeploymentStatus,
    ) -> Result<(), Error> {
        let api = self.context.api::<ReplicaSet>(&key.namespace);
        match op {
            Op::Create(set) => self.create_set(key, deployment, &set, status).await,
            Op::Change { set, patch, scaled } => {
                let Some(changed) = act::merge(&api, set.as_ref(), patch).await.unless_gone()?
                else {
                    return Ok(());
                };
                self.expectations.wrote(key, &changed, Instant::now());
                if let Some((from, to)) = scaled {
                    self.tell_scaled(deployment, &set.name_any(), from, to);
                }
                Ok(())
            }
            Op::Delete(set) => {
                if act::delete(&api, set.as_ref(), DeleteParams::background()).await? {
                    self.expectations.deleted(key, set.as_ref(), Instant::now());
                }
                Ok(())
            }
        }
    }

    async fn create_set(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        set: &ReplicaSet,
        status: &mut DeploymentStatus,
    ) -> Result<(), Error> {
        let api = self.context.api::<ReplicaSet>(&key.namespace);
        let error = match act::create(&api, set).await {
            Ok(created) => {
                self.expectations.wrote(key, &created, Instant::now());
                let size = set
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(0);
                self.tell_scaled(deployment, &created.name_any(), 0, size);
                return Ok(());
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => error,
        };
        if error.is_already_exists() {
            let live = api
                .get_opt(&set.name_any())
                .await
                .during("reading ReplicaSet", key)?;
            let uid = deployment.uid().unwrap_or_default();
            if live.as_ref().is_some_and(|live| {
                owners::is_controlled_by(live, &uid) && Self::same_template(live, set)
            }) {
                return Ok(());
            }
            // Another template has this hash, or the name is taken: the next hash differs.
            *status.collision_count.get_or_insert(0) += 1;
            return Err(error);
        }
        let message = format!(
            "Failed to create new replica set \"{}\": {}",
            set.name_any(),
            error.message()
        );
        let reason = "ReplicaSetCreateError";
        let now = Timestamp::now();
        status::set(
            status,
            status::condition(status::PROGRESSING, "False", reason, message.clone(), now),
        );
        let kind = EventType::Warning;
        self.context
            .recorder
            .event(NAME, deployment.as_ref(), kind, reason, message);
        Err(error)
    }

    fn same_template(a: &ReplicaSet, b: &ReplicaSet) -> bool {
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone());
        match (template(a), template(b)) {
            (Some(a), Some(b)) => sets::same_template(&a, &b),
            _ => false,
        }
    }

    fn tell_scaled(&self, deployment: &Arc<Deployment>, set: &str, from: i32, to: i32) {
        if from == to {
            return;
        }
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        let kind = EventType::Normal;
        self.context.recorder.event(
            NAME,
            deployment.as_ref(),
            kind,
            "ScalingReplicaSet",
            message,
        );
    }
}
