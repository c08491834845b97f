//! Nine pods, and who of them reaches whom.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context, ensure};
use cluster_tests::cluster::Cluster;
use cluster_tests::command::testserver;
use cluster_tests::pods::IMAGE;
use serde_json::{Value, json};

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

/// Where a pod is and how it is reached.
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) v4: String,
    pub(crate) v6: String,
}

impl Place {
    pub(crate) fn address(&self, v6: bool) -> &str {
        if v6 { &self.v6 } else { &self.v4 }
    }
}

/// By `NAMESPACE/NAME`.
pub(crate) type Places = BTreeMap<String, Place>;

/// A connection to try: client, server, `PORT/PROTOCOL`.
pub(crate) type Probe = (String, String, String);

/// Makes the pods, or finds them.
pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<Places> {
    let nodes = cluster.nodes()?;
    for (n, namespace) in NAMESPACES.iter().enumerate() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"ns": namespace}}});
        cluster.apply("default", &object.to_string())?;
        for (p, pod) in PODS.iter().enumerate() {
            let node = &nodes[(n + p) % nodes.len()];
            cluster.apply(namespace, &server(pod, node).to_string())?;
        }
    }
    let mut places = Places::new();
    for namespace in NAMESPACES {
        let wait = format!("wait -n {namespace} --for=condition=Ready pod --all --timeout=120s");
        cluster.kubectl(&wait)?.success()?;
        let list = cluster.get(&format!("pods -n {namespace}"))?;
        for pod in list["items"].as_array().context("no pods")? {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            places.insert(format!("{namespace}/{name}"), place(pod)?);
        }
    }
    Ok(places)
}

fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "pod": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server",
                "image": IMAGE,
                "args": ["serve", "--http-port", "8080", "--tcp-port", "80,81", "--udp-port", "80"],
                "ports": [
                    { "name": "serve-80", "containerPort": 80 },
                    { "name": "serve-81", "containerPort": 81 },
                    { "name": "serve-80-udp", "containerPort": 80, "protocol": "UDP" },
                ],
            }],
        },
    })
}

fn place(pod: &Value) -> anyhow::Result<Place> {
    let addresses = pod["status"]["podIPs"].as_array().context("no addresses")?;
    let of = |v6: bool| {
        let mut texts = addresses.iter().filter_map(|own| own["ip"].as_str());
        let found = texts.find(|text| text.contains(':') == v6);
        Ok::<_, anyhow::Error>(found.context("not both families")?.to_owned())
    };
    let node = pod["spec"]["nodeName"].as_str().context("no node")?;
    Ok(Place {
        node: node.to_owned(),
        v4: of(false)?,
        v6: of(true)?,
    })
}

/// Which of the connections are made. The node asks the client to connect: a node always
/// reaches its own pods.
pub(crate) fn reached(
    cluster: &Cluster,
    places: &Places,
    v6: bool,
    probes: &[Probe],
) -> anyhow::Result<BTreeMap<Probe, bool>> {
    let nodes = cluster.nodes()?;
    let answers: Vec<anyhow::Result<_>> = thread::scope(|scope| {
        let of_node = nodes.iter().map(|node| {
            let own = probes.iter().filter(|probe| places[&probe.0].node == *node);
            let own: Vec<&Probe> = own.collect();
            scope.spawn(move || from_node(cluster, places, v6, node, &own))
        });
        let threads: Vec<_> = of_node.collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join();
        threads
            .into_iter()
            .map(|thread| join(thread).unwrap_or_else(|_| anyhow::bail!("a probe panicked")))
            .collect()
    });
    let mut all = BTreeMap::new();
    for answer in answers {
        all.extend(answer?);
    }
    Ok(all)
}

fn from_node(
    cluster: &Cluster,
    places: &Places,
    v6: bool,
    node: &str,
    probes: &[&Probe],
) -> anyhow::Result<BTreeMap<Probe, bool>> {
    let bracketed = |address: &str| match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let mut list = String::new();
    for (number, (client, server, port)) in probes.iter().enumerate() {
        let (port, protocol) = port.split_once('/').context("PORT/PROTOCOL")?;
        let client = bracketed(&places[client].v4);
        let server = bracketed(places[server].address(v6));
        let protocol = protocol.to_lowercase();
        list += &format!(
            "{number} http://{client}:8080/dial?host={server}&port={port}&protocol={protocol}&timeout=1200\\n"
        );
    }
    let program = testserver();
    let program = program.to_str().context("the path is no text")?;
    // One process for each probe, forty at a time.
    let script = format!(
        "printf '{list}' | xargs -P 40 -L 1 sh -c 'echo \"$0 $({program} get --timeout 10 \"$1\" 2>&1)\"'"
    );
    let output = cluster.exec(node, &["sh", "-c", &script])?.success()?;
    let mut results = BTreeMap::new();
    for line in output.lines() {
        let Some((number, answer)) = line.split_once(' ') else {
            continue;
        };
        let Some(probe) = number
            .parse::<usize>()
            .ok()
            .and_then(|number| probes.get(number))
        else {
            continue;
        };
        let answer: Value = serde_json::from_str(answer)
            .with_context(|| format!("{} was not asked: {answer}", probe.0))?;
        let reached = answer["responses"]
            .as_array()
            .is_some_and(|own| !own.is_empty());
        results.insert((*probe).clone(), reached);
    }
    ensure!(
        results.len() == probes.len(),
        "{node} answered {} of {} probes",
        results.len(),
        probes.len()
    );
    Ok(results)
}
