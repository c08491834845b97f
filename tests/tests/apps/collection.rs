//! Garbage and namespaces.

use std::time::Duration;

use anyhow::ensure;
use cluster_tests::site::{Site, Space, condition, idle_spec, name, pod, workload};
use serde_json::{Value, json};

fn config_map(space: &Space<'_>, name: &str, owners: &[&Value]) -> anyhow::Result<Value> {
    let owners: Vec<Value> = owners.iter().map(|owner| reference(owner)).collect();
    let object = json!({"metadata": {"name": name, "ownerReferences": owners}});
    space.create("configmaps", &object)
}

fn reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": true,
    })
}

pub(crate) fn dependents_go_with_their_owner_in_the_background(site: &Site) -> anyhow::Result<()> {
    let space = site.space("collect-background")?;
    space.create("deployments", &workload("Deployment", "d", 2, idle_spec()))?;
    space.create(
        "replicationcontrollers",
        &workload("ReplicationController", "rc", 2, idle_spec()),
    )?;
    space.until_pods("app=d", "2", |pods| pods.len() == 2)?;
    space.until_pods("app=rc", "2", |pods| pods.len() == 2)?;
    let options = json!({"propagationPolicy": "Background"});
    space.delete_with("deployments/d", &options)?;
    space.delete_with("replicationcontrollers/rc", &options)?;
    space.until("replicasets", "none", |list| {
        list["items"].as_array().is_some_and(Vec::is_empty)
    })?;
    space.until_pods("app in (d, rc)", "none", |pods| pods.is_empty())?;
    Ok(())
}

pub(crate) fn an_owner_in_the_foreground_waits_for_its_dependents(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("collect-foreground")?;
    let mut rc = workload("ReplicationController", "rc", 3, idle_spec());
    rc["spec"]["template"]["metadata"]["finalizers"] = json!(["example.com/hold"]);
    space.create("replicationcontrollers", &rc)?;
    let pods = space.until_pods("app=rc", "3", |pods| pods.len() == 3)?;
    space.delete_with(
        "replicationcontrollers/rc",
        &json!({"propagationPolicy": "Foreground"}),
    )?;
    let place = "replicationcontrollers/rc";
    space.stays(Duration::from_secs(2), place, "waiting", |rc| {
        let finalizers = &rc["metadata"]["finalizers"];
        finalizers.to_string().contains("foregroundDeletion")
            && !rc["metadata"]["deletionTimestamp"].is_null()
    })?;
    for pod in pods {
        let change = json!({"metadata": {"finalizers": null}});
        space.merge(&format!("pods/{}", name(&pod)), &change)?;
    }
    space.until_gone(place)?;
    ensure!(space.pods("app=rc")?.is_empty());
    Ok(())
}

pub(crate) fn orphans_stay(site: &Site) -> anyhow::Result<()> {
    let space = site.space("collect-orphans")?;
    space.create("deployments", &workload("Deployment", "d", 1, idle_spec()))?;
    space.create(
        "replicationcontrollers",
        &workload("ReplicationController", "rc", 2, idle_spec()),
    )?;
    space.until_ready("app=d", 1)?;
    space.until_pods("app=rc", "2", |pods| pods.len() == 2)?;
    let options = json!({"propagationPolicy": "Orphan"});
    space.delete_with("deployments/d", &options)?;
    space.delete_with(
        "replicationcontrollers/rc",
        &json!({"orphanDependents": true}),
    )?;
    space.until_gone("deployments/d")?;
    space.until_gone("replicationcontrollers/rc")?;
    space.stays(
        Duration::from_secs(3),
        "pods?labelSelector=app%3Drc",
        "there",
        |list| {
            let pods = list["items"].as_array();
            pods.is_some_and(|pods| {
                pods.len() == 2
                    && pods
                        .iter()
                        .all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            })
        },
    )?;
    let sets = space.list("replicasets?labelSelector=app%3Dd")?;
    ensure!(
        sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null(),
        "{sets:?}"
    );
    Ok(())
}

pub(crate) fn circles_and_second_owners_do_not_confuse_the_collector(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("collect-circles")?;
    let mut pods = Vec::new();
    for number in 1..=3 {
        let made = pod(&format!("pod{number}"), idle_spec());
        pods.push(space.create("pods", &made)?);
    }
    for (of, owner) in [(0, 2), (1, 0), (2, 1)] {
        let owner: &Value = &pods[owner];
        let mut reference = reference(owner);
        reference["controller"] = json!(true);
        let change = json!({"metadata": {"ownerReferences": [reference]}});
        space.merge(&format!("pods/pod{}", of + 1), &change)?;
    }
    space.delete_with("pods/pod1", &json!({"propagationPolicy": "Foreground"}))?;
    space.until_pods("app in (pod1, pod2, pod3)", "none", |pods| pods.is_empty())?;
    let dying = config_map(&space, "dying", &[])?;
    let living = config_map(&space, "living", &[])?;
    let with_kind = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("ConfigMap");
        object
    };
    let (dying, living) = (with_kind(&dying), with_kind(&living));
    config_map(&space, "both", &[&dying, &living])?;
    config_map(&space, "one", &[&dying])?;
    space.delete_with(
        "configmaps/dying",
        &json!({"propagationPolicy": "Foreground"}),
    )?;
    space.until_gone("configmaps/one")?;
    space.until_gone("configmaps/dying")?;
    let both = space.get("configmaps/both")?;
    let owners = both["metadata"]["ownerReferences"]
        .as_array()
        .map_or(0, Vec::len);
    ensure!(
        owners == 1 && both["metadata"]["deletionTimestamp"].is_null(),
        "{both}"
    );
    // An owner that never was.
    let mut nobody = dying.clone();
    nobody["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    config_map(&space, "nobodys", &[&nobody])?;
    space.until_gone("configmaps/nobodys")
}

pub(crate) fn a_namespace_ends_in_order_and_with_all_it_holds(site: &Site) -> anyhow::Result<()> {
    let space = site.space("namespace-order")?;
    let place = "/api/v1/namespaces/namespace-order";
    let mut held = pod("test-pod", idle_spec());
    held["metadata"]["finalizers"] = json!(["e2e.example.com/hold"]);
    space.start(&held)?;
    let map = json!({"metadata": {"name": "test-map"}, "data": {"key": "value"}});
    space.create("configmaps", &map)?;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    space.create("services", &service)?;
    site.delete(place)?;
    let told = site.until(place, "held up", |namespace| {
        namespace["status"]["phase"] == "Terminating"
            && condition(namespace, "NamespaceFinalizersRemaining") == "True"
            && condition(namespace, "NamespaceContentRemaining") == "True"
    })?;
    let text = told["status"]["conditions"].to_string();
    ensure!(text.contains("e2e.example.com/hold"), "{text}");
    // What is not a pod waits for the pods.
    space.stays(
        Duration::from_secs(2),
        "configmaps/test-map",
        "there",
        |map| map["metadata"]["deletionTimestamp"].is_null(),
    )?;
    let more = json!({"metadata": {"name": "more"}});
    let refusal = cluster_tests::site::refused("more", space.post("configmaps", &more)?)?;
    ensure!(
        refusal.code == 403 && refusal.message.contains("being terminated"),
        "{refusal:?}"
    );
    space.merge("pods/test-pod", &json!({"metadata": {"finalizers": null}}))?;
    site.until_gone(place)?;
    site.create(
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "namespace-order"}}),
    )?;
    for what in ["pods", "services"] {
        ensure!(space.list(what)?.is_empty(), "{what} are left");
    }
    Ok(())
}

pub(crate) fn namespaces_take_labels_finalizers_and_conditions(site: &Site) -> anyhow::Result<()> {
    let space = site.space("namespace-write")?;
    let place = format!("/api/v1/namespaces/{}", space.name);
    let patched = site.merge(
        &place,
        &json!({"metadata": {"labels": {"testLabel": "testValue"}}}),
    )?;
    ensure!(patched["metadata"]["labels"]["testLabel"] == "testValue");
    let updated = site.change(&place, |n| {
        n["metadata"]["labels"]["updated"] = json!("yes")
    })?;
    ensure!(updated["metadata"]["labels"]["updated"] == "yes");
    let own = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "m"});
    let status = format!("{place}/status");
    let patched = site.merge(&status, &json!({"status": {"conditions": [own]}}))?;
    ensure!(
        condition(&patched, "StatusUpdate") == "True",
        "{}",
        patched["status"]
    );
    let finalize = format!("{place}/finalize");
    let with = |finalizers: Value| {
        let mut namespace = site.get(&place)?;
        namespace["spec"]["finalizers"] = finalizers;
        site.replace(&finalize, &namespace)
    };
    let added = with(json!(["kubernetes", "e2e.example.com/fakeFinalizer"]))?;
    ensure!(
        added["spec"]["finalizers"].as_array().map_or(0, Vec::len) == 2,
        "{}",
        added["spec"]
    );
    let removed = with(json!(["kubernetes"]))?;
    ensure!(
        removed["spec"]["finalizers"] == json!(["kubernetes"]),
        "{}",
        removed["spec"]
    );
    Ok(())
}
