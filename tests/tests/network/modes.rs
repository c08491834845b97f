//! From the overlay to the routed mode and back, while pods talk.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, Namespace, SOON, wait_for};
use cluster_tests::pods::{client, on, server};

/// What a node has of the overlay and of BGP.
fn left(cluster: &Cluster, node: &str) -> anyhow::Result<(String, String)> {
    let show = |arguments: &[&str]| cluster.exec(node, arguments)?.success();
    let devices = show(&["ip", "-o", "link", "show", "type", "vxlan"])?;
    let overlay = show(&["ip", "route", "show", "proto", "202"])?;
    let routed = show(&["ip", "route", "show", "proto", "203"])?;
    Ok((devices + &overlay, routed))
}

fn mode(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    let node = cluster.get(&format!("node {node}"))?;
    let said = &node["metadata"]["annotations"]["fairlead.io/network"];
    Ok(said.as_str().unwrap_or_default().to_owned())
}

/// Changes one node after the other, and talks after each.
fn change_over(
    cluster: &Cluster,
    namespace: &Namespace<'_>,
    nodes: &[String],
    to: &str,
) -> anyhow::Result<()> {
    for node in nodes {
        cluster
            .kubectl(&format!(
                "label node {node} --overwrite fairlead.io/network-mode={to}"
            ))?
            .success()?;
        wait_for("the node to say so", SOON, || {
            Ok(mode(cluster, node)?.starts_with(to))
        })?;
        for (from, other) in [("near", "far"), ("far", "near")] {
            let address = namespace.pod_address(other)?;
            let ask = format!("get http://{address}:8080/hostname --timeout 3");
            let answer = namespace.ask_until(from, &ask)?;
            ensure!(answer == *other, "{answer}");
        }
        still_held(namespace, &format!("{node} is {to}"))?;
    }
    Ok(())
}

/// The client ends with the first broken connection.
fn still_held(namespace: &Namespace<'_>, when: &str) -> anyhow::Result<()> {
    let phase = namespace.get("pod holder")?["status"]["phase"].clone();
    ensure!(
        phase == "Running",
        "{when}: {phase}: {}",
        namespace.kubectl("logs holder")?.stdout
    );
    Ok(())
}

pub(crate) fn nodes_change_over_one_by_one_and_connections_go_on(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("modes")?;
    namespace.start_pod(&on(server("near"), &nodes[0]))?;
    namespace.start_pod(&on(server("far"), &nodes[1]))?;
    let target = format!("{}:8082", namespace.pod_address("far")?);
    namespace.start_pod(&on(client("holder", &["hold", &target]), &nodes[0]))?;
    still_held(&namespace, "before")?;

    change_over(cluster, &namespace, &nodes, "bgp")?;
    for node in &nodes {
        wait_for("the overlay to be gone", SOON, || {
            let (overlay, routed) = left(cluster, node)?;
            Ok(overlay.is_empty() && routed.contains("10.244."))
        })?;
        let annotations =
            cluster.get(&format!("node {node}"))?["metadata"]["annotations"].to_string();
        ensure!(!annotations.contains("flannel"), "{annotations}");
    }
    still_held(&namespace, "all are routed")?;

    change_over(cluster, &namespace, &nodes, "vxlan")?;
    for node in &nodes {
        wait_for("the routes of BGP to be gone", SOON, || {
            let (overlay, routed) = left(cluster, node)?;
            Ok(overlay.contains("flannel.1") && routed.is_empty())
        })?;
    }
    still_held(&namespace, "all use tunnels")?;
    // Who starts now has what the mode wants.
    namespace.start_pod(&on(server("later"), &nodes[1]))?;
    let address = namespace.pod_address("later")?;
    namespace.ask_until(
        "near",
        &format!("get http://{address}:8080/hostname --timeout 3"),
    )?;
    for node in &nodes {
        cluster
            .kubectl(&format!("label node {node} fairlead.io/network-mode-"))?
            .success()?;
    }
    Ok(())
}
