//! PodDisruptionBudget: says how many pods may be evicted now.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::selector::label_selector_matches;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use watch_cache::{Change, ObjectKey, WatchCache};

use crate::framework::{
    Context, During, Error, EventType, Outcome, Reconciler, Tolerate, act, owners,
};

const NAME: &str = "disruption-controller";
const EVENT_SOURCE: &str = "controllermanager";

pub(crate) fn start(context: &Context) {
    let budgets = context.caches.of::<PodDisruptionBudget>();
    let all_pods = context.caches.of::<Pod>();
    let sizes = Sizes {
        deployments: context.caches.of(),
        sets: context.caches.of(),
        stateful: context.caches.of(),
        controllers: context.caches.of(),
        context: context.clone(),
    };
    let matching = budgets.clone();
    context
        .controller(NAME)
        .watch(&budgets, |change| [change.key()])
        .watch(&all_pods, move |change| budgets_of(change, &matching))
        .reads(&sizes.deployments)
        .reads(&sizes.sets)
        .reads(&sizes.stateful)
        .reads(&sizes.controllers)
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                budgets,
                all_pods,
                sizes,
            },
        );
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| label_selector_matches(selector, pod.labels()))
}

fn budgets_of(change: &Change<Pod>, budgets: &WatchCache<PodDisruptionBudget>) -> Vec<ObjectKey> {
    let pod = change.object();
    let before = match change {
        Change::Applied { old, .. } => old.clone(),
        Change::Deleted { .. } => None,
    };
    let candidates = budgets.list_namespace(&pod.namespace().unwrap_or_default());
    let hit = candidates.iter().filter(|budget| {
        selects(budget, pod) || before.as_ref().is_some_and(|old| selects(budget, old))
    });
    hit.map(|budget| ObjectKey::of(budget.as_ref())).collect()
}

/// Looks up how many pods the controllers of pods want.
struct Sizes {
    context: Context,
    deployments: WatchCache<Deployment>,
    sets: WatchCache<ReplicaSet>,
    stateful: WatchCache<StatefulSet>,
    controllers: WatchCache<ReplicationController>,
}

impl Sizes {
    /// The uid of the topmost controller and its size.
    async fn of(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), Error> {
        let name = owner.name.as_str();
        let known = match owner.kind.as_str() {
            "ReplicaSet" => match self.sets.get(namespace, name) {
                Some(set) => self.of_set(namespace, &set),
                None => None,
            },
            "StatefulSet" => self.stateful.get(namespace, name).map(|set| {
                let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
                (set.uid().unwrap_or_default(), replicas.unwrap_or(1))
            }),
            "ReplicationController" => self.controllers.get(namespace, name).map(|set| {
                let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
                (set.uid().unwrap_or_default(), replicas.unwrap_or(1))
            }),
            _ => None,
        };
        match known {
            Some(known) => Ok(known),
            None => self.by_scale(namespace, owner).await,
        }
    }

    fn of_set(&self, namespace: &str, set: &ReplicaSet) -> Option<(String, i32)> {
        let own = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let Some(owner) = owners::controller_of_kind::<Deployment>(set) else {
            return Some((set.uid()?, own));
        };
        let deployment = self.deployments.get(namespace, &owner.name)?;
        let replicas = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        Some((deployment.uid()?, replicas))
    }

    /// Any other kind tells its size by its scale subresource.
    async fn by_scale(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<(String, i32), Error> {
        let (group, version) = owner
            .api_version
            .split_once('/')
            .unwrap_or(("", &owner.api_version));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let resource = ApiResource::from_gvk(&kind);
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        let scale = api.get_scale(&owner.name).await;
        let scale = scale.during(
            "reading the scale of",
            format!("{} {}", owner.kind, owner.name),
        )?;
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        Ok((owner.uid.clone(), replicas))
    }
}

struct Controller {
    context: Context,
    budgets: WatchCache<PodDisruptionBudget>,
    all_pods: WatchCache<Pod>,
    sizes: Sizes,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(budget) = self.budgets.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let mut pods = self.all_pods.list_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod) && !crate::framework::pods::is_terminal(pod));
        let now = Timestamp::now();
        let scale = if plan::needs_scale(&budget) {
            self.scale(key, &pods).await
        } else {
            Ok(0)
        };
        match scale {
            Ok(scale) => {
                if pods.is_empty() {
                    let recorder = &self.context.recorder;
                    let message = "No matching pods found";
                    let kind = EventType::Normal;
                    recorder.event(EVENT_SOURCE, budget.as_ref(), kind, "NoPods", message);
                }
                let (status, wait) = plan::status(&budget, &pods, scale, now);
                self.write(&budget, status).await?;
                Ok(Outcome::after(wait))
            }
            Err(error) => {
                let why = error.message();
                self.write(&budget, plan::failed(&budget, why, now)).await?;
                Err(error)
            }
        }
    }
}

impl Controller {
    async fn scale(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Result<i32, Error> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        let mut seen: BTreeMap<String, OwnerReference> = BTreeMap::new();
        for pod in pods {
            if let Some(owner) = owners::controller(pod.as_ref()) {
                seen.insert(owner.uid.clone(), owner.clone());
            }
        }
        for owner in seen.values() {
            match self.sizes.of(&key.namespace, owner).await {
                Ok((uid, size)) => drop(sizes.insert(uid, size)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sizes.values().sum())
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = PodDisruptionBudget {
            status: Some(status),
            ..budget.clone()
        };
        let api = self.context.api(&budget.namespace().unwrap_or_default());
        act::replace_status(&api, &updated).await.unless_gone()?;
        Ok(())
    }
}
