//! What may change in a pod that is there.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::field::{Errors, Node, Shown, same};
use super::super::{diff, internal, names};
use super::{annotations, nowhere, scheduling, whole};
use crate::quantity;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update of the pod itself.
pub(super) fn update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    common(e, new, old);
    let (after, before) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        if !images(e, &after.get(list), &before.get(list)) {
            return;
        }
    }
    if !deadline(e, &after, &before) {
        return;
    }
    only_added_tolerations(e, &after.get("tolerations"), &before.get("tolerations"));
    only_removed_gates(
        e,
        &after.get("schedulingGates"),
        &before.get("schedulingGates"),
    );
    if same(after.value, before.value) {
        return;
    }
    let munged = munge(e, &after, &before);
    if !same(&munged, before.value) {
        let difference = diff::unified(
            &internal::indented("PodSpec", before.value),
            &internal::indented("PodSpec", &munged),
        );
        let why =
            format!("pod updates may not change fields other than {CHANGEABLE}\n{difference}");
        e.forbidden(&after, why);
    }
}

fn common(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    whole(e, new);
    annotations::update(
        e,
        &new.get("metadata.annotations"),
        &old.get("metadata.annotations"),
        &new.get("spec"),
    );
}

fn images(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) -> bool {
    if new.len() != old.len() {
        e.forbidden(new, "pod updates may not add or remove containers");
        return false;
    }
    for container in new.items() {
        e.need(&container.get("image"));
        super::trimmed_image(e, &container);
    }
    true
}

fn deadline(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) -> bool {
    let most = i64::from(i32::MAX);
    let (after, before) = (
        new.get("activeDeadlineSeconds"),
        old.get("activeDeadlineSeconds"),
    );
    match (after.number(), before.number()) {
        (Some(n), _) if !(0..=most).contains(&n) => {
            e.bad(&after, names::between(0, most));
            false
        }
        (Some(n), Some(o)) if o < n => {
            e.bad(&after, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            e.bad(&after, why);
            true
        }
        _ => true,
    }
}

fn without(value: &Value, field: &str) -> Map<String, Value> {
    let mut map = value.as_object().cloned().unwrap_or_default();
    map.remove(field);
    map
}

fn only_added_tolerations(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    const FREE: &str = "tolerationSeconds";
    let kept = |o: &Node<'_>| {
        let own = without(o.value, FREE);
        new.items().any(|n| without(n.value, FREE) == own)
    };
    if !old.items().all(|o| kept(&o)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        return e.forbidden(new, why);
    }
    scheduling::tolerations(e, new);
}

fn only_removed_gates(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let known: Vec<&str> = old.items().map(|g| g.get("name").text()).collect();
    for gate in new.items() {
        let name = gate.get("name");
        if !known.contains(&name.text()) {
            let why = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                name.text()
            );
            e.forbidden(&name, why);
        }
    }
}

fn put(map: &mut Map<String, Value>, field: &str, value: &Value) {
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}

/// The new specification with all that may change as it was.
fn munge(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) -> Value {
    let mut spec = new.value.as_object().cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let items = spec.get_mut(list).and_then(Value::as_array_mut);
        for (container, before) in items.into_iter().flatten().zip(old.get(list).items()) {
            container["image"] = before.value["image"].clone();
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(&mut spec, field, &old.value[field]);
    }
    let grace = "terminationGracePeriodSeconds";
    if old.get(grace).int() < 0 && spec.get(grace).and_then(Value::as_i64) == Some(1) {
        put(&mut spec, grace, &old.value[grace]);
    }
    if !old.get("schedulingGates").is_empty() {
        munge_gated(e, &mut spec, new, old);
    }
    Value::Object(spec)
}

/// Where a pod may run can still be narrowed while it waits at a gate.
fn munge_gated(e: &mut Errors, spec: &mut Map<String, Value>, new: &Node<'_>, old: &Node<'_>) {
    let (after, before) = (new.get("nodeSelector"), old.get("nodeSelector"));
    if !same(after.value, before.value) {
        if before.entries().any(|(k, v)| after.value[k] != *v.value) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            e.bad(&after, why);
        }
        put(spec, "nodeSelector", before.value);
    }
    let (after, before) = (
        new.get("affinity.nodeAffinity"),
        old.get("affinity.nodeAffinity"),
    );
    if same(after.value, before.value) {
        return;
    }
    narrowed(e, &after, &before);
    let had = &old.value["affinity"];
    let mut affinity = spec
        .get("affinity")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    put(&mut affinity, "nodeAffinity", before.value);
    if had.is_null() && affinity.is_empty() {
        spec.remove("affinity");
    } else {
        spec.insert("affinity".into(), Value::Object(affinity));
    }
}

fn narrowed(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let terms = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (after, before) = (new.get(terms), old.get(terms));
    let shown = |n: &Node<'_>| internal::shown("[NodeSelectorTerm]", n.value);
    if !before.is_empty() && before.len() != after.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return e.invalid(&after, shown(&after), why);
    }
    let extends = |n: &Node<'_>, o: &Node<'_>| {
        let lists = ["matchExpressions", "matchFields"];
        let was_empty = lists.iter().all(|l| o.get(l).is_empty());
        let is_empty = lists.iter().all(|l| n.get(l).is_empty());
        (!was_empty || is_empty)
            && lists.iter().all(|l| {
                let (n, o) = (n.get(l), o.get(l));
                n.len() >= o.len() && n.items().zip(o.items()).all(|(n, o)| n.value == o.value)
            })
    };
    for (n, o) in after.items().zip(before.items()) {
        if !extends(&n, &o) {
            let shown = internal::shown("NodeSelectorTerm", n.value);
            e.invalid(
                &n,
                shown,
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn is_mirror(pod: &Node<'_>) -> bool {
    pod.value["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string()
}

/// An update through `ephemeralcontainers`.
pub(super) fn ephemeral(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    common(e, new, old);
    if is_mirror(old) {
        e.list.clear();
        return e.forbidden(
            &nowhere(),
            "static pods do not support ephemeral containers",
        );
    }
    let list = new.get("spec.ephemeralContainers");
    let now: BTreeMap<&str, &Value> = list
        .items()
        .map(|c| (c.get("name").text(), c.value))
        .collect();
    for before in old.get("spec.ephemeralContainers").items() {
        let name = before.get("name").text();
        match now.get(name) {
            None => e.forbidden(
                &list,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(after) if !same(after, before.value) => {
                let difference = diff::unified(
                    &internal::indented("EphemeralContainer", before.value),
                    &internal::indented("EphemeralContainer", after),
                );
                let why = format!(
                    "existing ephemeral containers {name:?} may not be changed\n{difference}"
                );
                e.forbidden(&list, why);
            }
            Some(_) => {}
        }
    }
}

/// An update through `resize`.
pub(super) fn resize(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    whole(e, new);
    let refused = if is_mirror(old) {
        Some("static pods cannot be resized")
    } else if old.value["spec"]["os"]["name"] == super::WINDOWS {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(why) = refused {
        e.list.clear();
        return e.forbidden(&nowhere(), why);
    }
    let (after, before) = (new.get("spec"), old.get("spec"));
    let class = &old.value["status"]["qosClass"];
    if class.is_string() && class.as_str() != Some(quality(after.value)) {
        let why = "Pod QOS Class may not change as a result of resizing";
        e.invalid(&after, Shown::from(class), why);
    }
    for list in ["initContainers", "containers"] {
        for (n, o) in after.get(list).items().zip(before.get(list).items()) {
            let sidecar = o.get("restartPolicy").text() == "Always";
            if list == "containers" || sidecar {
                resized(e, &n, &o);
            }
        }
    }
    only_sizes(e, &after, &before);
}

fn resized(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let (after, before) = (new.get("resources"), old.get("resources"));
    for (field, what) in [
        ("requests", "resource requests"),
        ("limits", "resource limits"),
    ] {
        let (n, o) = (after.get(field), before.get(field));
        if o.entries().any(|(name, _)| n.value[name].is_null()) {
            e.forbidden(&n, format!("{what} cannot be removed"));
        }
    }
}

/// Everything but the amounts of CPU and memory stays as it was.
fn only_sizes(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    for (list, why) in [
        ("containers", "only cpu and memory resources are mutable"),
        (
            "initContainers",
            "only cpu and memory resources for sidecar containers are mutable",
        ),
    ] {
        for (n, o) in new.get(list).items().zip(old.get(list).items()) {
            let sidecar = o.get("restartPolicy").text() == "Always";
            if list == "initContainers" && !sidecar {
                if !same(n.value, o.value) {
                    let why = "resources for non-sidecar init containers are immutable";
                    e.forbidden(new, why);
                }
                continue;
            }
            if !same(&plain(n.value), &plain(o.value)) {
                e.forbidden(new, why);
            }
        }
    }
}

fn plain(container: &Value) -> Value {
    let mut out = container.clone();
    for field in ["requests", "limits"] {
        let amounts = out
            .get_mut("resources")
            .and_then(|r| r.get_mut(field))
            .and_then(Value::as_object_mut);
        if let Some(amounts) = amounts {
            amounts.remove("cpu");
            amounts.remove("memory");
        }
    }
    out
}

/// The class of a pod with these amounts.
fn quality(spec: &Value) -> &'static str {
    let spec = Node::root(spec);
    let own = spec.get("resources");
    let positive =
        |n: &Node<'_>| quantity::compare(n.text(), "0").is_ok_and(|o| o == Ordering::Greater);
    let any = |r: &Node<'_>| {
        [
            "requests.cpu",
            "requests.memory",
            "limits.cpu",
            "limits.memory",
        ]
        .iter()
        .any(|f| positive(&r.get(f)))
    };
    let full = |r: &Node<'_>| {
        ["cpu", "memory"].iter().all(|name| {
            let (limit, request) = (
                r.get(&format!("limits.{name}")),
                r.get(&format!("requests.{name}")),
            );
            positive(&limit)
                && (!request.is_set()
                    || quantity::compare(request.text(), limit.text()).is_ok_and(|o| o.is_eq()))
        })
    };
    let all: Vec<Node<'_>> = if any(&own) {
        vec![own]
    } else {
        let lists = ["containers", "initContainers"];
        let items = lists
            .iter()
            .flat_map(|l| spec.get(l).items().collect::<Vec<_>>());
        items.map(|c| c.get("resources")).collect()
    };
    if !all.iter().any(any) {
        "BestEffort"
    } else if all.iter().all(full) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
