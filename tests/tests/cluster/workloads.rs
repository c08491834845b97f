//! Controllers and the scheduler at work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, Namespace, SOON, names, wait_for};
use cluster_tests::pods::{client, server};
use serde_json::{Value, json};

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn deploy(namespace: &Namespace<'_>, name: &str, replicas: u32) -> anyhow::Result<()> {
    let pod = server(name);
    let mut spec = pod["spec"].clone();
    spec["containers"][0]["readinessProbe"] =
        json!({ "httpGet": { "path": "/readyz", "port": 8080 }, "periodSeconds": 1 });
    // On the way out it first tells that it goes, then answers what still comes.
    spec["containers"][0]["args"] = json!(["serve", "--shutdown-delay", "2"]);
    spec["terminationGracePeriodSeconds"] = json!(5);
    namespace.apply(
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": name } },
                "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
            },
        })
        .to_string(),
    )?;
    namespace.rolled_out(&format!("deployment/{name}"))
}

fn image(namespace: &Namespace<'_>, name: &str) -> anyhow::Result<String> {
    let deployment = namespace.get(&format!("deployment {name}"))?;
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    Ok(image.as_str().context("no image")?.to_owned())
}

pub(crate) fn a_deployment_spreads_scales_updates_and_rolls_back(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("deployment")?;
    deploy(&namespace, "web", 4)?;
    let pods = namespace.get("pods -l app=web")?;
    let nodes: BTreeSet<_> = items(&pods)
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    ensure!(nodes.len() == 2, "all pods are on {nodes:?}");
    namespace
        .kubectl("scale deployment web --replicas=2")?
        .success()?;
    wait_for("two pods", SOON, || {
        Ok(names(&namespace.get("pods -l app=web")?).len() == 2)
    })?;
    namespace
        .kubectl("set image deployment/web server=fairlead/testserver:2")?
        .success()?;
    namespace.rolled_out("deployment/web")?;
    let sets = namespace.get("replicasets -l app=web")?;
    ensure!(names(&sets).len() == 2, "{}", names(&sets).join(", "));
    namespace
        .kubectl("rollout undo deployment/web")?
        .success()?;
    namespace.rolled_out("deployment/web")?;
    let image = image(&namespace, "web")?;
    ensure!(image == "fairlead/testserver:1", "{image}");
    let history = namespace
        .kubectl("rollout history deployment/web")?
        .success()?;
    ensure!(history.contains('3'), "{history}");
    Ok(())
}

pub(crate) fn an_update_fails_no_request_and_a_paused_one_waits(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("update")?;
    deploy(&namespace, "web", 2)?;
    namespace
        .kubectl("expose deployment web --port=80 --target-port=8080")?
        .success()?;
    namespace.start_pod(&server("client"))?;
    namespace.ask_until("client", "get http://web/hostname")?;
    namespace.start_pod(&client("load", &["load", "http://web/", "--rate", "20"]))?;

    namespace
        .kubectl("rollout pause deployment/web")?
        .success()?;
    namespace
        .kubectl("set image deployment/web server=fairlead/testserver:2")?
        .success()?;
    std::thread::sleep(Duration::from_secs(2));
    let sets = names(&namespace.get("replicasets")?);
    ensure!(
        sets.len() == 1,
        "the paused deployment went on: {}",
        sets.join(", ")
    );
    namespace
        .kubectl("rollout resume deployment/web")?
        .success()?;
    namespace.rolled_out("deployment/web")?;
    let killed = names(&namespace.get("pods -l app=web")?);
    namespace
        .kubectl(&format!("delete pod {}", killed[0]))?
        .success()?;
    namespace.rolled_out("deployment/web")?;
    std::thread::sleep(Duration::from_secs(2));
    let log = namespace.kubectl("logs load --tail=1")?.success()?;
    ensure!(
        log.contains("failed=0"),
        "{}",
        namespace.kubectl("logs load")?.stdout
    );
    Ok(())
}

pub(crate) fn a_daemon_set_runs_on_every_node(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("daemons")?;
    let pod = server("agent");
    namespace.apply(
        &json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": { "name": "agent" },
            "spec": {
                "selector": { "matchLabels": { "app": "agent" } },
                "template": { "metadata": { "labels": { "app": "agent" } }, "spec": pod["spec"] },
            },
        })
        .to_string(),
    )?;
    namespace.rolled_out("daemonset/agent")?;
    let pods = namespace.get("pods -l app=agent")?;
    let nodes: BTreeSet<_> = items(&pods)
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    ensure!(nodes.len() == cluster.nodes()?.len(), "{nodes:?}");
    Ok(())
}

pub(crate) fn owners_take_their_objects_along(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("owners")?;
    deploy(&namespace, "web", 1)?;
    namespace
        .kubectl("delete deployment web --cascade=orphan")?
        .success()?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        names(&namespace.get("replicasets")?).len() == 1,
        "the orphan is gone"
    );
    namespace.kubectl("delete replicaset --all")?.success()?;
    wait_for("the pods to go with their owner", SOON, || {
        Ok(names(&namespace.get("pods")?).is_empty())
    })
}

pub(crate) fn a_pod_that_fits_nowhere_is_told_why(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("unfit")?;
    let mut pod = server("huge");
    pod["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1000" } });
    namespace.apply(&pod.to_string())?;
    wait_for("the event that says why", SOON, || {
        let events = namespace.get("events --field-selector involvedObject.name=huge")?;
        Ok(items(&events).any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "FailedScheduling" && message.contains("Insufficient cpu")
        }))
    })?;
    // A change of the cluster wakes it up.
    let node = &cluster.nodes()?[0];
    let mut picky = server("picky");
    picky["spec"]["nodeSelector"] = json!({ "test.fairlead/deck": "upper" });
    namespace.apply(&picky.to_string())?;
    wait_for("the event that says why", SOON, || {
        let events = namespace.get("events --field-selector involvedObject.name=picky")?;
        Ok(items(&events).any(|event| event["reason"] == "FailedScheduling"))
    })?;
    cluster
        .kubectl(&format!("label node {node} test.fairlead/deck=upper"))?
        .success()?;
    let ready = namespace.ready("picky");
    cluster
        .kubectl(&format!("label node {node} test.fairlead/deck-"))?
        .success()?;
    ready
}

pub(crate) fn deleting_a_namespace_deletes_what_is_in_it(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("short-lived")?;
    deploy(&namespace, "web", 2)?;
    namespace
        .kubectl("create configmap some --from-literal=a=b")?
        .success()?;
    cluster
        .kubectl("delete namespace short-lived --timeout=60s")?
        .success()?;
    let again = cluster.namespace("short-lived")?;
    ensure!(
        names(&again.get("deployments,pods,replicasets")?).is_empty(),
        "something was left"
    );
    Ok(())
}
