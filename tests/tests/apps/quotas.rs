//! ResourceQuotas.

use anyhow::ensure;
use cluster_tests::site::{Site, Space, idle_spec, pod, refused, workload};
use serde_json::{Value, json};

fn quota(space: &Space<'_>, name: &str, hard: &Value, scopes: &Value) -> anyhow::Result<()> {
    let object = json!({"metadata": {"name": name}, "spec": {"hard": hard, "scopes": scopes}});
    space.create("resourcequotas", &object)?;
    space.until(&format!("resourcequotas/{name}"), "counted", |quota| {
        quota["status"]["hard"] == quota["spec"]["hard"]
            && quota["status"]["used"]
                .as_object()
                .map(serde_json::Map::len)
                == hard.as_object().map(serde_json::Map::len)
    })?;
    Ok(())
}

fn until_used(space: &Space<'_>, name: &str, used: &Value) -> anyhow::Result<()> {
    let wanted = format!("using {used}");
    space.until(&format!("resourcequotas/{name}"), &wanted, |quota| {
        let fields = used.as_object().into_iter().flatten();
        fields
            .clone()
            .all(|(key, value)| quota["status"]["used"][key] == *value)
    })?;
    Ok(())
}

pub(crate) fn every_kind_that_is_counted_is_counted_and_given_back(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("quota-kinds")?;
    let maps = space.list("configmaps")?.len();
    let hard = json!({"configmaps": (maps + 1).to_string(), "secrets": "1", "services": "3",
        "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "1", "count/replicasets.apps": "1",
        "persistentvolumeclaims": "1", "requests.storage": "1Gi", "resourcequotas": "1"});
    quota(&space, "q", &hard, &Value::Null)?;
    until_used(
        &space,
        "q",
        &json!({"resourcequotas": "1", "services": "0"}),
    )?;
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    space.create("services", &service("plain", "ClusterIP"))?;
    space.create("services", &service("node", "NodePort"))?;
    until_used(
        &space,
        "q",
        &json!({"services": "2", "services.nodeports": "1"}),
    )?;
    let refusal = refused(
        "a load balancer",
        space.post("services", &service("lb", "LoadBalancer"))?,
    )?;
    ensure!(
        refusal.code == 403 && refusal.message.contains("exceeded quota: q"),
        "{refusal:?}"
    );
    space.create("secrets", &json!({"metadata": {"name": "s"}}))?;
    let refusal = refused(
        "a second",
        space.post("secrets", &json!({"metadata": {"name": "t"}}))?,
    )?;
    ensure!(refusal.code == 403, "{refusal:?}");
    space.create("configmaps", &json!({"metadata": {"name": "m"}}))?;
    space.create(
        "replicationcontrollers",
        &workload("ReplicationController", "rc", 0, idle_spec()),
    )?;
    space.create("replicasets", &workload("ReplicaSet", "rs", 0, idle_spec()))?;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    space.create("persistentvolumeclaims", &claim)?;
    let full = json!({"secrets": "1", "configmaps": (maps + 1).to_string(),
        "replicationcontrollers": "1", "count/replicasets.apps": "1",
        "persistentvolumeclaims": "1", "requests.storage": "1Gi"});
    until_used(&space, "q", &full)?;
    for what in [
        "services/plain",
        "services/node",
        "secrets/s",
        "configmaps/m",
        "replicationcontrollers/rc",
        "replicasets/rs",
        "persistentvolumeclaims/c",
    ] {
        space.delete(what)?;
    }
    let empty = json!({"services": "0", "services.nodeports": "0", "secrets": "0",
        "configmaps": maps.to_string(), "replicationcontrollers": "0",
        "count/replicasets.apps": "0", "persistentvolumeclaims": "0", "requests.storage": "0"});
    until_used(&space, "q", &empty)
}

fn asking(name: &str, requests: Value, limits: Value) -> Value {
    let mut spec = idle_spec();
    spec["containers"][0]["resources"] = json!({ "requests": requests, "limits": limits });
    pod(name, spec)
}

pub(crate) fn pods_are_counted_by_what_they_ask_for(site: &Site) -> anyhow::Result<()> {
    let space = site.space("quota-pods")?;
    let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
        "requests.example.com/dongle": "3"});
    quota(&space, "q", &hard, &Value::Null)?;
    let requests = json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "example.com/dongle": "2"});
    let limits = json!({"example.com/dongle": "2"});
    space.create("pods", &asking("first", requests, limits))?;
    let used = json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "requests.example.com/dongle": "2"});
    until_used(&space, "q", &used)?;
    let too_much = [
        json!({"cpu": "600m", "memory": "100Mi", "ephemeral-storage": "1Gi"}),
        json!({"cpu": "100m", "memory": "300Mi", "ephemeral-storage": "1Gi"}),
    ];
    for requests in too_much {
        let refusal = refused(
            "too much",
            space.post("pods", &asking("no", requests, json!({})))?,
        )?;
        ensure!(
            refusal.code == 403 && refusal.message.contains("exceeded quota"),
            "{refusal:?}"
        );
    }
    let dongles = asking(
        "no",
        json!({"cpu": "1m", "memory": "1Mi", "ephemeral-storage": "1Mi",
        "example.com/dongle": "2"}),
        json!({"example.com/dongle": "2"}),
    );
    ensure!(refused("dongles", space.post("pods", &dongles)?)?.code == 403);
    let silent = refused(
        "a pod that asks for nothing",
        space.post("pods", &pod("no", idle_spec()))?,
    )?;
    ensure!(silent.message.contains("must specify"), "{silent:?}");
    let patch = json!({"spec": {"containers": [{"name": "pause",
        "resources": {"requests": {"cpu": "600m"}}}]}});
    let changed = site.patch(
        &space.path("pods/first"),
        cluster_tests::site::Patch::Strategic,
        &patch,
    );
    ensure!(changed.is_err(), "a pod asks for more after its creation");
    space.delete_with("pods/first", &json!({"gracePeriodSeconds": 0}))?;
    until_used(
        &space,
        "q",
        &json!({"pods": "0", "cpu": "0", "memory": "0",
        "ephemeral-storage": "0", "requests.example.com/dongle": "0"}),
    )
}

pub(crate) fn scopes_choose_the_pods_of_a_quota(site: &Site) -> anyhow::Result<()> {
    let space = site.space("quota-scopes")?;
    let scopes = [
        ("best", "BestEffort"),
        ("not-best", "NotBestEffort"),
        ("ending", "Terminating"),
        ("not-ending", "NotTerminating"),
    ];
    for (name, scope) in scopes {
        quota(&space, name, &json!({"pods": "5"}), &json!([scope]))?;
    }
    let counts = |numbers: [&str; 4]| -> anyhow::Result<()> {
        for ((name, _), number) in scopes.iter().zip(numbers) {
            until_used(&space, name, &json!({ "pods": number }))?;
        }
        Ok(())
    };
    space.create("pods", &pod("best", idle_spec()))?;
    counts(["1", "0", "0", "1"])?;
    let some = json!({"cpu": "10m", "memory": "10Mi"});
    let mut ending = asking("ending", some.clone(), some);
    ending["spec"]["activeDeadlineSeconds"] = json!(3600);
    space.create("pods", &ending)?;
    counts(["1", "1", "1", "1"])?;
    space.delete("pods/best")?;
    counts(["0", "1", "1", "0"])?;
    space.delete("pods/ending")?;
    counts(["0", "0", "0", "0"])
}

pub(crate) fn a_quota_is_read_written_and_its_status_changed(site: &Site) -> anyhow::Result<()> {
    let space = site.space("quota-write")?;
    quota(
        &space,
        "q",
        &json!({"cpu": "1", "memory": "500Mi"}),
        &Value::Null,
    )?;
    let labels = json!({"metadata": {"labels": {"q": "patched"}}, "spec": {"hard":
        {"memory": "750Mi"}}});
    ensure!(space.merge("resourcequotas/q", &labels)?["spec"]["hard"]["memory"] == "750Mi");
    space.until("resourcequotas/q", "followed", |q| {
        q["status"]["hard"]["memory"] == "750Mi"
    })?;
    ensure!(
        site.list("/api/v1/resourcequotas?labelSelector=q%3Dpatched")?
            .len()
            == 1
    );
    let patch = json!({"spec": {"hard": {"cpu": "9"}}, "status": {"hard": {"cpu": "2"}}});
    let patched = space.merge("resourcequotas/q/status", &patch)?;
    ensure!(
        patched["status"]["hard"]["cpu"] == "2" && patched["spec"]["hard"]["cpu"] == "1",
        "{patched}"
    );
    space.until("resourcequotas/q", "as it was", |q| {
        q["status"]["hard"]["cpu"] == "1"
    })?;
    space.delete("resourcequotas?labelSelector=q%3Dpatched")?;
    space.until_gone("resourcequotas/q")
}
