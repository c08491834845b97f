//! Nine pods: three in each of three namespaces, spread over the nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use cluster_tests::cluster::Cluster;
use cluster_tests::pods::IMAGE;
use serde_json::{Value, json};

use crate::oracle::TestPod;

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PROTOCOLS: [(&str, &str); 3] = [("TCP", ""), ("UDP", "-udp"), ("SCTP", "-sctp")];

/// Where a pod is and how it is reached.
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) v4: String,
    pub(crate) v6: String,
    /// The addresses of the Service that leads to it alone.
    pub(crate) service: [IpAddr; 2],
}

impl Place {
    pub(crate) fn address(&self, v6: bool) -> &str {
        if v6 { &self.v6 } else { &self.v4 }
    }
}

/// By `NAMESPACE/NAME`.
pub(crate) type Places = BTreeMap<String, Place>;

/// Makes the pods and waits for them.
pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<Places> {
    let nodes = cluster.nodes()?;
    for (n, namespace) in NAMESPACES.iter().enumerate() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"ns": namespace}}});
        cluster.apply("default", &object.to_string())?;
        for (p, pod) in PODS.iter().enumerate() {
            let node = &nodes[(n + p) % nodes.len()];
            cluster.apply(namespace, &server(pod, node).to_string())?;
            cluster.apply(namespace, &service(pod).to_string())?;
        }
    }
    let mut places = Places::new();
    for namespace in NAMESPACES {
        let wait = format!("wait -n {namespace} --for=condition=Ready pod --all --timeout=120s");
        cluster.kubectl(&wait)?.success()?;
        let list = cluster.get(&format!("pods -n {namespace}"))?;
        for pod in list["items"].as_array().context("no pods")? {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            let service = cluster.get(&format!("service -n {namespace} {}", of(name)))?;
            let place = place(pod, &service)?;
            places.insert(format!("{namespace}/{name}"), place);
        }
    }
    Ok(places)
}

/// The declared ports: name, protocol, number.
fn ports() -> impl Iterator<Item = (String, &'static str, u16)> {
    let numbers = [80, 81].into_iter();
    numbers.flat_map(|number| {
        PROTOCOLS.map(|(protocol, suffix)| (format!("serve-{number}{suffix}"), protocol, number))
    })
}

fn server(name: &str, node: &str) -> Value {
    let ports: Vec<Value> = ports()
        .map(|(name, protocol, port)| {
            json!({ "name": name, "containerPort": port, "protocol": protocol })
        })
        .collect();
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
                "args": ["serve", "--http-port", "8080", "--tcp-port", "80,81", "--udp-port", "80,81"],
                "ports": ports,
            }],
        },
    })
}

/// The name of a pod's Service.
fn of(pod: &str) -> String {
    format!("to-{pod}")
}

fn service(pod: &str) -> Value {
    let ports: Vec<Value> = ports()
        .map(|(name, protocol, port)| json!({ "name": name, "port": port, "protocol": protocol }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": of(pod) },
        "spec": {
            "selector": { "pod": pod },
            "ipFamilyPolicy": "RequireDualStack",
            "ports": ports,
        },
    })
}

fn place(pod: &Value, service: &Value) -> anyhow::Result<Place> {
    let texts = |list: &Value, field: &str| -> anyhow::Result<Vec<String>> {
        let texts = list.as_array().context("no addresses")?.iter();
        let text = |own: &Value| own.get(field).unwrap_or(own).as_str().map(str::to_owned);
        Ok(texts.filter_map(text).collect())
    };
    let pick = |texts: &[String], v6: bool| {
        let found = texts.iter().find(|text| text.contains(':') == v6);
        Ok::<_, anyhow::Error>(found.context("not both families")?.to_owned())
    };
    let addresses = texts(&pod["status"]["podIPs"], "ip")?;
    let service = texts(&service["spec"]["clusterIPs"], "")?;
    let node = pod["spec"]["nodeName"].as_str().context("no node")?;
    Ok(Place {
        node: node.to_owned(),
        v4: pick(&addresses, false)?,
        v6: pick(&addresses, true)?,
        service: [
            pick(&service, false)?.parse()?,
            pick(&service, true)?.parse()?,
        ],
    })
}

/// The pods as the oracle takes them, without labels of a case.
pub(crate) fn for_oracle(places: &Places, v6: bool) -> anyhow::Result<Vec<TestPod>> {
    let pods = places.iter().map(|(name, place)| {
        let (namespace, pod) = name.split_once('/').context("NAMESPACE/NAME")?;
        Ok(TestPod {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            labels: json!({ "pod": pod }),
            address: place.address(v6).parse()?,
            ports: ports().collect(),
        })
    });
    pods.collect()
}
