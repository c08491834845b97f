//! What a pod is told, and what it tells: generations, resources, kernel settings, names.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::resize::{cpu_memory, resizable, resources};
use crate::site::{
    BUSYBOX, IDLE, PATIENCE, Site, Space, condition, container, find_condition, idle, job, phase,
    pod_of, restarts, shell,
};

pub(crate) fn generation(pod: &Value) -> i64 {
    pod["metadata"]["generation"].as_i64().unwrap_or(-1)
}

pub(crate) fn generations_count_changes_of_the_spec(site: &Site) -> anyhow::Result<()> {
    let space = site.space("generation")?;
    let mut pod = idle("counted");
    pod["metadata"]["generation"] = json!(100);
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["initContainers"] = json!([shell("first", "true")]);
    let pod = space.start(&pod)?;
    ensure!(generation(&pod) == 1, "{}", pod["metadata"]);
    ensure!(
        pod["status"]["observedGeneration"] == 1,
        "{}",
        pod["status"]
    );
    let mut expected = 1;
    let toleration =
        json!([{"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"}]);
    let updates: [(&str, Value, bool); 7] = [
        ("/spec", Value::Null, false),
        ("/spec/tolerations", toleration, true),
        ("/spec/activeDeadlineSeconds", json!(5000), true),
        (
            "/spec/containers/0/image",
            json!("fairlead/testserver:1"),
            true,
        ),
        (
            "/spec/initContainers/0/image",
            json!("fairlead/testserver:1"),
            true,
        ),
        ("/metadata/annotations", json!({"key": "value"}), false),
        ("/metadata/generation", json!(1), false),
    ];
    for (path, value, bumps) in updates {
        let updated = update(&space, "counted", |pod| {
            let (parent, key) = path.rsplit_once('/').unwrap_or_default();
            match pod.pointer_mut(parent) {
                Some(parent) if !value.is_null() => {
                    let added = key == "tolerations";
                    let mut list = parent[key].as_array().cloned().unwrap_or_default();
                    list.extend(value.as_array().cloned().unwrap_or_default());
                    parent[key] = if added { json!(list) } else { value.clone() };
                }
                _ => {}
            }
        })?;
        expected += i64::from(bumps);
        ensure!(
            generation(&updated) == expected,
            "{path}: {}",
            updated["metadata"]
        );
    }
    space.until("pods/counted", "observed", |pod| {
        pod["status"]["observedGeneration"] == expected
    })?;
    let deleted = space.delete("pods/counted?gracePeriodSeconds=60")?;
    ensure!(
        generation(&deleted) == expected + 1,
        "{}",
        deleted["metadata"]
    );
    Ok(())
}

/// Reads, changes and writes a pod until nobody else was quicker.
fn update(space: &Space<'_>, name: &str, change: impl Fn(&mut Value)) -> anyhow::Result<Value> {
    let path = space.path(&format!("pods/{name}"));
    for _ in 0..20 {
        let mut pod = space.site.get(&path)?;
        change(&mut pod);
        match space.site.ask("PUT", &path, &pod)? {
            Ok(updated) => return Ok(updated),
            Err(refusal) if refusal.code == 409 => {}
            Err(refusal) => anyhow::bail!("{path}: {}", refusal.message),
        }
    }
    anyhow::bail!("{path}: always somebody else was quicker")
}

pub(crate) fn five_hundred_updates_are_observed(site: &Site) -> anyhow::Result<()> {
    let space = site.space("many-updates")?;
    space.start(&idle("busy"))?;
    for number in 0..500 {
        let deadline = json!({"spec": {"activeDeadlineSeconds": 10_000 - number}});
        space.patch("pods/busy", &deadline)?;
    }
    let pod = space.until("pods/busy", "observed", |pod| {
        pod["status"]["observedGeneration"] == 501
    })?;
    ensure!(generation(&pod) == 501, "{}", pod["metadata"]);
    let all = pod["status"]["conditions"]
        .as_array()
        .context("no conditions")?;
    let old = all.iter().find(|condition| {
        condition["observedGeneration"].as_i64() < Some(501) && condition["type"] != "PodScheduled"
    });
    ensure!(old.is_none(), "{old:?}");
    ensure!(restarts(&pod, "main") == 0, "{}", pod["status"]);
    Ok(())
}

pub(crate) fn classes_of_service_are_told_at_once(site: &Site) -> anyhow::Result<()> {
    let space = site.space("qos")?;
    let both = cpu_memory("100m", "100Mi");
    let cases = [
        (
            "guaranteed",
            resources(both.clone(), both.clone()),
            "Guaranteed",
        ),
        (
            "burstable",
            resources(json!({"cpu": "10m"}), Value::Null),
            "Burstable",
        ),
        ("besteffort", json!({}), "BestEffort"),
    ];
    for (name, resources, class) in cases {
        let made = space.pod(&resizable(name, &[("main", resources)]))?;
        ensure!(made["status"]["qosClass"] == class, "{}", made["status"]);
    }
    Ok(())
}

pub(crate) fn safe_sysctls_are_set_and_others_refused(site: &Site) -> anyhow::Result<()> {
    let space = site.space("sysctls")?;
    let with = |name: &str, sysctls: Value| {
        let mut pod = job(name, "/sbin/sysctl kernel.shm_rmid_forced");
        pod["spec"]["securityContext"] = json!({"sysctls": sysctls});
        pod
    };
    let shm = json!([{"name": "kernel.shm_rmid_forced", "value": "1"}]);
    let log = space.output(&with("safe", shm.clone()))?;
    ensure!(log.contains("kernel.shm_rmid_forced = 1"), "{log}");
    let slashes = json!([{"name": "kernel/shm_rmid_forced", "value": "1"}]);
    let log = space.output(&with("slashes", slashes))?;
    ensure!(log.contains("kernel.shm_rmid_forced = 1"), "{log}");
    let bad = json!([{"name": "foo-", "value": "bar"}, {"name": "kernel.shmmax", "value": "100000000"},
        {"name": "safe-and-unsafe", "value": "100000000"}, {"name": "bar..", "value": "42"}]);
    let refusal = space.refused(&with("bad", bad))?;
    for part in ["Invalid value: \"foo-\"", "Invalid value: \"bar..\""] {
        ensure!(refusal.message.contains(part), "{refusal:?}");
    }
    for part in ["safe-and-unsafe", "kernel.shmmax"] {
        ensure!(!refusal.message.contains(part), "{refusal:?}");
    }
    let unsafe_ = json!([{"name": "kernel.msgmax", "value": "10000000000"}]);
    space.pod(&with("unsafe", unsafe_))?;
    let pod = space.ended("unsafe")?;
    ensure!(
        pod["status"]["reason"] == "SysctlForbidden",
        "{}",
        pod["status"]
    );
    ensure!(phase(&pod) == "Failed", "{}", pod["status"]);
    Ok(())
}

pub(crate) fn security_contexts_decide_who_the_process_is(site: &Site) -> anyhow::Result<()> {
    let space = site.space("contexts")?;
    let make = |name: &str, line: &str, whole: Value, own: Value| {
        let mut pod = job(name, line);
        pod["spec"]["securityContext"] = whole;
        pod["spec"]["containers"][0]["securityContext"] = own;
        pod
    };
    let none = || json!({});
    let groups = json!({"runAsUser": 1000, "supplementalGroups": [1234, 5678], "fsGroup": 4321});
    let cases = [
        (
            "user-65534",
            make("user-65534", "id -u", none(), json!({"runAsUser": 65534})),
            "65534\n",
        ),
        (
            "user-0",
            make("user-0", "id -u", none(), json!({"runAsUser": 0})),
            "0\n",
        ),
        (
            "pod-wide",
            make(
                "pod-wide",
                "id -u; id -g",
                json!({"runAsUser": 1001, "runAsGroup": 2002}),
                none(),
            ),
            "1001\n2002\n",
        ),
        (
            "own",
            make(
                "own",
                "id -u; id -g",
                json!({"runAsUser": 1001}),
                json!({"runAsUser": 1002, "runAsGroup": 2003}),
            ),
            "1002\n2003\n",
        ),
        (
            "groups",
            make(
                "groups",
                "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '",
                groups,
                none(),
            ),
            "0 1234 4321 5678 ",
        ),
        (
            "no-privileges",
            make(
                "no-privileges",
                "ip link add dummy1 type bridge 2>/dev/null && echo no || echo refused",
                none(),
                json!({"privileged": false}),
            ),
            "refused\n",
        ),
        (
            "no-gain",
            make(
                "no-gain",
                "grep NoNewPrivs /proc/self/status",
                none(),
                json!({"allowPrivilegeEscalation": false, "runAsUser": 1000}),
            ),
            "NoNewPrivs:\t1\n",
        ),
        (
            "may-gain",
            make(
                "may-gain",
                "grep NoNewPrivs /proc/self/status",
                none(),
                json!({"allowPrivilegeEscalation": true, "runAsUser": 1000}),
            ),
            "NoNewPrivs:\t0\n",
        ),
        (
            "read-only",
            make(
                "read-only",
                "touch /checkfile 2>/dev/null && echo no || echo refused",
                none(),
                json!({"readOnlyRootFilesystem": true}),
            ),
            "refused\n",
        ),
        (
            "writable",
            make(
                "writable",
                "touch /checkfile && echo written",
                none(),
                json!({"readOnlyRootFilesystem": false}),
            ),
            "written\n",
        ),
        (
            "non-root",
            make(
                "non-root",
                "id -u",
                json!({"runAsNonRoot": true}),
                json!({"runAsUser": 1234}),
            ),
            "1234\n",
        ),
        (
            "seccomp",
            make(
                "seccomp",
                "grep Seccomp: /proc/self/status",
                none(),
                json!({"seccompProfile": {"type": "RuntimeDefault"}}),
            ),
            "Seccomp:\t2\n",
        ),
        (
            "unconfined",
            make(
                "unconfined",
                "grep Seccomp: /proc/self/status",
                none(),
                json!({"seccompProfile": {"type": "Unconfined"}}),
            ),
            "Seccomp:\t0\n",
        ),
        (
            "dropped",
            make(
                "dropped",
                "grep CapEff /proc/self/status",
                none(),
                json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
            ),
            "CapEff:\t0000000000000400\n",
        ),
    ];
    for (_, pod, _) in &cases {
        space.pod(pod)?;
    }
    for (name, _, wanted) in &cases {
        space.ended(name)?;
        let log = space.log(name, "")?;
        // What a program complains of stands beside what it prints.
        ensure!(
            log.ends_with(wanted),
            "{name}: {log:?} instead of {wanted:?}"
        );
    }
    let root = make(
        "root",
        "id -u",
        json!({"runAsNonRoot": true}),
        json!({"runAsUser": 0}),
    );
    space.pod(&root)?;
    let by_image = make("by-image", "id -u", json!({"runAsNonRoot": true}), none());
    space.pod(&by_image)?;
    space.event(
        "pods/root",
        "Failed",
        "container's runAsUser breaks non-root policy",
    )?;
    space.event(
        "pods/by-image",
        "Failed",
        "container has runAsNonRoot and image will run as root",
    )?;
    Ok(())
}

pub(crate) fn the_hosts_file_is_kept_unless_the_pod_has_its_own(site: &Site) -> anyhow::Result<()> {
    const MANAGED: &str = "# Kubernetes-managed hosts file.";
    let space = site.space("hosts")?;
    let mut pod = pod_of(
        "mixed",
        json!([
            shell("busybox-1", IDLE),
            shell("busybox-2", IDLE),
            shell("busybox-3", IDLE)
        ]),
    );
    pod["spec"]["volumes"] =
        json!([{"name": "own", "hostPath": {"path": "/etc/hosts", "type": "File"}}]);
    pod["spec"]["containers"][2]["volumeMounts"] =
        json!([{"name": "own", "mountPath": "/etc/hosts"}]);
    space.start(&pod)?;
    let mut host = pod_of(
        "host",
        json!([shell("busybox-1", IDLE), shell("busybox-2", IDLE)]),
    );
    host["spec"]["hostNetwork"] = json!(true);
    space.start(&host)?;
    for (pod, name, managed) in [
        ("mixed", "busybox-1", true),
        ("mixed", "busybox-2", true),
        ("mixed", "busybox-3", false),
        ("host", "busybox-1", false),
        ("host", "busybox-2", false),
    ] {
        let text = space.exec(pod, name, "cat /etc/hosts")?.success()?;
        ensure!(text.contains(MANAGED) == managed, "{pod}/{name}: {text}");
    }
    let mut aliased = job("aliased", "cat /etc/hosts");
    aliased["spec"]["hostAliases"] = json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]);
    let text = space.output(&aliased)?;
    ensure!(text.contains("123.45.67.89\tfoo\tbar"), "{text}");
    Ok(())
}

pub(crate) fn runtime_classes_are_looked_up_and_bring_their_overhead(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("runtime-classes")?;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let of = |pod: &str, class: &str| {
        let mut pod = idle(pod);
        pod["spec"]["runtimeClassName"] = json!(class);
        pod
    };
    let refusal = space.refused(&of("none", "node-suite-nonexistent"))?;
    ensure!(
        refusal.code == 403 && refusal.message.contains("not found"),
        "{refusal:?}"
    );
    let plain = json!({"metadata": {"name": "node-suite-plain"}, "handler": "runc"});
    site.create(classes, &plain)?;
    let over = json!({"metadata": {"name": "node-suite-over"}, "handler": "runc",
        "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}});
    site.create(classes, &over)?;
    let missing = json!({"metadata": {"name": "node-suite-handler"}, "handler": "no-such-handler"});
    site.create(classes, &missing)?;
    let made = space.start(&of("plain", "node-suite-plain"))?;
    ensure!(made["spec"]["overhead"].is_null(), "{}", made["spec"]);
    let made = space.start(&of("over", "node-suite-over"))?;
    ensure!(
        made["spec"]["overhead"] == json!({"cpu": "10m", "memory": "1Mi"}),
        "{}",
        made["spec"]
    );
    space.pod(&of("handler", "node-suite-handler"))?;
    space.event("pods/handler", "FailedCreatePodSandBox", "no-such-handler")?;
    for name in ["plain", "over", "handler"] {
        site.delete(&format!("{classes}/node-suite-{name}"))?;
    }
    let refusal = space.refused(&of("deleted", "node-suite-plain"))?;
    ensure!(refusal.code == 403, "{refusal:?}");
    Ok(())
}

pub(crate) fn addresses_of_pod_and_host_are_told(site: &Site) -> anyhow::Result<()> {
    let space = site.space("addresses")?;
    let pod = space.start(&idle("told"))?;
    let status = &pod["status"];
    ensure!(status["podIP"] == status["podIPs"][0]["ip"], "{status}");
    ensure!(status["hostIP"] == status["hostIPs"][0]["ip"], "{status}");
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let address = site.cluster.node_address(node)?;
    ensure!(status["hostIP"] == address, "{status}");
    ensure!(status["startTime"].is_string(), "{status}");
    let scheduled = find_condition(&pod, "PodScheduled");
    ensure!(scheduled["status"] == "True", "{status}");
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ] {
        ensure!(condition(&pod, kind) == "True", "{kind}: {status}");
    }
    let own = container(&pod, "main");
    ensure!(
        own["image"].as_str().unwrap_or("").contains("busybox"),
        "{own}"
    );
    ensure!(
        own["imageID"].as_str().is_some_and(|id| !id.is_empty()),
        "{own}"
    );
    ensure!(
        own["containerID"]
            .as_str()
            .is_some_and(|id| id.starts_with("containerd://")),
        "{own}"
    );
    ensure!(own["started"] == true && own["ready"] == true, "{own}");
    Ok(())
}

pub(crate) fn images_are_pulled_by_their_policy(site: &Site) -> anyhow::Result<()> {
    let space = site.space("images")?;
    let of = |name: &str, image: &str, policy: &str| {
        let mut pod = idle(name);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        pod
    };
    let absent = "fairlead/no-such-image:1";
    space.pod(&of("never", absent, "Never"))?;
    space.pod(&of("absent", absent, "IfNotPresent"))?;
    space.pod(&of("always-absent", absent, "Always"))?;
    space.pod(&of("invalid", "FOO_bar/Name:1:2", "IfNotPresent"))?;
    space.start(&of("present", BUSYBOX, "Never"))?;
    // With what a registry knows, and credentials for it: pulled anew each time.
    let keys =
        json!({"auths": {"private.lab:5001": {"username": "lab", "password": "sail-locker"}}});
    let secret = json!({"metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": keys.to_string()}});
    space.create("secrets", &secret)?;
    for name in ["always", "again"] {
        let mut pod = of(name, "private.lab:5001/fairlead/testserver:2", "Always");
        pod["spec"]["containers"][0]["command"] = json!(["/testserver", "sleep"]);
        pod["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
        space.start(&pod)?;
        space.event(
            &format!("pods/{name}"),
            "Pulled",
            "Successfully pulled image",
        )?;
    }
    space.event("pods/present", "Pulled", "already present on machine")?;
    let waits = |name: &str, reasons: &[&str]| {
        space.until_within(PATIENCE, &format!("pods/{name}"), "waiting", |pod| {
            let reason = container(pod, "main")["state"]["waiting"]["reason"].as_str();
            reasons.contains(&reason.unwrap_or_default())
        })
    };
    waits("never", &["ErrImageNeverPull"])?;
    waits("absent", &["ImagePullBackOff"])?;
    waits("always-absent", &["ErrImagePull", "ImagePullBackOff"])?;
    waits("invalid", &["InvalidImageName"])?;
    Ok(())
}

/// Reads the status and writes it as somebody else wants it, again when the kubelet was quicker.
fn unready(space: &Space<'_>, name: &str) -> anyhow::Result<Value> {
    let path = space.path(&format!("pods/{name}/status"));
    for _ in 0..10 {
        let mut pod = space.site.get(&path)?;
        let mut changed = 0;
        for kind in pod["status"]["conditions"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            let ours = kind["type"] == "Ready" || kind["type"] == "ContainersReady";
            if ours && kind["status"] == "True" {
                kind["status"] = json!("False");
                changed += 1;
            }
        }
        ensure!(changed == 2, "not ready before: {}", pod["status"]);
        match space.site.ask("PUT", &path, &pod)? {
            Ok(updated) => return Ok(updated),
            Err(refusal) if refusal.code == 409 => {}
            Err(refusal) => anyhow::bail!("{path}: {}", refusal.message),
        }
    }
    anyhow::bail!("{path}: always somebody else was quicker")
}

pub(crate) fn pods_and_their_statuses_are_changed_and_deleted(site: &Site) -> anyhow::Result<()> {
    let space = site.space("pod-life")?;
    let mut pod = pod_of(
        "pod-test",
        json!([{"name": "main", "image": "fairlead/testserver:1"}]),
    );
    pod["metadata"]["labels"] = json!({"test-pod-static": "true"});
    pod["spec"]["restartPolicy"] = json!("Always");
    space.start(&pod)?;
    // A new image restarts the container; until it has stopped, the pod is as ready as it was.
    let patch = json!({"metadata": {"labels": {"test-pod": "patched"}},
        "spec": {"containers": [{"name": "main", "image": "fairlead/testserver:2"}]}});
    let patched = space.patch("pods/pod-test", &patch)?;
    ensure!(
        patched["metadata"]["labels"]["test-pod"] == "patched",
        "{}",
        patched["metadata"]
    );
    let updated = unready(&space, "pod-test")?;
    ensure!(
        condition(&updated, "Ready") == "False",
        "{}",
        updated["status"]
    );
    ensure!(
        condition(&updated, "ContainersReady") == "False",
        "{}",
        updated["status"]
    );
    // The kubelet knows better, and says so.
    let pod = space.until("pods/pod-test", "ready with the new image", |pod| {
        condition(pod, "Ready") == "True" && restarts(pod, "main") == 1
    })?;
    ensure!(phase(&pod) == "Running", "{}", pod["status"]);
    // What others say of a pod stays.
    let said = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"message": "Patched by e2e test", "reason": "E2E"}});
    let patched = space.patch("pods/pod-test/status", &said)?;
    ensure!(
        patched["status"]["message"] == "Patched by e2e test",
        "{}",
        patched["status"]
    );
    ensure!(
        patched["status"]["reason"] == "E2E",
        "{}",
        patched["status"]
    );
    space.patch(
        "pods/pod-test",
        &json!({"metadata": {"labels": {"time": "later"}}}),
    )?;
    let list = space.get("pods?labelSelector=time%3Dlater")?;
    ensure!(
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1),
        "{list}"
    );
    space.delete("pods?labelSelector=test-pod-static%3Dtrue&gracePeriodSeconds=1")?;
    space.until_gone("pods/pod-test")
}

pub(crate) fn a_rejected_pod_follows_its_generation(site: &Site) -> anyhow::Result<()> {
    let space = site.space("rejected")?;
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let mut pod = resizable(
        "huge",
        &[("main", resources(json!({"cpu": "9000"}), Value::Null))],
    );
    pod["spec"]["nodeName"] = json!(node);
    space.pod(&pod)?;
    let pod = space.ended("huge")?;
    ensure!(phase(&pod) == "Failed", "{}", pod["status"]);
    ensure!(pod["status"]["reason"] == "OutOfcpu", "{}", pod["status"]);
    ensure!(
        pod["status"]["observedGeneration"] == 1,
        "{}",
        pod["status"]
    );
    update(&space, "huge", |pod| {
        let more = json!({"key": "foo", "operator": "Exists", "effect": "NoSchedule"});
        if let Some(list) = pod["spec"]["tolerations"].as_array_mut() {
            list.push(more);
        }
    })?;
    space.until("pods/huge", "observed", |pod| {
        pod["status"]["observedGeneration"] == 2
    })?;
    space.delete("pods/huge")?;
    space.until_gone("pods/huge")
}
