//! Deployments, as the conformance tests use them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use cluster_tests::site::{
    Site, Space, condition, count, idle_spec, is_ready, name, server_spec, workload,
};
use serde_json::{Value, json};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn complete(replicas: i64) -> impl Fn(&Value) -> bool {
    move |deployment| {
        count(deployment, "updatedReplicas") == replicas
            && count(deployment, "replicas") == replicas
            && count(deployment, "availableReplicas") == replicas
            && count(deployment, "observedGeneration")
                >= deployment["metadata"]["generation"].as_i64().unwrap_or(0)
    }
}

fn sets(space: &Space<'_>, app: &str) -> anyhow::Result<Vec<Value>> {
    let mut sets = space.list(&format!("replicasets?labelSelector=app%3D{app}"))?;
    sets.sort_by_key(|set| set["metadata"]["creationTimestamp"].to_string());
    Ok(sets)
}

fn image(object: &Value) -> &str {
    let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default()
}

fn set_image(image: &str) -> impl Fn(&mut Value) {
    let image = json!(image);
    move |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.clone()
}

pub(crate) fn a_deployment_adopts_a_replica_set_and_counts_on_from_its_revision(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("deployment-adopts")?;
    let mut set = workload("ReplicaSet", "controller", 1, server_spec());
    set["metadata"]["annotations"] = json!({ REVISION: "3546343826724305832" });
    set["metadata"]["labels"] = json!({ "app": "sample", "pod": "httpd" });
    set["spec"]["selector"]["matchLabels"] = json!({ "app": "sample", "pod": "httpd" });
    set["spec"]["template"]["metadata"]["labels"] = json!({ "app": "sample", "pod": "httpd" });
    space.create("replicasets", &set)?;
    space.until_ready("app=sample", 1)?;
    let mut deployment = workload("Deployment", "sample", 1, server_spec());
    deployment["spec"]["selector"]["matchLabels"] = json!({ "app": "sample" });
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!("fairlead/testserver:2");
    deployment["spec"]["strategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    space.create("deployments", &deployment)?;
    let done = space.until("deployments/sample", "complete", complete(1))?;
    ensure!(
        done["metadata"]["annotations"][REVISION] == "3546343826724305833",
        "{}",
        done["metadata"]["annotations"]
    );
    let old = space.until("replicasets/controller", "scaled down", |set| {
        set["spec"]["replicas"] == 0 && count(set, "replicas") == 0
    })?;
    ensure!(old["metadata"]["ownerReferences"][0]["name"] == "sample");
    Ok(())
}

pub(crate) fn recreate_starts_no_pod_before_the_old_ones_are_gone(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("deployment-recreate")?;
    let mut deployment = workload("Deployment", "recreate", 2, server_spec());
    deployment["spec"]["strategy"] = json!({ "type": "Recreate" });
    space.create("deployments", &deployment)?;
    space.until("deployments/recreate", "complete", complete(2))?;
    let list = site.get(&space.path("pods"))?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("");
    space.change("deployments/recreate", set_image("fairlead/testserver:2"))?;
    space.until("deployments/recreate", "complete", complete(2))?;
    // What has ended does not count, though it may not be gone yet.
    let pods = list["items"].as_array().into_iter().flatten();
    let mut running: BTreeSet<String> = pods.map(name).collect();
    for event in site.watched(&space.path("pods"), version, 1)? {
        let pod = &event["object"];
        let phase = pod["status"]["phase"].as_str();
        if event["type"] == "DELETED" || matches!(phase, Some("Succeeded" | "Failed")) {
            running.remove(&name(pod));
        }
        let new = pod["spec"]["containers"][0]["image"] == "fairlead/testserver:2";
        ensure!(
            !new || running.is_empty(),
            "{} beside {running:?}",
            name(pod)
        );
    }
    Ok(())
}

pub(crate) fn a_rollout_turns_to_the_newest_template_in_its_midst(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("deployment-rollover")?;
    let set = workload("ReplicaSet", "rollover", 1, idle_spec());
    space.create("replicasets", &set)?;
    space.until_ready("app=rollover", 1)?;
    let mut deployment = workload("Deployment", "rollover", 1, idle_spec());
    deployment["spec"]["minReadySeconds"] = json!(3);
    deployment["spec"]["strategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nobody/has-this:1");
    space.create("deployments", &deployment)?;
    space.until("deployments/rollover", "on its way", |found| {
        count(found, "updatedReplicas") == 1 && count(found, "observedGeneration") >= 1
    })?;
    space.change("deployments/rollover", |object| {
        object["spec"]["template"]["spec"] = server_spec();
    })?;
    space.until("deployments/rollover", "complete", complete(1))?;
    let sets = sets(&space, "rollover")?;
    ensure!(sets.len() == 3, "{} sets", sets.len());
    for set in &sets {
        let wanted = i64::from(image(set).contains("testserver"));
        ensure!(
            set["spec"]["replicas"] == wanted && count(set, "replicas") == wanted,
            "{}: {} {}",
            name(set),
            set["spec"]["replicas"],
            set["status"]
        );
    }
    Ok(())
}

pub(crate) fn scaling_in_the_midst_of_a_rollout_is_proportional(site: &Site) -> anyhow::Result<()> {
    let space = site.space("deployment-proportional")?;
    let mut deployment = workload("Deployment", "web", 10, idle_spec());
    deployment["spec"]["strategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    space.create("deployments", &deployment)?;
    space.until("deployments/web", "complete", complete(10))?;
    space.change("deployments/web", set_image("nobody/has-this:404"))?;
    let sizes = |first: i64, second: i64| {
        space.until("replicasets", "of these sizes", |list| {
            let of = |text: &str| {
                let sets = list["items"].as_array().into_iter().flatten();
                let mut found = sets.filter(|set| image(set).contains(text));
                found
                    .next()
                    .and_then(|set| set["spec"]["replicas"].as_i64())
            };
            of("pause") == Some(first) && of("nobody") == Some(second)
        })
    };
    sizes(8, 5)?;
    space.until("deployments/web", "8 available", |found| {
        count(found, "availableReplicas") == 8
    })?;
    space.merge("deployments/web", &json!({"spec": {"replicas": 30}}))?;
    sizes(20, 13)?;
    Ok(())
}

pub(crate) fn old_replica_sets_are_deleted_beyond_the_history_limit(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("deployment-history")?;
    let mut set = workload("ReplicaSet", "old", 1, idle_spec());
    set["metadata"]["labels"] = json!({ "app": "cleanup" });
    set["spec"]["selector"]["matchLabels"] = json!({ "app": "cleanup" });
    set["spec"]["template"]["metadata"]["labels"] = json!({ "app": "cleanup" });
    space.create("replicasets", &set)?;
    space.until_ready("app=cleanup", 1)?;
    let mut deployment = workload("Deployment", "cleanup", 1, server_spec());
    deployment["spec"]["revisionHistoryLimit"] = json!(0);
    space.create("deployments", &deployment)?;
    space.until_gone("replicasets/old")?;
    space.until("deployments/cleanup", "complete", complete(1))?;
    Ok(())
}

pub(crate) fn a_deployment_is_scaled_and_its_status_takes_conditions(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("deployment-status")?;
    space.create(
        "deployments",
        &workload("Deployment", "web", 1, idle_spec()),
    )?;
    space.until("deployments/web", "complete", complete(1))?;
    let scale = space.get("deployments/web/scale")?;
    ensure!(
        scale["kind"] == "Scale" && scale["status"]["replicas"] == 1,
        "{scale}"
    );
    space.change("deployments/web/scale", |scale| {
        scale["spec"]["replicas"] = json!(2)
    })?;
    ensure!(space.get("deployments/web")?["spec"]["replicas"] == 2);
    space.merge("deployments/web/scale", &json!({"spec": {"replicas": 4}}))?;
    ensure!(space.get("deployments/web")?["spec"]["replicas"] == 4);
    space.until("deployments/web", "complete", complete(4))?;
    let added = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    let updated = space.change("deployments/web/status", |object| {
        if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
            conditions.push(added.clone());
        }
    })?;
    ensure!(
        condition(&updated, "StatusUpdate") == "True",
        "{}",
        updated["status"]
    );
    // What the controller writes keeps the conditions of others.
    space.merge("deployments/web", &json!({"spec": {"replicas": 2}}))?;
    let found = space.until("deployments/web", "complete", complete(2))?;
    ensure!(
        condition(&found, "StatusUpdate") == "True",
        "{}",
        found["status"]
    );
    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let patched = space.merge("deployments/web/status", &patch)?;
    ensure!(
        condition(&patched, "StatusPatched") == "True",
        "{}",
        patched["status"]
    );
    space.delete("deployments?labelSelector=app%3Dweb")?;
    space.until_gone("deployments/web")?;
    space.until_pods("app=web", "none", |pods| pods.is_empty())?;
    Ok(())
}

pub(crate) fn a_deployment_that_makes_no_progress_says_so(site: &Site) -> anyhow::Result<()> {
    let space = site.space("deployment-progress")?;
    let mut deployment = workload("Deployment", "web", 1, idle_spec());
    deployment["spec"]["progressDeadlineSeconds"] = json!(2);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nobody/has-this:1");
    space.create("deployments", &deployment)?;
    space.until("deployments/web", "out of time", |found| {
        condition(found, "Progressing") == "False"
    })?;
    // Rolled back to what can be had, it goes on.
    space.change("deployments/web", set_image("fairlead/pause:1"))?;
    space.until("deployments/web", "complete", complete(1))?;
    space.stays(
        Duration::from_secs(1),
        "deployments/web",
        "available",
        |found| condition(found, "Available") == "True",
    )?;
    let ready = space.pods("app=web")?;
    ensure!(ready.iter().filter(|pod| is_ready(pod)).count() == 1);
    Ok(())
}
