//! Names: cluster DNS as pods see it.

use anyhow::ensure;
use cluster_tests::site::{Site, Space, name, pod, server_spec, shell_spec};
use serde_json::{Value, json};

const ANSWERS: &str = "while :; do sleep 1; done";

/// A pod of the test image, which resolves as programs do, and one with `nslookup`.
fn askers(space: &Space<'_>) -> anyhow::Result<()> {
    space.start(&pod("asker", server_spec()))?;
    space.start(&pod("lookup", shell_spec(ANSWERS)))?;
    Ok(())
}

/// Whether a name has an address, with the resolver's search list.
fn resolves(space: &Space<'_>, name: &str, address: &str) -> anyhow::Result<()> {
    let command = format!("resolve {name}");
    space.ask_until("asker", &command, |text| {
        text.split_whitespace().any(|word| word == address)
    })?;
    Ok(())
}

fn service(name: &str, spec: Value) -> Value {
    json!({ "metadata": { "name": name }, "spec": spec })
}

pub(crate) fn names_of_the_cluster_resolve_in_every_form(site: &Site) -> anyhow::Result<()> {
    let space = site.space("dns-names")?;
    askers(&space)?;
    let mut backend = pod("backend", server_spec());
    backend["metadata"]["labels"] = json!({ "dns-test": "true" });
    let backend = space.start(&backend)?;
    let ports = json!([{ "port": 80, "targetPort": 8080, "name": "http", "protocol": "TCP" }]);
    let selector = json!({ "dns-test": "true" });
    let made = space.create(
        "services",
        &service(
            "test-service-2",
            json!({ "ports": ports, "selector": selector }),
        ),
    )?;
    space.create(
        "services",
        &service(
            "dns-test-service",
            json!({ "ports": ports, "selector": selector, "clusterIP": "None" }),
        ),
    )?;
    let kubernetes = site.get("/api/v1/namespaces/default/services/kubernetes")?;
    let kubernetes = kubernetes["spec"]["clusterIP"].as_str().unwrap_or_default();
    for name in [
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        resolves(&space, name, kubernetes)?;
    }
    let address = made["spec"]["clusterIP"].as_str().unwrap_or_default();
    for name in [
        "test-service-2",
        "test-service-2.dns-names",
        "test-service-2.dns-names.svc",
        "test-service-2.dns-names.svc.cluster.local",
    ] {
        resolves(&space, name, address)?;
    }
    let own = backend["status"]["podIP"].as_str().unwrap_or_default();
    resolves(&space, "dns-test-service.dns-names.svc", own)?;
    for name in ["test-service-2", "dns-test-service"] {
        let query = format!("nslookup -type=srv _http._tcp.{name}.dns-names.svc.cluster.local");
        let wanted = if name == "test-service-2" {
            " 80 "
        } else {
            " 8080 "
        };
        space.shell_until("lookup", &query, |text| text.contains(wanted))?;
    }
    // The name that an address has.
    space.shell_until("lookup", &format!("nslookup {address}"), |text| {
        text.contains("test-service-2.dns-names.svc.cluster.local")
    })?;
    let dashed = own.replace('.', "-");
    resolves(
        &space,
        &format!("{dashed}.dns-names.pod.cluster.local"),
        own,
    )?;
    let hosts = space.shell("lookup", "cat /etc/hosts")?;
    ensure!(hosts.contains("lookup"), "{hosts}");
    Ok(())
}

pub(crate) fn pods_are_known_by_their_host_name_and_subdomain(site: &Site) -> anyhow::Result<()> {
    let space = site.space("dns-subdomain")?;
    let ports = json!([{ "port": 80, "name": "http" }]);
    space.create(
        "services",
        &service(
            "dns-test-service-3",
            json!({ "ports": ports, "selector": { "app": "querier" }, "clusterIP": "None" }),
        ),
    )?;
    let mut spec = shell_spec(ANSWERS);
    spec["hostname"] = json!("dns-querier-2");
    spec["subdomain"] = json!("dns-test-service-3");
    let made = space.start(&pod("querier", spec))?;
    let own = made["status"]["podIP"].as_str().unwrap_or_default();
    let full = "dns-querier-2.dns-test-service-3.dns-subdomain.svc.cluster.local";
    space.shell_until("querier", &format!("nslookup {full}"), |text| {
        text.lines().any(|line| line.ends_with(&format!(" {own}")))
    })?;
    let hosts = space.shell("querier", "cat /etc/hosts")?;
    ensure!(
        hosts.contains(full) && hosts.contains("dns-querier-2"),
        "{hosts}"
    );
    ensure!(space.shell("querier", "hostname")? == "dns-querier-2");
    ensure!(space.shell("querier", "hostname -f")? == full);
    Ok(())
}

pub(crate) fn an_external_name_follows_edits_and_a_change_of_type(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("dns-external")?;
    askers(&space)?;
    let external = json!({ "type": "ExternalName", "externalName": "foo.example.com" });
    space.create("services", &service("ext", external))?;
    let query = "nslookup -type=cname ext.dns-external.svc.cluster.local 2>&1 || true";
    space.shell_until("lookup", query, |text| text.contains("foo.example.com"))?;
    space.merge(
        "services/ext",
        &json!({"spec": {"externalName": "bar.example.com"}}),
    )?;
    space.shell_until("lookup", query, |text| text.contains("bar.example.com"))?;
    let changed = space.change("services/ext", |service| {
        service["spec"] = json!({ "type": "ClusterIP",
            "ports": [{ "port": 80, "name": "http", "protocol": "TCP" }] });
    })?;
    let address = changed["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(!address.is_empty(), "{changed}");
    resolves(&space, "ext.dns-external.svc.cluster.local", &address)
}

pub(crate) fn a_pod_may_bring_its_own_resolver(site: &Site) -> anyhow::Result<()> {
    let space = site.space("dns-config")?;
    let mut spec = shell_spec(ANSWERS);
    spec["dnsPolicy"] = json!("None");
    spec["dnsConfig"] = json!({ "nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"],
        "options": [{ "name": "ndots", "value": "2" }] });
    let made = space.start(&pod("own", spec))?;
    let text = space.shell(&name(&made), "cat /etc/resolv.conf")?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for wanted in [
        "nameserver 1.1.1.1",
        "search resolv.conf.local",
        "options ndots:2",
    ] {
        ensure!(lines.contains(&wanted), "{text}");
    }
    let mut spec = shell_spec(ANSWERS);
    spec["hostNetwork"] = json!(true);
    spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    let made = space.start(&pod("host", spec))?;
    let text = space.shell(&name(&made), "cat /etc/resolv.conf")?;
    ensure!(text.contains("dns-config.svc.cluster.local"), "{text}");
    Ok(())
}
