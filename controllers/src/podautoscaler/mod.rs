//! HorizontalPodAutoscaler: sizes a target by what its pods are measured to do.
//!
//! Every 15 seconds: the target's scale and its metrics are read ([`source`], [`measure`]), each
//! metric asks for a number of replicas ([`replicas`]), the largest counts, and it is held
//! against the rules of how fast the target may change ([`behavior`]).

mod behavior;
mod measure;
mod replicas;
mod source;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
    MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use parking_lot::Mutex;
use watch_cache::{Change, ObjectKey, WatchCache};

use crate::framework::{Context, During, Error, EventType, Outcome, Reconciler, Tolerate, act};
use behavior::{Memory, Rules};
use measure::{Failed, Measured, Subject};
use source::Source;

const NAME: &str = "horizontal-pod-autoscaler";
const PERIOD: Duration = Duration::from_secs(15);

pub(crate) fn start(context: &Context) {
    let autoscalers = context.caches.of::<HorizontalPodAutoscaler>();
    context
        .controller("horizontal-pod-autoscaler-controller")
        // The own status is no reason to look again before the time.
        .watch(&autoscalers, |change| match change {
            Change::Applied {
                old: Some(old),
                new,
            } if old.spec == new.spec => None,
            _ => Some(change.key()),
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                source: Source {
                    client: context.client.clone(),
                },
                autoscalers,
                memories: Mutex::default(),
            },
        );
}

struct Controller {
    context: Context,
    source: Source,
    autoscalers: WatchCache<HorizontalPodAutoscaler>,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(autoscaler) = self.autoscalers.get_key(key) else {
            self.memories.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let look = Look {
            controller: self,
            key,
            autoscaler: &autoscaler,
            spec: &autoscaler.spec,
            now: Timestamp::now(),
        };
        let mut status = autoscaler.status.clone().unwrap_or_default();
        look.look(&mut status).await;
        if autoscaler.status.as_ref() != Some(&status) {
            let updated = HorizontalPodAutoscaler {
                status: Some(status),
                ..autoscaler.as_ref().clone()
            };
            let api = self.context.api::<HorizontalPodAutoscaler>(&key.namespace);
            act::replace_status(&api, &updated).await.unless_gone()?;
        }
        Ok(Outcome::After(PERIOD))
    }
}

/// One look at one autoscaler. Whatever fails is told in the status and by an event.
struct Look<'a> {
    controller: &'a Controller,
    key: &'a ObjectKey,
    autoscaler: &'a Arc<HorizontalPodAutoscaler>,
    spec: &'a HorizontalPodAutoscalerSpec,
    now: Timestamp,
}

/// The number of replicas that is right, and why.
struct Wish {
    replicas: i32,
    reason: String,
}

impl Look<'_> {
    fn warn(&self, reason: &'static str, message: &str) {
        self.tell(EventType::Warning, reason, message.to_owned());
    }

    fn tell(&self, kind: EventType, reason: &'static str, message: String) {
        let recorder = &self.controller.context.recorder;
        recorder.event(NAME, self.autoscaler.as_ref(), kind, reason, message);
    }

    fn min(&self) -> i32 {
        self.spec.min_replicas.unwrap_or(1)
    }

    async fn look(&self, status: &mut HorizontalPodAutoscalerStatus) {
        status.observed_generation = self.autoscaler.metadata.generation;
        let (api, mut scale) = match self.scale().await {
            Ok(found) => found,
            Err(error) => {
                let message = error.message();
                self.warn("FailedGetScale", &message);
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {message}"
                );
                status::able(status, false, "FailedGetScale", message, self.now);
                return;
            }
        };
        let message = "the HPA controller was able to get the target's current scale".to_owned();
        status::able(status, true, "SucceededGetScale", message, self.now);
        let current = scale
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(0);
        status.current_replicas = Some(current);
        if current == 0 && self.min() != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            status::active(
                status,
                false,
                "ScalingDisabled",
                message.to_owned(),
                self.now,
            );
            status.desired_replicas = 0;
            return;
        }
        let Some(wish) = self.wish(&scale, current, status).await else {
            status.desired_replicas = current;
            return;
        };
        status.desired_replicas = wish.replicas;
        if wish.replicas != current {
            scale.spec.get_or_insert_default().replicas = Some(wish.replicas);
            self.resize(&api, &scale, current, &wish, status).await;
        }
    }

    async fn scale(&self) -> Result<(Api<DynamicObject>, Scale), Error> {
        let target = &self.spec.scale_target_ref;
        let version = target
            .api_version
            .clone()
            .unwrap_or_else(|| "v1".to_owned());
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = GroupVersionKind::gvk(group, version, &target.kind);
        let client = self.controller.context.client.clone();
        let (resource, _) = kube::discovery::pinned_kind(&client, &kind)
            .await
            .during("looking up", &target.kind)?;
        let api: Api<DynamicObject> = Api::namespaced_with(client, &self.key.namespace, &resource);
        let scale = api.get_scale(&target.name).await.during(
            "reading the scale of",
            format!("{} {}", target.kind, target.name),
        )?;
        Ok((api, scale))
    }

    async fn wish(
        &self,
        scale: &Scale,
        current: i32,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Option<Wish> {
        let (min, max) = (self.min(), self.spec.max_replicas);
        if current > max || current < min {
            let (replicas, side) = if current > max {
                (max, "above Spec.MaxReplicas")
            } else {
                (min, "below Spec.MinReplicas")
            };
            let reason = format!("Current number of replicas {side}");
            return Some(Wish { replicas, reason });
        }
        let (wanted, subject) = self.measure(scale, current, status).await?;
        let now = Instant::now();
        let rules = Rules::of(self.spec.behavior.as_ref(), min, max);
        let bounded = {
            let mut memories = self.controller.memories.lock();
            let memory = memories.entry(self.key.clone()).or_default();
            memory.recommend(wanted, now);
            behavior::bounded(current, wanted, memory, &rules, now)
        };
        let matches = ("ReadyForNewScale", "recommended size matches current size");
        let (reason, message) = bounded.stabilized.unwrap_or(matches);
        status::able(status, true, reason, message.to_owned(), self.now);
        status::limited(status, bounded.limit, self.now);
        let reason = if bounded.replicas > current {
            format!("{subject} above target")
        } else {
            "All metrics below target".to_owned()
        };
        Some(Wish {
            replicas: bounded.replicas,
            reason,
        })
    }

    /// The most replicas that a metric asks for. A metric that cannot be read may hide a load:
    /// then nothing is made smaller.
    async fn measure(
        &self,
        scale: &Scale,
        current: i32,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Option<(i32, String)> {
        let selector = scale
            .status
            .as_ref()
            .and_then(|status| status.selector.clone());
        let selector = selector.unwrap_or_default();
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            self.warn("SelectorRequired", "selector is required");
            status::active(status, false, "InvalidSelector", message, self.now);
            return None;
        }
        let pods = match self.pods(&selector).await {
            Ok(pods) => pods,
            Err(error) => {
                status::active(status, false, "FailedGetPods", error.message(), self.now);
                return None;
            }
        };
        let subject = Subject {
            autoscaler: self.autoscaler,
            namespace: &self.key.namespace,
            selector: &selector,
            pods: &pods,
            current,
            now: self.now,
        };
        let mut measured = Vec::new();
        let (mut failed, mut failures) = (None, 0);
        for metric in self.spec.metrics.iter().flatten() {
            match subject.measure(&self.controller.source, metric).await {
                Ok(one) => measured.push(one),
                Err(fault) => {
                    self.warn(fault.reason, &fault.message);
                    failures += 1;
                    failed.get_or_insert(fault);
                }
            }
        }
        let best = most(&measured);
        let told: Vec<MetricStatus> = measured.into_iter().map(|one| one.status).collect();
        status.current_metrics = Some(told).filter(|told| !told.is_empty());
        let failed = failed.map(|first| (first, failures));
        self.judge(best, failed, current, status)
    }

    fn judge(
        &self,
        best: Option<(i32, String)>,
        failed: Option<(Failed, usize)>,
        current: i32,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Option<(i32, String)> {
        let usable = best.filter(|(replicas, _)| failed.is_none() || *replicas >= current);
        let Some((replicas, subject)) = usable else {
            let (first, failures) = failed?;
            let all = self.spec.metrics.as_ref().map_or(0, Vec::len);
            let Failed {
                reason,
                what,
                message,
            } = first;
            let told = format!(
                "invalid metrics ({failures} invalid out of {all}), first error is: {what}: {message}"
            );
            self.warn("FailedComputeMetricsReplicas", &told);
            let message = format!("the HPA was unable to compute the replica count: {message}");
            status::active(status, false, reason, message, self.now);
            return None;
        };
        let message =
            format!("the HPA was able to successfully calculate a replica count from {subject}");
        status::active(status, true, "ValidMetricFound", message, self.now);
        Some((replicas, subject))
    }

    async fn pods(&self, selector: &str) -> Result<Vec<Arc<Pod>>, Error> {
        let api = self.controller.context.api::<Pod>(&self.key.namespace);
        let listed = api
            .list(&ListParams::default().labels(selector))
            .await
            .during("listing the pods of", self.key)?;
        Ok(listed.items.into_iter().map(Arc::new).collect())
    }

    async fn resize(
        &self,
        api: &Api<DynamicObject>,
        scale: &Scale,
        current: i32,
        wish: &Wish,
        status: &mut HorizontalPodAutoscalerStatus,
    ) {
        let name = &self.spec.scale_target_ref.name;
        let written = api
            .replace_scale(name, &PostParams::default(), scale)
            .await
            .during("resizing", name);
        let Wish { replicas, reason } = wish;
        if let Err(error) = written {
            let why = error.message();
            let message = format!("New size: {replicas}; reason: {reason}; error: {why}");
            self.warn("FailedRescale", &message);
            let message =
                format!("the HPA controller was unable to update the target scale: {why}");
            status::able(status, false, "FailedUpdateScale", message, self.now);
            status.desired_replicas = current;
            return;
        }
        let message =
            format!("the HPA controller was able to update the target scale to {replicas}");
        status::able(status, true, "SucceededRescale", message, self.now);
        let message = format!("New size: {replicas}; reason: {reason}");
        self.tell(EventType::Normal, "SuccessfulRescale", message);
        status.last_scale_time = Some(Time(self.now));
        let mut memories = self.controller.memories.lock();
        let memory = memories.entry(self.key.clone()).or_default();
        memory.scaled(current, *replicas, Instant::now());
    }
}

fn most(measured: &[Measured]) -> Option<(i32, String)> {
    let best = measured.iter().max_by_key(|one| one.replicas)?;
    Some((best.replicas, best.subject.clone()))
}
