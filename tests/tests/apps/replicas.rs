//! ReplicaSets, ReplicationControllers and ControllerRevisions.

use anyhow::ensure;
use cluster_tests::site::{
    Site, Space, condition, count, idle_spec, name, pod, server_spec, workload,
};
use serde_json::{Value, json};

const BOTH: [(&str, &str); 2] = [
    ("ReplicaSet", "replicasets"),
    ("ReplicationController", "replicationcontrollers"),
];

fn owner(pod: &Value) -> &Value {
    &pod["metadata"]["ownerReferences"][0]
}

pub(crate) fn replicas_serve_each_by_its_own_name(site: &Site) -> anyhow::Result<()> {
    let space = site.space("replicas-serve")?;
    for (kind, plural) in BOTH {
        let app = plural;
        space.create(plural, &workload(kind, app, 2, server_spec()))?;
        for pod in space.until_ready(&format!("app={app}"), 2)? {
            let pod = name(&pod);
            let answer = space.get(&format!("pods/{pod}:8080/proxy/hostname"))?;
            ensure!(answer == pod.as_str(), "{pod} says {answer}");
        }
    }
    Ok(())
}

pub(crate) fn pods_that_match_are_adopted_and_those_that_stop_are_released(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("replicas-adopt")?;
    for (kind, plural) in BOTH {
        let orphan = format!("orphan-{plural}");
        space.start(&pod(&orphan, idle_spec()))?;
        space.create(plural, &workload(kind, &orphan, 1, idle_spec()))?;
        let place = format!("pods/{orphan}");
        space.until(&place, "adopted", |pod| {
            owner(pod)["kind"] == kind && owner(pod)["controller"] == true
        })?;
        space.merge(
            &place,
            &json!({"metadata": {"labels": {"app": "not-matching"}}}),
        )?;
        space.until(&place, "released", |pod| owner(pod).is_null())?;
        space.until_ready(&format!("app={orphan}"), 1)?;
        space.delete(&place)?;
    }
    Ok(())
}

pub(crate) fn replica_sets_and_controllers_are_scaled_replaced_patched_and_collected(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("replicas-scale")?;
    for (kind, plural) in BOTH {
        let app = format!("s-{plural}");
        let place = format!("{plural}/{app}");
        space.create(plural, &workload(kind, &app, 1, idle_spec()))?;
        space.until_ready(&format!("app={app}"), 1)?;
        let scale = space.get(&format!("{place}/scale"))?;
        ensure!(scale["spec"]["replicas"] == 1, "{scale}");
        space.change(&format!("{place}/scale"), |s| {
            s["spec"]["replicas"] = json!(2)
        })?;
        space.until_ready(&format!("app={app}"), 2)?;
        space.until(&place, "2 available", |o| {
            count(o, "availableReplicas") == 2
        })?;
        space.merge(&format!("{place}/scale"), &json!({"spec": {"replicas": 3}}))?;
        space.until(&place, "3 available", |o| {
            count(o, "availableReplicas") == 3
        })?;
        let patch = json!({"metadata": {"labels": {"test": "patched"}}, "spec": {"replicas": 1}});
        space.merge(&place, &patch)?;
        space.until(&place, "1 replica", |o| count(o, "replicas") == 1)?;
        status_keeps_what_others_say(&space, &place)?;
        space.delete(&format!("{plural}?labelSelector=test%3Dpatched"))?;
        space.until_gone(&place)?;
    }
    Ok(())
}

fn status_keeps_what_others_say(space: &Space<'_>, place: &str) -> anyhow::Result<()> {
    let status = format!("{place}/status");
    let added = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    let updated = space.change(&status, |object| {
        object["status"]["conditions"] = json!([added]);
    })?;
    ensure!(
        condition(&updated, "StatusUpdate") == "True",
        "{}",
        updated["status"]
    );
    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let patched = space.merge(&status, &patch)?;
    ensure!(
        condition(&patched, "StatusPatched") == "True",
        "{}",
        patched["status"]
    );
    Ok(())
}

pub(crate) fn a_quota_that_stops_replicas_shows_as_a_condition(site: &Site) -> anyhow::Result<()> {
    let space = site.space("replicas-quota")?;
    let quota = json!({"metadata": {"name": "condition-test"}, "spec": {"hard": {"pods": "2"}}});
    space.create("resourcequotas", &quota)?;
    space.until("resourcequotas/condition-test", "counted", |quota| {
        quota["status"]["used"]["pods"] == "0"
    })?;
    for (kind, plural) in BOTH {
        let place = format!("{plural}/condition-test");
        space.create(plural, &workload(kind, "condition-test", 3, idle_spec()))?;
        space.until(&place, "failing", |o| {
            condition(o, "ReplicaFailure") == "True" && count(o, "observedGeneration") == 1
        })?;
        space.change(&place, |o| o["spec"]["replicas"] = json!(2))?;
        space.until(&place, "well again", |o| {
            condition(o, "ReplicaFailure").is_empty() && count(o, "replicas") == 2
        })?;
        space.delete_with(&place, &json!({"propagationPolicy": "Background"}))?;
        space.until_pods("app=condition-test", "none", |pods| pods.is_empty())?;
        space.until("resourcequotas/condition-test", "free", |quota| {
            quota["status"]["used"]["pods"] == "0"
        })?;
    }
    Ok(())
}

pub(crate) fn controller_revisions_live_as_objects_of_their_own(site: &Site) -> anyhow::Result<()> {
    let space = site.space("revisions")?;
    let mut set = workload("DaemonSet", "logger", 0, idle_spec());
    set["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("replicas"));
    space.create("daemonsets", &set)?;
    space.until_ready("app=logger", site.nodes()?.len())?;
    let revisions = space.list("controllerrevisions?labelSelector=app%3Dlogger")?;
    ensure!(revisions.len() == 1, "{} revisions", revisions.len());
    let first = name(&revisions[0]);
    ensure!(revisions[0]["revision"] == 1);
    let place = format!("controllerrevisions/{first}");
    let labels = json!({"metadata": {"labels": {"e2e": "patched"}}});
    let patched = space.merge(&place, &labels)?;
    ensure!(patched["metadata"]["labels"]["e2e"] == "patched");
    let mut second = patched.clone();
    second["metadata"] = json!({
        "name": "second",
        "labels": patched["metadata"]["labels"],
        "ownerReferences": patched["metadata"]["ownerReferences"],
    });
    second["revision"] = json!(2);
    space.create("controllerrevisions", &second)?;
    space.delete("controllerrevisions/second")?;
    space.until_gone("controllerrevisions/second")?;
    // A deleted revision of what runs is made again.
    space.delete(&place)?;
    space.until(
        "controllerrevisions?labelSelector=app%3Dlogger",
        "one",
        |list| {
            list["items"]
                .as_array()
                .is_some_and(|items| items.len() == 1)
        },
    )?;
    let patch = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    space.merge("daemonsets/logger", &patch)?;
    space.until(
        "controllerrevisions?labelSelector=app%3Dlogger",
        "two",
        |list| {
            let items = list["items"].as_array();
            items.is_some_and(|items| items.len() == 2)
        },
    )?;
    space.delete("controllerrevisions?labelSelector=e2e%3Dnothing")?;
    space.delete_with(
        "daemonsets/logger",
        &json!({"propagationPolicy": "Background"}),
    )?;
    space.until(
        "controllerrevisions?labelSelector=app%3Dlogger",
        "none",
        |list| list["items"].as_array().is_some_and(Vec::is_empty),
    )?;
    Ok(())
}
