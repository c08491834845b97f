//! `kill -9` of a process.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::pods::{client, on, server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills the process and waits until another runs in its place.
fn kill_and_wait(cluster: &Cluster, node: &str, role: &str) -> anyhow::Result<()> {
    let before = cluster.process(node, role)?;
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    wait_for(&format!("another {role} on {node}"), SOON, || {
        Ok(cluster.process(node, role).is_ok_and(|now| now != before))
    })
}

pub(crate) fn a_killed_node_process_leaves_pods_and_connections_alone(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("adopted")?;
    namespace.start_pod(&on(server("server"), &nodes[0]))?;
    namespace
        .kubectl("expose pod server --port=82 --target-port=8082")?
        .success()?;
    namespace.start_pod(&on(server("asker"), &nodes[1]))?;
    namespace.ask_until("asker", "dial tcp server:82 hostname")?;
    namespace.start_pod(&on(client("holder", &["hold", "server:82"]), &nodes[1]))?;
    let before = namespace.get("pods server holder")?;
    for node in &nodes {
        kill_and_wait(cluster, node, "node")?;
    }
    // The kubelet works again: it runs something new.
    namespace.start_pod(&on(server("later"), &nodes[1]))?;
    let answer = namespace.ask_until("later", "dial tcp server:82 hostname")?;
    ensure!(answer == "server", "{answer}");
    let after = namespace.get("pods server holder")?;
    for index in 0..2 {
        let container = |list: &serde_json::Value| {
            list["items"][index]["status"]["containerStatuses"][0]["containerID"].clone()
        };
        ensure!(
            container(&before) == container(&after),
            "a container was replaced: {after}"
        );
    }
    // It ends with the first broken connection.
    let phase = namespace.get("pod holder")?["status"]["phase"].clone();
    ensure!(
        phase == "Running",
        "{phase}: {}",
        namespace.kubectl("logs holder")?.stdout
    );
    Ok(())
}

pub(crate) fn a_killed_containerd_comes_back_with_its_pods(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("runtime")?;
    namespace.start_pod(&on(server("before"), &nodes[0]))?;
    kill_and_wait(cluster, &nodes[0], "containerd")?;
    namespace.start_pod(&on(server("after"), &nodes[0]))?;
    namespace.ready("before")?;
    let restarts = namespace.get("pod before")?["status"]["containerStatuses"][0].clone();
    ensure!(
        restarts["restartCount"] == 0,
        "it was restarted: {restarts}"
    );
    let answer = namespace.ask_until("before", "get http://localhost:8080/hostname")?;
    ensure!(answer == "before", "{answer}");
    Ok(())
}

pub(crate) fn a_killed_server_comes_back_with_everything(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("restart")?;
    namespace
        .kubectl("create configmap kept --from-literal=a=b")?
        .success()?;
    namespace.start_pod(&server("lasting"))?;
    kill_and_wait(cluster, "server", "server")?;
    wait_for("the API", SOON, || {
        Ok(namespace.kubectl("get configmap kept")?.code == Some(0))
    })?;
    namespace.start_pod(&server("new"))?;
    let pod = namespace.get("pod lasting")?;
    ensure!(
        pod["status"]["containerStatuses"][0]["restartCount"] == 0,
        "{pod}"
    );
    Ok(())
}
