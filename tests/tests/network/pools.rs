//! IPPools: blocks, annotations, borrowing.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, Namespace, SOON, wait_for};
use cluster_tests::pods::{on, server};
use serde_json::{Value, json};

fn pool(cluster: &Cluster, name: &str, spec: &Value) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "fairlead.io/v1", "kind": "IPPool",
        "metadata": { "name": name }, "spec": spec,
    });
    cluster.apply("default", &object.to_string())?;
    wait_for("the pool to be accepted", SOON, || {
        let pool = cluster.get(&format!("ippools.fairlead.io {name}"))?;
        Ok(pool["status"]["accepted"] == true)
    })
}

fn annotated(name: &str, node: &str, annotations: Value) -> Value {
    let mut pod = on(server(name), node);
    pod["metadata"]["annotations"] = annotations;
    pod
}

fn address(namespace: &Namespace<'_>, pod: &str) -> anyhow::Result<Ipv4Addr> {
    Ok(namespace.pod_address(pod)?.parse()?)
}

/// Each pod reaches each other one by its address, and is seen with its own.
fn all_talk(namespace: &Namespace<'_>, pods: &[&str]) -> anyhow::Result<()> {
    for from in pods {
        let own = namespace.pod_address(from)?;
        for to in pods.iter().filter(|to| *to != from) {
            let other = namespace.pod_address(to)?;
            let ask = format!("get http://{other}:8080/clientip --timeout 3");
            let seen = namespace.ask_until(from, &ask)?;
            ensure!(
                seen.starts_with(&format!("{own}:")),
                "{from} to {to}: {seen} instead of {own}"
            );
        }
    }
    Ok(())
}

pub(crate) fn a_pool_gives_addresses_to_the_pods_of_its_namespaces(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    pool(
        cluster,
        "team",
        &json!({
            "cidr": "10.50.0.0/24", "blockSize": 28, "namespaceSelector": "team == 'x'",
        }),
    )?;
    let namespace = cluster.namespace("pooled")?;
    cluster
        .kubectl("label namespace pooled team=x")?
        .success()?;
    let other = cluster.namespace("unpooled")?;
    for (name, node) in [("a", &nodes[0]), ("b", &nodes[1])] {
        namespace.start_pod(&on(server(name), node))?;
        other.start_pod(&on(server(name), node))?;
        let given = address(&namespace, name)?;
        ensure!(given.octets()[..3] == [10, 50, 0], "{name} has {given}");
        let given = address(&other, name)?;
        ensure!(given.octets()[..2] == [10, 244], "{name} has {given}");
    }
    all_talk(&namespace, &["a", "b"])?;
    // A pod of the pool and one of a node's own range.
    let far = other.pod_address("b")?;
    namespace.ask_until("a", &format!("get http://{far}:8080/hostname --timeout 3"))?;
    // Each node has claimed a block of its own.
    let blocks = cluster.get("ipamblocks.fairlead.io")?;
    let items = blocks["items"].as_array().context("no blocks")?;
    let of = |node: &String| {
        items
            .iter()
            .filter(|own| own["spec"]["node"] == **node)
            .count()
    };
    ensure!(nodes.iter().all(|node| of(node) == 1), "{blocks}");
    cluster
        .kubectl("delete ippools.fairlead.io team")?
        .success()?;
    Ok(())
}

pub(crate) fn an_address_asked_for_is_the_pods_wherever_its_block_is(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    pool(
        cluster,
        "fixed",
        &json!({"cidr": "10.51.0.0/26", "nodeSelector": "!all()"}),
    )?;
    let namespace = cluster.namespace("fixed")?;
    let asking = |text: &str| json!({"cni.projectcalico.org/ipAddrs": format!("[\"{text}\"]")});
    namespace.start_pod(&annotated("first", &nodes[0], asking("10.51.0.20")))?;
    ensure!(namespace.pod_address("first")? == "10.51.0.20");
    // The block is the first node's by now: the second one borrows.
    namespace.start_pod(&annotated("second", &nodes[1], asking("10.51.0.21")))?;
    ensure!(namespace.pod_address("second")? == "10.51.0.21");
    let named = json!({"cni.projectcalico.org/ipv4pools": "[\"fixed\"]"});
    namespace.start_pod(&annotated("third", &nodes[0], named))?;
    let given = address(&namespace, "third")?;
    ensure!(given.octets()[..3] == [10, 51, 0], "{given}");
    all_talk(&namespace, &["first", "second", "third"])?;
    // One that somebody has: the pod waits, and its events say why.
    let mut twin = annotated("twin", &nodes[0], asking("10.51.0.20"));
    twin["spec"]["terminationGracePeriodSeconds"] = json!(0);
    namespace.apply(&twin.to_string())?;
    wait_for("the reason in an event", SOON, || {
        let events = namespace.kubectl("get events")?.success()?;
        Ok(events.contains("10.51.0.20 that was asked for is in use"))
    })?;
    namespace
        .kubectl("delete pod first --wait=false")?
        .success()?;
    namespace.ready("twin")?;
    ensure!(namespace.pod_address("twin")? == "10.51.0.20");
    cluster
        .kubectl("delete ippools.fairlead.io fixed")?
        .success()?;
    Ok(())
}

pub(crate) fn a_full_pool_borrows_and_strict_affinity_forbids_it(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    // One block: 10.52.0.1 to 10.52.0.7.
    pool(
        cluster,
        "small",
        &json!({"cidr": "10.52.0.0/29", "blockSize": 29, "nodeSelector": "!all()"}),
    )?;
    let namespace = cluster.namespace("small")?;
    let named = || json!({"cni.projectcalico.org/ipv4pools": "[\"small\"]"});
    namespace.start_pod(&annotated("owner", &nodes[0], named()))?;
    namespace.start_pod(&annotated("borrower", &nodes[1], named()))?;
    let lent = namespace.pod_address("borrower")?;
    let block = &cluster.get("ipamblocks.fairlead.io block-10-52-0-0-29")?["spec"];
    ensure!(
        block["node"] == *nodes[0] && block["lent"][&lent] == *nodes[1],
        "{block}"
    );
    all_talk(&namespace, &["owner", "borrower"])?;
    let strict = json!({
        "apiVersion": "fairlead.io/v1", "kind": "IPAMConfiguration",
        "metadata": { "name": "default" }, "spec": { "strictAffinity": true },
    });
    cluster.apply("default", &strict.to_string())?;
    namespace.apply(&annotated("refused", &nodes[1], named()).to_string())?;
    wait_for("the reason in an event", SOON, || {
        let events = namespace.kubectl("get events")?.success()?;
        Ok(events.contains("strictAffinity"))
    })?;
    cluster
        .kubectl("delete ipamconfigurations.fairlead.io default")?
        .success()?;
    namespace.ready("refused")?;
    cluster
        .kubectl("delete ippools.fairlead.io small")?
        .success()?;
    Ok(())
}
