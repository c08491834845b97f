//! EndpointSlices and Endpoints.

use anyhow::ensure;
use cluster_tests::site::{Site, Space, idle_spec, is_ready, pod, server_spec};
use serde_json::{Value, json};

fn of_service(service: &str) -> String {
    format!("endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}")
}

/// Every address with its port and whether it is ready, in order.
fn endpoints(list: &Value) -> Vec<(String, i64, bool)> {
    let mut found = Vec::new();
    for slice in list["items"].as_array().into_iter().flatten() {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            for port in slice["ports"].as_array().into_iter().flatten() {
                let address = endpoint["addresses"][0].as_str().unwrap_or_default();
                let ready = endpoint["conditions"]["ready"] == true;
                found.push((
                    address.to_owned(),
                    port["port"].as_i64().unwrap_or(0),
                    ready,
                ));
            }
        }
    }
    found.sort();
    found
}

fn subsets(endpoints: &Value) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                let address = address["ip"].as_str().unwrap_or_default();
                found.push((address.to_owned(), port["port"].as_i64().unwrap_or(0)));
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn slices_and_endpoints_follow_pods(site: &Site) -> anyhow::Result<()> {
    let space = site.space("slices")?;
    let service = json!({"metadata": {"name": "multi"}, "spec": {
        "selector": {"multi": "yes"},
        "ports": [{"name": "one", "port": 80, "targetPort": "first"},
            {"name": "two", "port": 81, "targetPort": 101}]}});
    space.create("services", &service)?;
    // A Service of nobody has one slice without endpoints, and Endpoints without subsets.
    space.until(&of_service("multi"), "one empty slice", |list| {
        list["items"]
            .as_array()
            .is_some_and(|slices| slices.len() == 1)
            && endpoints(list).is_empty()
    })?;
    space.until("endpoints/multi", "empty", |object| {
        object["subsets"].is_null()
    })?;
    let backend = |name: &str, port: u16| {
        let mut spec = idle_spec();
        spec["containers"][0]["ports"] = json!([{ "name": "first", "containerPort": port }]);
        let mut made = pod(name, spec);
        made["metadata"]["labels"] = json!({ "multi": "yes" });
        made
    };
    let address = |pod: &Value| {
        pod["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let a = address(&space.start(&backend("a", 100))?);
    let b = address(&space.start(&backend("b", 200))?);
    let mut wanted = vec![
        (a.clone(), 100, true),
        (a.clone(), 101, true),
        (b.clone(), 101, true),
        (b.clone(), 200, true),
    ];
    wanted.sort();
    let list = space.until(&of_service("multi"), "both pods", |list| {
        endpoints(list) == wanted
    })?;
    let slice = &list["items"][0];
    ensure!(slice["addressType"] == "IPv4", "{slice}");
    let managed = "endpointslice.kubernetes.io/managed-by";
    ensure!(
        slice["metadata"]["labels"][managed] == "endpointslice-controller.k8s.io",
        "{slice}"
    );
    let target = &slice["endpoints"][0]["targetRef"];
    ensure!(
        target["kind"] == "Pod" && !target["uid"].is_null(),
        "{slice}"
    );
    ensure!(!slice["endpoints"][0]["nodeName"].is_null(), "{slice}");
    let mut pairs: Vec<_> = wanted
        .iter()
        .map(|(ip, port, _)| (ip.clone(), *port))
        .collect();
    pairs.sort();
    space.until("endpoints/multi", "both pods", |object| {
        subsets(object) == pairs
    })?;
    space.delete("pods/a")?;
    space.until(&of_service("multi"), "one pod", |list| {
        endpoints(list).iter().all(|(ip, ..)| *ip == b) && endpoints(list).len() == 2
    })?;
    space.delete("services/multi")?;
    space.until_gone("endpoints/multi")?;
    space.until(&of_service("multi"), "none", |list| {
        list["items"].as_array().is_some_and(Vec::is_empty)
    })?;
    Ok(())
}

pub(crate) fn endpoints_made_by_hand_are_mirrored(site: &Site) -> anyhow::Result<()> {
    let space = site.space("mirror")?;
    let service = json!({"metadata": {"name": "custom"}, "spec": {"ports": [{"name": "example",
        "port": 80, "protocol": "TCP"}]}});
    space.create("services", &service)?;
    let subset = |address: &str, port: u16| {
        json!([{"addresses": [{"ip": address}], "ports": [{"name": "example", "port": port,
            "protocol": "TCP"}]}])
    };
    let object = json!({"metadata": {"name": "custom", "labels": {"by": "hand"}},
        "subsets": subset("10.1.2.3", 80)});
    space.create("endpoints", &object)?;
    let mirrored = |address: &str, port: i64| {
        let wanted = vec![(address.to_owned(), port, true)];
        space.until(&of_service("custom"), address, |list| {
            endpoints(list) == wanted
        })
    };
    let list = mirrored("10.1.2.3", 80)?;
    let managed = &list["items"][0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    ensure!(
        managed == "endpointslicemirroring-controller.k8s.io",
        "{list}"
    );
    space.change("endpoints/custom", |object| {
        object["subsets"] = subset("10.2.3.4", 9090)
    })?;
    mirrored("10.2.3.4", 9090)?;
    let patch = json!({"metadata": {"labels": {"by": "patch"}}});
    space.merge("endpoints/custom", &patch)?;
    ensure!(
        site.list("/api/v1/endpoints?labelSelector=by%3Dpatch")?
            .len()
            == 1
    );
    space.delete("endpoints?labelSelector=by%3Dpatch")?;
    space.until(&of_service("custom"), "no slice", |list| {
        list["items"].as_array().is_some_and(Vec::is_empty)
    })?;
    Ok(())
}

fn slice(name: &str, service: &str, address: &str, port: u16, port_name: &str) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address] }],
        "ports": [{ "name": port_name, "port": port, "protocol": "TCP" }],
    })
}

pub(crate) fn slices_made_by_hand_are_served(site: &Site) -> anyhow::Result<()> {
    let space = site.space("slices-by-hand")?;
    let mut spec = server_spec();
    spec["containers"][0]["args"] = json!(["serve", "--http-port", "8080,9090"]);
    let one = space.start(&pod("one", spec.clone()))?;
    let two = space.start(&pod("two", spec))?;
    space.start(&pod("asker", server_spec()))?;
    let address = |pod: &Value| {
        pod["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    // Several slices: the same address with two ports, then two addresses.
    let service = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"ports": [
            {"name": "portname1", "port": 80}, {"name": "portname2", "port": 81}]}})
    };
    space.create("services", &service("ports"))?;
    space.create("services", &service("hosts"))?;
    let slices = [
        slice("p1", "ports", &address(&one), 8080, "portname1"),
        slice("p2", "ports", &address(&one), 9090, "portname2"),
        slice("h1", "hosts", &address(&one), 8080, "portname1"),
        slice("h2", "hosts", &address(&two), 9090, "portname2"),
    ];
    for slice in &slices {
        space.create("endpointslices", slice)?;
    }
    for (service, port, who) in [
        ("ports", 80, "one"),
        ("ports", 81, "one"),
        ("hosts", 80, "one"),
        ("hosts", 81, "two"),
    ] {
        let get = format!("get http://{service}:{port}/hostname --timeout 2");
        space.ask_until("asker", &get, |answer| answer == who)?;
    }
    Ok(())
}

pub(crate) fn the_api_server_is_a_service(site: &Site) -> anyhow::Result<()> {
    let service = site.get("/api/v1/namespaces/default/services/kubernetes")?;
    ensure!(service["spec"]["ports"][0]["port"] == 443, "{service}");
    let endpoints = site.get("/api/v1/namespaces/default/endpoints/kubernetes")?;
    let slices = site.list("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes")?;
    let addresses = subsets(&endpoints);
    ensure!(!addresses.is_empty(), "{endpoints}");
    for (address, _) in addresses {
        let has = |slice: &Value| slice["endpoints"].to_string().contains(&address);
        ensure!(slices.iter().any(has), "{address} is in no slice");
    }
    // Slices are objects like any others.
    let space = site.space("slices-api")?;
    exercise(&space)?;
    let ready = site.list("/api/v1/nodes")?;
    ensure!(
        ready.iter().filter(|node| is_ready(node)).count() >= 2,
        "conformance needs two nodes"
    );
    Ok(())
}

fn exercise(space: &Space<'_>) -> anyhow::Result<()> {
    space.create("endpointslices", &slice("s", "nobody", "10.1.1.1", 80, "x"))?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    ensure!(
        space.merge("endpointslices/s", &patch)?["metadata"]["annotations"]["patched"] == "true"
    );
    space.change("endpointslices/s", |slice| {
        slice["metadata"]["annotations"]["u"] = json!("v")
    })?;
    space.delete(&of_service("nobody"))?;
    space.until_gone("endpointslices/s")
}
