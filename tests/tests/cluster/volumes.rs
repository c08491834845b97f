//! Files that a pod finds.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, wait_for};
use cluster_tests::command::{command, outcome};
use cluster_tests::pods::server;
use serde_json::json;

pub(crate) fn volumes_of_every_kind_are_mounted(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("volumes")?;
    namespace
        .kubectl("create configmap files --from-literal=a.txt=alpha --from-literal=b.txt=beta")?
        .success()?;
    namespace
        .kubectl("create secret generic keys --from-literal=key=opensesame")?
        .success()?;
    let mut pod = server("holder");
    pod["metadata"]["labels"]["colour"] = json!("blue");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "scratch", "mountPath": "/scratch" },
        { "name": "memory", "mountPath": "/memory" },
        { "name": "files", "mountPath": "/files" },
        { "name": "files", "mountPath": "/one/b.txt", "subPath": "b.txt" },
        { "name": "keys", "mountPath": "/keys", "readOnly": true },
        { "name": "about", "mountPath": "/about" },
        { "name": "together", "mountPath": "/together" },
        { "name": "node", "mountPath": "/node" },
    ]);
    pod["spec"]["volumes"] = json!([
        { "name": "scratch", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "files", "configMap": { "name": "files" } },
        { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 0o400 } },
        { "name": "about", "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } } ] } },
        { "name": "together", "projected": { "sources": [
            { "configMap": { "name": "files", "items": [{ "key": "a.txt", "path": "x/a" }] } },
            { "secret": { "name": "keys" } },
            { "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } } ] } },
        { "name": "node", "hostPath": { "path": "/var/lib/fairlead-test", "type": "DirectoryOrCreate" } },
    ]);
    namespace.start_pod(&pod)?;
    let read = |file: &str| namespace.ask("holder", &format!("read {file}"))?.success();
    ensure!(read("/files/a.txt")? == "alpha");
    ensure!(read("/one/b.txt")? == "beta");
    ensure!(read("/keys/key")? == "opensesame");
    ensure!(read("/about/labels")?.contains("colour=\"blue\""));
    ensure!(read("/together/x/a")? == "alpha" && read("/together/key")? == "opensesame");
    ensure!(
        read("/together/token")?.matches('.').count() == 2,
        "the token is no JWT"
    );
    ensure!(read("/proc/self/mounts")?.contains("tmpfs /memory tmpfs"));
    for directory in ["scratch", "memory", "node"] {
        namespace
            .ask("holder", &format!("write /{directory}/file kept"))?
            .success()?;
    }
    let node = namespace.get("pod holder")?["spec"]["nodeName"]
        .as_str()
        .context("no node")?
        .to_owned();
    let on_node = cluster
        .exec(&node, &["cat", "/var/lib/fairlead-test/file"])?
        .success()?;
    ensure!(on_node == "kept", "{on_node}");
    let refusal = namespace
        .ask("holder", "write /keys/key other")?
        .failure()?;
    ensure!(refusal.contains("ead-only"), "{refusal}");
    Ok(())
}

pub(crate) fn changed_config_maps_reach_running_pods(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("changes")?;
    namespace
        .kubectl("create configmap changing --from-literal=value=before")?
        .success()?;
    let mut pod = server("reader");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "c", "mountPath": "/c" }]);
    pod["spec"]["volumes"] = json!([{ "name": "c", "configMap": { "name": "changing" } }]);
    namespace.start_pod(&pod)?;
    let patch = [
        "patch",
        "configmap",
        "changing",
        "-n",
        &namespace.name,
        "-p",
        r#"{"data":{"value":"after"}}"#,
    ];
    cluster.kubectl_with(&patch, None)?.success()?;
    wait_for("the changed file", Duration::from_secs(90), || {
        Ok(namespace.ask("reader", "read /c/value")?.success()? == "after")
    })
}

pub(crate) fn the_service_account_token_is_accepted_by_the_api_server(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("account")?;
    namespace.start_pod(&server("caller"))?;
    let base = "/var/run/secrets/kubernetes.io/serviceaccount";
    let read = |file: &str| {
        namespace
            .ask("caller", &format!("read {base}/{file}"))?
            .success()
    };
    ensure!(read("namespace")? == "account");
    ensure!(read("ca.crt")?.contains("BEGIN CERTIFICATE"));
    let token = read("token")?;
    // The token alone, without the administrator's certificate.
    let server =
        cluster.kubectl("config view --raw --minify -o jsonpath={.clusters[0].cluster.server}")?;
    let mut kubectl = command("kubectl");
    kubectl
        .env("KUBECONFIG", "/dev/null")
        .args([
            "--insecure-skip-tls-verify",
            "--server",
            server.success()?.trim(),
        ])
        .args([
            "--token",
            token.trim(),
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ]);
    let name = outcome(&mut kubectl, None)?.success()?;
    ensure!(name == "system:serviceaccount:account:default", "{name}");
    Ok(())
}
