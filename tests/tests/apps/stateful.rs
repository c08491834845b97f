//! StatefulSets.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::site::{
    Site, Space, condition, count, idle_spec, is_ready, name, shell_spec, workload,
};
use serde_json::{Value, json};

/// Long enough to see that nothing happens.
const A_WHILE: Duration = Duration::from_secs(4);

/// Pods whose readiness is a file.
fn stateful(app: &str, replicas: u32) -> Value {
    let mut spec = shell_spec("touch /ready; trap 'exit 0' TERM; while :; do sleep 0.2; done");
    spec["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-f", "/ready"] }, "periodSeconds": 1, "failureThreshold": 1,
    });
    let mut set = workload("StatefulSet", app, replicas, spec);
    set["spec"]["serviceName"] = json!("test");
    set
}

fn service(space: &Space<'_>) -> anyhow::Result<()> {
    let service = json!({"metadata": {"name": "test"}, "spec": {"clusterIP": "None",
        "selector": {"baz": "blah"}, "ports": [{"port": 80, "name": "http"}]}});
    space.create("services", &service).map(drop)
}

fn scale(space: &Space<'_>, app: &str, replicas: u32) -> anyhow::Result<()> {
    let change = json!({ "spec": { "replicas": replicas } });
    space
        .merge(&format!("statefulsets/{app}"), &change)
        .map(drop)
}

fn break_probe(space: &Space<'_>, app: &str, pods: u32) -> anyhow::Result<()> {
    for ordinal in 0..pods {
        let pod = format!("{app}-{ordinal}");
        space.shell(&pod, "rm -f /ready")?;
        space.until(&format!("pods/{pod}"), "unready", |pod| !is_ready(pod))?;
    }
    space.until(
        &format!("statefulsets/{app}"),
        "without ready pods",
        |set| count(set, "readyReplicas") == 0,
    )?;
    Ok(())
}

fn mend_probe(space: &Space<'_>, app: &str, pods: u32) -> anyhow::Result<()> {
    for ordinal in 0..pods {
        space.shell(&format!("{app}-{ordinal}"), "touch /ready")?;
    }
    Ok(())
}

/// The order in which pods came and went since a resource version.
fn order(site: &Site, space: &Space<'_>, version: &str, kind: &str) -> anyhow::Result<Vec<String>> {
    let events = site.watched(&space.path("pods"), version, 1)?;
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    Ok(of_kind.map(|event| name(&event["object"])).collect())
}

fn version(site: &Site, space: &Space<'_>) -> anyhow::Result<String> {
    let list = site.get(&space.path("pods"))?;
    let version = list["metadata"]["resourceVersion"].as_str();
    Ok(version.context("a list without a version")?.to_owned())
}

pub(crate) fn scaling_goes_in_order_and_halts_where_a_pod_is_unwell(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("stateful-order")?;
    service(&space)?;
    let start = version(site, &space)?;
    space.create("statefulsets", &stateful("ss", 1))?;
    space.until_ready("app=ss", 1)?;
    break_probe(&space, "ss", 1)?;
    scale(&space, "ss", 3)?;
    space.stays(A_WHILE, "statefulsets/ss", "at one replica", |set| {
        count(set, "replicas") == 1
    })?;
    mend_probe(&space, "ss", 1)?;
    space.until_ready("app=ss", 3)?;
    let came = order(site, &space, &start, "ADDED")?;
    ensure!(came == ["ss-0", "ss-1", "ss-2"], "{came:?}");
    let middle = version(site, &space)?;
    break_probe(&space, "ss", 3)?;
    scale(&space, "ss", 0)?;
    space.stays(A_WHILE, "statefulsets/ss", "at three replicas", |set| {
        count(set, "replicas") == 3
    })?;
    // The set goes on at once: a pod may be gone before it is told.
    for ordinal in 0..3 {
        let _ = space.shell(&format!("ss-{ordinal}"), "touch /ready");
    }
    space.until_pods("app=ss", "none", |pods| pods.is_empty())?;
    let went = order(site, &space, &middle, "DELETED")?;
    ensure!(went == ["ss-2", "ss-1", "ss-0"], "{went:?}");
    Ok(())
}

pub(crate) fn a_parallel_set_scales_at_once_whoever_is_unwell(site: &Site) -> anyhow::Result<()> {
    let space = site.space("stateful-parallel")?;
    service(&space)?;
    let mut set = stateful("ss", 1);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    space.create("statefulsets", &set)?;
    space.until_ready("app=ss", 1)?;
    break_probe(&space, "ss", 1)?;
    scale(&space, "ss", 3)?;
    space.until("statefulsets/ss", "at three", |set| {
        count(set, "replicas") == 3
    })?;
    mend_probe(&space, "ss", 1)?;
    space.until_ready("app=ss", 3)?;
    break_probe(&space, "ss", 3)?;
    scale(&space, "ss", 0)?;
    space.until("statefulsets/ss", "at none", |set| {
        count(set, "replicas") == 0
    })?;
    space.until_pods("app=ss", "none", |pods| pods.is_empty())?;
    Ok(())
}

fn revision_of(pod: &Value) -> &str {
    let hash = &pod["metadata"]["labels"]["controller-revision-hash"];
    hash.as_str().unwrap_or_default()
}

fn set_grace(space: &Space<'_>, app: &str, version: &str) -> anyhow::Result<()> {
    let env = json!([{ "name": "VERSION", "value": version }]);
    space.change(&format!("statefulsets/{app}"), |set| {
        set["spec"]["template"]["spec"]["containers"][0]["env"] = env.clone();
    })?;
    Ok(())
}

/// Waits until all pods have the update's revision and the set says so. Returns the revision.
fn rolled(space: &Space<'_>, app: &str) -> anyhow::Result<String> {
    let set = space.until(&format!("statefulsets/{app}"), "rolled", |set| {
        let status = &set["status"];
        status["currentRevision"] == status["updateRevision"]
            && count(set, "observedGeneration")
                == set["metadata"]["generation"].as_i64().unwrap_or(0)
            && count(set, "readyReplicas") == set["spec"]["replicas"].as_i64().unwrap_or(0)
    })?;
    let revision = set["status"]["updateRevision"].as_str().unwrap_or_default();
    for pod in space.pods(&format!("app={app}"))? {
        ensure!(
            revision_of(&pod) == revision,
            "{} has {}",
            name(&pod),
            revision_of(&pod)
        );
    }
    Ok(revision.to_owned())
}

pub(crate) fn an_update_goes_in_reverse_order_and_a_rollback_takes_the_old_revision(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("stateful-update")?;
    service(&space)?;
    space.create("statefulsets", &stateful("ss2", 3))?;
    space.until_ready("app=ss2", 3)?;
    let first = rolled(&space, "ss2")?;
    // The middle pod is unwell: the update waits for it.
    space.shell("ss2-1", "rm -f /ready")?;
    space.until("pods/ss2-1", "unready", |pod| !is_ready(pod))?;
    let start = version(site, &space)?;
    set_grace(&space, "ss2", "2")?;
    space.until("statefulsets/ss2", "updating", |set| {
        set["status"]["currentRevision"] != set["status"]["updateRevision"]
    })?;
    space.stays(A_WHILE, "statefulsets/ss2", "halted", |set| {
        count(set, "updatedReplicas") <= 1
    })?;
    space.shell("ss2-1", "touch /ready")?;
    let second = rolled(&space, "ss2")?;
    ensure!(second != first);
    let went = order(site, &space, &start, "DELETED")?;
    ensure!(went == ["ss2-2", "ss2-1", "ss2-0"], "{went:?}");
    set_grace(&space, "ss2", "3")?;
    let change = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "shell", "env": [{"name": "VERSION", "value": "2"}]}]}}}});
    site.patch(
        &space.path("statefulsets/ss2"),
        cluster_tests::site::Patch::Strategic,
        &change,
    )?;
    let back = space.until("statefulsets/ss2", "seen", |set| {
        count(set, "observedGeneration") == set["metadata"]["generation"].as_i64().unwrap_or(0)
    })?;
    ensure!(
        back["status"]["updateRevision"] == second.as_str(),
        "{}",
        back["status"]
    );
    ensure!(rolled(&space, "ss2")? == second);
    Ok(())
}

pub(crate) fn a_partition_makes_canaries_and_phases(site: &Site) -> anyhow::Result<()> {
    let space = site.space("stateful-canary")?;
    service(&space)?;
    let mut set = stateful("ss2", 3);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"partition": 3}});
    space.create("statefulsets", &set)?;
    space.until_ready("app=ss2", 3)?;
    let first = rolled(&space, "ss2")?;
    set_grace(&space, "ss2", "2")?;
    let found = space.until("statefulsets/ss2", "updating", |set| {
        set["status"]["updateRevision"] != first.as_str()
    })?;
    let second = found["status"]["updateRevision"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    space.stays(
        A_WHILE,
        "pods?labelSelector=app%3Dss2",
        "as they were",
        |list| {
            let pods = list["items"].as_array();
            pods.is_some_and(|pods| pods.iter().all(|pod| revision_of(pod) == first))
        },
    )?;
    let partition = |number: u32| {
        let change = json!({"spec": {"updateStrategy":
            {"rollingUpdate": {"partition": number}}}});
        space.merge("statefulsets/ss2", &change).map(drop)
    };
    let revisions = |wanted: [&str; 3]| {
        space.until_pods("app=ss2", &format!("{wanted:?}"), |pods| {
            let mut found: Vec<_> = pods.iter().map(|p| (name(p), revision_of(p))).collect();
            found.sort();
            let found: Vec<_> = found.iter().map(|(_, revision)| *revision).collect();
            found == wanted && pods.iter().all(is_ready)
        })
    };
    partition(2)?;
    revisions([&first, &first, &second])?;
    for pod in ["ss2-0", "ss2-2"] {
        let before = space.get(&format!("pods/{pod}"))?;
        space.delete(&format!("pods/{pod}"))?;
        space.until(&format!("pods/{pod}"), "new", |found| {
            found["metadata"]["uid"] != before["metadata"]["uid"]
        })?;
    }
    revisions([&first, &first, &second])?;
    partition(1)?;
    revisions([&first, &second, &second])?;
    partition(0)?;
    revisions([&second, &second, &second])?;
    ensure!(rolled(&space, "ss2")? == second);
    Ok(())
}

pub(crate) fn a_pod_that_its_node_refused_is_made_again(site: &Site) -> anyhow::Result<()> {
    let space = site.space("stateful-evicted")?;
    service(&space)?;
    let node = site.nodes()?.pop().context("no node")?;
    let mut spec = idle_spec();
    spec["nodeName"] = json!(node);
    spec["containers"][0]["ports"] = json!([{ "containerPort": 21017, "hostPort": 21017 }]);
    let mut blocker = cluster_tests::site::pod("test-pod", spec.clone());
    blocker["metadata"]["labels"] = json!({ "who": "blocker" });
    space.start(&blocker)?;
    let start = version(site, &space)?;
    let mut set = workload("StatefulSet", "ss", 1, spec);
    set["spec"]["serviceName"] = json!("test");
    space.create("statefulsets", &set)?;
    let first = space.until("pods/ss-0", "there", |_| true)?;
    space.until("pods/ss-0", "made again", |pod| {
        pod["metadata"]["uid"] != first["metadata"]["uid"]
    })?;
    let events = site.watched(&space.path("pods"), &start, 1)?;
    ensure!(
        events
            .iter()
            .any(|e| name(&e["object"]) == "ss-0" && e["object"]["status"]["phase"] == "Failed"),
        "the pod never failed"
    );
    space.delete("pods/test-pod")?;
    space.until("pods/ss-0", "running", |pod| {
        pod["status"]["phase"] == "Running" && is_ready(pod)
    })?;
    Ok(())
}

pub(crate) fn a_stateful_set_is_scaled_listed_and_its_status_changed(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("stateful-scale")?;
    service(&space)?;
    let mut set = workload("StatefulSet", "ss", 1, idle_spec());
    set["spec"]["serviceName"] = json!("test");
    space.create("statefulsets", &set)?;
    space.until_ready("app=ss", 1)?;
    ensure!(space.get("statefulsets/ss/scale")?["spec"]["replicas"] == 1);
    space.change("statefulsets/ss/scale", |scale| {
        scale["spec"]["replicas"] = json!(2)
    })?;
    ensure!(space.get("statefulsets/ss")?["spec"]["replicas"] == 2);
    let patched = space.merge("statefulsets/ss/scale", &json!({"spec": {"replicas": 3}}))?;
    ensure!(patched["spec"]["replicas"] == 3, "{patched}");
    space.until("statefulsets/ss", "available", |set| {
        count(set, "availableReplicas") == 3
    })?;
    let updated = space.change("statefulsets/ss/status", |set| {
        set["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True",
            "reason": "E2E", "message": "Set from e2e test"}]);
    })?;
    ensure!(condition(&updated, "StatusUpdate") == "True");
    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let patched = space.merge("statefulsets/ss/status", &patch)?;
    ensure!(condition(&patched, "StatusPatched") == "True");
    let all = site.list("/apis/apps/v1/statefulsets?labelSelector=app%3Dss")?;
    ensure!(
        all.iter()
            .any(|set| set["metadata"]["namespace"] == "stateful-scale")
    );
    let change = json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2,
        "template": {"spec": {"terminationGracePeriodSeconds": 0}}}});
    space.merge("statefulsets/ss", &change)?;
    space.until("statefulsets/ss", "two", |set| {
        count(set, "readyReplicas") == 2
    })?;
    space.delete("statefulsets?labelSelector=test-ss%3Dpatched")?;
    space.until_gone("statefulsets/ss")
}

pub(crate) fn claims_go_or_stay_as_the_retention_policy_says(site: &Site) -> anyhow::Result<()> {
    let space = site.space("stateful-claims")?;
    service(&space)?;
    let mut set = workload("StatefulSet", "ss", 2, idle_spec());
    set["spec"]["serviceName"] = json!("test");
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({ "whenScaled": "Delete", "whenDeleted": "Retain" });
    // Nobody makes such volumes: what matters are the claims.
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "nobodys",
            "resources": { "requests": { "storage": "1Mi" } } },
    }]);
    space.create("statefulsets", &set)?;
    for claim in ["data-ss-0", "data-ss-1"] {
        space.until(&format!("persistentvolumeclaims/{claim}"), "there", |_| {
            true
        })?;
    }
    scale(&space, "ss", 1)?;
    space.until_gone("persistentvolumeclaims/data-ss-1")?;
    let change = json!({"spec": {"persistentVolumeClaimRetentionPolicy":
        {"whenDeleted": "Delete"}}});
    space.merge("statefulsets/ss", &change)?;
    space.until(
        "persistentvolumeclaims/data-ss-0",
        "owned by the set",
        |claim| claim["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet",
    )?;
    space.delete_with(
        "statefulsets/ss",
        &json!({"propagationPolicy": "Background"}),
    )?;
    space.until_gone("persistentvolumeclaims/data-ss-0")
}
