//! Workloads that end: jobs and what starts them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::field::{Errors, IMMUTABLE, Node, quote, same};
use super::{Change, address, cron, internal, meta, names, pod};

const MANY: i64 = 100_000;
const FEWER: i64 = 10_000;

/// Job
pub(super) fn job(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return status(e, change);
    }
    let spec = change.new.get("spec");
    generated_selector(e, &change.new);
    job_spec(e, &spec);
    selected(e, &spec);
    hostnames(e, &change.new);
    let Some(old) = &change.old else { return };
    job_spec(e, &spec);
    selected(e, &spec);
    job_update(e, &spec, &old.get("spec"), old);
}

fn selected(e: &mut Errors, spec: &Node<'_>) {
    let selector = spec.get("selector");
    if selector.is_set() {
        meta::selector(e, &selector);
    } else {
        e.required(&selector, "");
    }
    if meta::is_usable(&selector) {
        meta::template_matches(e, &selector, &spec.get("template"));
    }
}

/// The labels that the server gives to the pods of a job that does not select by itself.
fn generated_selector(e: &mut Errors, job: &Node<'_>) {
    let spec = job.get("spec");
    let selector = spec.get("selector");
    if spec.get("manualSelector").flag() || !selector.is_set() {
        return;
    }
    let (uid, name) = (job.get("metadata.uid"), job.get("metadata.name"));
    e.need(&uid);
    let labels = spec.get("template.metadata.labels");
    let mut expected = serde_json::Map::new();
    for (key, value) in [
        ("controller-uid", uid.text()),
        ("job-name", name.text()),
        ("batch.kubernetes.io/controller-uid", uid.text()),
        ("batch.kubernetes.io/job-name", name.text()),
    ] {
        let why = format!("must be '{value}'");
        match labels.value[key].as_str() {
            None => e.required(&labels.path.key(key), why),
            Some(own) if own != value => e.invalid(&labels.path.key(key), &labels, why),
            Some(_) => {}
        }
        expected.insert(key.into(), value.into());
    }
    if meta::is_usable(&selector) && !meta::selects(&selector, &Value::Object(expected)) {
        let shown = meta::shown_selector(&selector);
        e.invalid(&selector, shown, "`selector` not auto-generated");
    }
}

fn is_indexed(spec: &Node<'_>) -> bool {
    spec.get("completionMode").text() == "Indexed"
}

/// Pods of indexed jobs are called after the job and their index.
fn hostnames(e: &mut Errors, job: &Node<'_>) {
    let spec = job.get("spec");
    let completions = spec.get("completions").int();
    if !is_indexed(&spec) || completions <= 0 {
        return;
    }
    let name = job.get("metadata.name");
    let last = format!("{}-{}", name.text(), completions - 1);
    if !names::label_faults(&last).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {last}");
        e.bad(&name, why);
    }
}

fn job_spec(e: &mut Errors, spec: &Node<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        e.non_negative(&spec.get(field));
    }
    let per_index = spec.get("backoffLimitPerIndex");
    let failed = spec.get("maxFailedIndexes");
    if failed.is_set() && !per_index.is_set() {
        e.required(&per_index, "when maxFailedIndexes is specified");
    }
    let manager = spec.get("managedBy");
    if manager.is_set() {
        address::check_domain_path(e, &manager);
        if manager.text().len() > 63 {
            e.too_long(&manager, 63);
        }
    }
    e.one_of(&spec.get("completionMode"), &["NonIndexed", "Indexed"]);
    if is_indexed(spec) {
        indexed(e, spec);
    } else if matches!(spec.get("completionMode").text(), "" | "NonIndexed") {
        for node in [&per_index, &failed] {
            if node.is_set() {
                e.bad(node, "requires indexed completion mode");
            }
        }
    }
    if spec.get("podFailurePolicy").is_set() {
        failure_policy(e, spec);
    }
    let success = spec.get("successPolicy");
    if success.is_set() && is_indexed(spec) {
        success_policy(e, spec, &success);
    } else if success.is_set() {
        let shown = internal::shown("SuccessPolicy", success.value);
        e.invalid(&success, shown, "requires indexed completion mode");
    }
    replacement_policy(e, spec);
    pod::template(e, &spec.get("template"));
    ending(e, spec);
}

fn ending(e: &mut Errors, spec: &Node<'_>) {
    let policy = spec.get("template.spec.restartPolicy");
    match policy.text() {
        "" | "Always" => e.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            e.bad(&policy, why);
        }
        "OnFailure" => {}
        other => e.not_supported(&policy, other, &["OnFailure", "Never"]),
    }
}

fn indexed(e: &mut Errors, spec: &Node<'_>) {
    let (completions, parallelism) = (spec.get("completions"), spec.get("parallelism"));
    let failed = spec.get("maxFailedIndexes");
    if !completions.is_set() {
        e.required(&completions, "when completion mode is Indexed");
    }
    if parallelism.int() > MANY {
        let why = format!("must be less than or equal to {MANY} when completion mode is Indexed");
        e.bad(&parallelism, why);
    }
    if completions.is_set() && failed.is_set() && failed.int() > completions.int() {
        e.bad(&failed, "must be less than or equal to completions");
    }
    if failed.int() > MANY {
        e.bad(&failed, format!("must be less than or equal to {MANY}"));
    }
    if completions.int() <= MANY || !spec.get("backoffLimitPerIndex").is_set() {
        return;
    }
    if !failed.is_set() {
        let why = format!("must be specified when completions is above {MANY}");
        e.required(&failed, why);
    }
    let why = format!(
        "must be less than or equal to {FEWER} when completions are above {MANY} and used with backoff limit per index"
    );
    for node in [&parallelism, &failed] {
        if node.int() > FEWER {
            e.bad(node, why.clone());
        }
    }
}

fn replacement_policy(e: &mut Errors, spec: &Node<'_>) {
    let policy = spec.get("podReplacementPolicy");
    if spec.get("podFailurePolicy").is_set() {
        e.one_of(&policy, &["Failed"]);
    } else {
        e.one_of(&policy, &["Failed", "TerminatingOrFailed"]);
    }
}

/// `valid values: ["A" "B"]`
fn valid(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| quote(v)).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn failure_policy(e: &mut Errors, spec: &Node<'_>) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = spec.get("podFailurePolicy.rules");
    if rules.len() > 20 {
        e.too_many(&rules, rules.len(), 20);
    }
    let known: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|l| {
            spec.get(&format!("template.spec.{l}"))
                .items()
                .collect::<Vec<_>>()
        })
        .map(|c| c.get("name").text())
        .collect();
    for rule in rules.items() {
        let action = rule.get("action");
        match action.text() {
            "" => e.required(&action, valid(&ACTIONS)),
            "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
                e.bad(&action, "requires the backoffLimitPerIndex to be set");
            }
            other if !ACTIONS.contains(&other) => e.not_supported(&action, other, &ACTIONS),
            _ => {}
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(e, &codes, &known);
        }
        pod_conditions(e, &conditions);
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => e.wrong(
                &rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ),
            (false, false) => e.wrong(
                &rule,
                "specifying one of OnExitCodes and OnPodConditions is required",
            ),
            _ => {}
        }
    }
}

fn exit_codes(e: &mut Errors, codes: &Node<'_>, known: &[&str]) {
    let operator = codes.get("operator");
    if operator.is_empty() {
        e.required(&operator, valid(&["In", "NotIn"]));
    } else {
        e.one_of(&operator, &["In", "NotIn"]);
    }
    let container = codes.get("containerName");
    if container.is_set() && !known.contains(&container.text()) {
        let why = "must be one of the container or initContainer names in the pod template";
        e.bad(&container, why);
    }
    let values = codes.get("values");
    if values.is_empty() {
        e.bad(&values, "at least one value is required");
    } else if values.len() > 255 {
        e.too_many(&values, values.len(), 255);
    }
    let mut seen = BTreeSet::new();
    let numbers: Vec<i64> = values.items().map(|v| v.int()).collect();
    for value in values.items() {
        if operator.text() == "In" && value.int() == 0 {
            e.bad(&value, "must not be 0 for the In operator");
        }
        if !seen.insert(value.int()) {
            e.duplicate(&value, value.int());
        }
    }
    if !numbers.is_sorted() {
        e.bad(&values, "must be ordered");
    }
}

fn pod_conditions(e: &mut Errors, list: &Node<'_>) {
    const VALUES: [&str; 3] = ["False", "True", "Unknown"];
    if list.len() > 20 {
        e.too_many(list, list.len(), 20);
    }
    for pattern in list.items() {
        e.check(&pattern.get("type"), names::qualified_name_faults);
        let status = pattern.get("status");
        if status.is_empty() {
            e.required(&status, valid(&VALUES));
        } else {
            e.one_of(&status, &VALUES);
        }
    }
}

fn success_policy(e: &mut Errors, spec: &Node<'_>, policy: &Node<'_>) {
    let rules = policy.get("rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        e.required(&rules, why);
    }
    if rules.len() > 20 {
        e.too_many(&rules, rules.len(), 20);
    }
    let completions = spec.get("completions").int();
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            e.required(&rule, why);
        }
        let mut total = 0;
        if indexes.is_set() {
            if indexes.text().len() > 64 * 1024 {
                e.too_long(&indexes, 64 * 1024);
            }
            match count_indexes(indexes.text(), completions) {
                Ok(number) => total = number,
                Err(why) => e.bad(&indexes, format!("error parsing succeededIndexes: {why}")),
            }
        }
        if !count.is_set() {
            continue;
        }
        e.non_negative(&count);
        if count.int() > completions {
            let why = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            e.bad(&count, why);
        }
        if indexes.is_set() && count.int() > total {
            let why = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            e.bad(&count, why);
        }
    }
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str| -> Result<i64, String> {
        let number: i64 = part.parse().map_err(|_| {
            format!(
                "cannot convert string to integer for index: {}",
                quote(part)
            )
        })?;
        if number >= completions {
            return Err(format!("too large index: {}", quote(part)));
        }
        Ok(number)
    };
    match parts.as_slice() {
        [one] => number(one).map(|n| (n, n)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!(
                    "non-increasing order, previous: {first}, current: {last}"
                ));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            quote(text)
        )),
    }
}

/// How many indexes `1,3-5` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut last, mut total) = (None, 0);
    for part in text.split(',') {
        let (first, end) = interval(part, completions)?;
        if let Some(last) = last.filter(|l| *l >= first) {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {first}"
            ));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn job_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>, job: &Node<'_>) {
    completions(e, new, old);
    let selector = new.get("selector");
    if !same(
        selector.value,
        old.value.get("selector").unwrap_or(&Value::Null),
    ) {
        let shown = if selector.is_set() {
            meta::shown_selector(&selector)
        } else {
            (&selector).into()
        };
        e.invalid(&selector, shown, IMMUTABLE);
    }
    let template = new.get("template");
    let mut before = old.value["template"].clone();
    if old.get("suspend").flag() && !job.get("status.startTime").is_set() {
        free_scheduling(&mut before, template.value);
    }
    if !same(template.value, &before) {
        let shown = internal::shown("PodTemplateSpec", &flat(template.value));
        e.invalid(&template, shown, IMMUTABLE);
    }
    e.immutable(&new.get("completionMode"), &old.get("completionMode"));
    for (field, kind) in [
        ("podFailurePolicy", "?PodFailurePolicy"),
        ("backoffLimitPerIndex", ""),
        ("managedBy", ""),
        ("successPolicy", "?SuccessPolicy"),
    ] {
        let (n, o) = (new.get(field), old.get(field));
        if kind.is_empty() {
            e.immutable(&n, &o);
        } else if !same(n.value, o.value) {
            e.invalid(&n, internal::shown(kind, n.value), IMMUTABLE);
        }
    }
}

/// A template with the metadata beside the specification, as Go embeds it.
fn flat(template: &Value) -> Value {
    let mut out = template["metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    out.insert("spec".into(), template["spec"].clone());
    Value::Object(out)
}

/// Puts the value at the pointer in `after` into `before`.
fn take(before: &mut Value, after: &Value, pointer: &str) {
    let value = after.pointer(pointer).cloned();
    let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
    if let Some(map) = before.pointer_mut(parent).and_then(Value::as_object_mut) {
        match value {
            Some(value) => map.insert(field.to_owned(), value),
            None => map.remove(field),
        };
    }
}

/// Until it starts, a suspended job can still be told where to run.
fn free_scheduling(before: &mut Value, after: &Value) {
    for pointer in [
        "/spec/nodeSelector",
        "/spec/tolerations",
        "/spec/schedulingGates",
        "/metadata/annotations",
        "/metadata/labels",
    ] {
        take(before, after, pointer);
    }
    let only_nodes = |v: &Value| {
        let map = v.as_object();
        map.is_none_or(|m| m.keys().all(|k| k == "nodeAffinity"))
    };
    let (was, is) = (&before["spec"]["affinity"], &after["spec"]["affinity"]);
    let both = was.is_object() && is.is_object();
    if both {
        take(before, after, "/spec/affinity/nodeAffinity");
    } else if only_nodes(was) && only_nodes(is) {
        take(before, after, "/spec/affinity");
    }
    let count = after["spec"]["containers"].as_array().map_or(0, Vec::len);
    for i in 0..count {
        take(before, after, &format!("/spec/containers/{i}/resources"));
    }
    let count = after["spec"]["initContainers"]
        .as_array()
        .map_or(0, Vec::len);
    for i in 0..count {
        take(
            before,
            after,
            &format!("/spec/initContainers/{i}/resources"),
        );
    }
}

fn completions(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let (after, before) = (new.get("completions"), old.get("completions"));
    if !is_indexed(new) {
        return e.immutable(&after, &before);
    }
    if same(after.value, before.value) || !after.is_set() {
        return;
    }
    if after.int() != new.get("parallelism").int() {
        e.bad(
            &after,
            "can only be modified in tandem with spec.parallelism",
        );
    }
}

fn holds(job: &Node<'_>, kind: &str) -> bool {
    let conditions = job.get("status.conditions");
    conditions
        .items()
        .any(|c| c.get("type").text() == kind && c.get("status").text() == "True")
}

/// An update of the status: what jobs do not do.
fn status(e: &mut Errors, change: &Change<'_>) {
    let job = &change.new;
    let status = job.get("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        e.non_negative(&status.get(field));
    }
    let conditions = status.get("conditions");
    let (complete, failed) = (holds(job, "Complete"), holds(job, "Failed"));
    let (target, criteria) = (
        holds(job, "FailureTarget"),
        holds(job, "SuccessCriteriaMet"),
    );
    let mut clash = |wrong: bool, why: &str| {
        if wrong {
            e.wrong(&conditions, why);
        }
    };
    clash(
        complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    clash(
        complete && target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    let (started, ended) = (status.get("startTime"), status.get("completionTime"));
    if ended.is_set() && !complete {
        let why = "cannot set completionTime when there is no Complete=True condition";
        e.bad(&ended, why);
    }
    if !ended.is_set() && complete {
        e.required(&ended, "completionTime is required for Complete jobs");
    }
    if started.is_set() && ended.is_set() && ended.text() < started.text() {
        e.bad(&ended, "completionTime cannot be set before startTime");
    }
    let mut clash = |wrong: bool, why: &str| {
        if wrong {
            e.wrong(&conditions, why);
        }
    };
    clash(
        failed && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    clash(
        complete && !criteria,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    finished(e, &status, complete || failed);
    let (ready, active) = (status.get("ready"), status.get("active"));
    if ready.int() > active.int() {
        e.bad(&ready, "cannot set more ready pods than active");
    }
    let mut clash = |wrong: bool, why: &str| {
        if wrong {
            e.wrong(&conditions, why);
        }
    };
    clash(
        criteria && failed,
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    clash(
        criteria && target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    if let Some(old) = &change.old {
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if holds(old, kind) && !holds(job, kind) {
                let why = format!("cannot disable the terminal {kind}=True condition");
                e.wrong(&conditions, why);
            }
        }
        for (field, what) in [("failed", "failed"), ("succeeded", "succeeded")] {
            let (n, o) = (status.get(field), old.get("status").get(field));
            if n.int() < o.int() {
                e.invalid(&n, n.int(), format!("cannot decrease the {what} counter"));
            }
        }
    }
}

fn finished(e: &mut Errors, status: &Node<'_>, finished: bool) {
    if !finished {
        return;
    }
    let active = status.get("active");
    if active.int() > 0 {
        e.bad(&active, "active>0 is invalid for finished job");
    }
    let started = status.get("startTime");
    if !started.is_set() {
        e.required(&started, "startTime is required for finished job");
    }
    let terminating = status.get("terminating");
    if terminating.int() > 0 {
        e.bad(&terminating, "terminating>0 is invalid for finished job");
    }
}

/// CronJob
pub(super) fn cron_job(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return;
    }
    let spec = change.new.get("spec");
    let before = change.old.as_ref().map(|o| o.get("spec"));
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        e.required(&schedule, "");
    } else {
        cron::schedule(e, &schedule, &spec, before.as_ref());
    }
    e.non_negative(&spec.get("startingDeadlineSeconds"));
    let zone = spec.get("timeZone");
    let changed = before
        .as_ref()
        .is_none_or(|b| b.get("timeZone").value != zone.value);
    if zone.is_set() && changed {
        cron::time_zone(e, &zone);
    }
    e.one_of_required(
        &spec.get("concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    let template = spec.get("jobTemplate.spec");
    job_spec(e, &template);
    let selector = template.get("selector");
    if selector.is_set() {
        let shown = meta::shown_selector(&selector);
        e.invalid(&selector, shown, "`selector` will be auto-generated");
    }
    let manual = template.get("manualSelector");
    if manual.flag() {
        e.not_supported(&manual, true, &["nil", "false"]);
    }
    e.non_negative(&spec.get("successfulJobsHistoryLimit"));
    e.non_negative(&spec.get("failedJobsHistoryLimit"));
    let name = change.new.get("metadata.name");
    if change.old.is_none() && name.text().len() > 52 {
        e.bad(&name, "must be no more than 52 characters");
    }
}
