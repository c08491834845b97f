//! A link between two nodes.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::pods::{on, server};

pub(crate) fn a_cut_link_heals(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("link")?;
    namespace.start_pod(&on(server("here"), &nodes[0]))?;
    namespace.start_pod(&on(server("there"), &nodes[1]))?;
    let address = namespace.pod_address("there")?;
    let ask = format!("get http://{address}:8080/hostname --timeout 2");
    namespace.ask_until("here", &ask)?;
    cluster.lab("cut", &[&nodes[0], &nodes[1]])?.success()?;
    let cut = wait_for("the link to be cut", SOON, || {
        Ok(namespace.ask("here", &ask)?.code != Some(0))
    });
    // Both still reach the server: neither is taken for dead.
    let ready = cluster.kubectl("get nodes --no-headers")?.success()?;
    cluster.lab("heal", &[&nodes[0], &nodes[1]])?.success()?;
    cut?;
    ensure!(!ready.contains("NotReady"), "{ready}");
    let answer = namespace.ask_until("here", &ask)?;
    ensure!(answer == "there", "{answer}");
    Ok(())
}
