//! What is made of a node's signs of life: conditions and taints. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::config::NodeHealth;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions, the value that is bad, and the taint that keeps new pods away.
const PRESSURES: [(&str, &str, &str); 4] = [
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];

pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// `True`, `False` or `Unknown`; a node that never told is not ready, as far as one knows.
pub(crate) fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

/// The latest sign of life of a node, by this process's clock.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    sign: (Option<String>, Option<Time>),
    since: Instant,
}

impl Pulse {
    /// Compares the node's Lease and Ready condition with what was seen before; only a
    /// change is a sign of life, whatever the times in them say.
    pub(crate) fn observe(
        before: Option<Pulse>,
        lease_renewed: Option<String>,
        node: &Node,
        now: Instant,
    ) -> Self {
        let heartbeat = condition(node, "Ready").filter(|ready| ready.status != "Unknown");
        let sign = (
            lease_renewed,
            heartbeat.and_then(|ready| ready.last_heartbeat_time.clone()),
        );
        match before {
            Some(before) if before.sign == sign || sign == (None, None) => before,
            // A condition that this controller set to Unknown has no heartbeat any more.
            Some(before) if before.sign.0 == sign.0 && sign.1.is_none() => Self {
                sign,
                since: before.since,
            },
            _ => Self { sign, since: now },
        }
    }

    /// Zero once the node has been silent for longer than it may.
    pub(crate) fn remaining(&self, node: &Node, config: &NodeHealth, now: Instant) -> Duration {
        let starting = condition(node, "Ready").is_none();
        let grace = if starting {
            config.startup_grace_period
        } else {
            config.grace_period
        };
        grace.saturating_sub(now.saturating_duration_since(self.since))
    }
}

/// The conditions of a node that has fallen silent; None if they say so already.
pub(crate) fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut changed = false;
    for kind in CONDITIONS {
        let known = conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind);
        match known {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.creation_timestamp(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// Whether new pods only stay away, or pods that run are told to leave as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evict {
    /// Its turn has not come, or nobody is evicted now: what is there stays as it is.
    Hold,
    /// Tell the pods of an unhealthy node to leave.
    Yes,
    /// No taint of ours may make pods leave, since all nodes look unhealthy.
    Never,
}

fn taint(key: &str, effect: &str, added: Option<Timestamp>) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: added.map(Time),
    }
}

fn has(taints: &[Taint], key: &str, effect: &str) -> bool {
    taints
        .iter()
        .any(|taint| taint.key == key && taint.effect == effect)
}

/// Which of the two tells how the node is.
fn wanted_key(node: &Node) -> Option<&'static str> {
    match readiness(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    }
}

/// Whether pods of the node should leave but have not been told.
pub(crate) fn wants_eviction(node: &Node) -> bool {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    wanted_key(node).is_some_and(|key| !has(taints, key, "NoExecute"))
}

/// The node's taints as they should be; None if they are. Taints of others are kept.
pub(crate) fn taints(node: &Node, evict: Evict, now: Timestamp) -> Option<Vec<Taint>> {
    let old = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let key = wanted_key(node);
    let mut wanted: Vec<&str> = key.into_iter().collect();
    for (kind, bad, pressure) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == bad) {
            wanted.push(pressure);
        }
    }
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        wanted.push(UNSCHEDULABLE);
    }
    let schedule_ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, _, pressure)| *pressure == key)
    };
    let mut new: Vec<Taint> = old
        .iter()
        .filter(|taint| match taint.effect.as_str() {
            "NoSchedule" => !schedule_ours(&taint.key) || wanted.contains(&taint.key.as_str()),
            "NoExecute" if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) => match key {
                None => false,
                // Until its turn comes the node keeps the taint that it has, of either kind.
                Some(key) => evict != Evict::Never && (key == taint.key || evict == Evict::Hold),
            },
            _ => true,
        })
        .cloned()
        .collect();
    for key in wanted {
        if !has(&new, key, "NoSchedule") {
            new.push(taint(key, "NoSchedule", Some(now)));
        }
    }
    if let Some(key) = key.filter(|_| evict == Evict::Yes)
        && !has(&new, key, "NoExecute")
    {
        new.push(taint(key, "NoExecute", Some(now)));
    }
    (new != old).then_some(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"taints": taints},
            "status": {"conditions": [
                {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
                {"type": "DiskPressure", "status": "False"}]}}))
        .expect("a Node")
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    fn keys(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        let key = |taint: &Taint| {
            let short = taint.key.trim_start_matches("node.kubernetes.io/");
            format!("{short}:{}", taint.effect)
        };
        taints.map(|taints| taints.iter().map(key).collect())
    }

    #[test]
    fn a_node_is_silent_after_the_grace_period_without_a_change() {
        let config = NodeHealth::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let ready = node("True", json!([]));
        let pulse = Pulse::observe(None, Some("1".into()), &ready, start);
        assert_eq!(
            pulse.remaining(&ready, &config, after(10)),
            Duration::from_secs(30)
        );
        let same = Pulse::observe(Some(pulse.clone()), Some("1".into()), &ready, after(30));
        assert_eq!(same.remaining(&ready, &config, after(40)), Duration::ZERO);
        let renewed = Pulse::observe(Some(pulse), Some("2".into()), &ready, after(30));
        assert_eq!(
            renewed.remaining(&ready, &config, after(40)),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn setting_a_node_to_unknown_is_no_sign_of_life() {
        let start = Instant::now();
        let ready = node("True", json!([]));
        let pulse = Pulse::observe(None, Some("1".into()), &ready, start);
        let mut unknown = ready.clone();
        unknown.status.as_mut().expect("a status").conditions = silenced(&ready, now());
        let later = start + Duration::from_secs(50);
        let pulse = Pulse::observe(Some(pulse), Some("1".into()), &unknown, later);
        let left = pulse.remaining(&unknown, &NodeHealth::default(), later);
        assert_eq!(left, Duration::ZERO);
    }

    #[test]
    fn a_silent_node_has_all_conditions_unknown_and_is_told_once() {
        let ready = node("True", json!([]));
        let conditions = silenced(&ready, now()).expect("news");
        let unknown = conditions
            .iter()
            .filter(|condition| condition.status == "Unknown");
        assert_eq!(unknown.count(), 4);
        let mut silent = ready;
        silent.status.as_mut().expect("a status").conditions = Some(conditions);
        assert_eq!(silenced(&silent, now()), None);
    }

    #[test]
    fn taints_follow_the_conditions() {
        let foreign = json!([{"key": "gpu", "effect": "NoExecute"}]);
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
        let unreachable = "unreachable:NoSchedule";
        let cases: [(Node, Evict, Option<Vec<String>>); 7] = [
            (node("True", json!([])), Evict::Yes, None),
            (node("True", foreign.clone()), Evict::Yes, None),
            (
                node("Unknown", json!([])),
                Evict::Hold,
                list(&[unreachable]),
            ),
            (
                node("Unknown", json!([])),
                Evict::Yes,
                list(&[unreachable, "unreachable:NoExecute"]),
            ),
            (
                node("Unknown", json!([])),
                Evict::Never,
                list(&[unreachable]),
            ),
            (
                node("False", foreign),
                Evict::Yes,
                list(&[
                    "gpu:NoExecute",
                    "not-ready:NoSchedule",
                    "not-ready:NoExecute",
                ]),
            ),
            (
                node(
                    "True",
                    json!([{"key": NOT_READY, "effect": "NoExecute"},
                    {"key": NOT_READY, "effect": "NoSchedule"}]),
                ),
                Evict::Hold,
                list(&[]),
            ),
        ];
        for (node, evict, expect) in cases {
            assert_eq!(
                keys(taints(&node, evict, now())),
                expect,
                "{node:?} {evict:?}"
            );
        }
    }

    #[test]
    fn a_cordoned_node_and_one_under_pressure_keep_new_pods_away() {
        let mut cordoned = node("True", json!([]));
        cordoned.spec.as_mut().expect("a spec").unschedulable = Some(true);
        let list = keys(taints(&cordoned, Evict::Yes, now())).expect("news");
        assert_eq!(list, ["unschedulable:NoSchedule"]);
    }
}
