//! Pods that are not what a Service sends its traffic to.

use std::time::Instant;

use anyhow::{Context, ensure};
use cluster_tests::cluster::wait_for;
use cluster_tests::site::{PATIENCE, Site, Space, pod};
use serde_json::{Value, json};

use crate::{server_on, text, two_nodes};

/// A server that is told to end at any time and takes this long to do so.
const LINGER: u32 = 600;

fn lingering(node: &str) -> Value {
    let mut spec = server_on(node);
    spec["terminationGracePeriodSeconds"] = json!(LINGER);
    spec["containers"][0]["args"] = json!(["serve", "--shutdown-delay", LINGER.to_string()]);
    spec
}

fn labelled(name: &str, spec: Value) -> Value {
    let mut pod = pod(name, spec);
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod
}

fn service(space: &Space<'_>, name: &str, spec: Value) -> anyhow::Result<String> {
    let mut object = json!({"metadata": {"name": name}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    let made = space.create("services", &object)?;
    Ok(text(&made, "/spec/clusterIP").to_owned())
}

fn answers(space: &Space<'_>, place: &str, who: &str) -> anyhow::Result<()> {
    let get = format!("get http://{place}/hostname --timeout 2");
    space
        .ask_until("asker", &get, |answer| answer == who)
        .map(drop)
}

/// A refusal comes at once; nobody has to wait for it.
fn refuses(space: &Space<'_>, place: &str) -> anyhow::Result<()> {
    let place = format!("{place}:80");
    wait_for(&format!("{place} to refuse"), PATIENCE, || {
        let asked = ["/testserver", "dial", "tcp", &place, "--timeout", "20"];
        let started = Instant::now();
        let answer = space.exec("asker", &asked);
        Ok(answer.is_err() && started.elapsed().as_secs() < 15)
    })
}

/// Asks to delete a pod that takes its time to end.
fn begin_to_end(space: &Space<'_>, name: &str) -> anyhow::Result<()> {
    space.delete(&format!("pods/{name}"))?;
    let ending = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    space.until(&format!("pods/{name}"), "ending", ending)?;
    Ok(())
}

fn end_now(space: &Space<'_>, name: &str) -> anyhow::Result<()> {
    let options = json!({"gracePeriodSeconds": 0});
    space.delete_with(&format!("pods/{name}"), &options)?;
    space.until_gone(&format!("pods/{name}"))
}

pub(crate) fn pods_that_are_not_ready_serve_where_that_is_asked_for(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("not-ready")?;
    let nodes = two_nodes(site)?;
    space.start(&pod("asker", server_on(&nodes[0].0)))?;
    let mut spec = lingering(&nodes[1].0);
    spec["containers"][0]["readinessProbe"] =
        json!({"exec": {"command": ["/testserver", "exit", "1"]}});
    space.create("pods", &labelled("web", spec))?;
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    space.until("pods/web", "running", running)?;
    let all = service(&space, "all", json!({"publishNotReadyAddresses": true}))?;
    let ready = service(&space, "ready", json!({}))?;
    answers(&space, &all, "web")?;
    refuses(&space, &ready)?;
    begin_to_end(&space, "web")?;
    // What is neither ready nor serving is no last resort either.
    answers(&space, &all, "web")?;
    refuses(&space, &ready)?;
    end_now(&space, "web")
}

pub(crate) fn ending_pods_serve_when_there_are_no_others(site: &Site) -> anyhow::Result<()> {
    let space = site.space("last-resort")?;
    let nodes = two_nodes(site)?;
    space.start(&pod("asker", server_on(&nodes[1].0)))?;
    space.start(&labelled("old", lingering(&nodes[1].0)))?;
    let cluster = service(&space, "cluster", json!({}))?;
    let local = service(&space, "local", json!({"internalTrafficPolicy": "Local"}))?;
    let outside = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    service(&space, "outside", outside)?;
    let port = space.get("services/outside")?["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    let node_port = format!("{}:{port}", nodes[1].1);
    let all = [&cluster, &local, &node_port];
    for place in all {
        answers(&space, place, "old")?;
    }
    begin_to_end(&space, "old")?;
    let terminating = |slices: &Value| {
        let items = slices["items"].as_array().into_iter().flatten();
        let mut ends = items.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        ends.any(|end| end["conditions"]["terminating"] == true)
    };
    space.until("endpointslices", "an ending endpoint", terminating)?;
    for place in all {
        answers(&space, place, "old")?;
    }
    space.start(&labelled("new", server_on(&nodes[1].0)))?;
    for place in all {
        answers(&space, place, "new")?;
        for _ in 0..8 {
            let url = format!("http://{place}/hostname");
            let answer = space.exec("asker", &["/testserver", "get", &url])?;
            ensure!(answer == "new", "{place} still sends to {answer}");
        }
    }
    end_now(&space, "old")
}

pub(crate) fn a_service_whose_pods_have_failed_refuses_at_once(site: &Site) -> anyhow::Result<()> {
    let space = site.space("failed")?;
    let nodes = two_nodes(site)?;
    space.start(&pod("asker", server_on(&nodes[0].0)))?;
    let mut spec = server_on(&nodes[1].0);
    spec["restartPolicy"] = json!("Never");
    spec["containers"][0]["args"] = json!(["exit", "1"]);
    space.create("pods", &labelled("web", spec))?;
    let failed = |pod: &Value| pod["status"]["phase"] == "Failed";
    space.until("pods/web", "failed", failed)?;
    let address = service(&space, "s", json!({}))?;
    refuses(&space, &address)?;
    space.start(&labelled("again", server_on(&nodes[1].0)))?;
    answers(&space, &address, "again")
}
