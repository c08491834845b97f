//! What is told about policies, and what keeps them in place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::command::{command, fairlead, outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Suite;
use crate::probes::{At, Probe};

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
    let lost = check["pairs"].as_array().context("no list")?;
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

/// Policies that keep on denying x/a and allowing z/a what they say, and are written anew all the
/// time; then the agent is killed.
pub(crate) fn nothing_gets_through_or_is_cut_while_policies_are_edited(
    suite: &Suite,
) -> anyhow::Result<()> {
    /// Looks while policies are edited, before the agent is killed and when another one is there.
    const ROUNDS: usize = 3;
    let cluster = &suite.cluster;
    let edit = |number: u16| -> anyhow::Result<()> {
        let ports: Vec<Value> = (0..number % 7).map(|n| json!({"port": 7000 + n})).collect();
        let from = json!([{"namespaceSelector": {"matchLabels": {"ns": "z"}}}]);
        let other = json!({"from": [{"podSelector": {}}], "ports": ports});
        let rules = match number % 2 {
            0 => json!([{"from": from}, other]),
            _ => json!([other, {"from": from, "ports": [{"port": 80}]}]),
        };
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": POLICY, "namespace": "y"},
            "spec": {"podSelector": {"matchLabels": {"pod": "b"}}, "ingress": rules}});
        cluster.apply("y", &object.to_string())
    };
    edit(0)?;
    let probe = |client: &str, v6| Probe {
        client: client.to_owned(),
        server: "y/b".to_owned(),
        port: (80, "TCP"),
        v6,
    };
    let families = [false, true];
    let expected: BTreeMap<Probe, bool> = families
        .iter()
        .flat_map(|v6| [(probe("x/a", *v6), false), (probe("z/a", *v6), true)])
        .collect();
    suite.holds(&expected)?;
    let node = &suite.places["y/b"].node;
    let probes: Vec<Probe> = expected.keys().cloned().collect();
    let look = |when: &str| -> anyhow::Result<()> {
        // Long enough for what is allowed on a busy machine: one lost packet is sent again.
        let seen = suite
            .prober
            .reached(&probes, Duration::from_secs(4), At::Pods)?;
        ensure!(seen == expected, "{when}: {seen:?}");
        Ok(())
    };
    let rounds = || -> anyhow::Result<()> {
        (0..ROUNDS).try_for_each(|round| look(&format!("round {round} of edits")))?;
        let before = cluster.process(node, "node")?;
        kill(Pid::from_raw(before), Signal::SIGKILL)?;
        let mut meanwhile = Ok(());
        wait_for("another node process", SOON, || {
            if meanwhile.is_ok() {
                meanwhile = look("while no agent runs");
            }
            Ok(cluster.process(node, "node").is_ok_and(|now| now != before))
        })?;
        meanwhile?;
        (0..ROUNDS).try_for_each(|round| look(&format!("round {round} of the next agent")))
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> anyhow::Result<()> {
        let editor = scope.spawn(|| -> anyhow::Result<()> {
            let mut numbers = (0..u16::MAX).cycle();
            while !done.load(Ordering::Relaxed) {
                edit(numbers.next().unwrap_or_default())?;
            }
            Ok(())
        });
        let result = rounds();
        done.store(true, Ordering::Relaxed);
        let edited = editor.join();
        result?;
        edited.map_err(|_| anyhow::anyhow!("the editor panicked"))?
    })?;
    remove(cluster, "y")
}

pub(crate) fn a_trace_is_confirmed_by_a_real_connection(suite: &Suite) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "b", "namespace": "y"},
        "spec": {"selector": {"pod": "b"}, "ports": [{"port": 8000, "targetPort": 80}]}});
    cluster.apply("y", &service.to_string())?;
    let address = cluster.get("service b -n y")?["spec"]["clusterIP"]
        .as_str()
        .context("no address")?
        .to_owned();
    let through_service = format!("{address}:8000");
    let probe = |destination: &str| ask(suite, &["trace", "x/a", destination, "--probe"]);
    wait_for("the Service", SOON, || {
        let trace = probe(&through_service)?;
        let way = &trace["ways"][0];
        Ok(way["allowed"] == true
            && way["destination"] == "y/b"
            && trace["probe"] == "connected"
            && trace["service"]
                .as_array()
                .is_some_and(|steps| steps.len() > 1)
            && way["route"]
                .as_array()
                .is_some_and(|route| !route.is_empty()))
    })?;
    cluster.apply("y", &deny_all("y"))?;
    wait_until(suite, "x/a", "y/b", false)?;
    for destination in ["y/b:80", &through_service] {
        let trace = probe(destination)?;
        ensure!(
            trace["ways"][0]["allowed"] == false && trace["probe"] == "noAnswer",
            "{trace}"
        );
    }
    remove(cluster, "y")?;
    cluster.kubectl("delete service b -n y")?.success()?;
    Ok(())
}

pub(crate) fn a_check_tells_which_connections_of_the_last_hour_would_be_cut(
    suite: &Suite,
) -> anyhow::Result<()> {
    wait_until(suite, "x/b", "y/b", true)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.json");
    std::fs::write(&file, deny_all("y"))?;
    let file = file.to_str().context("the path is no text")?;
    wait_for("the connection in the check", SOON, || {
        let check = ask(suite, &["policy", "check", "-f", file])?;
        let mut cut = check["cut"].as_array().context("no list")?.iter();
        Ok(cut.any(|own| {
            own["sourcePod"] == "x/b" && own["destinationPod"] == "y/b" && own["port"] == 80
        }))
    })
}

pub(crate) fn accepted_connections_are_told_while_somebody_asks(
    suite: &Suite,
) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let program = fairlead();
    let program = program.to_str().context("the path is no text")?;
    let node = &suite.places["y/c"].node;
    // The stream has no end: the listener is given this time.
    let listen = [
        "timeout",
        "20",
        program,
        "flows",
        "--accepted",
        "--follow",
        "--pod",
        "y/c",
        "-o",
        "json",
    ];
    let told = thread::scope(|scope| -> anyhow::Result<String> {
        let listener = scope.spawn(|| cluster.exec(node, &listen));
        while !listener.is_finished() {
            wait_until(suite, "x/a", "y/c", true)?;
        }
        let joined = listener.join();
        Ok(joined
            .map_err(|_| anyhow::anyhow!("the listener panicked"))??
            .stdout)
    })?;
    let mut flows = told
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = flows.find(|own| own["verdict"] == "accept" && own["source"]["pod"] == "x/a");
    ensure!(found.is_some(), "{told}");
    Ok(())
}

pub(crate) fn the_nodes_metrics_count_what_was_dropped(suite: &Suite) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let node = &suite.places["y/b"].node;
    cluster.apply("y", &deny_all("y"))?;
    wait_until(suite, "x/a", "y/b", false)?;
    wait_for("the counter", SOON, || {
        let path = format!("get --raw /api/v1/nodes/{node}/proxy/metrics");
        let metrics = cluster.kubectl(&path)?.success()?;
        let name = "fairlead_policy_logged_drops_ingress_total ";
        let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(name));
        Ok(counts.any(|count| count != "0"))
    })?;
    remove(cluster, "y")
}

pub(crate) fn what_cannot_be_enforced_is_told(suite: &Suite) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let policy = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy", "metadata": {"name": POLICY},
        "spec": {"tier": "Baseline", "priority": 1000,
            "subject": {"namespaces": {"matchLabels": {"ns": "nobody"}}},
            "egress": [{"action": "Deny", "to": [{"domainNames": ["example.com"]}]}]}});
    cluster.apply("default", &policy.to_string())?;
    wait_for("the status", SOON, || {
        let policy = cluster.get(&format!("clusternetworkpolicy {POLICY}"))?;
        let condition = &policy["status"]["conditions"][0];
        Ok(condition["type"] == "Accepted" && condition["status"] == "False")
    })?;
    let removal = format!("delete clusternetworkpolicy {POLICY}");
    cluster.kubectl(&removal)?.success()?;
    Ok(())
}

pub(crate) fn a_name_opens_the_way_when_the_clusters_dns_has_answered(
    suite: &Suite,
) -> anyhow::Result<()> {
    let cluster = &suite.cluster;
    let name = "named.y.svc.cluster.local";
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "named", "namespace": "y"},
        "spec": {"clusterIP": "None", "selector": {"pod": "b"}, "ports": [{"port": 80}]}});
    cluster.apply("y", &service.to_string())?;
    let dial = format!("exec a -n x -- /testserver dial tcp {name}:80 hostname");
    wait_for("the name", SOON, || {
        Ok(cluster.kubectl(&dial)?.code == Some(0))
    })?;
    let namespaces = json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}});
    let dns = json!({"namespaceSelector": namespaces,
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
    let subject = json!({"namespaceSelector": {"matchLabels": {"ns": "x"}},
        "podSelector": {"matchLabels": {"pod": "c"}}});
    let policy = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy", "metadata": {"name": POLICY},
    "spec": {"tier": "Admin", "priority": 1, "subject": {"pods": subject}, "egress": [
        {"action": "Accept", "to": [{"pods": dns}]},
        {"action": "Accept", "to": [{"domainNames": ["*.y.svc.cluster.local"]}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
    ]}});
    cluster.apply("default", &policy.to_string())?;
    // Nobody of its node has asked for another name of the namespace.
    wait_until(suite, "x/c", "y/c", false)?;
    let dial = format!("exec c -n x -- /testserver dial tcp {name}:80 hostname");
    let answer = cluster.kubectl(&dial)?.success()?;
    ensure!(answer.trim() == "b", "{answer}");
    wait_until(suite, "x/c", "y/c", false)?;
    cluster
        .kubectl(&format!("delete clusternetworkpolicy {POLICY}"))?
        .success()?;
    cluster.kubectl("delete service named -n y")?.success()?;
    Ok(())
}
