//! What is told about policies, and what keeps them in place.

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::command::{command, fairlead, outcome};
use serde_json::{Value, json};

use crate::Suite;
use crate::probes::Probe;

const POLICY: &str = "around";

fn deny_all(namespace: &str) -> String {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": POLICY, "namespace": namespace}, "spec": {"podSelector": {}}})
    .to_string()
}

fn remove(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    cluster
        .kubectl(&format!("delete networkpolicy {POLICY} -n {namespace}"))?
        .success()?;
    Ok(())
}

fn wait_until(suite: &Suite, client: &str, server: &str, expected: bool) -> anyhow::Result<()> {
    let probe = Probe {
        client: client.to_owned(),
        server: server.to_owned(),
        port: (80, "TCP"),
        v6: false,
    };
    suite.holds(&[(probe, expected)].into())
}

pub(crate) fn a_dropped_connection_is_told_with_its_policy(suite: &Suite) -> anyhow::Result<()> {
    let (cluster, places) = (&suite.cluster, &suite.places);
    cluster.apply("y", &deny_all("y"))?;
    wait_until(suite, "x/a", "y/b", false)?;
    let program = fairlead();
    let program = program.to_str().context("the path is no text")?;
    let arguments = [program, "flows", "--drop", "--pod", "y/b", "-o", "json"];
    wait_for("the drop in the log", SOON, || {
        let told = cluster.exec(&places["y/b"].node, &arguments)?.success()?;
        let flows = told
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut flows = flows.filter(|flow| flow["source"]["pod"] == "x/a");
        Ok(flows.any(|flow| {
            flow["destination"]["port"] == 80
                && flow["direction"] == "ingress"
                && flow["policies"] == json!([format!("NetworkPolicy y/{POLICY}")])
        }))
    })?;
    remove(cluster, "y")
}

pub(crate) fn a_table_that_somebody_flushed_comes_back(suite: &Suite) -> anyhow::Result<()> {
    let (cluster, places) = (&suite.cluster, &suite.places);
    cluster.apply("y", &deny_all("y"))?;
    wait_until(suite, "x/a", "y/b", false)?;
    let node = &places["y/b"].node;
    for damage in [
        "delete table inet fairlead-policy",
        "flush table inet fairlead-policy",
    ] {
        let mut nft = vec!["nft"];
        nft.extend(damage.split(' '));
        cluster.exec(node, &nft)?.success()?;
        wait_for("the table", SOON, || {
            let list = ["nft", "list", "table", "inet", "fairlead-policy"];
            let table = cluster.exec(node, &list)?;
            Ok(table.stdout.contains("hook forward") && table.stdout.contains("policy-in"))
        })?;
        wait_until(suite, "x/a", "y/b", false)?;
        wait_until(suite, "x/a", "z/b", true)?;
    }
    remove(cluster, "y")
}

/// A command of `fairlead` that asks the cluster.
fn ask(suite: &Suite, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut program = command(fairlead());
    program
        .args(arguments)
        .args(["-o", "json"])
        .env("KUBECONFIG", &suite.cluster.kubeconfig);
    let answer = outcome(&mut program, None)?.success()?;
    Ok(serde_json::from_str(&answer)?)
}

pub(crate) fn questions_are_answered_from_the_live_cluster(suite: &Suite) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let ask = |arguments: &[&str]| ask(suite, arguments);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.json");
    std::fs::write(&file, deny_all("y"))?;
    let file = file.to_str().context("the path is no text")?;
    let check = ask(&["policy", "check", "-f", file])?;
    let lost = check.as_array().context("no list")?;
    ensure!(
        lost.iter().any(|own| own["source"] == "x/a"
            && own["destination"] == "y/b"
            && own["allowed"] == false),
        "{check}"
    );
    let trace = ask(&["trace", "x/a", "y/b:80"])?;
    ensure!(trace["ways"][0]["allowed"] == true, "{trace}");
    cluster.apply("y", &deny_all("y"))?;
    let trace = ask(&["trace", "x/a", "y/b:80"])?;
    let way = &trace["ways"][0];
    ensure!(way["allowed"] == false, "{trace}");
    let decision = &way["steps"][1]["decision"];
    ensure!(
        *decision == format!("no rule of NetworkPolicy y/{POLICY} allows it"),
        "{trace}"
    );
    let matrix = ask(&["policy", "matrix", "y"])?;
    ensure!(
        matrix
            .as_array()
            .context("no list")?
            .iter()
            .all(|own| { (own["source"] == own["destination"]) == (own["allowed"] == true) }),
        "{matrix}"
    );
    remove(cluster, "y")
}
