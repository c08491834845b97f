//! DaemonSets.

use anyhow::{Context, ensure};
use cluster_tests::site::{Site, Space, condition, count, idle_spec, is_ready, name, workload};
use serde_json::{Value, json};

fn daemon(app: &str) -> Value {
    let mut set = workload("DaemonSet", app, 0, idle_spec());
    if let Some(spec) = set["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    set
}

/// One ready pod on each of so many nodes.
fn until_on(space: &Space<'_>, app: &str, number: usize) -> anyhow::Result<Vec<Value>> {
    let pods = space.until_ready(&format!("app={app}"), number)?;
    let nodes: std::collections::BTreeSet<String> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    ensure!(nodes.len() == number, "the pods are on {nodes:?}");
    Ok(pods)
}

pub(crate) fn a_daemon_comes_back_when_it_is_deleted_or_fails(site: &Site) -> anyhow::Result<()> {
    let space = site.space("daemon-simple")?;
    let nodes = site.nodes()?.len();
    space.create("daemonsets", &daemon("simple"))?;
    let pods = until_on(&space, "simple", nodes)?;
    space.until("daemonsets/simple", "counted", |set| {
        let all = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberAvailable",
        ];
        all.iter().all(|field| count(set, field) == nodes as i64)
    })?;
    space.delete(&format!("pods/{}", name(&pods[0])))?;
    space.until_gone(&format!("pods/{}", name(&pods[0])))?;
    let pods = until_on(&space, "simple", nodes)?;
    let failed = format!("pods/{}", name(&pods[0]));
    space.change(&format!("{failed}/status"), |pod| {
        pod["status"] = json!({ "phase": "Failed" });
    })?;
    space.until_gone(&failed)?;
    until_on(&space, "simple", nodes)?;
    let updated = space.change("daemonsets/simple/status", |set| {
        set["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True",
            "reason": "E2E", "message": "Set from e2e test"}]);
    })?;
    ensure!(condition(&updated, "StatusUpdate") == "True");
    space.delete("daemonsets?labelSelector=app%3Dsimple")?;
    space.until_gone("daemonsets/simple")
}

pub(crate) fn daemons_follow_the_labels_of_nodes(site: &Site) -> anyhow::Result<()> {
    let space = site.space("daemon-selector")?;
    let node = site.nodes()?.pop().context("no node")?;
    let node = format!("/api/v1/nodes/{node}");
    let color = |color: Value| {
        let labels = json!({"metadata": {"labels": {"daemonset-color": color}}});
        site.merge(&node, &labels).map(drop)
    };
    let mut set = daemon("complex");
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({ "daemonset-color": "blue" });
    space.create("daemonsets", &set)?;
    space.until("daemonsets/complex", "seen", |set| {
        count(set, "observedGeneration") == 1
    })?;
    ensure!(space.pods("app=complex")?.is_empty());
    color(json!("blue"))?;
    until_on(&space, "complex", 1)?;
    color(json!("green"))?;
    space.until_pods("app=complex", "none", |pods| pods.is_empty())?;
    let change = json!({"spec": {
        "template": {"spec": {"nodeSelector": {"daemonset-color": "green"}}},
        "updateStrategy": {"type": "RollingUpdate"}}});
    space.merge("daemonsets/complex", &change)?;
    until_on(&space, "complex", 1)?;
    color(Value::Null)?;
    space.until_pods("app=complex", "none", |pods| pods.is_empty())?;
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "daemonset-color", "operator": "In", "values": ["red"]}]}]}}});
    let change = json!({"spec": {"template": {"spec":
        {"nodeSelector": null, "affinity": affinity}}}});
    space.merge("daemonsets/complex", &change)?;
    color(json!("red"))?;
    until_on(&space, "complex", 1)?;
    color(Value::Null)?;
    space.until_pods("app=complex", "none", |pods| pods.is_empty())?;
    Ok(())
}

fn hash(object: &Value) -> String {
    let labels = &object["metadata"]["labels"];
    labels["controller-revision-hash"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

fn set_image(space: &Space<'_>, app: &str, image: &str) -> anyhow::Result<()> {
    space.change(&format!("daemonsets/{app}"), |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    })?;
    Ok(())
}

pub(crate) fn a_rolling_update_replaces_daemons_and_numbers_its_revisions(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("daemon-update")?;
    let nodes = site.nodes()?.len();
    space.create("daemonsets", &daemon("rolling"))?;
    let first = hash(&until_on(&space, "rolling", nodes)?[0]);
    set_image(&space, "rolling", "fairlead/testserver:1")?;
    let pods = space.until_pods("app=rolling", "updated", |pods| {
        pods.len() == nodes
            && pods
                .iter()
                .all(|pod| is_ready(pod) && image(pod) == "fairlead/testserver:1")
    })?;
    ensure!(hash(&pods[0]) != first);
    let revisions = space.list("controllerrevisions?labelSelector=app%3Drolling")?;
    let numbers: Vec<_> = revisions
        .iter()
        .map(|revision| (revision["revision"].as_i64().unwrap_or(0), hash(revision)))
        .collect();
    ensure!(
        numbers.contains(&(1, first)) && numbers.contains(&(2, hash(&pods[0]))),
        "{numbers:?}"
    );
    Ok(())
}

pub(crate) fn a_rollback_restarts_no_daemon_that_was_not_updated(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("daemon-rollback")?;
    let nodes = site.nodes()?.len();
    space.create("daemonsets", &daemon("rollback"))?;
    until_on(&space, "rollback", nodes)?;
    set_image(&space, "rollback", "foo:non-existent")?;
    let pods = space.until_pods("app=rollback", "half updated", |pods| {
        pods.len() == nodes
            && pods.iter().any(|pod| image(pod) == "foo:non-existent")
            && pods.iter().any(is_ready)
    })?;
    let kept: Vec<_> = pods
        .iter()
        .filter(|pod| image(pod) != "foo:non-existent")
        .collect();
    set_image(&space, "rollback", "fairlead/pause:1")?;
    let after = until_on(&space, "rollback", nodes)?;
    for old in kept {
        let same = after.iter().find(|pod| name(pod) == name(old));
        let same = same.with_context(|| format!("{} was restarted", name(old)))?;
        ensure!(same["status"]["containerStatuses"][0]["restartCount"] == 0);
    }
    Ok(())
}

pub(crate) fn a_surge_starts_the_new_daemon_before_the_old_one_ends(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("daemon-surge")?;
    let nodes = site.nodes()?.len();
    let mut set = daemon("surge");
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    space.create("daemonsets", &set)?;
    until_on(&space, "surge", nodes)?;
    let list = site.get(&space.path("pods"))?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("");
    set_image(&space, "surge", "fairlead/testserver:1")?;
    space.until_pods("app=surge", "updated", |pods| {
        pods.len() == nodes
            && pods
                .iter()
                .all(|pod| is_ready(pod) && image(pod) == "fairlead/testserver:1")
    })?;
    // No node is without a ready daemon at any time.
    let mut ready = std::collections::BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        ready.insert(name(pod), pod["spec"]["nodeName"].to_string());
    }
    for event in site.watched(&space.path("pods"), version, 1)? {
        let pod = &event["object"];
        if event["type"] != "DELETED" && is_ready(pod) {
            ready.insert(name(pod), pod["spec"]["nodeName"].to_string());
        } else {
            ready.remove(&name(pod));
        }
        let covered: std::collections::BTreeSet<_> = ready.values().collect();
        ensure!(covered.len() == nodes, "only {covered:?} have a daemon");
    }
    Ok(())
}
