//! Whom a Service's traffic reaches, from where, and with which source: pods, nodes and clients
//! outside, while pods come, end, and are replaced. The same on a lab of its own for each backend
//! that needs no special kernel; `PROXY` chooses one.

mod ends;
mod fronts;
mod updates;

use std::process::ExitCode;

use anyhow::ensure;
use cluster_tests::cases;
use cluster_tests::cluster::{SOON, wait_for};
use cluster_tests::site::{Site, server_spec};
use serde_json::{Value, json};

/// A backend, and by what its rules are known in what a command shows.
const BACKENDS: [(&str, &[&str], &str); 3] = [
    ("iptables", &["iptables-save"], "KUBE-SERVICES"),
    ("nftables", &["nft", "list", "tables"], "fairlead-proxy"),
    ("ipvs", &["nft", "list", "tables"], "fairlead-ipvs"),
];

fn main() -> ExitCode {
    let wanted = std::env::var("PROXY").ok();
    // Who lists the tests sees the suite once.
    let list = std::env::args().any(|argument| argument == "--list");
    let mut result = ExitCode::SUCCESS;
    for backend in BACKENDS {
        let chosen = match &wanted {
            Some(name) => name == backend.0,
            None => backend.0 != "ipvs",
        };
        if !chosen {
            continue;
        }
        let code = with(backend);
        if code != ExitCode::SUCCESS {
            result = code;
        }
        if list {
            break;
        }
    }
    result
}

fn with((mode, command, sign): (&'static str, &[&str], &str)) -> ExitCode {
    let cases = cases![
        fronts::traffic_policies_keep_traffic_on_the_node,
        fronts::a_pod_reaches_itself_and_sources_are_kept,
        fronts::an_external_address_leads_to_the_service,
        fronts::labels_take_a_service_from_the_proxy_and_give_it_back,
        ends::pods_that_are_not_ready_serve_where_that_is_asked_for,
        ends::ending_pods_serve_when_there_are_no_others,
        ends::a_service_whose_pods_have_failed_refuses_at_once,
        updates::a_rolling_update_fails_no_request,
    ];
    cluster_tests::harness::run("traffic", 6, cases, || {
        println!("Services by {mode}");
        let site = Site::start("traffic")?;
        let settings = "/api/v1/namespaces/kube-system/configmaps/fairlead";
        site.merge(settings, &json!({ "data": { "proxy": mode } }))?;
        for node in site.nodes()? {
            wait_for(&format!("the rules of {mode} on {node}"), SOON, || {
                let shown = site.cluster.exec(&node, command)?;
                Ok(shown.success()?.contains(sign))
            })?;
        }
        Ok(site)
    })
}

/// The test image, serving, on a node.
fn server_on(node: &str) -> Value {
    let mut spec = server_spec();
    spec["nodeName"] = json!(node);
    spec
}

/// The test image in the node's own network. It only waits to be told to ask.
fn on_host(node: &str) -> Value {
    let mut spec = server_on(node);
    spec["hostNetwork"] = json!(true);
    spec["containers"][0]["args"] = json!(["sleep"]);
    spec["containers"][0]["ports"] = json!([]);
    spec
}

/// Two nodes, by name and address.
fn two_nodes(site: &Site) -> anyhow::Result<[(String, String); 2]> {
    let names = site.nodes()?;
    ensure!(names.len() == 2, "{names:?}");
    let address = |name: &String| site.cluster.node_address(name);
    Ok([
        (names[0].clone(), address(&names[0])?),
        (names[1].clone(), address(&names[1])?),
    ])
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
