//! Pods and Services behind the API server's proxy.

use anyhow::ensure;
use cluster_tests::site::{Site, pod, server_spec};
use serde_json::{Value, json};

const METHODS: [&str; 6] = ["DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"];

pub(crate) fn pods_and_services_are_reached_by_every_method(site: &Site) -> anyhow::Result<()> {
    let space = site.space("proxied")?;
    let mut spec = server_spec();
    spec["containers"][0]["args"] = json!(["serve", "--http-port", "80"]);
    spec["containers"][0]["ports"] = json!([{ "name": "http", "containerPort": 80 }]);
    space.start(&pod("agnhost", spec))?;
    let service = json!({"metadata": {"name": "e2e-proxy-test-service"}, "spec": {
        "selector": {"app": "agnhost"}, "ports": [{"port": 80, "targetPort": 80}]}});
    space.create("services", &service)?;
    site.until(
        &space.path("services/e2e-proxy-test-service/proxy/request"),
        "served",
        |answer| answer["method"] == "GET",
    )?;
    for target in ["pods/agnhost", "services/e2e-proxy-test-service"] {
        for method in METHODS {
            let path = space.path(&format!(
                "{target}/proxy/request/with/{method}?method={method}"
            ));
            let answer =
                cluster_tests::site::accepted(&path, site.ask(method, &path, &Value::Null)?)?;
            ensure!(answer["method"] == method, "{path}: {answer}");
            ensure!(
                answer["path"] == format!("/request/with/{method}"),
                "{path}: {answer}"
            );
            ensure!(answer["query"]["method"] == method, "{path}: {answer}");
            ensure!(answer["pod"] == "agnhost", "{path}: {answer}");
        }
        let path = space.path(&format!("{target}/proxy/request"));
        let body = json!({"a": "body"});
        let answer = cluster_tests::site::accepted(&path, site.ask("POST", &path, &body)?)?;
        let sent = body.to_string();
        ensure!(answer["body"] == sent, "{answer}");
        ensure!(answer["headers"]["authorization"].is_null(), "{answer}");
    }
    Ok(())
}

pub(crate) fn names_with_ports_and_schemes_lead_to_the_right_place(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("proxied-names")?;
    let mut spec = server_spec();
    spec["containers"][0]["args"] = json!(["serve", "--http-port", "8080,8090"]);
    space.start(&pod("p", spec))?;
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "p"}, "ports": [
        {"name": "one", "port": 80, "targetPort": "http"},
        {"name": "two", "port": 81, "targetPort": 8090}]}});
    space.create("services", &service)?;
    site.until(
        &space.path("services/s:one/proxy/hostname"),
        "served",
        |answer| answer == "p",
    )?;
    for name in [
        "pods/p:8080",
        "pods/http:p:8090",
        "pods/p",
        "services/s:80",
        "services/s:81",
        "services/s:two",
        "services/http:s:one",
        "services/http:s:two",
    ] {
        let path = space.path(&format!("{name}/proxy/hostname"));
        ensure!(site.get(&path)? == "p", "{path}");
    }
    // Links of a page lead through the proxy.
    for name in ["pods/p:8080", "services/s:one"] {
        let prefix = space.path(&format!("{name}/proxy"));
        let page = site.get(&format!("{prefix}/link"))?;
        let wanted = format!("<a href=\"{prefix}/request\">link</a>");
        ensure!(page == wanted.as_str(), "{page}");
    }
    for node in site.nodes()? {
        ensure!(site.get(&format!("/api/v1/nodes/{node}:10250/proxy/healthz"))? == "ok");
        let configuration = site.get(&format!("/api/v1/nodes/{node}/proxy/healthz"))?;
        ensure!(configuration == "ok");
    }
    let missing = site.ask("GET", &space.path("pods/nobody/proxy/"), &Value::Null)?;
    ensure!(cluster_tests::site::refused("nobody", missing)?.code == 404);
    Ok(())
}
