//! Pods, Services and names across nodes.

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, Namespace, SOON, wait_for};
use cluster_tests::command::{run, testserver};
use cluster_tests::pods::{on, server};

pub(crate) fn nodes_are_ready_and_have_a_range_each(cluster: &Cluster) -> anyhow::Result<()> {
    let table = cluster.kubectl("get nodes")?.success()?;
    let header: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        header == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
        "{table}"
    );
    let nodes = cluster.get("nodes")?;
    let mut ranges = Vec::new();
    for node in nodes["items"].as_array().context("no nodes")? {
        let ready = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        ensure!(ready, "{node}");
        for resource in ["cpu", "memory", "pods"] {
            ensure!(
                node["status"]["allocatable"][resource].is_string(),
                "{resource}: {node}"
            );
        }
        ranges.push(
            node["spec"]["podCIDR"]
                .as_str()
                .context("no podCIDR")?
                .to_owned(),
        );
    }
    ranges.sort();
    ranges.dedup();
    ensure!(ranges.len() == 2, "ranges: {ranges:?}");
    Ok(())
}

/// A server on one node and a client on the other.
fn pair<'a>(cluster: &'a Cluster, name: &str) -> anyhow::Result<Namespace<'a>> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace(name)?;
    namespace.apply(&on(server("near"), &nodes[0]).to_string())?;
    namespace.apply(&on(server("far"), &nodes[1]).to_string())?;
    namespace.ready("near")?;
    namespace.ready("far")?;
    Ok(namespace)
}

pub(crate) fn pods_of_two_nodes_reach_each_other_without_translation(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = pair(cluster, "reach")?;
    let (near, far) = (
        namespace.pod_address("near")?,
        namespace.pod_address("far")?,
    );
    let seen = namespace.ask_until("near", &format!("get http://{far}:8080/clientip"))?;
    ensure!(
        seen.starts_with(&format!("{near}:")),
        "{far} sees {seen} instead of {near}"
    );
    let seen = namespace.ask_until("far", &format!("dial udp {near}:8081 clientip"))?;
    ensure!(
        seen.starts_with(&format!("{far}:")),
        "{near} sees {seen} instead of {far}"
    );
    // More than one packet, and more than the MTU.
    let length = namespace
        .ask_until("near", &format!("get http://{far}:8080/bytes?n=100000"))?
        .len();
    ensure!(length == 100_000, "{length} bytes arrived");
    // A node's own processes, such as its probes, reach pods too.
    for node in cluster.nodes()? {
        let program = testserver();
        let program = program.to_str().context("the path is no text")?;
        let url = format!("http://{far}:8080/hostname");
        let name = cluster.exec(&node, &[program, "get", &url])?.success()?;
        ensure!(name.trim() == "far", "{node}: {name}");
    }
    Ok(())
}

pub(crate) fn a_service_answers_by_name_and_through_a_node_port(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = pair(cluster, "service")?;
    namespace
        .kubectl("expose pod far --port=80 --target-port=8080 --type=NodePort")?
        .success()?;
    for name in [
        "far",
        "far.service",
        "far.service.svc",
        "far.service.svc.cluster.local.",
    ] {
        let answer = namespace.ask_until("near", &format!("get http://{name}/hostname"))?;
        ensure!(answer == "far", "{name}: {answer}");
    }
    // A pod reaches itself through its own Service. The short name is the pod's own.
    let own = namespace.ask_until("far", "get http://far.service/hostname")?;
    ensure!(own == "far", "{own}");
    let service = namespace.get("service far")?;
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_i64()
        .context("no node port")?;
    for node in cluster.nodes()? {
        let url = format!("http://{}:{port}/hostname", cluster.node_address(&node)?);
        wait_for(&url, SOON, || {
            Ok(run(testserver(), &["get", &url])?.success()?.trim() == "far")
        })?;
    }
    Ok(())
}

pub(crate) fn udp_services_answer(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = pair(cluster, "datagram")?;
    namespace
        .kubectl("expose pod far --port=53 --target-port=8081 --protocol=UDP --name=talk")?
        .success()?;
    let answer = namespace.ask_until("near", "dial udp talk:53 hostname")?;
    ensure!(answer == "far", "{answer}");
    Ok(())
}

pub(crate) fn a_headless_service_names_its_pods(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("headless")?;
    for (name, node) in [("one", &nodes[0]), ("two", &nodes[1])] {
        let mut pod = on(server(name), node);
        pod["metadata"]["labels"]["group"] = "all".into();
        pod["spec"]["hostname"] = name.into();
        pod["spec"]["subdomain"] = "all".into();
        namespace.apply(&pod.to_string())?;
    }
    namespace.apply(
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"all"},"spec":{
            "clusterIP":"None","selector":{"group":"all"},"ports":[{"name":"http","port":8080}]}}"#,
    )?;
    namespace.ready("one")?;
    namespace.ready("two")?;
    let mut wanted = vec![namespace.pod_address("one")?, namespace.pod_address("two")?];
    wanted.sort();
    wait_for("both addresses behind the name", SOON, || {
        let answer = namespace.ask("one", "resolve all")?.success()?;
        let mut found: Vec<String> = answer.lines().map(str::to_owned).collect();
        found.sort();
        Ok(found == wanted)
    })?;
    let two = namespace.ask_until("one", "resolve two.all")?;
    ensure!(two == namespace.pod_address("two")?, "{two}");
    Ok(())
}

pub(crate) fn a_service_without_ready_endpoints_refuses(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = pair(cluster, "refusal")?;
    namespace
        .kubectl("create service clusterip nobody --tcp=80:8080")?
        .success()?;
    wait_for("the refusal", SOON, || {
        let failure = namespace
            .ask("near", "get http://nobody/ --timeout 3")?
            .failure()?;
        Ok(failure.contains("refused"))
    })
}

pub(crate) fn the_api_server_answers_as_the_service_kubernetes(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = pair(cluster, "api")?;
    let service = cluster.get("service kubernetes -n default")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?;
    let resolved = namespace.ask_until("near", "resolve kubernetes.default")?;
    ensure!(resolved == address, "{resolved} instead of {address}");
    // The connection is made and speaks TLS: an HTTP request is answered as one that is none.
    let answer = namespace.ask(
        "far",
        "get http://kubernetes.default:443/version --timeout 3",
    )?;
    ensure!(
        !answer.stderr.contains("refused") && !answer.stderr.contains("timed out"),
        "{answer:?}"
    );
    Ok(())
}
