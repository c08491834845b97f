//! The node itself: its objects, its taints, its numbers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::site::{IDLE, Site, condition, find_condition, idle, job, phase, shell};

pub(crate) fn a_node_object_lives_through_its_life(site: &Site) -> anyhow::Result<()> {
    let nodes = "/api/v1/nodes";
    let name = "suite-node-fake";
    let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": true},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "message": "Set from e2e test"}]}});
    let made = site.create(nodes, &node)?;
    ensure!(made["metadata"]["uid"].is_string(), "{made}");
    let path = format!("{nodes}/{name}");
    let patched = site.patch(&path, &json!({"metadata": {"labels": {name: "patched"}}}))?;
    ensure!(
        patched["metadata"]["labels"][name] == "patched",
        "{}",
        patched["metadata"]
    );
    let status = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True", "message": "m"}]}});
    let patched = site.patch(&format!("{path}/status"), &status)?;
    ensure!(
        find_condition(&patched, "StatusPatched")["message"] == "m",
        "{}",
        patched["status"]
    );
    let list = site.get(&format!("{nodes}?labelSelector={name}%3Dpatched"))?;
    ensure!(
        list["items"].as_array().is_some_and(|list| list.len() == 1),
        "{list}"
    );
    site.delete(&format!("{nodes}?labelSelector={name}%3Dpatched"))?;
    ensure!(site.get(&path).is_err(), "the node is still there");
    Ok(())
}

pub(crate) fn a_nodes_lease_is_renewed(site: &Site) -> anyhow::Result<()> {
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
    let lease = site.get(&path)?;
    ensure!(lease["spec"]["holderIdentity"] == node, "{lease}");
    ensure!(
        lease["metadata"]["ownerReferences"][0]["kind"] == "Node",
        "{lease}"
    );
    let start = Instant::now();
    loop {
        let renewed = site.get(&path)?;
        if renewed["spec"]["renewTime"] != lease["spec"]["renewTime"] {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(40), "{renewed}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Taints of its own key, which only the pods of the case do not tolerate for ever.
pub(crate) fn taints_evict_when_their_time_is_over(site: &Site) -> anyhow::Result<()> {
    let space = site.space("taints")?;
    let toleration = |seconds: i64| {
        json!([{"key": "node-suite/evict", "operator": "Equal", "value": "yes",
        "effect": "NoExecute", "tolerationSeconds": seconds}])
    };
    // Everything else on the node tolerates it, so other cases go on undisturbed: the taint
    // is put on a fake node that nobody runs on but these pods.
    let fake = "suite-node-tainted";
    let object = json!({"metadata": {"name": fake}, "spec": {"taints": [
        {"key": "node-suite/evict", "value": "yes", "effect": "NoExecute"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    site.create("/api/v1/nodes", &object)?;
    for (name, seconds) in [("short", 3), ("long", 3600)] {
        let mut pod = idle(name);
        pod["spec"]["nodeName"] = json!(fake);
        pod["spec"]["tolerations"] = toleration(seconds);
        space.pod(&pod)?;
    }
    let mut never = idle("never");
    never["spec"]["nodeName"] = json!(fake);
    never["spec"]["tolerations"] =
        json!([{"key": "other", "operator": "Exists", "effect": "NoExecute"}]);
    space.pod(&never)?;
    for name in ["never", "short"] {
        let pod = space.until(&format!("pods/{name}"), "evicted", |pod| {
            pod["metadata"]["deletionTimestamp"].is_string()
        });
        // A pod that nobody runs is gone at once or waits for its node; both are evictions.
        if let Ok(pod) = pod {
            let found = find_condition(&pod, "DisruptionTarget");
            ensure!(
                found["reason"] == "DeletionByTaintManager",
                "{}",
                pod["status"]
            );
        }
    }
    let long = space.get("pods/long")?;
    ensure!(
        long["metadata"]["deletionTimestamp"].is_null(),
        "{}",
        long["metadata"]
    );
    site.delete(&format!("/api/v1/nodes/{fake}"))?;
    for name in ["never", "short", "long"] {
        let _ = space.delete(&format!("pods/{name}?gracePeriodSeconds=0"));
    }
    Ok(())
}

pub(crate) fn pods_that_take_too_much_room_are_evicted(site: &Site) -> anyhow::Result<()> {
    let space = site.space("eviction")?;
    let fill = "dd if=/dev/zero of=/own/file bs=1M count=30 2>/dev/null; sleep 3600";
    let mut pod = job("volume", fill);
    pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {"sizeLimit": "10Mi"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/own"}]);
    space.pod(&pod)?;
    let mut pod = job(
        "layer",
        "mkdir /own; dd if=/dev/zero of=/own/file bs=1M count=30 2>/dev/null; sleep 3600",
    );
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "10Mi"}});
    space.pod(&pod)?;
    for name in ["volume", "layer"] {
        let pod = space.until(&format!("pods/{name}"), "evicted", |pod| {
            phase(pod) == "Failed" && pod["status"]["reason"] == "Evicted"
        })?;
        space.event(&format!("pods/{name}"), "Evicted", "")?;
        ensure!(
            pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object(),
            "{}",
            pod["status"]
        );
    }
    Ok(())
}

pub(crate) fn an_eviction_by_the_api_is_a_disruption(site: &Site) -> anyhow::Result<()> {
    let space = site.space("api-eviction")?;
    let mut pod = job(
        "evicted",
        &format!("trap 'sleep 3; exit 0' TERM; {IDLE}").replace("trap 'exit 0' TERM; ", ""),
    );
    pod["metadata"]["finalizers"] = json!(["test.fairlead.io/hold"]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(10);
    space.start(&pod)?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted", "namespace": space.name}});
    space.create("pods/evicted/eviction", &eviction)?;
    let pod = space.until("pods/evicted", "ended", |pod| {
        matches!(phase(pod), "Failed" | "Succeeded")
    })?;
    let found = find_condition(&pod, "DisruptionTarget");
    ensure!(
        found["reason"] == "EvictionByEvictionAPI" && found["status"] == "True",
        "{}",
        pod["status"]
    );
    ensure!(condition(&pod, "Ready") == "False", "{}", pod["status"]);
    space.patch(
        "pods/evicted",
        &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["test.fairlead.io/hold"]}}),
    )?;
    space.until_gone("pods/evicted")
}

pub(crate) fn the_kubelets_numbers_are_as_collectors_read_them(site: &Site) -> anyhow::Result<()> {
    let space = site.space("numbers")?;
    let mut pod = job(
        "busy",
        "dd if=/dev/zero of=/own/file bs=1M count=5; while true; do :; done",
    );
    pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/own"}]);
    pod["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
    let pod = space.start(&pod)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let proxy = format!("/api/v1/nodes/{node}/proxy");
    let start = Instant::now();
    let summary = loop {
        let summary = site.get(&format!("{proxy}/stats/summary"))?;
        let own = summary["pods"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|pod| pod["podRef"]["name"] == "busy")
            .cloned();
        match own {
            Some(own) if own["cpu"]["usageNanoCores"].as_u64() > Some(0) => break own,
            _ => ensure!(start.elapsed() < Duration::from_secs(60), "{summary}"),
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    ensure!(summary["containers"][0]["name"] == "main", "{summary}");
    for (part, field) in [
        ("memory", "workingSetBytes"),
        ("ephemeral-storage", "usedBytes"),
        ("network", "rxBytes"),
        ("process_stats", "process_count"),
    ] {
        ensure!(
            summary[part][field].is_u64(),
            "no {part} {field}: {summary}"
        );
    }
    let volume = summary["volume"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|volume| volume["name"] == "own");
    let used = volume.and_then(|volume| volume["usedBytes"].as_u64());
    ensure!(used >= Some(5 << 20), "{summary}");
    let labels = "container=\"main\",namespace=\"numbers\",pod=\"busy\"";
    let resource = site.text(&format!("{proxy}/metrics/resource"))?;
    for line in [
        format!("container_cpu_usage_seconds_total{{{labels}}} "),
        format!("container_memory_working_set_bytes{{{labels}}} "),
        format!("container_start_time_seconds{{{labels}}} "),
        "pod_cpu_usage_seconds_total{namespace=\"numbers\",pod=\"busy\"} ".to_owned(),
        "pod_memory_working_set_bytes{namespace=\"numbers\",pod=\"busy\"} ".to_owned(),
        "node_cpu_usage_seconds_total ".to_owned(),
        "node_memory_working_set_bytes ".to_owned(),
        "resource_scrape_error 0".to_owned(),
    ] {
        ensure!(resource.contains(&line), "no {line} in\n{resource}");
    }
    let cadvisor = site.text(&format!("{proxy}/metrics/cadvisor"))?;
    for name in [
        "container_cpu_usage_seconds_total{",
        "container_memory_working_set_bytes{",
        "container_spec_memory_limit_bytes{",
        "container_network_receive_bytes_total{",
        "container_cpu_cfs_throttled_periods_total{",
        "machine_memory_bytes",
        "machine_cpu_cores",
    ] {
        ensure!(
            cadvisor.lines().any(|line| line.starts_with(name)
                && (!name.ends_with('{') || line.contains("pod=\"busy\""))),
            "no {name} in\n{cadvisor}"
        );
    }
    let own = site.text(&format!("{proxy}/metrics"))?;
    for name in [
        "kubelet_running_pods",
        "kubelet_runtime_operations_total",
        "kubelet_node_name",
    ] {
        ensure!(own.contains(name), "no {name} in\n{own}");
    }
    let pods = site.get(&format!("{proxy}/pods"))?;
    ensure!(
        pods["items"]
            .as_array()
            .is_some_and(|list| list.iter().any(|pod| pod["metadata"]["name"] == "busy")),
        "{pods}"
    );
    let healthy = site.text(&format!("{proxy}/healthz"))?;
    ensure!(healthy == "ok", "{healthy}");
    Ok(())
}

/// Manifests in a directory of the node run without the API server, which shows mirrors of them.
pub(crate) fn manifests_of_a_directory_run_as_static_pods(site: &Site) -> anyhow::Result<()> {
    let space = site.space("static")?;
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let manifest = |text: &str| -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "by-file", "namespace": space.name, "labels": {"app": "by-file"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell("main", &format!("echo {text}; {IDLE}"))]}})
    };
    let write = |text: &str| {
        let line = format!(
            "mkdir -p /etc/kubernetes/manifests && printf '%s' \"$1\" > /etc/kubernetes/manifests/.new && mv /etc/kubernetes/manifests/.new /etc/kubernetes/manifests/{}.yaml",
            space.name
        );
        site.cluster
            .exec(
                &node,
                &["sh", "-c", &line, "sh", &manifest(text).to_string()],
            )?
            .success()
    };
    write("first")?;
    let name = format!("by-file-{node}");
    let mirror = space.ready(&name)?;
    let annotations = &mirror["metadata"]["annotations"];
    ensure!(
        annotations["kubernetes.io/config.source"] == "file",
        "{annotations}"
    );
    ensure!(
        annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"],
        "{annotations}"
    );
    let owner = &mirror["metadata"]["ownerReferences"][0];
    ensure!(
        owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true,
        "{owner}"
    );
    ensure!(mirror["spec"]["nodeName"] == node, "{}", mirror["spec"]);
    space.log_with(&name, "", "first")?;
    let echo = space.exec(&name, "main", "echo here")?.success()?;
    ensure!(echo == "here\n", "{echo}");
    // Deleting the mirror deletes no pod: it comes back, and the container is the same.
    let id = mirror["status"]["containerStatuses"][0]["containerID"].clone();
    space.delete(&format!("pods/{name}?gracePeriodSeconds=0"))?;
    let again = space.until(&format!("pods/{name}"), "mirrored again", |pod| {
        pod["metadata"]["uid"] != mirror["metadata"]["uid"] && condition(pod, "Ready") == "True"
    });
    let again = match again {
        Ok(again) => again,
        Err(_) => space.ready(&name)?,
    };
    ensure!(
        again["status"]["containerStatuses"][0]["containerID"] == id,
        "{}",
        again["status"]
    );
    write("second")?;
    let start = Instant::now();
    while !space.log(&name, "").unwrap_or_default().contains("second") {
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "the changed manifest does not run"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    space.ready(&name)?;
    site.cluster
        .exec(
            &node,
            &[
                "rm",
                &format!("/etc/kubernetes/manifests/{}.yaml", space.name),
            ],
        )?
        .success()?;
    space.until_gone(&format!("pods/{name}"))
}
