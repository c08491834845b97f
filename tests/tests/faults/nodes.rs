//! A node that loses its power.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, wait_for};
use cluster_tests::pods::{on, server};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(150);

fn ready(node: &Value) -> &str {
    let mut conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let ready = conditions.rfind(|condition| condition["type"] == "Ready");
    ready
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("missing")
}

pub(crate) fn a_stopped_node_is_not_ready_its_pods_move_and_it_comes_back(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let victim = &nodes[1];
    let namespace = cluster.namespace("power")?;
    let mut spec = server("web")["spec"].clone();
    // Without these a pod stays bound to its lost node for five minutes.
    spec["tolerations"] = json!([
        { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 },
        { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 },
    ]);
    namespace.apply(
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 4,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": spec },
            },
        })
        .to_string(),
    )?;
    namespace.rolled_out("deployment/web")?;
    namespace
        .kubectl("expose deployment web --port=80 --target-port=8080")?
        .success()?;
    namespace.start_pod(&on(server("client"), &nodes[0]))?;
    namespace.ask_until("client", "get http://web/hostname")?;

    cluster.lab("stop", &[victim])?.success()?;
    wait_for("the node to be NotReady", LONG, || {
        Ok(ready(&cluster.get(&format!("node {victim}"))?) == "Unknown")
    })?;
    wait_for("endpoints on the other node only", LONG, || {
        let slices = namespace.get("endpointslices -l kubernetes.io/service-name=web")?;
        let endpoints = slices["items"][0]["endpoints"]
            .as_array()
            .context("no endpoints")?;
        let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] == true;
        let mut nodes = endpoints
            .iter()
            .filter(ready)
            .map(|endpoint| &endpoint["nodeName"]);
        Ok(nodes.all(|node| node != victim))
    })?;
    wait_for("the pods to be replaced", LONG, || {
        let deployment = namespace.get("deployment web")?;
        Ok(deployment["status"]["readyReplicas"] == 4)
    })?;
    for _ in 0..10 {
        let answer = namespace.ask("client", "get http://web/hostname --timeout 3")?;
        ensure!(answer.code == Some(0), "{answer:?}");
    }

    cluster.lab("start", &[victim])?.success()?;
    wait_for("the node to be Ready", LONG, || {
        Ok(ready(&cluster.get(&format!("node {victim}"))?) == "True")
    })?;
    namespace.start_pod(&on(server("again"), victim))?;
    let answer = namespace.ask_until("again", "get http://web/hostname")?;
    ensure!(answer.starts_with("web-"), "{answer}");
    Ok(())
}
