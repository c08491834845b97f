//! Files that a pod finds, with the modes and owners that the API promises.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::site::{IDLE, PATIENCE, Site, Space, idle, job, phase, pod_of, shell};

/// What `ls` would show of a file: its mode, its owner and its group.
const STAT: &str = "stat -L -c '%a %u %g'";

fn with_volume(mut pod: Value, source: Value) -> Value {
    let mut volume = source;
    volume["name"] = json!("vol");
    pod["spec"]["volumes"] = json!([volume]);
    for container in pod["spec"]["containers"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        container["volumeMounts"] = json!([{"name": "vol", "mountPath": "/etc/vol"}]);
    }
    pod
}

/// A ConfigMap or a Secret as the source of a volume, by itself or projected.
fn source(kind: &str, name: &str, projected: bool, extra: Value) -> Value {
    let mut source = match (kind, projected) {
        ("configMap", _) | (_, true) => json!({"name": name}),
        _ => json!({"secretName": name}),
    };
    let mode = extra["defaultMode"].clone();
    for (key, value) in extra.as_object().into_iter().flatten() {
        if !(projected && key == "defaultMode") {
            source[key] = value.clone();
        }
    }
    if !projected {
        return json!({kind: source});
    }
    let mut volume = json!({"projected": {"sources": [{kind: source}]}});
    if !mode.is_null() {
        volume["projected"]["defaultMode"] = mode;
    }
    volume
}

const FORMS: [(&str, bool, &str); 4] = [
    ("configMap", false, "map"),
    ("configMap", true, "map-projected"),
    ("secret", false, "secret"),
    ("secret", true, "secret-projected"),
];

pub(crate) fn keys_become_files_with_their_modes(site: &Site) -> anyhow::Result<()> {
    let space = site.space("volume-keys")?;
    let data = json!({"data-1": "value-1", "data-2": "value-2"});
    space.config_map("object", data.clone())?;
    space.secret("object", data)?;
    let items = |mode: Value| {
        let mut item = json!({"key": "data-2", "path": "path/to/data-2"});
        if !mode.is_null() {
            item["mode"] = mode;
        }
        json!({"items": [item]})
    };
    let group = json!({"runAsUser": 1000, "fsGroup": 1001});
    let user = json!({"runAsUser": 1000});
    let none = Value::Null;
    let (one, two) = ("data-1", "path/to/data-2");
    let cases: [(&str, Value, &Value, &str, &str); 8] = [
        ("plain", json!({}), &none, one, "644 0 0\nvalue-1"),
        (
            "mode",
            json!({"defaultMode": 0o400}),
            &none,
            one,
            "400 0 0\nvalue-1",
        ),
        ("user", json!({}), &user, one, "644 0 0\nvalue-1"),
        (
            "group",
            json!({"defaultMode": 0o440}),
            &group,
            one,
            "440 0 1001\nvalue-1",
        ),
        ("mapped", items(Value::Null), &none, two, "644 0 0\nvalue-2"),
        (
            "mapped-user",
            items(Value::Null),
            &user,
            two,
            "644 0 0\nvalue-2",
        ),
        (
            "mapped-mode",
            items(json!(0o400)),
            &none,
            two,
            "400 0 0\nvalue-2",
        ),
        (
            "mapped-group",
            items(Value::Null),
            &group,
            two,
            "644 0 1001\nvalue-2",
        ),
    ];
    let mut started = Vec::new();
    for (kind, projected, form) in FORMS {
        for (name, extra, context, file, wanted) in &cases {
            let name = format!("{form}-{name}");
            let line = format!("{STAT} /etc/vol/{file}; cat /etc/vol/{file}");
            let mut pod = with_volume(
                job(&name, &line),
                source(kind, "object", projected, extra.clone()),
            );
            if !context.is_null() {
                pod["spec"]["securityContext"] = (*context).clone();
            }
            space.pod(&pod)?;
            started.push((name, *wanted));
        }
    }
    for (name, wanted) in started {
        let pod = space.ended(&name)?;
        let log = space.log(&name, "")?;
        ensure!(
            phase(&pod) == "Succeeded" && log == wanted,
            "{name}: {log}\n{}",
            pod["status"]
        );
    }
    Ok(())
}

pub(crate) fn changes_of_objects_reach_the_files(site: &Site) -> anyhow::Result<()> {
    let space = site.space("volume-changes")?;
    for name in ["upd", "del"] {
        space.config_map(name, json!({"data-1": "value-1"}))?;
        space.secret(name, json!({"data-1": "value-1"}))?;
    }
    let binary = json!({"metadata": {"name": "binary"}, "data": {"text": "value-1"}, "binaryData": {"dump.bin": "3q2+7w=="}});
    space.create("configmaps", &binary)?;
    let mut pod = idle("reader");
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    for (kind, projected, form) in FORMS {
        for object in ["upd", "del", "new"] {
            let name = format!("{form}-{object}");
            let mut volume = source(kind, object, projected, json!({"optional": true}));
            volume["name"] = json!(name);
            volumes.push(volume);
            mounts
                .push(json!({"name": name, "mountPath": format!("/etc/{name}"), "readOnly": true}));
        }
    }
    volumes.push(json!({"name": "binary", "configMap": {"name": "binary"}}));
    mounts.push(json!({"name": "binary", "mountPath": "/etc/binary"}));
    pod["spec"]["volumes"] = json!(volumes);
    pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    space.start(&pod)?;
    let dump = space.exec(
        "reader",
        "main",
        "hexdump -v -e '/1 \"%02x\"' /etc/binary/dump.bin; cat /etc/binary/text",
    )?;
    let dump = dump.success()?;
    ensure!(dump == "deadbeefvalue-1", "{dump}");
    for plural in ["configmaps", "secrets"] {
        let field = if plural == "secrets" {
            "stringData"
        } else {
            "data"
        };
        space.patch(
            &format!("{plural}/upd"),
            &json!({field: {"data-1": "value-2", "data-3": "value-3"}}),
        )?;
        space.delete(&format!("{plural}/del"))?;
        space.create(
            plural,
            &json!({"metadata": {"name": "new"}, field: {"data-1": "value-1"}}),
        )?;
    }
    let look = "for f in map map-projected secret secret-projected; do \
        cat /etc/$f-upd/data-1 /etc/$f-upd/data-3 /etc/$f-new/data-1; ls /etc/$f-del | wc -l; done; echo";
    let wanted = "value-2value-3value-10\n".repeat(4);
    space.exec_until("reader", look, &wanted)?;
    Ok(())
}

pub(crate) fn missing_objects_hold_the_pod_unless_they_are_optional(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("volume-missing")?;
    space.config_map("there", json!({"data-1": "value-1"}))?;
    let missing_key = json!({"items": [{"key": "none", "path": "p"}]});
    let held = [
        (
            "no-map",
            source("configMap", "none", false, json!({})),
            "configmap \"none\" not found",
        ),
        (
            "no-secret",
            source("secret", "none", true, json!({"optional": false})),
            "secret \"none\" not found",
        ),
        (
            "no-key",
            source("configMap", "there", false, missing_key),
            "references non-existent config key: none",
        ),
    ];
    for (name, source, _) in &held {
        space.pod(&with_volume(idle(name), source.clone()))?;
    }
    for (name, _, part) in &held {
        space.event(&format!("pods/{name}"), "FailedMount", part)?;
        let pod = space.get(&format!("pods/{name}"))?;
        ensure!(phase(&pod) == "Pending", "{}", pod["status"]);
    }
    // It starts when what it waited for is there.
    space.config_map("none", json!({"data-1": "value-1"}))?;
    space.ready("no-map")?;
    Ok(())
}

pub(crate) fn immutable_objects_stay_as_they_are(site: &Site) -> anyhow::Result<()> {
    let space = site.space("immutable")?;
    for (plural, field) in [("configmaps", "data"), ("secrets", "stringData")] {
        let object =
            json!({"metadata": {"name": "still"}, field: {"key": "value"}, "immutable": true});
        space.create(plural, &object)?;
        let patched = space.patch(
            &format!("{plural}/still"),
            &json!({field: {"key": "other"}}),
        );
        let message = format!("{:#}", patched.err().context("was changed")?);
        ensure!(
            message.contains("field is immutable when `immutable` is set"),
            "{message}"
        );
        let patched = space.patch(&format!("{plural}/still"), &json!({"immutable": false}));
        ensure!(patched.is_err(), "immutable was taken away");
        space.patch(
            &format!("{plural}/still"),
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )?;
    }
    let volume = source("configMap", "still", false, json!({}));
    let log = space.output(&with_volume(job("reader", "cat /etc/vol/key"), volume))?;
    ensure!(log == "value", "{log}");
    Ok(())
}

pub(crate) fn the_downward_api_becomes_files_that_follow(site: &Site) -> anyhow::Result<()> {
    let space = site.space("downward-files")?;
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let amount = |path: &str, resource: &str| json!({"path": path, "resourceFieldRef": {"containerName": "main", "resource": resource}});
    let mut mode = field("mode", "metadata.name");
    mode["mode"] = json!(0o400);
    let items = json!([
        field("podname", "metadata.name"),
        field("labels", "metadata.labels"),
        field("annotations", "metadata.annotations"),
        mode,
        amount("cpu_limit", "limits.cpu"),
        amount("memory_limit", "limits.memory"),
        amount("cpu_request", "requests.cpu"),
        amount("memory_request", "requests.memory"),
    ]);
    let plain = |items: Value| json!({"downwardAPI": {"items": items, "defaultMode": 0o440}});
    let projected = |items: Value| json!({"projected": {"defaultMode": 0o440, "sources": [{"downwardAPI": {"items": items}}]}});
    let look = format!(
        "cd /etc/vol; for f in podname cpu_limit memory_limit cpu_request memory_request labels annotations; do echo $f: $(cat $f); done; {STAT} podname mode; {IDLE}"
    );
    for (name, source) in [
        ("plain", plain(items.clone())),
        ("joined", projected(items)),
    ] {
        let mut pod = with_volume(idle(name), source);
        pod["metadata"]["labels"] = json!({"key1": "value1", "key2": "value2"});
        pod["metadata"]["annotations"] = json!({"builder": "bar"});
        let own = &mut pod["spec"]["containers"][0];
        own["command"] = json!(["sh", "-c", look]);
        own["resources"] = json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
        space.start(&pod)?;
        let log = space.log_with(name, "", "\n400 0 0")?;
        let wanted = format!(
            "podname: {name}\ncpu_limit: 2\nmemory_limit: 67108864\ncpu_request: 1\n\
            memory_request: 33554432\nlabels: key1=\"value1\" key2=\"value2\"\nannotations: builder=\"bar\"\n440 0 0\n400 0 0\n"
        );
        ensure!(log == wanted, "{log}");
        space.patch(
            &format!("pods/{name}"),
            &json!({"metadata": {"labels": {"key3": "value3"}, "annotations": {"builder": "foo"}}}),
        )?;
        space.exec_until(
            name,
            "cat /etc/vol/labels /etc/vol/annotations",
            "key3=\"value3\"builder=\"foo\"",
        )?;
    }
    // Without limits, those of the node.
    let amounts = json!([
        amount("cpu_limit", "limits.cpu"),
        amount("memory_limit", "limits.memory")
    ]);
    let log = space.output(&with_volume(
        job(
            "unlimited",
            "cat /etc/vol/cpu_limit; echo; cat /etc/vol/memory_limit",
        ),
        plain(amounts),
    ))?;
    let node = space.get("pods/unlimited")?["spec"]["nodeName"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    let node = site.get(&format!("/api/v1/nodes/{node}"))?;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap_or("");
    ensure!(log.lines().next() == Some(cpu), "{log} for {cpu}");
    ensure!(
        log.lines()
            .nth(1)
            .is_some_and(|memory| memory.parse::<u64>().unwrap_or(0) > 1 << 20),
        "{log}"
    );
    Ok(())
}

pub(crate) fn projected_volumes_join_all_sources(site: &Site) -> anyhow::Result<()> {
    let space = site.space("projected-all")?;
    space.config_map("map", json!({"configmap-data": "configmap-value-1"}))?;
    space.secret("secret", json!({"secret-data": "secret-value-1"}))?;
    let sources = json!([
        {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": "secret", "items": [{"key": "secret-data", "path": "secret/data"}]}},
        {"configMap": {"name": "map", "items": [{"key": "configmap-data", "path": "configmap/data", "mode": 0o600}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "somebody"}},
    ]);
    let line = format!(
        "cd /etc/vol; cat podname secret/data configmap/data; echo; {STAT} configmap/data; cut -d. -f1 token | wc -l; ls"
    );
    let volume = json!({"projected": {"sources": sources}});
    let log = space.output(&with_volume(job("joined", &line), volume))?;
    ensure!(
        log.starts_with("joinedsecret-value-1configmap-value-1\n600 0 0\n"),
        "{log}"
    );
    ensure!(
        log.ends_with("configmap\npodname\nsecret\ntoken\n"),
        "{log}"
    );
    // The same name in two namespaces, and several mounts of the same in one pod.
    let other = site.space("projected-other")?;
    other.secret("secret", json!({"secret-data": "other"}))?;
    let mut pod = job("twice", "cat /etc/vol/secret-data /etc/vol2/secret-data");
    pod["spec"]["volumes"] = json!([{"name": "a", "secret": {"secretName": "secret"}}, {"name": "b", "secret": {"secretName": "secret"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "a", "mountPath": "/etc/vol", "readOnly": true}, {"name": "b", "mountPath": "/etc/vol2", "readOnly": true}]);
    let log = space.output(&pod)?;
    ensure!(log == "secret-value-1secret-value-1", "{log}");
    Ok(())
}

pub(crate) fn empty_directories_have_their_modes_on_both_media(site: &Site) -> anyhow::Result<()> {
    let space = site.space("empty-dirs")?;
    let mut started = Vec::new();
    for medium in ["", "Memory"] {
        for user in [0, 1001] {
            let name = format!("empty-{}-{user}", medium.to_lowercase()).replace("--", "-disk-");
            // The mode of the directory, and of files of three modes that their owner makes.
            let line = "cd /etc/vol; stat -c %a .; for m in 0644 0666 0777; do touch f$m; chmod $m f$m; \
                echo content > f$m; stat -c '%a %u' f$m; cat f$m; done; grep -c ' /etc/vol tmpfs' /proc/mounts";
            let source = json!({"emptyDir": {"medium": medium}});
            let mut pod = with_volume(job(&name, line), source);
            pod["spec"]["securityContext"] = json!({"runAsUser": user});
            space.pod(&pod)?;
            let tmpfs = if medium.is_empty() { "0" } else { "1" };
            let wanted = format!(
                "777\n644 {user}\ncontent\n666 {user}\ncontent\n777 {user}\ncontent\n{tmpfs}\n"
            );
            started.push((name, wanted));
        }
    }
    for (name, wanted) in started {
        space.ended(&name)?;
        let log = space.log(&name, "")?;
        ensure!(log == wanted, "{name}: {log}");
    }
    // Shared between containers, with a group of its own, and limited in memory.
    let writer = "echo 'Hello from the busy-box sub-container' > /etc/vol/shared; sleep 3600";
    let mut pod = pod_of("shared", json!([shell("main", IDLE), shell("sub", writer)]));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    pod["spec"]["securityContext"] = json!({"fsGroup": 123});
    let pod = with_volume(
        pod,
        json!({"emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
    );
    space.start(&pod)?;
    space.exec_until(
        "shared",
        "cat /etc/vol/shared",
        "Hello from the busy-box sub-container",
    )?;
    let group = space.exec("shared", "main", "stat -c '%a %g' /etc/vol; stat -c %g /etc/vol/shared; df -m /etc/vol | tail -1 | awk '{print $2}'")?.success()?;
    ensure!(group == "2777 123\n123\n16\n", "{group}");
    Ok(())
}

pub(crate) fn sub_paths_lead_into_every_kind_of_volume(site: &Site) -> anyhow::Result<()> {
    let space = site.space("subpaths")?;
    space.config_map("map", json!({"configmap-key": "configmap-value"}))?;
    space.secret("secret", json!({"secret-key": "secret-value"}))?;
    let downward = json!({"items": [{"path": "downward/podname", "fieldRef": {"fieldPath": "metadata.name"}}]});
    let joined = json!({"sources": [{"configMap": {"name": "map", "items": [{"key": "configmap-key", "path": "projected-configmap-key"}]}}]});
    let cases = [
        (
            "map",
            json!({"configMap": {"name": "map"}}),
            "configmap-key",
            "configmap-value",
        ),
        (
            "secret",
            json!({"secret": {"secretName": "secret"}}),
            "secret-key",
            "secret-value",
        ),
        (
            "downward",
            json!({"downwardAPI": downward}),
            "downward/podname",
            "downward",
        ),
        (
            "projected",
            json!({"projected": joined}),
            "projected-configmap-key",
            "configmap-value",
        ),
    ];
    for (name, source, key, _) in &cases {
        let mut pod = with_volume(job(name, "cat /test-volume"), source.clone());
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "vol", "mountPath": "/test-volume", "subPath": key}]);
        space.pod(&pod)?;
    }
    // Over a file that the image has, and a directory that is made.
    let mut pod = with_volume(
        job("existing", "cat /etc/passwd; echo x > /made/file"),
        cases[0].1.clone(),
    );
    pod["spec"]["volumes"]
        .as_array_mut()
        .context("no volumes")?
        .push(json!({"name": "own", "emptyDir": {}}));
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "vol", "mountPath": "/etc/passwd", "subPath": "configmap-key"},
        {"name": "own", "mountPath": "/made", "subPath": "a/b"}]);
    let log = space.output(&pod)?;
    ensure!(log == "configmap-value", "{log}");
    for (name, _, _, wanted) in &cases {
        space.ended(name)?;
        let log = space.log(name, "")?;
        ensure!(log == *wanted, "{name}: {log}");
    }
    Ok(())
}

pub(crate) fn host_paths_are_checked_by_their_type(site: &Site) -> anyhow::Result<()> {
    let space = site.space("host-paths")?;
    let of = |name: &str, path: &str, kind: &str| {
        let source = json!({"hostPath": {"path": path, "type": kind}});
        with_volume(job(name, "stat -L -c %F /etc/vol"), source)
    };
    let base = "/var/lib/host-path-types";
    let good = [
        (
            of("made-directory", &format!("{base}/d"), "DirectoryOrCreate"),
            "directory\n",
        ),
        (of("directory", "/etc", "Directory"), "directory\n"),
        (of("file", "/etc/passwd", "File"), "regular file\n"),
        (
            of("device", "/dev/null", "CharDevice"),
            "character special file\n",
        ),
        (of("unset", "/etc", ""), "directory\n"),
        (
            of("socket", "/run/containerd/containerd.sock", "Socket"),
            "socket\n",
        ),
    ];
    for (pod, wanted) in &good {
        let log = space.output(pod)?;
        ensure!(log == *wanted, "{}: {log}", pod["metadata"]["name"]);
    }
    let bad = [
        (
            of("no-directory", "/etc/passwd", "Directory"),
            "is not a directory",
        ),
        (of("no-file", "/etc", "File"), "is not a file"),
        (of("no-socket", "/etc", "Socket"), "is not a socket file"),
        (
            of("no-device", "/etc", "CharDevice"),
            "is not a character device",
        ),
        (
            of("no-block", "/dev/null", "BlockDevice"),
            "is not a block device",
        ),
    ];
    for (pod, _) in &bad {
        space.pod(pod)?;
    }
    for (pod, part) in &bad {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        space.event(
            &format!("pods/{name}"),
            "FailedMount",
            &format!(
                "hostPath type check failed: {}",
                pod["spec"]["volumes"][0]["hostPath"]["path"]
                    .as_str()
                    .unwrap_or("")
            ),
        )?;
        space.event(&format!("pods/{name}"), "FailedMount", part)?;
    }
    Ok(())
}

/// Fifty ConfigMaps in each of five pods, all at once.
pub(crate) fn many_volumes_of_many_pods_do_not_race(site: &Site) -> anyhow::Result<()> {
    let space = site.space("many-volumes")?;
    let names: Vec<String> = (0..50).map(|n| format!("racey-{n}")).collect();
    for name in &names {
        space.config_map(name, json!({"data-1": "value-1"}))?;
    }
    let volumes: Vec<Value> = names.iter().map(|name| json!({"name": name, "configMap": {"name": name, "items": [{"key": "data-1", "path": "data-1"}]}})).collect();
    let mounts: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/etc/{name}")}))
        .collect();
    for number in 0..5 {
        let mut pod = idle(&format!("many-{number}"));
        pod["spec"]["volumes"] = json!(volumes);
        pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
        space.pod(&pod)?;
    }
    for number in 0..5 {
        space.ready(&format!("many-{number}"))?;
    }
    // What the kubelet mounts for itself does not meet itself in one pod.
    space.secret("secret", json!({"k": "v"}))?;
    let mut pod = idle("wrapped");
    pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "secret"}}, {"name": "c", "configMap": {"name": "racey-0"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "s", "mountPath": "/etc/s", "readOnly": true}, {"name": "c", "mountPath": "/etc/c"}]);
    space.start(&pod)?;
    Ok(())
}

fn persistent_volume(space: &Space<'_>, claim: &str) -> Value {
    json!({"metadata": {"name": format!("node-suite-{claim}")}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
        "storageClassName": "node-suite", "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": format!("/var/lib/node-suite/{claim}"), "type": "DirectoryOrCreate"},
        "claimRef": {"namespace": space.name, "name": claim}}})
}

pub(crate) fn claims_lead_to_their_volumes(site: &Site) -> anyhow::Result<()> {
    let space = site.space("claims")?;
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let here = |pod: Value| {
        let mut pod = pod;
        pod["spec"]["nodeName"] = json!(node);
        pod
    };
    let request = json!({"accessModes": ["ReadWriteMany"], "storageClassName": "node-suite",
        "resources": {"requests": {"storage": "1Gi"}}});
    for name in ["own", "generic-vol"] {
        site.create(
            "/api/v1/persistentvolumes",
            &persistent_volume(&space, name),
        )?;
    }
    let claim = json!({"metadata": {"name": "own"}, "spec": request});
    space.create("persistentvolumeclaims", &claim)?;
    let source = json!({"persistentVolumeClaim": {"claimName": "own"}});
    let writer = job("writer", "echo kept > /etc/vol/file");
    space.output(&here(with_volume(writer, source.clone())))?;
    let reader = job("reader", "cat /etc/vol/file");
    let log = space.output(&here(with_volume(reader, source.clone())))?;
    ensure!(log == "kept\n", "{log}");
    let mut read_only = source;
    read_only["persistentVolumeClaim"]["readOnly"] = json!(true);
    let line = "touch /etc/vol/x && echo no || echo refused";
    let log = space.output(&here(with_volume(job("read-only", line), read_only)))?;
    ensure!(log.contains("refused\n"), "{log}");
    // A claim that is made with its pod, and goes with it.
    let generic = json!({"ephemeral": {"volumeClaimTemplate": {"spec": request}}});
    let line = "echo kept > /etc/vol/file && cat /etc/vol/file";
    let log = space.output(&with_volume(job("generic", line), generic))?;
    ensure!(log == "kept\n", "{log}");
    let absent = json!({"persistentVolumeClaim": {"claimName": "absent"}});
    space.pod(&with_volume(idle("waits"), absent))?;
    space.event(
        "pods/waits",
        "FailedScheduling",
        "persistentvolumeclaim \"absent\" not found",
    )?;
    for name in ["own", "generic-vol"] {
        site.delete(&format!("/api/v1/persistentvolumes/node-suite-{name}"))?;
    }
    Ok(())
}

/// A runtime before image volumes tells so; a newer one mounts the image's files.
pub(crate) fn an_image_is_a_volume_or_the_pod_says_why_not(site: &Site) -> anyhow::Result<()> {
    let space = site.space("image-volume")?;
    let volume =
        json!({"image": {"reference": "fairlead/testserver:1", "pullPolicy": "IfNotPresent"}});
    space.pod(&with_volume(idle("files"), volume))?;
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let node = site.get(&format!("/api/v1/nodes/{node}"))?;
    let version = node["status"]["nodeInfo"]["containerRuntimeVersion"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    if version.starts_with("containerd://1.") {
        space.event("pods/files", "Failed", "image volumes")?;
        let pod = space.until_within(PATIENCE, "pods/files", "explained", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        })?;
        let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
        ensure!(
            message.as_str().unwrap_or("").contains("containerd"),
            "{message}"
        );
    } else {
        space.ready("files")?;
        let files = space.exec("files", "main", "ls /etc/vol")?.success()?;
        ensure!(files.contains("testserver"), "{files}");
    }
    Ok(())
}

/// Longer than the file system keeps a time: a change is seen as one.
pub(crate) fn a_file_that_a_pod_holds_open_is_never_half_written(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("volume-atomic")?;
    let data = |letter: &str| json!({"a": letter.repeat(50_000), "b": letter.repeat(50_000)});
    space.config_map("big", data("x"))?;
    let line = "while true; do n=$(cat /etc/vol/..data/a /etc/vol/..data/b | tr -d xy | wc -c); \
        [ $n = 0 ] || echo half; sleep 0.05; done";
    space.start(&with_volume(
        job("watcher", line),
        source("configMap", "big", false, json!({})),
    ))?;
    space.patch("configmaps/big", &json!({"data": data("y")}))?;
    space.exec_until("watcher", "head -c 1 /etc/vol/a", "y")?;
    std::thread::sleep(Duration::from_secs(1));
    let log = space.log("watcher", "")?;
    ensure!(log.is_empty(), "{log}");
    Ok(())
}
