//! `batch`: jobs.

use super::{Object, at, has, object, object_or_new, objects, pod, set};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "Job" => job(map),
        "CronJob" => {
            let Some(spec) = object_or_new(map, "spec") else {
                return;
            };
            set(spec, "concurrencyPolicy", "Allow");
            set(spec, "suspend", false);
            set(spec, "successfulJobsHistoryLimit", 3);
            set(spec, "failedJobsHistoryLimit", 1);
            if let Some(job) = at(spec, &["jobTemplate", "spec"]) {
                pod_failure_policy(job);
                if let Some(template) = object_or_new(job, "template") {
                    pod::template(template);
                }
            }
        }
        _ => {}
    }
}

fn job(map: &mut Object) {
    let labels = map
        .get("spec")
        .map(|s| s["template"]["metadata"]["labels"].clone())
        .filter(|l| l.is_object());
    if let (Some(labels), Some(meta)) = (labels, object_or_new(map, "metadata")) {
        set(meta, "labels", labels);
    }
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    set(spec, "backoffLimit", limit);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set(spec, "podReplacementPolicy", replacement);
    pod_failure_policy(spec);
    if let Some(template) = object_or_new(spec, "template") {
        pod::template(template);
    }
}

fn pod_failure_policy(spec: &mut Object) {
    for rule in object(spec, "podFailurePolicy")
        .into_iter()
        .flat_map(|p| objects(p, "rules"))
    {
        for condition in objects(rule, "onPodConditions") {
            set(condition, "status", "True");
        }
    }
}
