//! `apps`: workloads.

use serde_json::json;

use super::{Object, object, object_or_new, objects, pod, set, text};

pub(super) fn apply(map: &mut Object, kind: &str) {
    if !matches!(
        kind,
        "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet"
    ) {
        return;
    }
    if kind == "DaemonSet" {
        template_generation(map);
    }
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    match kind {
        "Deployment" => deployment(spec),
        "DaemonSet" => daemon_set(spec),
        "StatefulSet" => stateful_set(spec),
        _ => set(spec, "replicas", 1),
    }
    if let Some(template) = object_or_new(spec, "template") {
        pod::template(template);
    }
}

/// A number that is a field in one version of the API and an annotation in the others: it is
/// always written.
pub(super) fn template_generation(set_: &mut Object) {
    if let Some(metadata) = object_or_new(set_, "metadata")
        && let Some(annotations) = object_or_new(metadata, "annotations")
    {
        set(annotations, "deprecated.daemonset.template.generation", "0");
    }
}

fn deployment(spec: &mut Object) {
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = object_or_new(spec, "strategy") else {
        return;
    };
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object_or_new(strategy, "rollingUpdate")
    {
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
}

fn daemon_set(spec: &mut Object) {
    set(spec, "revisionHistoryLimit", 10);
    let Some(strategy) = object_or_new(spec, "updateStrategy") else {
        return;
    };
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object_or_new(strategy, "rollingUpdate")
    {
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
}

fn stateful_set(spec: &mut Object) {
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "podManagementPolicy", "OrderedReady");
    if let Some(policy) = object_or_new(spec, "persistentVolumeClaimRetentionPolicy") {
        set(policy, "whenDeleted", "Retain");
        set(policy, "whenScaled", "Retain");
    }
    if let Some(strategy) = object_or_new(spec, "updateStrategy") {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            set(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = object(strategy, "rollingUpdate") {
                set(rolling, "partition", 0);
            }
        }
    }
    for claim in objects(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        pod::claim(claim);
    }
}
