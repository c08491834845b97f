//! Logs, exec, cp, port-forward: through the API server to the kubelet and back.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::command::{run, testserver};
use cluster_tests::pods::{client, server};
use cluster_tests::server::free_port;
use serde_json::json;

pub(crate) fn logs_are_shown_and_followed(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("logs")?;
    namespace.start_pod(&server("talker"))?;
    let log = namespace.kubectl("logs talker")?.success()?;
    ensure!(log.contains("talker serves HTTP"), "{log}");
    let stamped = namespace
        .kubectl("logs talker --timestamps --tail=1")?
        .success()?;
    ensure!(stamped.starts_with("20"), "{stamped}");

    // As long as it runs, new lines arrive as they are written.
    namespace
        .apply(&client("counter", &["load", "http://127.0.0.1:1/", "--rate", "5"]).to_string())?;
    namespace.ready("counter")?;
    let mut follow = cluster.kubectl_command();
    follow
        .args(["-n", "logs", "logs", "-f", "counter"])
        .stdout(Stdio::piped());
    let mut follow = follow.spawn()?;
    let lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    let seen = lines.map_while(Result::ok).take(6).count();
    follow.kill()?;
    follow.wait()?;
    ensure!(seen == 6, "only {seen} lines");
    Ok(())
}

pub(crate) fn exec_carries_input_output_and_the_exit_code(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("exec")?;
    let mut pod = server("shell");
    pod["spec"]["containers"][0]["image"] = json!("busybox:latest");
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    pod["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    namespace.start_pod(&pod)?;
    let kubectl = |arguments: &[&str], input: Option<&str>| {
        let mut all = vec!["-n", "exec", "exec"];
        all.extend(arguments);
        cluster.kubectl_with(&all, input)
    };
    let echo = kubectl(&["-i", "shell", "--", "tr", "a-z", "A-Z"], Some("hello"))?.success()?;
    ensure!(echo == "HELLO", "{echo}");
    let both = kubectl(
        &["shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"],
        None,
    )?;
    ensure!(both.code == Some(7), "{both:?}");
    ensure!(
        both.stdout == "out\n" && both.stderr.starts_with("err\n"),
        "{both:?}"
    );
    let many = "x".repeat(2_000_000);
    let counted = kubectl(&["-i", "shell", "--", "wc", "-c"], Some(&many))?.success()?;
    ensure!(counted.trim() == "2000000", "{counted}");
    let missing = kubectl(&["shell", "--", "/no/such/program"], None)?;
    ensure!(missing.code != Some(0), "{missing:?}");
    // With a terminal, its size included, as `kubectl exec -it` asks for it.
    let terminal = format!(
        "KUBECONFIG={} kubectl -n exec exec -it shell -- sh -c 'tty; stty size'",
        cluster.kubeconfig.display()
    );
    let terminal = run("script", &["-qec", &terminal, "/dev/null"])?;
    ensure!(terminal.stdout.contains("/dev/pts/"), "{terminal:?}");
    Ok(())
}

pub(crate) fn files_are_copied_both_ways(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("copy")?;
    let mut pod = server("box");
    pod["spec"]["containers"][0]["image"] = json!("busybox:latest");
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    pod["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    namespace.start_pod(&pod)?;
    let directory = tempfile::tempdir()?;
    let (there, back) = (
        directory.path().join("there"),
        directory.path().join("back"),
    );
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(&there, &content)?;
    namespace
        .kubectl(&format!("cp {} box:/tmp/file", there.display()))?
        .success()?;
    namespace
        .kubectl(&format!("cp box:/tmp/file {}", back.display()))?
        .success()?;
    ensure!(fs::read(&back)? == content, "the file came back changed");
    Ok(())
}

pub(crate) fn ports_are_forwarded(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("forward")?;
    namespace.start_pod(&server("target"))?;
    let port = free_port()?;
    let mut forward = cluster.kubectl_command();
    forward
        .args([
            "-n",
            "forward",
            "port-forward",
            "pod/target",
            &format!("{port}:8080"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut forward = forward.spawn()?;
    let url = format!("http://127.0.0.1:{port}/hostname");
    let ask = || Ok(run(testserver(), &["get", &url])?.success()?.trim() == "target");
    let first = wait_for("the forwarded port", SOON, ask);
    let again = (0..5).map(|_| ask()).collect::<anyhow::Result<Vec<bool>>>();
    forward.kill()?;
    forward.wait()?;
    first?;
    ensure!(
        again?.iter().all(|answered| *answered),
        "later connections failed"
    );
    Ok(())
}

pub(crate) fn the_kubelet_serves_only_those_who_may(cluster: &Cluster) -> anyhow::Result<()> {
    let node = &cluster.nodes()?[0];
    let proxied = cluster
        .kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/pods"))?
        .success()?;
    ensure!(proxied.contains("PodList"), "{proxied}");
    let metrics = cluster
        .kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/metrics"))?
        .success()?;
    ensure!(metrics.contains("# TYPE"), "{metrics}");
    // Without credentials the connection is made and the request refused.
    let address = cluster.node_address(node)?;
    let url = format!("https://{address}:10250/pods");
    let mut curl = cluster_tests::command::command("curl");
    curl.args([
        "--silent",
        "--insecure",
        "--max-time",
        "10",
        "--write-out",
        "%{http_code}",
    ])
    .arg(url);
    let refusal = cluster_tests::command::outcome(&mut curl, None)?.success()?;
    ensure!(refusal.ends_with("401"), "{refusal}");
    Ok(())
}
