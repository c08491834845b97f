//! Workloads whose pods run until they are told to stop.

use serde_json::Value;

use super::field::{Errors, Node, same};
use super::{Change, internal, meta, names, pod};

/// A number or a percentage.
pub(super) fn int_or_percent(e: &mut Errors, node: &Node<'_>) {
    match node.value {
        Value::String(text) => {
            for fault in names::percent_faults(text) {
                e.bad(node, fault);
            }
        }
        _ => e.non_negative(node),
    }
}

fn percentage(node: &Node<'_>) -> Option<i64> {
    let text = node.value.as_str()?;
    if !names::percent_faults(text).is_empty() {
        return None;
    }
    text.trim_end_matches('%').parse().ok()
}

/// Percentages end at 100.
pub(super) fn at_most_all(e: &mut Errors, node: &Node<'_>) {
    if percentage(node).is_some_and(|p| p > 100) {
        e.bad(node, "must not be greater than 100%");
    }
}

fn amount(node: &Node<'_>) -> i64 {
    percentage(node).unwrap_or_else(|| match node.value {
        Value::String(text) => text.parse().unwrap_or(0),
        _ => node.int(),
    })
}

/// The selector of a workload, which has to be there and to select something, and whether it can
/// be evaluated.
fn selector(e: &mut Errors, spec: &Node<'_>, kind: &str) -> bool {
    let selector = spec.get("selector");
    if !selector.is_set() {
        e.required(&selector, "");
        return true;
    }
    meta::selector(e, &selector);
    if meta::is_empty_selector(&selector) {
        let shown = meta::shown_selector(&selector);
        e.invalid(
            &selector,
            shown,
            format!("empty selector is invalid for {kind}"),
        );
    }
    meta::is_usable(&selector)
}

fn matching_template(e: &mut Errors, spec: &Node<'_>) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    let empty = selector.is_set() && meta::is_empty_selector(&selector);
    if !empty {
        meta::template_matches(e, &selector, &template);
    }
}

/// Pods of workloads run for good.
fn lasting(e: &mut Errors, template: &Node<'_>, kind: &str) {
    let policy = template.get("spec.restartPolicy");
    if policy.text() != "Always" {
        e.not_supported(&policy, policy.text(), &["Always"]);
    }
    let deadline = template.get("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        e.forbidden(&deadline, why);
    }
}

fn selected_pods(e: &mut Errors, spec: &Node<'_>, kind: &str) {
    let usable = selector(e, spec, "deployment");
    if !usable {
        let node = spec.get("selector");
        let shown = meta::shown_selector(&node);
        return e.invalid(&node, shown, "invalid label selector");
    }
    matching_template(e, spec);
    pod::template(e, &spec.get("template"));
    lasting(e, &spec.get("template"), kind);
}

fn fixed_selector(e: &mut Errors, change: &Change<'_>) {
    let Some(old) = &change.old else { return };
    let (new, old) = (change.new.get("spec.selector"), old.get("spec.selector"));
    if !same(new.value, old.value) {
        let shown = if new.is_set() {
            meta::shown_selector(&new)
        } else {
            (&new).into()
        };
        e.invalid(&new, shown, super::field::IMMUTABLE);
    }
}

/// Counters that must not be negative, and those that may not exceed another.
fn status(e: &mut Errors, change: &Change<'_>, counters: &[&str], bounded: &[&str]) {
    let status = change.new.get("status");
    for field in counters {
        e.non_negative(&status.get(field));
    }
    let count = |field: &str| status.get(field).int();
    for field in bounded {
        if count(field) > count("replicas") {
            e.bad(&status.get(field), "cannot be greater than status.replicas");
        }
    }
    if bounded.contains(&"availableReplicas") && count("availableReplicas") > count("readyReplicas")
    {
        let stateful = counters.contains(&"currentReplicas");
        let other = if stateful {
            "status.readyReplicas"
        } else {
            "readyReplicas"
        };
        let why = format!("cannot be greater than {other}");
        e.bad(&status.get("availableReplicas"), why);
    }
    let collisions = status.get("collisionCount");
    let before = change
        .old
        .as_ref()
        .and_then(|o| o.get("status.collisionCount").number());
    if counters.contains(&"collisionCount")
        && before.is_some_and(|b| collisions.number().is_none_or(|n| n < b))
    {
        e.invalid(&collisions, collisions.int(), "cannot be decremented");
    }
}

/// Deployment
pub(super) fn deployment(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        let counters = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ];
        return status(
            e,
            change,
            &counters,
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        );
    }
    let spec = change.new.get("spec");
    e.non_negative(&spec.get("replicas"));
    selected_pods(e, &spec, "ReplicaSet");
    deployment_strategy(e, &spec.get("strategy"));
    e.non_negative(&spec.get("minReadySeconds"));
    e.non_negative(&spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    e.non_negative(&deadline);
    if deadline
        .number()
        .is_some_and(|d| d <= spec.get("minReadySeconds").int())
    {
        e.bad(&deadline, "must be greater than minReadySeconds");
    }
    fixed_selector(e, change);
}

fn deployment_strategy(e: &mut Errors, strategy: &Node<'_>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" => {
            if rolling.is_set() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                e.forbidden(&rolling, why);
            }
        }
        "RollingUpdate" if !rolling.is_set() => {
            e.required(&rolling, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(e, &unavailable);
            int_or_percent(e, &surge);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                e.bad(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(e, &unavailable);
        }
        _ => {
            let shown = internal::shown("DeploymentStrategy", strategy.value);
            e.not_supported(strategy, shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

const REPLICA_COUNTERS: [&str; 5] = [
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "observedGeneration",
];
const REPLICA_BOUNDED: [&str; 3] = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];

/// How often upstream looks at the specification: strategies of some kinds call both the rules
/// for creation and those for updates.
fn times(change: &Change<'_>) -> usize {
    if change.old.is_some() { 2 } else { 1 }
}

/// ReplicaSet
pub(super) fn replica_set(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return status(e, change, &REPLICA_COUNTERS, &REPLICA_BOUNDED);
    }
    let spec = change.new.get("spec");
    for _ in 0..times(change) {
        e.non_negative(&spec.get("replicas"));
        e.non_negative(&spec.get("minReadySeconds"));
        selected_pods(e, &spec, "ReplicaSet");
    }
    fixed_selector(e, change);
}

/// ReplicationController
pub(super) fn replication_controller(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return status(e, change, &REPLICA_COUNTERS, &REPLICA_BOUNDED);
    }
    let spec = change.new.get("spec");
    for _ in 0..times(change) {
        e.non_negative(&spec.get("minReadySeconds"));
        let (selector, template) = (spec.get("selector"), spec.get("template"));
        e.need(&selector);
        e.non_negative(&spec.get("replicas"));
        if !template.is_set() {
            e.required(&template, "");
            continue;
        }
        let labels = template.get("metadata.labels");
        if selector.entries().any(|(k, v)| labels.value[k] != *v.value) {
            e.bad(&labels, "`selector` does not match template `labels`");
        }
        pod::template(e, &template);
        lasting(e, &template, "ReplicationController");
    }
}

/// DaemonSet
pub(super) fn daemon_set(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        let counters = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        return status(e, change, &counters, &[]);
    }
    let spec = change.new.get("spec");
    for _ in 0..times(change) {
        daemon_set_spec(e, &spec);
    }
    fixed_selector(e, change);
}

fn daemon_set_spec(e: &mut Errors, spec: &Node<'_>) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    meta::selector(e, &selector);
    if meta::is_usable(&selector) {
        meta::template_matches(e, &selector, &template);
    }
    if selector.is_set() && meta::is_empty_selector(&selector) {
        let shown = meta::shown_selector(&selector);
        e.invalid(&selector, shown, "empty selector is invalid for daemonset");
    }
    pod::template(e, &template);
    lasting(e, &template, "DaemonSet");
    e.non_negative(&spec.get("minReadySeconds"));
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => e.required(&rolling, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(e, &unavailable);
            int_or_percent(e, &surge);
            at_most_all(e, &unavailable);
            at_most_all(e, &surge);
            match (amount(&unavailable) != 0, amount(&surge) != 0) {
                (true, true) => e.bad(&surge, "may not be set when maxUnavailable is non-zero"),
                (false, false) => e.required(&unavailable, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => {
            let shown = internal::shown("DaemonSetUpdateStrategy", strategy.value);
            e.not_supported(&strategy, shown, &["RollingUpdate", "OnDelete"]);
        }
    }
    e.non_negative(&spec.get("revisionHistoryLimit"));
}

/// StatefulSet
pub(super) fn stateful_set(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        let counters = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        let bounded = [
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
        ];
        return status(e, change, &counters, &bounded);
    }
    stateful_set_spec(e, &change.new.get("spec"));
    let Some(old) = &change.old else { return };
    if !same(&fixed_part(&change.new), &fixed_part(old)) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.forbidden(&change.new.get("spec"), why);
    }
}

fn fixed_part(set: &Node<'_>) -> Value {
    let mut spec = set.value["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            spec.remove(field);
        }
    }
    spec
}

fn stateful_set_spec(e: &mut Errors, spec: &Node<'_>) {
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "" => e.required(&management, ""),
        "OrderedReady" | "Parallel" => {}
        _ => e.bad(&management, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(e, &spec.get("updateStrategy"));
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    if retention.is_set() {
        for field in ["whenDeleted", "whenScaled"] {
            let policy = retention.get(field);
            if !["Retain", "Delete"].contains(&policy.text()) {
                e.not_supported(&policy, policy.text(), &["Retain", "Delete"]);
            }
        }
    }
    e.non_negative(&spec.get("replicas"));
    e.non_negative(&spec.get("minReadySeconds"));
    e.non_negative(&spec.get("ordinals.start"));
    e.non_negative(&spec.get("revisionHistoryLimit"));
    let template = spec.get("template");
    if selector(e, spec, "statefulset") {
        matching_template(e, spec);
        pod::template_metadata(e, &template);
    } else {
        let node = spec.get("selector");
        e.invalid(&node, meta::shown_selector(&node), "");
    }
    lasting(e, &template, "StatefulSet");
}

fn stateful_strategy(e: &mut Errors, strategy: &Node<'_>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => e.required(strategy, ""),
        "OnDelete" => {
            if rolling.is_set() {
                let shown = internal::shown("RollingUpdateStatefulSetStrategy", rolling.value);
                e.invalid(
                    &rolling,
                    shown,
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            e.non_negative(&rolling.get("partition"));
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                int_or_percent(e, &unavailable);
                if amount(&unavailable) == 0 {
                    e.bad(&unavailable, "cannot be 0");
                }
                at_most_all(e, &unavailable);
            }
        }
        _ => {
            let shown = internal::shown("StatefulSetUpdateStrategy", strategy.value);
            e.invalid(strategy, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// ControllerRevision
pub(super) fn controller_revision(e: &mut Errors, change: &Change<'_>) {
    let data = change.new.get("data");
    if !data.is_set() {
        e.required(&data, "data is mandatory");
    }
    e.non_negative(&change.new.get("revision"));
    change.immutable(e, "data");
}
