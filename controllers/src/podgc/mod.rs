//! Pod garbage collection: pods that nobody else will ever delete.
//!
//! These are pods of nodes that no longer exist, pods that were deleted before they had a
//! node, pods of nodes that are out of service, and ended pods beyond a number.

mod plan;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use parking_lot::Mutex;
use watch_cache::{Change, Index, ObjectKey, WatchCache};

use crate::framework::pods::{self, node_name};
use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate, act, disruption};
use plan::Reason;

const NAME: &str = "pod-garbage-collector-controller";
/// A node must be missing for this long: it may only have been registered anew.
const QUARANTINE: Duration = Duration::from_secs(40);

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Pod(ObjectKey),
    /// Every pod of a node.
    Node(String),
    /// The number of ended pods.
    Ended,
}

/// The pods of each node.
pub(crate) fn by_node(pods: &WatchCache<Pod>) -> Index<Pod> {
    pods.index("node", |pod| vec![node_name(pod).to_owned()])
}

pub(crate) fn start(context: &Context) {
    let all_pods = context.caches.of::<Pod>();
    let nodes = context.caches.of::<Node>();
    let threshold = context.config.terminated_pod_threshold;
    let known = nodes.clone();
    context
        .controller(NAME)
        .watch(&nodes, |change| match change {
            Change::Applied { new, .. } if !plan::is_out_of_service(new) => None,
            _ => Some(Key::Node(change.key().name)),
        })
        .watch(&all_pods, move |change| {
            let Change::Applied { new, .. } = change else {
                return Vec::new();
            };
            let mut keys = Vec::new();
            let node = node_name(new);
            let is_homeless = !node.is_empty() && known.get("", node).is_none();
            if is_homeless || pods::is_terminating(new) {
                keys.push(Key::Pod(change.key()));
            }
            if threshold > 0 && pods::is_terminal(new) {
                keys.push(Key::Ended);
            }
            keys
        })
        .run(
            1,
            Collector {
                context: context.clone(),
                of_node: by_node(&all_pods),
                all_pods,
                nodes,
                missing: Mutex::default(),
            },
        );
}

struct Collector {
    context: Context,
    all_pods: WatchCache<Pod>,
    of_node: Index<Pod>,
    nodes: WatchCache<Node>,
    /// Since when a node has been missing.
    missing: Mutex<HashMap<String, Instant>>,
}

impl Reconciler for Collector {
    type Key = Key;

    async fn sync(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Pod(key) => match self.all_pods.get_key(key) {
                Some(pod) => self.pod(&pod).await,
                None => Ok(Outcome::Done),
            },
            Key::Node(name) => {
                let mut wait = None;
                for pod in self.of_node.get(name) {
                    if let Outcome::After(rest) = self.pod(&pod).await? {
                        wait = Some(rest);
                    }
                }
                Ok(Outcome::after(wait))
            }
            Key::Ended => self.ended().await,
        }
    }
}

impl Collector {
    async fn pod(&self, pod: &Pod) -> Result<Outcome, Error> {
        let name = node_name(pod);
        let node = self.nodes.get("", name);
        let reason = match plan::judge(pod, node.as_deref()) {
            None => return Ok(Outcome::Done),
            Some(Reason::Orphaned) => {
                if let Err(rest) = self.missing_for_long(name) {
                    return Ok(Outcome::After(rest));
                }
                let api = self.context.cluster_api::<Node>();
                if api
                    .get_opt(name)
                    .await
                    .during("reading Node", name)?
                    .is_some()
                {
                    self.missing.lock().remove(name);
                    return Ok(Outcome::Done);
                }
                Reason::Orphaned
            }
            Some(reason) => reason,
        };
        self.delete(pod, reason).await?;
        Ok(Outcome::Done)
    }

    fn missing_for_long(&self, node: &str) -> Result<(), Duration> {
        let mut missing = self.missing.lock();
        missing.retain(|name, _| self.nodes.get("", name).is_none());
        let since = *missing.entry(node.to_owned()).or_insert_with(Instant::now);
        match QUARANTINE.checked_sub(since.elapsed()) {
            Some(rest) if !rest.is_zero() => Err(rest),
            _ => Ok(()),
        }
    }

    async fn ended(&self) -> Result<Outcome, Error> {
        let surplus = plan::surplus(
            self.all_pods.list(),
            self.context.config.terminated_pod_threshold,
        );
        for pod in surplus {
            self.delete(&pod, Reason::Surplus).await?;
        }
        Ok(Outcome::Done)
    }

    async fn delete(&self, pod: &Pod, reason: Reason) -> Result<(), Error> {
        let api = self
            .context
            .api::<Pod>(&pod.namespace().unwrap_or_default());
        tracing::debug!(pod = %ObjectKey::of(pod), ?reason, "deleting a pod");
        if let Some(message) = reason.message() {
            // The owner counts a pod without a node as failed only if it is told so.
            let fail = !pods::is_terminal(pod);
            disruption::mark(&api, pod, "DeletionByPodGC", message, fail)
                .await
                .unless_gone()?;
        }
        act::delete(&api, pod, DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }
}
