//! Pods are replaced while clients ask.

use anyhow::{Context, ensure};
use cluster_tests::cluster::wait_for;
use cluster_tests::site::{PATIENCE, Site, is_ready, pod, workload};
use serde_json::{Value, json};

use crate::{on_host, server_on, two_nodes};

/// A server that is ready when it says so, and answers for a while after it is told to end.
fn graceful(node: &str) -> Value {
    let mut spec = server_on(node);
    spec["terminationGracePeriodSeconds"] = json!(30);
    spec["containers"][0]["args"] = json!(["serve", "--shutdown-delay", "4"]);
    spec["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10});
    spec
}

/// A client that does not stop; in the node's own network for one from outside of the cluster.
fn client(name: &str, mut spec: Value, url: &str) -> Value {
    spec["restartPolicy"] = json!("Never");
    spec["containers"][0]["args"] = json!(["load", url, "--rate", "20"]);
    pod(name, spec)
}

pub(crate) fn a_rolling_update_fails_no_request(site: &Site) -> anyhow::Result<()> {
    const CLIENTS: [&str; 3] = ["inside", "outside", "to-the-other-node"];
    let space = site.space("updated")?;
    let nodes = two_nodes(site)?;
    space.create(
        "deployments",
        &workload("Deployment", "web", 2, graceful(&nodes[1].0)),
    )?;
    space.until_ready("app=web", 2)?;
    let service = |name: &str, policy: &str| -> anyhow::Result<Value> {
        let object = json!({"metadata": {"name": name}, "spec": {"type": "NodePort",
            "externalTrafficPolicy": policy, "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080}]}});
        space.create("services", &object)
    };
    let port = |made: &Value| {
        let port = made["spec"]["ports"][0]["nodePort"].as_u64();
        port.context("no node port")
    };
    let (any, local) = (service("any", "Cluster")?, service("local", "Local")?);
    let inside = format!(
        "http://{}/hostname",
        any["spec"]["clusterIP"].as_str().unwrap_or_default()
    );
    let outside = format!("http://{}:{}/hostname", nodes[1].1, port(&local)?);
    let other = format!("http://{}:{}/hostname", nodes[0].1, port(&any)?);
    let asker = pod("asker", server_on(&nodes[0].0));
    space.start(&asker)?;
    for url in [&inside, &outside, &other] {
        space.ask_until("asker", &format!("get {url} --timeout 2"), |_| true)?;
    }
    for (name, spec, url) in [
        (CLIENTS[0], server_on(&nodes[0].0), &inside),
        (CLIENTS[1], on_host(&nodes[0].0), &outside),
        (CLIENTS[2], on_host(&nodes[1].0), &other),
    ] {
        space.start(&client(name, spec, url))?;
    }
    let count = |name: &str| -> anyhow::Result<u64> {
        let log = space.log(name)?;
        let mut told = log.lines().filter_map(|line| line.strip_prefix("ok="));
        let Some((ok, failed)) = told
            .next_back()
            .and_then(|line| line.split_once(" failed="))
        else {
            return Ok(0);
        };
        ensure!(failed == "0", "{name}: {log}");
        Ok(ok.parse()?)
    };
    let go_on = || {
        CLIENTS.iter().try_for_each(|name| {
            let until = count(name)? + 40;
            wait_for(&format!("requests of {name}"), PATIENCE, || {
                Ok(count(name)? >= until)
            })
        })
    };
    go_on()?;
    for round in ["1", "2"] {
        let old: Vec<Value> = space.pods("app=web")?;
        space.merge(
            "deployments/web",
            &json!({"spec": {"template": {"metadata": {"annotations": {"round": round}}}}}),
        )?;
        let is_old = |pod: &Value| {
            let uid = |pod: &Value| pod["metadata"]["uid"].clone();
            old.iter().any(|own| uid(own) == uid(pod))
        };
        // One pod after the other, each of which takes its time to end.
        wait_for("two new pods", 4 * PATIENCE, || {
            let pods = space.pods("app=web")?;
            Ok(pods.len() == 2 && pods.iter().all(|pod| is_ready(pod) && !is_old(pod)))
        })?;
        go_on()?;
    }
    Ok(())
}
