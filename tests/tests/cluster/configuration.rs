//! What a container is started with.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::pods::{client, server};
use serde_json::json;

pub(crate) fn the_environment_comes_from_every_source(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("environment")?;
    namespace
        .kubectl("create configmap settings --from-literal=colour=blue")?
        .success()?;
    namespace
        .kubectl("create secret generic keys --from-literal=key=opensesame")?
        .success()?;
    namespace
        .kubectl("create service clusterip database --tcp=5432:5432")?
        .success()?;
    let mut pod = server("env");
    let container = &mut pod["spec"]["containers"][0];
    container["env"] = json!([
        { "name": "LITERAL", "value": "plain" },
        { "name": "EXPANDED", "value": "$(LITERAL)-$$(LITERAL)-$(MISSING)" },
        { "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } },
        { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "key" } } },
        { "name": "ABSENT", "valueFrom": { "secretKeyRef": { "name": "no", "key": "k", "optional": true } } },
        { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        { "name": "MEMORY", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } },
    ]);
    container["envFrom"] = json!([{ "prefix": "ALL_", "configMapRef": { "name": "settings" } }]);
    container["resources"] = json!({ "limits": { "memory": "64Mi" } });
    namespace.start_pod(&pod)?;
    let pod = namespace.get("pod env")?;
    let wanted = [
        ("LITERAL", "plain".to_owned()),
        ("EXPANDED", "plain-$(LITERAL)-$(MISSING)".to_owned()),
        ("COLOUR", "blue".to_owned()),
        ("ALL_colour", "blue".to_owned()),
        ("KEY", "opensesame".to_owned()),
        ("ABSENT", String::new()),
        ("POD", "env".to_owned()),
        (
            "NODE",
            pod["spec"]["nodeName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ),
        (
            "IP",
            pod["status"]["podIP"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ),
        ("MEMORY", (64 * 1024 * 1024).to_string()),
        ("DATABASE_SERVICE_PORT", "5432".to_owned()),
    ];
    for (name, value) in wanted {
        let url = format!("get http://localhost:8080/env?name={name}");
        let found = namespace.ask("env", &url)?.success()?;
        ensure!(
            found.trim() == value,
            "{name} is {found:?} instead of {value:?}"
        );
    }
    let host = namespace.ask(
        "env",
        "get http://localhost:8080/env?name=KUBERNETES_SERVICE_HOST",
    )?;
    ensure!(
        !host.success()?.trim().is_empty(),
        "the variables of the API server are missing"
    );
    Ok(())
}

pub(crate) fn arguments_expand_variables(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("arguments")?;
    let mut pod = client("once", &["$(WHAT)", "localhost"]);
    pod["spec"]["containers"][0]["command"] = json!(["/testserver"]);
    pod["spec"]["containers"][0]["env"] = json!([{ "name": "WHAT", "value": "resolve" }]);
    namespace.apply(&pod.to_string())?;
    let log = namespace.log_of_ended("once")?;
    ensure!(log.contains("127.0.0.1") || log.contains("::1"), "{log}");
    Ok(())
}

pub(crate) fn resources_become_limits_and_too_much_memory_ends_the_container(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("limits")?;
    let mut pod = client("greedy", &["burn", "256"]);
    pod["spec"]["containers"][0]["resources"] =
        json!({ "limits": { "memory": "32Mi", "cpu": "500m" } });
    namespace.apply(&pod.to_string())?;
    wait_for("the end of what takes too much", SOON, || {
        let pod = namespace.get("pod greedy")?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        Ok(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137)
    })?;
    let pod = namespace.get("pod greedy")?;
    ensure!(
        pod["status"]["qosClass"] == "Guaranteed",
        "{}",
        pod["status"]
    );
    Ok(())
}

pub(crate) fn security_contexts_are_applied(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("security")?;
    let mut pod = server("sailor");
    pod["spec"]["securityContext"] =
        json!({ "runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456 });
    pod["spec"]["containers"][0]["securityContext"] = json!({
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
    });
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
    pod["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    namespace.start_pod(&pod)?;
    let status = namespace
        .ask("sailor", "read /proc/self/status")?
        .success()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    ensure!(
        field("Uid:").first().is_some_and(|uid| uid == "1234"),
        "{status}"
    );
    ensure!(
        field("Gid:").first().is_some_and(|gid| gid == "2345"),
        "{status}"
    );
    ensure!(
        field("Groups:").iter().any(|group| group == "3456"),
        "{status}"
    );
    ensure!(field("CapEff:") == ["0000000000000000"], "{status}");
    ensure!(field("NoNewPrivs:") == ["1"], "{status}");
    let refusal = namespace.ask("sailor", "write /file text")?.failure()?;
    ensure!(refusal.contains("ead-only"), "{refusal}");
    namespace.ask("sailor", "write /own/file text")?.success()?;

    let mut root = server("root");
    root["spec"]["securityContext"] = json!({ "runAsNonRoot": true });
    namespace.apply(&root.to_string())?;
    wait_for("the refusal to run as root", SOON, || {
        let pod = namespace.get("pod root")?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        Ok(waiting["reason"] == "CreateContainerConfigError")
    })
}
