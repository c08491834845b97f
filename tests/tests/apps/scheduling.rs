//! The scheduler, LimitRanges and PriorityClasses.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::site::{
    Patch, Site, Space, condition, idle_spec, is_ready, name, pod, refused, workload,
};
use serde_json::{Value, json};

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// An extended resource that only these cases use.
const FAKE: &str = "example.com/fakecpu";

fn until_unschedulable(space: &Space<'_>, pod: &str, part: &str) -> anyhow::Result<()> {
    space.until(&format!("pods/{pod}"), "unschedulable", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| {
            condition["reason"] == "Unschedulable"
                && condition["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(part))
        })
    })?;
    Ok(())
}

pub(crate) fn limit_ranges_give_defaults_and_refuse_what_is_beyond(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("limit-range")?;
    let range = json!({"metadata": {"name": "l", "labels": {"l": "1"}}, "spec": {"limits": [{
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
        "maxLimitRequestRatio": {},
    }]}});
    space.create("limitranges", &range)?;
    let asking = |name: &str, resources: Value| {
        let mut spec = idle_spec();
        spec["containers"][0]["resources"] = resources;
        pod(name, spec)
    };
    let resources = |pod: Value| pod["spec"]["containers"][0]["resources"].clone();
    let made = resources(space.create("pods", &pod("none", idle_spec()))?);
    ensure!(
        made["requests"] == json!({"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"}),
        "{made}"
    );
    ensure!(
        made["limits"] == json!({"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"}),
        "{made}"
    );
    let some = json!({"requests": {"cpu": "300m", "memory": "150Mi"}, "limits": {"cpu": "300m"}});
    let made = resources(space.create("pods", &asking("some", some))?);
    ensure!(
        made["requests"]["ephemeral-storage"] == "200Gi" && made["requests"]["cpu"] == "300m",
        "{made}"
    );
    ensure!(
        made["limits"]["memory"] == "500Mi" && made["limits"]["cpu"] == "300m",
        "{made}"
    );
    for resources in [
        json!({"requests": {"cpu": "10m", "memory": "50Mi"}}),
        json!({"requests": {"cpu": "600m"}, "limits": {"cpu": "600m"}}),
    ] {
        let refusal = refused("beyond", space.post("pods", &asking("no", resources))?)?;
        ensure!(refusal.code == 403, "{refusal:?}");
    }
    let patch = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "5m"}}]}});
    space.merge("limitranges/l", &patch)?;
    ensure!(site.list("/api/v1/limitranges?labelSelector=l%3D1")?.len() == 1);
    space.delete("limitranges?labelSelector=l%3D1")?;
    space.until_gone("limitranges/l")?;
    space.create("pods", &pod("free", idle_spec()))?;
    Ok(())
}

pub(crate) fn a_pod_waits_where_no_node_matches_and_goes_where_one_does(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("schedule-match")?;
    let node = site.nodes()?.pop().context("no node")?;
    let place = format!("/api/v1/nodes/{node}");
    let mut spec = idle_spec();
    spec["nodeSelector"] = json!({ "kubernetes.io/e2e-match": "42" });
    space.create("pods", &pod("restricted", spec))?;
    until_unschedulable(
        &space,
        "restricted",
        "didn't match Pod's node affinity/selector",
    )?;
    site.merge(
        &place,
        &json!({"metadata": {"labels": {"kubernetes.io/e2e-match": "42"}}}),
    )?;
    let found = space.until("pods/restricted", "running", is_ready)?;
    ensure!(found["spec"]["nodeName"] == node.as_str());
    site.merge(
        &place,
        &json!({"metadata": {"labels": {"kubernetes.io/e2e-match": null}}}),
    )?;
    let mut spec = idle_spec();
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "10k" } });
    space.create("pods", &pod("large", spec))?;
    until_unschedulable(&space, "large", "Insufficient cpu")?;
    let events = space.list("events?fieldSelector=involvedObject.name%3Dlarge")?;
    ensure!(
        events
            .iter()
            .any(|event| event["reason"] == "FailedScheduling")
    );
    Ok(())
}

pub(crate) fn host_ports_conflict_by_address_and_protocol(site: &Site) -> anyhow::Result<()> {
    let space = site.space("schedule-ports")?;
    let node = site.nodes()?.pop().context("no node")?;
    let with_port = |name: &str, port: u16, address: &str, protocol: &str| {
        let mut spec = idle_spec();
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        // With no grace at all the pod would be gone before its port is free.
        spec["terminationGracePeriodSeconds"] = json!(1);
        spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": port,
            "hostIP": address, "protocol": protocol }]);
        pod(name, spec)
    };
    space.start(&with_port("one", 54321, "127.0.0.1", "TCP"))?;
    space.start(&with_port("two", 54321, "127.0.0.2", "TCP"))?;
    space.start(&with_port("three", 54321, "127.0.0.2", "UDP"))?;
    space.start(&with_port("all", 54322, "", "TCP"))?;
    space.create("pods", &with_port("conflict", 54322, "127.0.0.1", "TCP"))?;
    until_unschedulable(&space, "conflict", "free ports")?;
    space.delete("pods/all")?;
    space.until("pods/conflict", "running", is_ready)?;
    Ok(())
}

fn class(site: &Site, name: &str, value: i64) -> anyhow::Result<()> {
    let object = json!({"metadata": {"name": name}, "value": value});
    site.create(CLASSES, &object).map(drop)
}

pub(crate) fn priority_classes_keep_their_value(site: &Site) -> anyhow::Result<()> {
    let labels = json!({"pc": "app"});
    for (name, value) in [("app-p1", 1), ("app-p2", 2)] {
        let object = json!({"metadata": {"name": name, "labels": labels}, "value": value});
        site.create(CLASSES, &object)?;
    }
    let place = format!("{CLASSES}/app-p1");
    let patch = site.ask("GET", &place, &Value::Null)?;
    let mut changed = cluster_tests::site::accepted(&place, patch)?;
    changed["value"] = json!(5);
    let refusal = refused("a new value", site.ask("PUT", &place, &changed)?)?;
    ensure!(
        refusal.code == 422 && refusal.message.contains("may not be changed in an update"),
        "{refusal:?}"
    );
    site.merge(&place, &json!({"description": "patched"}))?;
    site.change(&place, |class| class["description"] = json!("updated"))?;
    ensure!(
        site.list(&format!("{CLASSES}?labelSelector=pc%3Dapp"))?
            .len()
            == 2
    );
    site.delete(&format!("{CLASSES}?labelSelector=pc%3Dapp"))?;
    site.until_gone(&place)
}

fn fake(name: &str, amount: u32, class: &str, node: &str) -> Value {
    let mut spec = idle_spec();
    spec["priorityClassName"] = json!(class);
    spec["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    let amounts = json!({ FAKE: amount.to_string() });
    spec["containers"][0]["resources"] = json!({ "requests": amounts, "limits": amounts });
    pod(name, spec)
}

fn give(site: &Site, node: &str, amount: Value) -> anyhow::Result<()> {
    let change = json!({"status": {"capacity": {FAKE: amount}, "allocatable": {FAKE: amount}}});
    let place = format!("/api/v1/nodes/{node}/status");
    site.patch(&place, Patch::Merge, &change).map(drop)
}

/// One case, because the resource of the node is one.
pub(crate) fn what_is_taken_of_the_nodes_is_counted_and_the_more_important_pod_wins(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("schedule-preempt")?;
    let nodes = site.nodes()?;
    let node = nodes.last().context("no node")?.as_str();
    for (name, value) in [("low", 1), ("middle", 100), ("high", 1000)] {
        class(site, &format!("app-{name}"), value)?;
    }
    give(site, node, json!("5"))?;
    space.start(&fake("first", 2, "app-low", node))?;
    space.start(&fake("second", 2, "app-middle", node))?;
    space.create("pods", &fake("equal", 2, "app-low", node))?;
    until_unschedulable(&space, "equal", &format!("Insufficient {FAKE}"))?;
    let first = space.get("pods/first")?;
    space.create("pods", &fake("third", 2, "app-high", node))?;
    space.until("pods/third", "running", is_ready)?;
    space.until_gone("pods/first")?;
    ensure!(!first["metadata"]["uid"].is_null());
    ensure!(
        space.find("pods/second")?.is_some(),
        "more was preempted than had to be"
    );
    // Critical pods are above all classes.
    let mut critical = fake("critical", 4, "system-cluster-critical", node);
    critical["metadata"]["namespace"] = json!("kube-system");
    critical["metadata"]["name"] = json!("app-critical");
    site.create("/api/v1/namespaces/kube-system/pods", &critical)?;
    site.until(
        "/api/v1/namespaces/kube-system/pods/app-critical",
        "running",
        is_ready,
    )?;
    space.until_gone("pods/second")?;
    space.until_gone("pods/third")?;
    site.delete("/api/v1/namespaces/kube-system/pods/app-critical")?;
    site.until_gone("/api/v1/namespaces/kube-system/pods/app-critical")?;
    space.delete("pods?labelSelector=app%3Dequal")?;
    levels(site, &space, node)?;
    give(site, node, Value::Null)?;
    for name in ["low", "middle", "high"] {
        site.delete(&format!("{CLASSES}/app-{name}"))?;
    }
    Ok(())
}

/// Of ReplicaSets of several priorities only the least important one makes room, and what it
/// makes anew waits without pushing anybody.
fn levels(site: &Site, space: &Space<'_>, node: &str) -> anyhow::Result<()> {
    give(site, node, json!("1000"))?;
    let levels = [
        ("app-low", "rs1", 200),
        ("app-middle", "rs2", 300),
        ("app-high", "rs3", 450),
    ];
    for (class, name, amount) in levels {
        let mut set = workload(
            "ReplicaSet",
            name,
            1,
            fake(name, amount, class, node)["spec"].clone(),
        );
        set["spec"]["template"]["metadata"]["labels"]["level"] = json!(class);
        space.create("replicasets", &set)?;
        space.until_ready(&format!("app={name}"), 1)?;
    }
    let kept = space.until_ready("app in (rs2, rs3)", 2)?;
    let preemptor = fake("pod4", 250, "app-high", node);
    space.create("pods", &preemptor)?;
    space.until("pods/pod4", "running", is_ready)?;
    space.until_pods("app=rs1", "waiting", |pods| {
        pods.len() == 1 && condition(&pods[0], "PodScheduled") == "False"
    })?;
    let after = space.until_ready("app in (rs2, rs3)", 2)?;
    for pod in &kept {
        ensure!(
            after.iter().any(|other| name(other) == name(pod)),
            "{} was preempted",
            name(pod)
        );
    }
    Ok(())
}

pub(crate) fn a_claim_for_one_pod_is_not_shared(site: &Site) -> anyhow::Result<()> {
    let space = site.space("schedule-claim")?;
    let volume = json!({"metadata": {"name": "app-one-pod"}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOncePod"],
        "storageClassName": "app-one-pod", "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": "/tmp/app-one-pod", "type": "DirectoryOrCreate"}}});
    site.create("/api/v1/persistentvolumes", &volume)?;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOncePod"],
        "storageClassName": "app-one-pod", "resources": {"requests": {"storage": "1Mi"}}}});
    space.create("persistentvolumeclaims", &claim)?;
    let using = |name: &str| {
        let mut spec = idle_spec();
        spec["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }]);
        spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
        pod(name, spec)
    };
    space.start(&using("one"))?;
    space.create("pods", &using("two"))?;
    until_unschedulable(&space, "two", "ReadWriteOncePod")?;
    space.delete("pods/one")?;
    space.until("pods/two", "running", is_ready)?;
    space.delete("pods/two")?;
    space.until_gone("pods/two")?;
    site.delete("/api/v1/persistentvolumes/app-one-pod")
        .map(drop)
}

pub(crate) fn a_deleted_or_evicted_victim_says_why(site: &Site) -> anyhow::Result<()> {
    let space = site.space("schedule-victim")?;
    let nodes = site.nodes()?;
    let node = nodes.first().context("no node")?.as_str();
    class(site, "app-victor", 5)?;
    give(site, node, json!("2"))?;
    let mut victim = fake("victim", 2, "", node);
    victim["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("priorityClassName"));
    victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
    space.start(&victim)?;
    space.create("pods", &fake("victor", 2, "app-victor", node))?;
    let found = space.until("pods/victim", "on its way", |pod| {
        condition(pod, "DisruptionTarget") == "True"
            && !pod["metadata"]["deletionTimestamp"].is_null()
    })?;
    let conditions = found["status"]["conditions"].to_string();
    ensure!(conditions.contains("PreemptionByScheduler"), "{conditions}");
    space.merge("pods/victim", &json!({"metadata": {"finalizers": null}}))?;
    space.until("pods/victor", "running", is_ready)?;
    give(site, node, Value::Null)?;
    site.delete(&format!("{CLASSES}/app-victor"))?;
    space.start(&pod("evicted", idle_spec()))?;
    let hold = json!({"metadata": {"finalizers": ["example.com/test-finalizer"]}});
    space.merge("pods/evicted", &hold)?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "evicted", "namespace": space.name}});
    space.create("pods/evicted/eviction", &eviction)?;
    let found = space.until("pods/evicted", "told", |pod| {
        condition(pod, "DisruptionTarget") == "True"
    })?;
    ensure!(
        found["status"]["conditions"]
            .to_string()
            .contains("EvictionByEvictionAPI")
    );
    space.merge("pods/evicted", &json!({"metadata": {"finalizers": null}}))?;
    space.until_gone("pods/evicted")
}

pub(crate) fn claims_for_devices_are_made_from_templates(site: &Site) -> anyhow::Result<()> {
    let space = site.space("device-claims")?;
    let class = json!({"metadata": {"name": "app-devices"}, "spec": {}});
    site.create("/apis/resource.k8s.io/v1/deviceclasses", &class)?;
    let request = json!({"devices": {"requests": [{"name": "one",
        "exactly": {"deviceClassName": "app-devices"}}]}});
    let template = json!({"metadata": {"name": "t"}, "spec": {
        "metadata": {"labels": {"from": "t"}}, "spec": request}});
    space.create("resourceclaimtemplates", &template)?;
    let mut spec = idle_spec();
    spec["resourceClaims"] = json!([{ "name": "device", "resourceClaimTemplateName": "t" }]);
    spec["containers"][0]["resources"] = json!({ "claims": [{ "name": "device" }] });
    space.create("pods", &pod("user", spec))?;
    let found = space.until("pods/user", "told its claim", |pod| {
        pod["status"]["resourceClaimStatuses"][0]["name"] == "device"
    })?;
    let claim = &found["status"]["resourceClaimStatuses"][0]["resourceClaimName"];
    let claim = claim.as_str().context("no claim")?;
    let made = space.get(&format!("resourceclaims/{claim}"))?;
    ensure!(
        made["metadata"]["ownerReferences"][0]["name"] == "user",
        "{made}"
    );
    ensure!(
        made["metadata"]["labels"]["from"] == "t"
            && made["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"]
                == "app-devices",
        "{made}"
    );
    // There are no such devices: the pod waits.
    until_unschedulable(&space, "user", "")?;
    space.stays(Duration::from_secs(1), "pods/user", "waiting", |pod| {
        pod["spec"]["nodeName"].is_null()
    })?;
    space.delete("pods/user")?;
    space.until_gone(&format!("resourceclaims/{claim}"))?;
    site.delete("/apis/resource.k8s.io/v1/deviceclasses/app-devices")
        .map(drop)
}
