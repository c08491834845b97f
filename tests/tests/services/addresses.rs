//! Services: types, node ports, affinity, host ports.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use cluster_tests::site::{PATIENCE, Site, Space, is_ready, name, pod, server_spec, workload};
use serde_json::{Value, json};

fn asker(space: &Space<'_>) -> anyhow::Result<()> {
    space.start(&pod("asker", server_spec())).map(drop)
}

/// Two servers behind the label `app: web`.
fn servers(space: &Space<'_>) -> anyhow::Result<BTreeSet<String>> {
    space.create(
        "replicasets",
        &workload("ReplicaSet", "web", 2, server_spec()),
    )?;
    Ok(space.until_ready("app=web", 2)?.iter().map(name).collect())
}

/// Asks until one of those answers.
fn answers(space: &Space<'_>, target: &str, who: &BTreeSet<String>) -> anyhow::Result<()> {
    let get = format!("get http://{target}/hostname --timeout 2");
    space.ask_until("asker", &get, |answer| who.contains(answer))?;
    Ok(())
}

/// Asks until nobody answers any more.
fn refuses(space: &Space<'_>, target: &str) -> anyhow::Result<()> {
    let get = format!("http://{target}/hostname");
    cluster_tests::cluster::wait_for(&format!("{target} to refuse"), PATIENCE, || {
        let answer = space.exec("asker", &["/testserver", "get", &get, "--timeout", "1"]);
        Ok(answer.is_err())
    })
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn node_addresses(site: &Site) -> anyhow::Result<Vec<String>> {
    let nodes = site.list("/api/v1/nodes")?;
    Ok(nodes
        .iter()
        .map(|node| text(node, "/status/addresses/0/address").to_owned())
        .collect())
}

pub(crate) fn services_change_their_type(site: &Site) -> anyhow::Result<()> {
    let space = site.space("service-types")?;
    asker(&space)?;
    let who = servers(&space)?;
    let external = "web.service-types.svc.cluster.local";
    let web = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080}]}});
    space.create("services", &web)?;
    let plain = json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP",
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    space.create("services", &plain)?;
    answers(&space, "s", &who)?;
    let to_external = |s: &mut Value| {
        s["spec"] = json!({ "type": "ExternalName", "externalName": external });
    };
    let changed = space.change("services/s", to_external)?;
    ensure!(changed["spec"]["clusterIP"].is_null(), "{changed}");
    answers(&space, "s", &who)?;
    let changed = space.change("services/s", |s| {
        s["spec"] = json!({ "type": "NodePort", "selector": { "app": "web" },
            "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }] });
    })?;
    let port = changed["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    ensure!(!text(&changed, "/spec/clusterIP").is_empty(), "{changed}");
    answers(&space, "s", &who)?;
    answers(
        &space,
        &format!("{}:{port}", node_addresses(site)?[0]),
        &who,
    )?;
    let changed = space.change("services/s", to_external)?;
    ensure!(
        changed["spec"]["ports"].is_null() || changed["spec"]["ports"] == json!([]),
        "{changed}"
    );
    answers(&space, "s", &who)?;
    space.change("services/s", |s| {
        s["spec"] = json!({ "type": "ClusterIP", "selector": { "app": "web" },
            "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }] });
    })?;
    answers(&space, "s", &who)
}

pub(crate) fn a_node_port_answers_at_every_address(site: &Site) -> anyhow::Result<()> {
    let space = site.space("node-port")?;
    asker(&space)?;
    let who = servers(&space)?;
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort",
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let made = space.create("services", &service)?;
    let port = made["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    answers(&space, "s", &who)?;
    answers(&space, text(&made, "/spec/clusterIP"), &who)?;
    for address in node_addresses(site)? {
        answers(&space, &format!("{address}:{port}"), &who)?;
        answers(
            &space,
            &format!("{}:80", text(&made, "/spec/clusterIP")),
            &who,
        )?;
    }
    space.delete("services/s")?;
    refuses(&space, &format!("{}:{port}", node_addresses(site)?[0]))
}

/// Who answers of so many connections.
fn spread(space: &Space<'_>, target: &str) -> anyhow::Result<BTreeSet<String>> {
    let url = format!("http://{target}/hostname");
    let answer = space.exec("asker", &["/testserver", "get", &url, "--count", "16"])?;
    Ok(answer.split_whitespace().map(str::to_owned).collect())
}

fn until_spread(space: &Space<'_>, target: &str, number: usize) -> anyhow::Result<()> {
    cluster_tests::cluster::wait_for(
        &format!("{number} servers behind {target}"),
        PATIENCE,
        || Ok(spread(space, target)?.len() == number),
    )
}

pub(crate) fn affinity_is_switched_on_and_off(site: &Site) -> anyhow::Result<()> {
    let space = site.space("affinity")?;
    asker(&space)?;
    let who = servers(&space)?;
    for kind in ["ClusterIP", "NodePort"] {
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": kind,
            "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "targetPort": 8080}]}});
        let made = space.create("services", &service)?;
        ensure!(made["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 10800);
        let target = match made["spec"]["ports"][0]["nodePort"].as_u64() {
            Some(port) => format!("{}:{port}", node_addresses(site)?[0]),
            None => text(&made, "/spec/clusterIP").to_owned(),
        };
        answers(&space, &target, &who)?;
        until_spread(&space, &target, 1)?;
        let affinity = |value: &'static str| {
            space.change("services/s", move |s| {
                s["spec"]["sessionAffinity"] = json!(value)
            })
        };
        affinity("None")?;
        until_spread(&space, &target, 2)?;
        affinity("ClientIP")?;
        until_spread(&space, &target, 1)?;
        space.delete("services/s")?;
        space.until_gone("services/s")?;
    }
    Ok(())
}

pub(crate) fn one_port_serves_two_protocols_until_either_is_removed(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("two-protocols")?;
    asker(&space)?;
    let mut server = server_spec();
    server["containers"][0]["args"] = json!([
        "serve",
        "--http-port",
        "8080",
        "--udp-port",
        "8080",
        "--tcp-port",
        "0"
    ]);
    space.create("replicasets", &workload("ReplicaSet", "web", 1, server))?;
    let who: BTreeSet<String> = space.until_ready("app=web", 1)?.iter().map(name).collect();
    let both = json!([{"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"}]);
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "web"},
        "ports": both}});
    let made = space.create("services", &service)?;
    let address = text(&made, "/spec/clusterIP").to_owned();
    let udp = format!("dial udp {address}:80 --timeout 1");
    answers(&space, &address, &who)?;
    space.ask_until("asker", &udp, |answer| who.contains(answer))?;
    let ports =
        |list: Value| space.change("services/s", move |s| s["spec"]["ports"] = list.clone());
    ports(json!([both[1]]))?;
    refuses(&space, &address)?;
    space.ask_until("asker", &udp, |answer| who.contains(answer))?;
    ports(json!([both[0]]))?;
    answers(&space, &address, &who)?;
    let place = format!("{address}:80");
    cluster_tests::cluster::wait_for("UDP to be refused", PATIENCE, || {
        let asked = ["/testserver", "dial", "udp", &place, "--timeout", "1"];
        Ok(space.exec("asker", &asked).is_err())
    })
}

/// The test image in the node's own network. It only waits to be told to ask.
fn on_host(node: &str) -> Value {
    let mut spec = server_spec();
    spec["hostNetwork"] = json!(true);
    spec["nodeName"] = json!(node);
    spec["containers"][0]["args"] = json!(["sleep"]);
    spec["containers"][0]["ports"] = json!([]);
    spec
}

pub(crate) fn host_ports_of_one_number_coexist(site: &Site) -> anyhow::Result<()> {
    let space = site.space("host-ports")?;
    let nodes = site.list("/api/v1/nodes")?;
    let node = nodes.last().context("no node")?;
    let address = text(node, "/status/addresses/0/address");
    let with_port = |name: &str, host: &str, protocol: &str| {
        let mut spec = server_spec();
        spec["nodeName"] = node["metadata"]["name"].clone();
        spec["containers"][0]["args"] = json!([
            "serve",
            "--http-port",
            "8080",
            "--udp-port",
            "8080",
            "--tcp-port",
            "0"
        ]);
        spec["containers"][0]["ports"] = json!([{ "containerPort": 8080, "hostPort": 54323,
            "hostIP": host, "protocol": protocol }]);
        pod(name, spec)
    };
    space.start(&with_port("pod1", "127.0.0.1", "TCP"))?;
    space.start(&with_port("pod2", address, "TCP"))?;
    space.start(&with_port("pod3", address, "UDP"))?;
    space.start(&pod(
        "host",
        on_host(node["metadata"]["name"].as_str().unwrap_or_default()),
    ))?;
    let get = |place: &str| format!("get http://{place}:54323/hostname --timeout 2");
    space.ask_until("host", &get("127.0.0.1"), |answer| answer == "pod1")?;
    space.ask_until("host", &get(address), |answer| answer == "pod2")?;
    let udp = format!("dial udp {address}:54323 --timeout 1");
    space.ask_until("host", &udp, |answer| answer == "pod3")?;
    Ok(())
}

pub(crate) fn pods_and_nodes_reach_pods_on_every_node(site: &Site) -> anyhow::Result<()> {
    let space = site.space("pod-network")?;
    let nodes = site.nodes()?;
    let mut targets = Vec::new();
    for node in &nodes {
        let mut spec = server_spec();
        spec["nodeName"] = json!(node);
        let made = space.start(&pod(&format!("on-{node}"), spec))?;
        targets.push((name(&made), text(&made, "/status/podIP").to_owned()));
        space.start(&pod(&format!("host-{node}"), on_host(node)))?;
    }
    let mut client = server_spec();
    client["nodeName"] = json!(nodes[0]);
    space.start(&pod("client", client))?;
    let mut from = vec!["client".to_owned()];
    from.extend(nodes.iter().map(|node| format!("host-{node}")));
    for from in &from {
        for (who, address) in &targets {
            let http = format!("get http://{address}:8080/hostname --timeout 2");
            space.ask_until(from, &http, |answer| answer == who)?;
            let udp = format!("dial udp {address}:8081 --timeout 1");
            space.ask_until(from, &udp, |answer| answer == who)?;
        }
    }
    Ok(())
}

pub(crate) fn services_are_written_and_collected_as_objects(site: &Site) -> anyhow::Result<()> {
    let space = site.space("service-api")?;
    for name in ["one", "two", "three"] {
        let label = if name == "three" { "kept" } else { "gone" };
        let service = json!({"metadata": {"name": name, "labels": {"s": label}},
            "spec": {"ports": [{"port": 80}]}});
        space.create("services", &service)?;
    }
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let patched = space.merge("services/one/status", &ingress);
    // Only Services of type LoadBalancer have such a status.
    ensure!(patched.is_err() || patched?["status"]["loadBalancer"] == json!({}));
    let own = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let updated = space.change("services/one/status", |s| {
        s["status"]["conditions"] = json!([own])
    })?;
    ensure!(
        updated["status"]["conditions"][0]["type"] == "StatusUpdate",
        "{updated}"
    );
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}});
    ensure!(
        space.merge("services/one/status", &patch)?["metadata"]["annotations"]["patchedstatus"]
            == "true"
    );
    space.delete("services?labelSelector=s%3Dgone")?;
    let left: Vec<String> = space.list("services")?.iter().map(name).collect();
    ensure!(left == ["three"], "{left:?}");
    Ok(())
}

pub(crate) fn ranges_and_addresses_are_objects(site: &Site) -> anyhow::Result<()> {
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let range = json!({"metadata": {"name": "svc-range", "labels": {"r": "svc"}},
        "spec": {"cidrs": ["10.88.0.0/24"]}});
    site.create(ranges, &range)?;
    let place = format!("{ranges}/svc-range");
    site.until(&place, "ready", |range| {
        cluster_tests::site::condition(range, "Ready") == "True"
    })?;
    site.merge(
        &place,
        &json!({"metadata": {"annotations": {"patched": "true"}}}),
    )?;
    let mut changed = site.get(&place)?;
    changed["spec"]["cidrs"] = json!(["10.89.0.0/24"]);
    ensure!(
        site.ask("PUT", &place, &changed)?.is_err(),
        "the range was changed"
    );
    site.delete(&format!("{ranges}?labelSelector=r%3Dsvc"))?;
    site.until_gone(&place)?;
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "x"});
    let address = json!({"metadata": {"name": "192.168.10.10", "labels": {"r": "svc"}},
        "spec": {"parentRef": parent}});
    site.create(addresses, &address)?;
    let place = format!("{addresses}/192.168.10.10");
    site.merge(
        &place,
        &json!({"metadata": {"annotations": {"patched": "true"}}}),
    )?;
    ensure!(
        site.list(&format!("{addresses}?labelSelector=r%3Dsvc"))?
            .len()
            == 1
    );
    site.delete(&format!("{addresses}?labelSelector=r%3Dsvc"))?;
    site.until_gone(&place)
}

pub(crate) fn ingresses_and_their_classes_are_objects(site: &Site) -> anyhow::Result<()> {
    let space = site.space("ingress")?;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let class = json!({"metadata": {"name": "svc-class", "labels": {"i": "svc"}},
        "spec": {"controller": "example.com/controller"}});
    site.create(classes, &class)?;
    let place = format!("{classes}/svc-class");
    site.merge(
        &place,
        &json!({"metadata": {"annotations": {"patched": "true"}}}),
    )?;
    let ingress = json!({"metadata": {"name": "i", "labels": {"i": "svc"}}, "spec": {
        "ingressClassName": "svc-class",
        "defaultBackend": {"service": {"name": "b", "port": {"number": 80}}}}});
    space.create("ingresses", &ingress)?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}});
    let patched = space.merge("ingresses/i/status", &status)?;
    ensure!(
        patched["status"]["loadBalancer"]["ingress"][0]["ip"] == "169.1.1.1",
        "{patched}"
    );
    let updated = space.change("ingresses/i/status", |i| {
        i["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "169.1.1.2" }] } });
    })?;
    ensure!(
        updated["status"]["loadBalancer"]["ingress"][0]["ip"] == "169.1.1.2",
        "{updated}"
    );
    ensure!(
        site.list("/apis/networking.k8s.io/v1/ingresses?labelSelector=i%3Dsvc")?
            .len()
            == 1
    );
    space.delete("ingresses?labelSelector=i%3Dsvc")?;
    space.until_gone("ingresses/i")?;
    site.delete(&format!("{classes}?labelSelector=i%3Dsvc"))?;
    site.until_gone(&place)?;
    let nodes = site.list("/api/v1/nodes")?;
    ensure!(nodes.iter().all(is_ready));
    Ok(())
}
