//! Jobs and CronJobs.

use std::time::Duration;

use anyhow::ensure;
use cluster_tests::site::{
    Site, Space, condition, count, idle_spec, is_ready, name, shell_spec, workload,
};
use serde_json::{Value, json};

/// A Job whose pods run a command and are not restarted.
fn job(name: &str, parallelism: u32, completions: u32, command: &str) -> Value {
    let mut spec = shell_spec(command);
    spec["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "labels": { "e2e": name } },
        "spec": {
            "parallelism": parallelism,
            "completions": completions,
            "backoffLimit": 6,
            "template": { "metadata": { "labels": { "job": name } }, "spec": spec },
        },
    })
}

fn indexed(name: &str, parallelism: u32, completions: u32, command: &str) -> Value {
    let mut object = job(name, parallelism, completions, command);
    object["spec"]["completionMode"] = json!("Indexed");
    object
}

fn until_ended(space: &Space<'_>, name: &str, kind: &str) -> anyhow::Result<Value> {
    space.until(&format!("jobs/{name}"), kind, |job| {
        condition(job, kind) == "True"
    })
}

fn reason(job: &Value, kind: &str) -> String {
    let conditions = job["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.map_or(String::new(), |c| {
        c["reason"].as_str().unwrap_or_default().to_owned()
    })
}

pub(crate) fn a_job_completes_also_when_its_containers_are_restarted(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("job-local")?;
    let command = "if [ -f /data/foo ]; then exit 0; fi; touch /data/foo; exit 1";
    let mut object = job("fail-once-local", 2, 4, command);
    let spec = &mut object["spec"]["template"]["spec"];
    spec["restartPolicy"] = json!("OnFailure");
    spec["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    space.create("jobs", &object)?;
    let done = until_ended(&space, "fail-once-local", "Complete")?;
    ensure!(count(&done, "succeeded") == 4, "{}", done["status"]);
    let pods = space.pods("job=fail-once-local")?;
    let good = pods
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Succeeded");
    ensure!(good.count() == 4);
    ensure!(
        condition(&done, "SuccessCriteriaMet") == "True",
        "{}",
        done["status"]
    );
    Ok(())
}

pub(crate) fn a_deleted_job_takes_its_pods_along(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-delete")?;
    space.create("jobs", &job("foo", 2, 4, "sleep 1000"))?;
    space.until_ready("job=foo", 2)?;
    space.delete_with("jobs/foo", &json!({"propagationPolicy": "Foreground"}))?;
    space.until_gone("jobs/foo")?;
    ensure!(space.pods("job=foo")?.is_empty());
    Ok(())
}

pub(crate) fn a_job_adopts_orphans_and_releases_what_does_not_match(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("job-adopt")?;
    space.create("jobs", &job("adopt-release", 2, 4, "sleep 1000"))?;
    let pods = space.until_ready("job=adopt-release", 2)?;
    let place = format!("pods/{}", name(&pods[0]));
    space.change(&place, |pod| pod["metadata"]["ownerReferences"] = json!([]))?;
    space.until(&place, "adopted", |pod| {
        pod["metadata"]["ownerReferences"][0]["kind"] == "Job"
    })?;
    space.change(&place, |pod| pod["metadata"]["labels"] = json!({}))?;
    space.until(&place, "released", |pod| {
        pod["metadata"]["ownerReferences"].is_null()
    })?;
    Ok(())
}

pub(crate) fn indexed_pods_know_their_index_and_have_its_name(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-indexed")?;
    space.create(
        "jobs",
        &indexed("indexed", 2, 4, "echo $JOB_COMPLETION_INDEX $(hostname)"),
    )?;
    let done = until_ended(&space, "indexed", "Complete")?;
    ensure!(
        done["status"]["completedIndexes"] == "0-3",
        "{}",
        done["status"]
    );
    let mut found = Vec::new();
    for pod in space.pods("job=indexed")? {
        let index = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
        let label = &pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"];
        ensure!(index == label, "{}", pod["metadata"]);
        let index = index.as_str().unwrap_or_default().to_owned();
        ensure!(
            pod["spec"]["hostname"] == format!("indexed-{index}"),
            "{}",
            pod["spec"]["hostname"]
        );
        let log = space.log(&name(&pod))?;
        ensure!(log.trim() == format!("{index} indexed-{index}"), "{log}");
        found.push(index);
    }
    found.sort();
    ensure!(found == ["0", "1", "2", "3"], "{found:?}");
    Ok(())
}

pub(crate) fn a_job_is_suspended_resumed_changed_and_collected(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-lifecycle")?;
    let mut object = job("suspended", 2, 4, "sleep 1000");
    object["spec"]["suspend"] = json!(true);
    space.create("jobs", &object)?;
    let found = space.until("jobs/suspended", "suspended", |job| {
        condition(job, "Suspended") == "True"
    })?;
    ensure!(found["status"]["startTime"].is_null() && space.pods("job=suspended")?.is_empty());
    // The pods' place may be changed while it is suspended.
    let patch = json!({"metadata": {"labels": {"e2e": "patched"}}, "spec": {"template": {
        "metadata": {"annotations": {"a": "b"}}, "spec": {"nodeSelector": {}}}}});
    space.merge("jobs/suspended", &patch)?;
    space.merge("jobs/suspended", &json!({"spec": {"suspend": false}}))?;
    space.until_ready("job=suspended", 2)?;
    let found = space.until("jobs/suspended", "resumed", |job| {
        condition(job, "Suspended") == "False" && count(job, "ready") == 2
    })?;
    ensure!(
        !found["status"]["startTime"].is_null(),
        "{}",
        found["status"]
    );
    space.merge("jobs/suspended", &json!({"spec": {"suspend": true}}))?;
    space.until("jobs/suspended", "suspended", |job| {
        condition(job, "Suspended") == "True" && count(job, "active") == 0
    })?;
    space.until_pods("job=suspended", "none", |pods| pods.is_empty())?;
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"conditions": [{"type": "CustomConditionType", "status": "True",
            "reason": "E2E", "message": "Set from e2e"}]}});
    let patched = space.merge("jobs/suspended/status", &patch)?;
    ensure!(
        condition(&patched, "CustomConditionType") == "True",
        "{}",
        patched["status"]
    );
    ensure!(patched["metadata"]["annotations"]["patchedstatus"] == "true");
    space.delete("jobs?labelSelector=e2e%3Dpatched")?;
    space.until_gone("jobs/suspended")
}

pub(crate) fn the_status_of_a_running_job_takes_conditions(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-status")?;
    space.create("jobs", &job("running", 2, 4, "sleep 1000"))?;
    space.until_ready("job=running", 2)?;
    let own = json!({"type": "CustomConditionType", "status": "True", "reason": "E2E",
        "message": "Set from e2e"});
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"conditions": [own]}});
    let patched = space.merge("jobs/running/status", &patch)?;
    ensure!(
        condition(&patched, "CustomConditionType") == "True",
        "{}",
        patched["status"]
    );
    let updated = space.change("jobs/running/status", |job| {
        job["status"]["conditions"][0]["reason"] = json!("E2E-updated");
    })?;
    ensure!(reason(&updated, "CustomConditionType") == "E2E-updated");
    ensure!(condition(&space.get("jobs/running/status")?, "CustomConditionType") == "True");
    Ok(())
}

pub(crate) fn a_pod_failure_policy_fails_early_ignores_and_fails_an_index(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("job-policy")?;
    let mut early = job("fail-early", 1, 1, "exit 42");
    early["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "FailJob",
        "onExitCodes": {"containerName": "shell", "operator": "In", "values": [42]}}]});
    space.create("jobs", &early)?;
    let mut index = indexed(
        "fail-index",
        2,
        2,
        "[ $JOB_COMPLETION_INDEX = 0 ] && exit 42; exit 0",
    );
    index["spec"]["backoffLimitPerIndex"] = json!(1);
    index["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "FailIndex",
        "onExitCodes": {"operator": "In", "values": [42]}}]});
    space.create("jobs", &index)?;
    let mut ignore = job(
        "ignore",
        1,
        1,
        "while [ ! -f /tmp/end ]; do sleep 0.2; done",
    );
    ignore["spec"]["backoffLimit"] = json!(0);
    ignore["spec"]["podFailurePolicy"] = json!({"rules": [{"action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    space.create("jobs", &ignore)?;
    let failed = until_ended(&space, "fail-early", "Failed")?;
    ensure!(
        reason(&failed, "Failed") == "PodFailurePolicy",
        "{}",
        failed["status"]
    );
    ensure!(
        condition(&failed, "FailureTarget") == "True",
        "{}",
        failed["status"]
    );
    let failed = until_ended(&space, "fail-index", "Failed")?;
    ensure!(
        failed["status"]["failedIndexes"] == "0",
        "{}",
        failed["status"]
    );
    ensure!(
        failed["status"]["completedIndexes"] == "1",
        "{}",
        failed["status"]
    );
    ensure!(count(&failed, "failed") == 1, "{}", failed["status"]);
    let pod = name(&space.until_ready("job=ignore", 1)?[0]);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space.name}});
    space.create(&format!("pods/{pod}/eviction"), &eviction)?;
    let pods = space.until_pods("job=ignore", "another", |pods| {
        pods.iter()
            .any(|other| name(other) != pod && is_ready(other))
    })?;
    let other = pods
        .iter()
        .map(name)
        .find(|other| *other != pod)
        .unwrap_or_default();
    space.shell(&other, "touch /tmp/end")?;
    until_ended(&space, "ignore", "Complete")?;
    Ok(())
}

pub(crate) fn back_off_is_counted_for_each_index(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-per-index")?;
    let mut some = indexed(
        "some-fail",
        2,
        4,
        "[ $(( $JOB_COMPLETION_INDEX % 2 )) = 1 ]",
    );
    some["spec"]["backoffLimitPerIndex"] = json!(1);
    some["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
    space.create("jobs", &some)?;
    let mut most = indexed("too-many", 2, 6, "exit 1");
    most["spec"]["backoffLimitPerIndex"] = json!(0);
    most["spec"]["maxFailedIndexes"] = json!(1);
    space.create("jobs", &most)?;
    let failed = until_ended(&space, "too-many", "Failed")?;
    ensure!(
        reason(&failed, "Failed") == "MaxFailedIndexesExceeded",
        "{}",
        failed["status"]
    );
    let failed = until_ended(&space, "some-fail", "Failed")?;
    ensure!(
        reason(&failed, "Failed") == "FailedIndexes",
        "{}",
        failed["status"]
    );
    ensure!(
        failed["status"]["failedIndexes"] == "0,2",
        "{}",
        failed["status"]
    );
    ensure!(
        failed["status"]["completedIndexes"] == "1,3",
        "{}",
        failed["status"]
    );
    ensure!(
        count(&failed, "failed") == 4 && count(&failed, "succeeded") == 2,
        "{}",
        failed["status"]
    );
    Ok(())
}

pub(crate) fn a_success_policy_ends_a_job_before_all_indexes_have(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("job-success")?;
    let policies = [
        ("all", json!({ "succeededIndexes": "0-1" }), "exit 0"),
        (
            "counted",
            json!({ "succeededCount": 1 }),
            "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 1000",
        ),
        (
            "listed",
            json!({ "succeededIndexes": "1" }),
            "[ $JOB_COMPLETION_INDEX = 1 ] || sleep 1000",
        ),
    ];
    for (name, rule, command) in &policies {
        let mut object = indexed(name, 2, 2, command);
        object["spec"]["successPolicy"] = json!({ "rules": [rule] });
        space.create("jobs", &object)?;
    }
    for (name, ..) in &policies {
        let done = until_ended(&space, name, "Complete")?;
        ensure!(
            condition(&done, "SuccessCriteriaMet") == "True",
            "{}",
            done["status"]
        );
        let reason = reason(&done, "SuccessCriteriaMet");
        ensure!(reason == "SuccessPolicy", "{name}: {reason}");
        let completed = match *name {
            "all" => "0,1",
            "counted" => "0",
            _ => "1",
        };
        ensure!(
            done["status"]["completedIndexes"] == completed,
            "{}",
            done["status"]
        );
        ensure!(
            count(&done, "active") == 0 && count(&done, "terminating") == 0,
            "{}",
            done["status"]
        );
    }
    Ok(())
}

pub(crate) fn deadlines_limits_and_owners_of_jobs_are_kept_to(site: &Site) -> anyhow::Result<()> {
    let space = site.space("job-limits")?;
    let mut late = job("late", 1, 1, "sleep 1000");
    late["spec"]["activeDeadlineSeconds"] = json!(1);
    space.create("jobs", &late)?;
    let mut often = job("often", 1, 1, "exit 1");
    often["spec"]["backoffLimit"] = json!(0);
    space.create("jobs", &often)?;
    let mut short = job("short", 1, 1, "exit 0");
    short["spec"]["ttlSecondsAfterFinished"] = json!(1);
    space.create("jobs", &short)?;
    let mut other = job("other", 1, 1, "exit 0");
    other["spec"]["managedBy"] = json!("example.com/other");
    space.create("jobs", &other)?;
    let failed = until_ended(&space, "late", "Failed")?;
    ensure!(
        reason(&failed, "Failed") == "DeadlineExceeded",
        "{}",
        failed["status"]
    );
    let failed = until_ended(&space, "often", "Failed")?;
    ensure!(
        reason(&failed, "Failed") == "BackoffLimitExceeded",
        "{}",
        failed["status"]
    );
    space.until_gone("jobs/short")?;
    let untouched = space.get("jobs/other")?;
    ensure!(untouched["status"]["startTime"].is_null() && space.pods("job=other")?.is_empty());
    Ok(())
}

fn cron(name: &str, policy: &str, command: &str) -> Value {
    let mut spec = shell_spec(command);
    spec["restartPolicy"] = json!("OnFailure");
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": { "name": name, "labels": { "cron": name } },
        "spec": {
            "schedule": "*/1 * * * ?",
            "concurrencyPolicy": policy,
            "jobTemplate": {
                "metadata": { "labels": { "cron": name } },
                "spec": { "parallelism": 1, "completions": 1,
                    "template": { "metadata": { "labels": { "cron": name } }, "spec": spec } },
            },
        },
    })
}

/// One case, because each of these has to wait for minutes to pass.
pub(crate) fn cron_jobs_allow_forbid_replace_and_wait(site: &Site) -> anyhow::Result<()> {
    let space = site.space("cron")?;
    let mut suspended = cron("suspended", "Allow", "exit 0");
    suspended["spec"]["suspend"] = json!(true);
    space.create("cronjobs", &suspended)?;
    for policy in ["Allow", "Forbid", "Replace"] {
        let name = policy.to_lowercase();
        space.create("cronjobs", &cron(&name, policy, "sleep 300"))?;
    }
    let active = |name: &str| {
        space.until(&format!("cronjobs/{name}"), "active", |cron| {
            cron["status"]["active"]
                .as_array()
                .is_some_and(|active| !active.is_empty())
        })
    };
    let first = |cron: &Value| name_of_active(cron, 0);
    let forbidden = first(&active("forbid")?);
    let replaced = first(&active("replace")?);
    active("allow")?;
    space.until("cronjobs/allow", "active twice", |cron| {
        cron["status"]["active"]
            .as_array()
            .is_some_and(|active| active.len() > 1)
    })?;
    space.until("cronjobs/replace", "replaced", |cron| {
        let name = name_of_active(cron, 0);
        !name.is_empty() && name != replaced
    })?;
    let forbid = space.get("cronjobs/forbid")?;
    let number = forbid["status"]["active"].as_array().map_or(0, Vec::len);
    ensure!(
        number == 1 && first(&forbid) == forbidden,
        "{}",
        forbid["status"]
    );
    let suspended = space.get("cronjobs/suspended")?;
    ensure!(
        suspended["status"]["active"].is_null(),
        "{}",
        suspended["status"]
    );
    ensure!(suspended["status"]["lastScheduleTime"].is_null());
    Ok(())
}

fn name_of_active(cron: &Value, index: usize) -> String {
    let name = &cron["status"]["active"][index]["name"];
    name.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn a_cron_job_is_read_written_and_its_status_changed(site: &Site) -> anyhow::Result<()> {
    let space = site.space("cron-api")?;
    let mut object = cron("api", "Allow", "exit 0");
    object["spec"]["suspend"] = json!(true);
    space.create("cronjobs", &object)?;
    let all = site.list("/apis/batch/v1/cronjobs?labelSelector=cron%3Dapi")?;
    ensure!(all.len() == 1);
    let time = json!("2026-01-01T00:00:00Z");
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"lastScheduleTime": time}});
    let patched = space.merge("cronjobs/api/status", &patch)?;
    ensure!(
        patched["status"]["lastScheduleTime"] == time,
        "{}",
        patched["status"]
    );
    ensure!(patched["metadata"]["annotations"]["patchedstatus"] == "true");
    space.change("cronjobs/api/status", |cron| {
        cron["status"]["lastScheduleTime"] = json!("2026-01-01T00:01:00Z");
    })?;
    space.delete("cronjobs?labelSelector=cron%3Dapi")?;
    space.until_gone("cronjobs/api")
}

pub(crate) fn budgets_count_block_evictions_and_let_them_pass(site: &Site) -> anyhow::Result<()> {
    let space = site.space("budgets")?;
    let budget = json!({"metadata": {"name": "foo", "labels": {"b": "foo"}},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}});
    space.create("poddisruptionbudgets", &budget)?;
    space.create(
        "replicasets",
        &workload("ReplicaSet", "web", 3, idle_spec()),
    )?;
    let pods = space.until_ready("app=web", 3)?;
    space.until("poddisruptionbudgets/foo", "counted", |budget| {
        count(budget, "currentHealthy") == 3
            && count(budget, "expectedPods") == 3
            && count(budget, "desiredHealthy") == 3
            && count(budget, "disruptionsAllowed") == 0
            && count(budget, "observedGeneration") == 1
            && condition(budget, "DisruptionAllowed") == "False"
    })?;
    let pod = name(&pods[0]);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space.name}});
    let place = format!("pods/{pod}/eviction");
    let refusal = cluster_tests::site::refused("an eviction", space.post(&place, &eviction)?)?;
    ensure!(
        refusal.code == 429 && refusal.reason == "TooManyRequests",
        "{refusal:?}"
    );
    ensure!(refusal.message.contains("disruption budget"), "{refusal:?}");
    space.merge(
        "poddisruptionbudgets/foo",
        &json!({"spec": {"minAvailable": 2}}),
    )?;
    space.until("poddisruptionbudgets/foo", "lenient", |budget| {
        count(budget, "disruptionsAllowed") == 1 && count(budget, "observedGeneration") == 2
    })?;
    space.create(&place, &eviction)?;
    space.until_pods("app=web", "without the pod", |pods| {
        pods.iter().all(|other| name(other) != pod)
    })?;
    let patch = json!({"status": {"disruptionsAllowed": 0}});
    let patched = space.merge("poddisruptionbudgets/foo/status", &patch)?;
    ensure!(count(&patched, "disruptionsAllowed") == 0);
    let all = site.list("/apis/policy/v1/poddisruptionbudgets?labelSelector=b%3Dfoo")?;
    ensure!(all.len() == 1);
    space.delete("poddisruptionbudgets?labelSelector=b%3Dfoo")?;
    space.until_gone("poddisruptionbudgets/foo")?;
    space.stays(Duration::from_secs(1), "replicasets/web", "whole", |set| {
        count(set, "replicas") == 3
    })
}
