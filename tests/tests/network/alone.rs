//! The network alone, on nodes that were started without one.

use std::process::{Child, Stdio};

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::command::{command, fairlead};
use cluster_tests::pods::{on, server};

/// The node's own, as `fairlead join` has left it.
const KUBECONFIG: &str = "/var/lib/fairlead/node/kubelet.kubeconfig";

/// `fairlead network` on a node; it ends with this.
struct Running(Child);

impl Running {
    fn start(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        let program = fairlead();
        let program = program.to_str().context("a path that is no text")?;
        let mut process = command(program);
        process.args(["lab", "exec", &cluster.lab, node, "--", program, "network"]);
        process.args(["--kubeconfig", KUBECONFIG, "--node-name", node]);
        process.args(["--cluster-cidr", "10.244.0.0/16"]);
        process.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(process.spawn()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a node has of ours: the runtime's configuration, and routes to pods.
fn has_network(cluster: &Cluster, node: &str) -> anyhow::Result<bool> {
    let plugins = cluster.exec(node, &["ls", "/etc/cni/net.d"])?.stdout;
    let routes = cluster.exec(node, &["ip", "route", "show"])?.success()?;
    Ok(plugins.contains("fairlead") && routes.contains("10.244."))
}

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: far}}, policyTypes: [Ingress]}
";

pub(crate) fn it_serves_nodes_that_were_started_without_one(_: &Cluster) -> anyhow::Result<()> {
    let cluster = Cluster::start("alone", &["--nodes=2", "--network=none"])?;
    let nodes = cluster.nodes()?;
    for node in &nodes {
        ensure!(!has_network(&cluster, node)?, "{node} has a network");
    }
    let _running = nodes
        .iter()
        .map(|node| Running::start(&cluster, node))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for node in &nodes {
        wait_for("the network of the node", SOON, || {
            has_network(&cluster, node)
        })?;
    }
    let namespace = cluster.namespace("alone")?;
    namespace.start_pod(&on(server("near"), &nodes[0]))?;
    namespace.start_pod(&on(server("far"), &nodes[1]))?;
    let address = namespace.pod_address("far")?;
    let ask = format!("get http://{address}:8080/hostname --timeout 3");
    let answer = namespace.ask_until("near", &ask)?;
    ensure!(answer == "far", "{answer}");
    // Policies are its own, too.
    namespace.apply(CLOSED)?;
    wait_for("the policy to be in force", SOON, || {
        Ok(namespace.ask("near", &ask)?.code != Some(0))
    })
}
