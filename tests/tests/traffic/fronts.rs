//! The ways to a Service.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::wait_for;
use cluster_tests::site::{PATIENCE, Site, Space, pod};
use serde_json::{Value, json};

use crate::{on_host, server_on, text, two_nodes};

/// What a Service of this spec is made into.
fn make(space: &Space<'_>, spec: &Value) -> anyhow::Result<Value> {
    let mut object = json!({"metadata": {"name": "s"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    space.create("services", &object)
}

fn answers(space: &Space<'_>, from: &str, place: &str, who: &str) -> anyhow::Result<()> {
    let get = format!("get http://{place}/hostname --timeout 2");
    space
        .ask_until(from, &get, |answer| answer == who)
        .map(drop)
}

fn asks_in_vain(space: &Space<'_>, from: &str, place: &str) -> anyhow::Result<()> {
    let url = format!("http://{place}/hostname");
    wait_for(&format!("{place} not to answer {from}"), PATIENCE, || {
        let asked = ["/testserver", "get", &url, "--timeout", "1"];
        Ok(space.exec(from, &asked).is_err())
    })
}

/// Which source the server sees.
fn source(space: &Space<'_>, from: &str, place: &str) -> anyhow::Result<String> {
    let url = format!("http://{place}/clientip");
    let answer = space.exec(from, &["/testserver", "get", &url])?;
    let address: SocketAddr = answer.trim().parse().with_context(|| answer.clone())?;
    Ok(address.ip().to_string())
}

/// A server on the second node; on both nodes somebody who asks, in a pod and without.
fn asked_from_both_nodes<'a>(
    site: &'a Site,
    name: &str,
) -> anyhow::Result<(Space<'a>, [(String, String); 2])> {
    let space = site.space(name)?;
    let nodes = two_nodes(site)?;
    space.start(&pod("web", server_on(&nodes[1].0)))?;
    for (number, (node, _)) in nodes.iter().enumerate() {
        space.start(&pod(&format!("pod-{number}"), server_on(node)))?;
        space.start(&pod(&format!("host-{number}"), on_host(node)))?;
    }
    Ok((space, nodes))
}

pub(crate) fn traffic_policies_keep_traffic_on_the_node(site: &Site) -> anyhow::Result<()> {
    let (space, nodes) = asked_from_both_nodes(site, "policies-of-traffic")?;
    let made = make(&space, &json!({"internalTrafficPolicy": "Local"}))?;
    let address = text(&made, "/spec/clusterIP").to_owned();
    for from in ["pod-1", "host-1"] {
        answers(&space, from, &address, "web")?;
    }
    for from in ["pod-0", "host-0"] {
        asks_in_vain(&space, from, &address)?;
    }
    space.delete("services/s")?;

    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = make(&space, &local)?;
    let number = |pointer: &str| {
        let number = made.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("{pointer} of {made}"))
    };
    let (port, health) = (
        number("/spec/ports/0/nodePort")?,
        number("/spec/healthCheckNodePort")?,
    );
    let with_pod = format!("{}:{port}", nodes[1].1);
    let without = format!("{}:{port}", nodes[0].1);
    answers(&space, "host-0", &with_pod, "web")?;
    ensure!(source(&space, "host-0", &with_pod)? == nodes[0].1);
    // From outside: what no pod of the node serves is dropped.
    let outside = |place: &str| -> anyhow::Result<bool> {
        let place: SocketAddr = place.parse()?;
        Ok(TcpStream::connect_timeout(&place, Duration::from_secs(2)).is_ok())
    };
    ensure!(outside(&with_pod)?, "{with_pod} does not answer");
    ensure!(!outside(&without)?, "{without} answers");
    // What begins in the cluster reaches every back end.
    answers(&space, "pod-0", &without, "web")?;
    for (node, status) in [(&nodes[1], "200"), (&nodes[0], "503")] {
        let url = format!("http://{}:{health}/", node.1);
        wait_for(&format!("{status} of {url}"), PATIENCE, || {
            let asked = ["/testserver", "get", &url, "--timeout", "2"];
            let answer = space.exec("host-0", &asked);
            Ok(answer.is_ok() == (status == "200"))
        })?;
    }
    Ok(())
}

pub(crate) fn a_pod_reaches_itself_and_sources_are_kept(site: &Site) -> anyhow::Result<()> {
    let (space, _) = asked_from_both_nodes(site, "sources")?;
    let made = make(&space, &json!({"type": "NodePort"}))?;
    let address = text(&made, "/spec/clusterIP").to_owned();
    answers(&space, "web", &address, "web")?;
    for from in ["pod-0", "pod-1"] {
        answers(&space, from, &address, "web")?;
        let own = text(&space.get(&format!("pods/{from}"))?, "/status/podIP").to_owned();
        ensure!(source(&space, from, &address)? == own, "{from}");
    }
    Ok(())
}

pub(crate) fn an_external_address_leads_to_the_service(site: &Site) -> anyhow::Result<()> {
    let (space, _) = asked_from_both_nodes(site, "external-address")?;
    let external = "203.0.113.77";
    make(&space, &json!({"externalIPs": [external]}))?;
    for from in ["pod-0", "pod-1", "host-0", "host-1"] {
        answers(&space, from, external, "web")?;
    }
    Ok(())
}

pub(crate) fn labels_take_a_service_from_the_proxy_and_give_it_back(
    site: &Site,
) -> anyhow::Result<()> {
    let (space, _) = asked_from_both_nodes(site, "labelled")?;
    let made = make(&space, &json!({}))?;
    let address = text(&made, "/spec/clusterIP").to_owned();
    answers(&space, "pod-0", &address, "web")?;
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let set = |value: Value| {
            let labels = json!({"metadata": {"labels": {label: value}}});
            space.merge("services/s", &labels)
        };
        set(json!("other"))?;
        for from in ["pod-0", "host-1"] {
            asks_in_vain(&space, from, &address)?;
        }
        set(Value::Null)?;
        answers(&space, "pod-0", &address, "web")?;
    }
    Ok(())
}
