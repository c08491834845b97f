//! What clients do with running pods: kubectl of an old release (SPDY) and of this one
//! (WebSocket), Helm that waits, and the streams of the libraries for Python and JavaScript.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, ensure};
use cluster_tests::clients::{Helm, Kubectl, RELEASES, library};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::command::{outcome, run, testserver};
use cluster_tests::pods::server;
use cluster_tests::server::free_port;
use serde_json::{Value, json};

fn with_each(
    cluster: &Cluster,
    case: &str,
    test: impl Fn(&Kubectl) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for release in RELEASES {
        let kubectl = Kubectl::start(&cluster.kubeconfig, release, case)?;
        test(&kubectl).map_err(|error| error.context(format!("kubectl-{release}")))?;
    }
    Ok(())
}

/// A pod with a shell, beside one that serves.
fn shell(name: &str) -> Value {
    let mut pod = server(name);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    pod["spec"]["containers"][0] = json!({
        "name": "shell", "image": "busybox:latest", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "trap 'exit 0' TERM; echo started; while read line; do echo heard $line; done; sleep 3600 & wait"],
        "stdin": true,
    });
    let serves = server("x")["spec"]["containers"][0].clone();
    pod["spec"]["containers"] = json!([pod["spec"]["containers"][0], serves]);
    pod
}

fn start(kubectl: &Kubectl, pod: &Value) -> anyhow::Result<()> {
    kubectl.feed("create", &pod.to_string())?;
    let name = pod["metadata"]["name"]
        .as_str()
        .context("a pod without a name")?;
    kubectl.ok(&format!(
        "wait --for=condition=Ready pod/{name} --timeout=90s"
    ))?;
    Ok(())
}

pub(crate) fn every_kubectl_streams(cluster: &Cluster) -> anyhow::Result<()> {
    with_each(cluster, "streaming", |kubectl| {
        start(kubectl, &shell("box"))?;
        let both = kubectl.with(
            &[
                "exec",
                "box",
                "-c",
                "shell",
                "--",
                "sh",
                "-c",
                "echo out; echo err >&2; exit 3",
            ],
            None,
        )?;
        ensure!(
            both.code == Some(3) && both.stdout == "out\n" && both.stderr.contains("err"),
            "{both:?}"
        );
        let counted = kubectl.with(
            &["exec", "-i", "box", "-c", "shell", "--", "wc", "-c"],
            Some(&"x".repeat(300_000)),
        )?;
        ensure!(counted.success()?.trim() == "300000");
        attached(kubectl)?;
        copied(kubectl)?;
        forwarded(kubectl)?;
        kubectl.says("logs box -c shell --tail=-1", "started")?;
        kubectl.says(
            "logs box --all-containers --prefix --timestamps",
            "[pod/box/",
        )?;
        let limited = kubectl.ok("logs box -c shell --limit-bytes=3")?;
        ensure!(limited == "sta", "{limited}");
        kubectl.ok("logs -l app=box -c server --since=1h --tail=1")?;
        kubectl.ok("delete pod box --now")?;
        Ok(())
    })
}

fn attached(kubectl: &Kubectl) -> anyhow::Result<()> {
    let mut attach = kubectl.command();
    attach.args(["attach", "-i", "box", "-c", "shell"]);
    let mut attach = attach
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = attach.stdin.take().context("no input")?;
    let output = BufReader::new(attach.stdout.take().context("no output")?);
    // What is written before the attachment stands waits in the pipe.
    input.write_all(b"hello\n")?;
    let heard = output
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("heard hello"));
    attach.kill()?;
    attach.wait()?;
    heard.context("nothing came back")?;
    Ok(())
}

fn copied(kubectl: &Kubectl) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (there, back) = (
        directory.path().join("there"),
        directory.path().join("back"),
    );
    fs::create_dir(&there)?;
    let content: Vec<u8> = (0..100_000u32).map(|n| (n % 253) as u8).collect();
    fs::write(there.join("file"), &content)?;
    kubectl.ok(&format!("cp {} box:/tmp/copy -c shell", there.display()))?;
    kubectl.ok(&format!(
        "cp box:/tmp/copy/file {} -c shell",
        back.display()
    ))?;
    ensure!(fs::read(&back)? == content, "the file came back changed");
    Ok(())
}

fn forwarded(kubectl: &Kubectl) -> anyhow::Result<()> {
    let port = free_port()?;
    let mut forward = kubectl.command();
    forward.args(["port-forward", "pod/box", &format!("{port}:8080")]);
    let mut forward = forward
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let url = format!("http://127.0.0.1:{port}/hostname");
    let asked = wait_for("the forwarded port", SOON, || {
        Ok(run(testserver(), &["get", &url])?.success()?.trim() == "box")
    });
    forward.kill()?;
    forward.wait()?;
    asked
}

pub(crate) fn every_kubectl_runs_and_debugs(cluster: &Cluster) -> anyhow::Result<()> {
    with_each(cluster, "debugging", |kubectl| {
        let mut command = kubectl.command();
        command.args([
            "run",
            "once",
            "--rm",
            "-i",
            "--restart=Never",
            "--image=busybox:latest",
            "--image-pull-policy=IfNotPresent",
            "--",
            "tr",
            "a-z",
            "A-Z",
        ]);
        let said = outcome(&mut command, Some("hello\n"))?.success()?;
        ensure!(said.contains("HELLO"), "{said}");
        wait_for("the pod to be removed", SOON, || {
            Ok(kubectl.run("get pod once")?.code != Some(0))
        })?;
        start(kubectl, &server("plain"))?;
        if kubectl.new {
            // What a debugging container says is in its log, whether anybody is attached or not.
            let debug = [
                "debug",
                "plain",
                "--image=busybox:latest",
                "--image-pull-policy=IfNotPresent",
                "--container=look",
                "--target=server",
                "--attach=false",
                "--",
                "echo",
                "from inside",
            ];
            kubectl.with(&debug, None)?.success()?;
            wait_for("the debugging container", SOON, || {
                Ok(kubectl.ok("logs plain -c look")?.contains("from inside"))
            })?;
            let mut copy = kubectl.command();
            copy.args([
                "debug",
                "plain",
                "--copy-to=twin",
                "--set-image=server=fairlead/testserver:1",
            ]);
            outcome(&mut copy, None)?.success()?;
            kubectl.ok("wait --for=condition=Ready pod/twin --timeout=90s")?;
        }
        // A guest book's way: a deployment, a service, and a look through the API server.
        kubectl.ok("create deployment web --image=fairlead/testserver:1")?;
        kubectl.ok("rollout status deployment/web --timeout=90s")?;
        kubectl.ok("expose deployment web --port=80 --target-port=8080")?;
        let path = format!(
            "/api/v1/namespaces/{}/services/web:80/proxy/hostname",
            kubectl.namespace
        );
        wait_for("the service", SOON, || {
            Ok(kubectl
                .ok(&format!("get --raw {path}"))?
                .starts_with("web-"))
        })?;
        kubectl.says(
            "exec deploy/web -- /testserver get http://127.0.0.1:8080/hostname",
            "web-",
        )?;
        kubectl.ok("logs deploy/web")?;
        Ok(())
    })
}

pub(crate) fn helm_waits_for_what_it_installs_and_tests_it(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let kubectl = Kubectl::start(&cluster.kubeconfig, "new", "helm")?;
    let helm = Helm::new(&cluster.kubeconfig, &kubectl.namespace)?;
    helm.ok("install web CHART --wait --timeout=120s")?;
    ensure!(kubectl.field("deployment/web", ".status.readyReplicas")? == "1");
    let tested = helm.ok("test web --timeout=120s")?;
    ensure!(tested.contains("Succeeded"), "{tested}");
    helm.ok("upgrade web CHART --set replicas=2,message=two --wait --timeout=120s")?;
    ensure!(kubectl.field("deployment/web", ".status.readyReplicas")? == "2");
    helm.ok("rollback web 1 --wait --timeout=120s")?;
    ensure!(kubectl.field("deployment/web", ".spec.replicas")? == "1");
    helm.ok("uninstall web --wait --timeout=120s")?;
    Ok(())
}

pub(crate) fn client_libraries_stream(cluster: &Cluster) -> anyhow::Result<()> {
    for (interpreter, script) in [("python3", "client.py"), ("node", "client.mjs")] {
        let kubectl = Kubectl::start(
            &cluster.kubeconfig,
            "new",
            &format!("streams-{interpreter}"),
        )?;
        library(
            &cluster.kubeconfig,
            interpreter,
            script,
            "streams",
            &kubectl.namespace,
        )?;
    }
    Ok(())
}
