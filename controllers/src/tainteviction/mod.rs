//! Taint eviction: deletes pods that do not tolerate a NoExecute taint of their node, or do
//! so only for a time that has passed.

use std::collections::HashMap;
use std::time::Duration;

use api_rules::toleration::tolerates;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt;
use kube::api::DeleteParams;
use parking_lot::Mutex;
use watch_cache::{Change, Index, ObjectKey, WatchCache};

use crate::framework::pods::{node_name, until};
use crate::framework::{
    Context, Error, EventType, Outcome, Reconciler, Tolerate, act, disruption, pods,
};
use crate::podgc::by_node;

const NAME: &str = "taint-eviction-controller";

pub(crate) fn start(context: &Context) {
    let nodes = context.caches.of::<Node>();
    let all_pods = context.caches.of::<Pod>();
    let of_node = by_node(&all_pods);
    let (on_node, tainted) = (of_node.clone(), nodes.clone());
    context
        .controller(NAME)
        .watch(&nodes, move |change| pods_of_change(change, &on_node))
        .watch(&all_pods, move |change| {
            let pod = change.object();
            let node = tainted.get("", node_name(pod));
            let matters = node.is_some_and(|node| !no_execute(&node).is_empty());
            (matters || matches!(change, Change::Deleted { .. })).then(|| change.key())
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                nodes,
                all_pods,
                since: Mutex::default(),
            },
        );
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| taint.effect == "NoExecute")
        .cloned()
        .collect()
}

/// The pods of a node whose taints have changed.
fn pods_of_change(change: &Change<Node>, on_node: &Index<Pod>) -> Vec<ObjectKey> {
    let changed = match change {
        Change::Applied {
            old: Some(old),
            new,
        } => no_execute(old) != no_execute(new),
        Change::Applied { old: None, new } => !no_execute(new).is_empty(),
        Change::Deleted { .. } => false,
    };
    if !changed {
        return Vec::new();
    }
    let pods = on_node.get(&change.key().name);
    pods.iter().map(|pod| ObjectKey::of(pod.as_ref())).collect()
}

/// Whether and when a pod has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Stay,
    LeaveAt(Timestamp),
}

/// A pod stays as long as its tolerations of all taints allow, counted from `since`.
pub(crate) fn decide(taints: &[Taint], tolerations: &[Toleration], since: Timestamp) -> Decision {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let mut covering = tolerations
            .iter()
            .filter(|one| tolerates(one, taint))
            .peekable();
        if covering.peek().is_none() {
            return Decision::LeaveAt(since);
        }
        let limits = covering.filter_map(|toleration| toleration.toleration_seconds);
        shortest = shortest.into_iter().chain(limits).min();
    }
    match shortest {
        None => Decision::Stay,
        Some(seconds) => {
            let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            Decision::LeaveAt(since.checked_add(wait).unwrap_or(Timestamp::MAX))
        }
    }
}

struct Controller {
    context: Context,
    nodes: WatchCache<Node>,
    all_pods: WatchCache<Pod>,
    /// Since when the pods have been under notice, by uid.
    since: Mutex<HashMap<String, Timestamp>>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.all_pods.get_key(key) else {
            self.sweep();
            return Ok(Outcome::Done);
        };
        let uid = pod.uid().unwrap_or_default();
        let node = self.nodes.get("", node_name(&pod));
        let taints = node.map(|node| no_execute(&node)).unwrap_or_default();
        if taints.is_empty() || pods::is_terminating(&pod) {
            self.cancel(&pod, &uid);
            return Ok(Outcome::Done);
        }
        let now = Timestamp::now();
        let since = *self
            .since
            .lock()
            .entry(uid.clone())
            .or_insert_with(|| begun(&taints, &pod, now));
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
        match decide(&taints, &tolerations.unwrap_or_default(), since) {
            Decision::Stay => {
                self.since.lock().remove(&uid);
                Ok(Outcome::Done)
            }
            Decision::LeaveAt(at) => match until(at, now) {
                Some(rest) => Ok(Outcome::After(rest)),
                None => {
                    self.evict(&pod).await?;
                    Ok(Outcome::Done)
                }
            },
        }
    }
}

/// The notice runs from when the first taint was added, so that a restart of this process
/// does not lengthen it.
fn begun(taints: &[Taint], pod: &Pod, now: Timestamp) -> Timestamp {
    let added = taints
        .iter()
        .filter_map(|taint| taint.time_added.as_ref())
        .map(|time| time.0);
    let created = pod.creation_timestamp().map(|time| time.0);
    added
        .min()
        .unwrap_or(now)
        .min(now)
        .max(created.unwrap_or(Timestamp::MIN))
}

impl Controller {
    fn sweep(&self) {
        let mut since = self.since.lock();
        if !since.is_empty() {
            let there = self.all_pods.list();
            let there: Vec<String> = there.iter().filter_map(|pod| pod.uid()).collect();
            since.retain(|uid, _| there.contains(uid));
        }
    }

    fn cancel(&self, pod: &Pod, uid: &str) {
        if self.since.lock().remove(uid).is_some() && !pods::is_terminating(pod) {
            let message = format!("Cancelling deletion of Pod {}", ObjectKey::of(pod));
            let kind = EventType::Normal;
            self.context
                .recorder
                .event(NAME, pod, kind, "TaintManagerEviction", message);
        }
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {}", ObjectKey::of(pod));
        let recorder = &self.context.recorder;
        recorder.event(
            NAME,
            pod,
            EventType::Normal,
            "TaintManagerEviction",
            message,
        );
        let api = self
            .context
            .api::<Pod>(&pod.namespace().unwrap_or_default());
        let message = "Taint manager: deleting due to NoExecute taint";
        let reason = "DeletionByTaintManager";
        disruption::mark(&api, pod, reason, message, false)
            .await
            .unless_gone()?;
        act::delete(&api, pod, DeleteParams::default()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let taints = |keys: &[&str]| -> Vec<Taint> {
            let taint = |key: &&str| json!({"key": key, "effect": "NoExecute"});
            keys.iter()
                .map(|key| serde_json::from_value(taint(key)).expect("a taint"))
                .collect()
        };
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let cases: [(&[&str], Vec<Value>, Decision); 6] = [
            (&[], vec![], Decision::Stay),
            (&["a"], vec![], Decision::LeaveAt(at(100))),
            (&["a"], vec![tolerate("a", None)], Decision::Stay),
            (
                &["a"],
                vec![tolerate("a", Some(30))],
                Decision::LeaveAt(at(130)),
            ),
            (
                &["a", "b"],
                vec![tolerate("a", Some(30)), tolerate("b", Some(10))],
                Decision::LeaveAt(at(110)),
            ),
            (
                &["a", "b"],
                vec![tolerate("a", None)],
                Decision::LeaveAt(at(100)),
            ),
        ];
        for (keys, tolerations, expect) in cases {
            let tolerations: Vec<Toleration> = tolerations
                .into_iter()
                .map(|value| serde_json::from_value(value).expect("a toleration"))
                .collect();
            assert_eq!(
                decide(&taints(keys), &tolerations, at(100)),
                expect,
                "{keys:?}"
            );
        }
    }

    #[test]
    fn notice_runs_from_the_taint_and_not_from_the_restart() {
        let taint = |time: Value| -> Taint {
            let taint = json!({"key": "a", "effect": "NoExecute", "timeAdded": time});
            serde_json::from_value(taint).expect("a taint")
        };
        let pod = |created: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"creationTimestamp": created}}))
                .expect("a Pod")
        };
        let (old, young) = (pod(json!(null)), pod(json!("1970-01-01T00:01:30Z")));
        let tainted = [taint(json!("1970-01-01T00:00:10Z"))];
        assert_eq!(begun(&tainted, &old, at(100)), at(10));
        assert_eq!(begun(&tainted, &young, at(100)), at(90));
        assert_eq!(begun(&[taint(json!(null))], &old, at(100)), at(100));
    }
}
