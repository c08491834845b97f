//! What a container finds in its environment.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::site::{Site, idle, job};

fn with_env(name: &str, line: &str, env: Value) -> Value {
    let mut pod = job(name, line);
    pod["spec"]["containers"][0]["env"] = env;
    pod
}

/// Whether all lines are in the text.
fn has(text: &str, lines: &[&str]) -> anyhow::Result<()> {
    for line in lines {
        ensure!(
            text.lines().any(|found| found == *line),
            "no {line:?} in\n{text}"
        );
    }
    Ok(())
}

pub(crate) fn config_maps_and_secrets_become_variables(site: &Site) -> anyhow::Result<()> {
    let space = site.space("env-objects")?;
    space.config_map(
        "map",
        json!({"data-1": "value-1", "data_2": "value-2", "1bad": "kept"}),
    )?;
    space.secret("secret", json!({"key-1": "secret-1", "key_2": "secret-2"}))?;
    let key = |kind: &str, name: &str, key: &str, optional: bool| json!({kind: {"name": name, "key": key, "optional": optional}});
    let env = json!([
        {"name": "CONFIG_DATA_1", "valueFrom": key("configMapKeyRef", "map", "data-1", false)},
        {"name": "SECRET_DATA", "valueFrom": key("secretKeyRef", "secret", "key-1", false)},
        {"name": "NO_MAP", "valueFrom": key("configMapKeyRef", "none", "data-1", true)},
        {"name": "NO_KEY", "valueFrom": key("secretKeyRef", "secret", "none", true)},
    ]);
    let mut pod = with_env("all", "", env);
    // A shell would drop what it cannot call a variable.
    pod["spec"]["containers"][0]["command"] = json!(["env"]);
    pod["spec"]["containers"][0]["envFrom"] = json!([
        {"configMapRef": {"name": "map"}},
        {"prefix": "p-_", "configMapRef": {"name": "map"}},
        {"prefix": "a.b: $(x)", "secretRef": {"name": "secret"}},
        {"secretRef": {"name": "none", "optional": true}},
    ]);
    let log = space.output(&pod)?;
    has(
        &log,
        &[
            "CONFIG_DATA_1=value-1",
            "SECRET_DATA=secret-1",
            "data-1=value-1",
            "data_2=value-2",
            "1bad=kept",
            "p-_data-1=value-1",
            "p-_data_2=value-2",
            "p-_1bad=kept",
            "a.b: $(x)key-1=secret-1",
            "a.b: $(x)key_2=secret-2",
        ],
    )?;
    ensure!(!log.contains("NO_MAP") && !log.contains("NO_KEY"), "{log}");
    // What is missing is told, and the container starts when it comes.
    let env = json!([{"name": "LATE", "valueFrom": key("configMapKeyRef", "late", "k", false)}]);
    space.pod(&with_env("waits", "env", env))?;
    space.event("pods/waits", "Failed", "configmap \"late\" not found")?;
    let waiting = space.get("pods/waits")?;
    let reason = &waiting["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
    ensure!(
        reason == "CreateContainerConfigError",
        "{}",
        waiting["status"]
    );
    space.config_map("late", json!({"k": "come"}))?;
    space.ended("waits")?;
    has(&space.log("waits", "")?, &["LATE=come"])?;
    for (plural, field) in [("configmaps", "data"), ("secrets", "stringData")] {
        let empty = json!({"metadata": {"name": "empty-key"}, field: {"": "value"}});
        ensure!(
            space.create(plural, &empty).is_err(),
            "an empty key was accepted"
        );
    }
    Ok(())
}

pub(crate) fn the_downward_api_becomes_variables(site: &Site) -> anyhow::Result<()> {
    let space = site.space("env-downward")?;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let amount = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}});
    let fields = json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        field("POD_IPS", "status.podIPs"),
        field("HOST_IP", "status.hostIP"),
        field("HOST_IPS", "status.hostIPs"),
        field("POD_UID", "metadata.uid"),
        field("NODE", "spec.nodeName"),
        field("ACCOUNT", "spec.serviceAccountName"),
        field("LABEL", "metadata.labels['app']"),
        field("ANNOTATION", "metadata.annotations['a']"),
        amount("CPU_LIMIT", "limits.cpu"),
        amount("MEMORY_LIMIT", "limits.memory"),
        amount("CPU_REQUEST", "requests.cpu"),
        amount("MEMORY_REQUEST", "requests.memory"),
    ]);
    let mut pod = with_env("told", "env", fields);
    pod["metadata"]["annotations"] = json!({"a": "b c"});
    pod["spec"]["containers"][0]["resources"] = json!({
        "requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let log = space.output(&pod)?;
    let pod = space.get("pods/told")?;
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let expected = [
        "POD_NAME=told".to_owned(),
        "POD_NAMESPACE=env-downward".to_owned(),
        format!("POD_IP={}", text("/status/podIP")),
        format!("HOST_IP={}", text("/status/hostIP")),
        format!("POD_IPS={}", text("/status/podIPs/0/ip")),
        format!("HOST_IPS={}", text("/status/hostIPs/0/ip")),
        format!("POD_UID={}", text("/metadata/uid")),
        format!("NODE={}", text("/spec/nodeName")),
        "ACCOUNT=default".to_owned(),
        "LABEL=told".to_owned(),
        "ANNOTATION=b c".to_owned(),
        "CPU_LIMIT=2".to_owned(),
        "MEMORY_LIMIT=67108864".to_owned(),
        "CPU_REQUEST=1".to_owned(),
        "MEMORY_REQUEST=33554432".to_owned(),
    ];
    has(&log, &expected.each_ref().map(String::as_str))?;
    // Without limits, those of the node.
    let amounts = json!([
        amount("CPU_LIMIT", "limits.cpu"),
        amount("MEMORY_LIMIT", "limits.memory")
    ]);
    let log = space.output(&with_env("unlimited", "env", amounts))?;
    let node = site.get(&format!(
        "/api/v1/nodes/{}",
        space.get("pods/unlimited")?["spec"]["nodeName"]
            .as_str()
            .unwrap_or("")
    ))?;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap_or("");
    has(&log, &[&format!("CPU_LIMIT={cpu}")])?;
    ensure!(!log.contains("MEMORY_LIMIT=0"), "{log}");
    Ok(())
}

pub(crate) fn variables_expand_in_values_commands_and_arguments(site: &Site) -> anyhow::Result<()> {
    let space = site.space("env-expansion")?;
    let service = json!({"metadata": {"name": "fooservice"}, "spec": {"ports": [{"port": 8765, "targetPort": 8080}]}});
    space.create("services", &service)?;
    let env = json!([
        {"name": "FOO", "value": "foo-value"}, {"name": "BAR", "value": "bar-value"},
        {"name": "FOOBAR", "value": "$(FOO);;$(BAR);;$$(FOO);;$(NONE)"},
    ]);
    let mut pod = with_env("expanded", "", env);
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c"]);
    pod["spec"]["containers"][0]["args"] =
        json!(["env; echo test-value=$(FOO); printf 'plain=%s\\n' '$$(FOO)'"]);
    let log = space.output(&pod)?;
    has(
        &log,
        &[
            "FOOBAR=foo-value;;bar-value;;$(FOO);;$(NONE)",
            "test-value=foo-value",
            "plain=$(FOO)",
            "FOOSERVICE_SERVICE_PORT=8765",
            "FOOSERVICE_PORT_8765_TCP_PORT=8765",
            "FOOSERVICE_PORT_8765_TCP_PROTO=tcp",
            "KUBERNETES_SERVICE_PORT=443",
        ],
    )?;
    for part in [
        "FOOSERVICE_SERVICE_HOST=",
        "FOOSERVICE_PORT=tcp://",
        "FOOSERVICE_PORT_8765_TCP_ADDR=",
        "KUBERNETES_SERVICE_HOST=",
    ] {
        ensure!(log.contains(part), "no {part} in\n{log}");
    }
    let mut unlinked = job("unlinked", "env");
    unlinked["spec"]["enableServiceLinks"] = json!(false);
    let log = space.output(&unlinked)?;
    ensure!(
        !log.contains("FOOSERVICE") && log.contains("KUBERNETES_SERVICE_HOST"),
        "{log}"
    );
    Ok(())
}

pub(crate) fn sub_paths_expand_and_stay_inside_their_volume(site: &Site) -> anyhow::Result<()> {
    let space = site.space("subpath-expr")?;
    let with = |name: &str, line: &str, value: &str, expression: &str| {
        let mut pod = with_env(name, line, json!([{"name": "POD_NAME", "value": value}]));
        pod["spec"]["volumes"] = json!([{"name": "workdir1", "emptyDir": {}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "workdir1", "mountPath": "/logscontainer", "subPathExpr": expression},
            {"name": "workdir1", "mountPath": "/testcontainer"}]);
        pod
    };
    space.output(&with("expands", "test -d /testcontainer/foo; test -d /testcontainer/foo && touch /logscontainer/x && test -f /testcontainer/foo/x", "foo", "$(POD_NAME)"))?;
    space.pod(&with("backticks", "true", "..", "$(POD_NAME)"))?;
    space.pod(&with("absolute", "true", "/tmp", "$(POD_NAME)"))?;
    for name in ["backticks", "absolute"] {
        space.event(&format!("pods/{name}"), "Failed", "Error: ")?;
        let pod = space.get(&format!("pods/{name}"))?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        ensure!(
            waiting["reason"] == "CreateContainerConfigError",
            "{}",
            pod["status"]
        );
    }
    // An expression whose value comes later: the container starts then.
    let mut late = idle("late");
    late["metadata"]["annotations"] = json!({"notmysubpath": "mypath"});
    late["spec"]["volumes"] = json!([{"name": "workdir1", "emptyDir": {}}]);
    late["spec"]["containers"][0]["env"] = json!([{"name": "POD_NAME", "value": "foo"},
        {"name": "ANNOTATION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}}]);
    late["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "workdir1", "mountPath": "/subpath_mount", "subPathExpr": "$(ANNOTATION)/$(POD_NAME)"},
        {"name": "workdir1", "mountPath": "/volume_mount"}]);
    space.pod(&late)?;
    space.event("pods/late", "Failed", "Error: ")?;
    let annotate = |value: &str| {
        let patch = json!({"metadata": {"annotations": {"mysubpath": value}}});
        space.patch("pods/late", &patch)
    };
    annotate("mypath")?;
    space.ready("late")?;
    let line =
        "touch /subpath_mount/test.log && test -f /volume_mount/mypath/foo/test.log && echo here";
    let here = space.exec("late", "main", line)?.success()?;
    ensure!(here == "here\n", "{here}");
    // A running container keeps what it was started with.
    annotate("mynewpath")?;
    let line = "test -f /volume_mount/mypath/foo/test.log && echo here";
    let still = space.exec("late", "main", line)?;
    ensure!(still.success()? == "here\n");
    Ok(())
}
