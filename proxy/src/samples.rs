//! API objects for the tests of this crate.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::backend::Pictures;
use crate::picture::Index;

/// The node of these tests.
pub(crate) const HERE: &str = "here";

/// A Service `default/NAME` with port 80 over TCP, called `http`, and more as JSON.
pub(crate) fn service(name: &str, cluster_ip: &str, more: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    });
    merge(&mut object, more);
    serde_json::from_value(object).expect("a Service")
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// A slice called `SERVICE-SUFFIX`, with port 8080 for `http`; endpoints are the API's JSON.
pub(crate) fn slice(service: &str, suffix: &str, endpoints: &[Value]) -> EndpointSlice {
    slice_at(service, suffix, 8080, endpoints)
}

/// A slice whose port `http` is this one.
pub(crate) fn slice_at(
    service: &str,
    suffix: &str,
    port: u16,
    endpoints: &[Value],
) -> EndpointSlice {
    let v6 = endpoints
        .first()
        .and_then(|e| e["addresses"][0].as_str())
        .and_then(|text| text.parse().ok())
        .is_some_and(|address: IpAddr| address.is_ipv6());
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-{suffix}"),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

/// A ready endpoint.
pub(crate) fn ready(address: &str, node: &str) -> Value {
    endpoint(address, node, json!({"ready": true}))
}

/// An endpoint that is about to end.
pub(crate) fn terminating(address: &str, node: &str, serving: bool) -> Value {
    let conditions = json!({"ready": false, "serving": serving, "terminating": true});
    endpoint(address, node, conditions)
}

pub(crate) fn endpoint(address: &str, node: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": conditions})
}

/// The picture of some Services and slices.
pub(crate) fn pictures(services: &[Service], slices: &[EndpointSlice]) -> Pictures {
    let mut index = Index::new(HERE, None);
    index.set_service_cidrs(&[
        "10.96.0.0/12".parse().expect("a range"),
        "fd00:10:96::/112".parse().expect("a range"),
    ]);
    services
        .iter()
        .for_each(|service| index.service_applied(service));
    slices.iter().for_each(|slice| index.slice_applied(slice));
    index.take_changes();
    index.pictures().clone()
}

/// A handful of Services that have everything there is.
pub(crate) fn variety() -> Pictures {
    let node_port = json!({"spec": {"type": "NodePort", "ports": [
        {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080},
    ]}});
    let local = json!({
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000,
            "externalIPs": ["203.0.113.5"],
            "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.0/24"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30081}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ipMode": "VIP"}]}},
    });
    let affinity = json!({"spec": {"sessionAffinity": "ClientIP"}});
    let internal = json!({"spec": {"internalTrafficPolicy": "Local"}});
    let (near, far) = (ready("10.244.1.3", HERE), ready("10.244.2.2", "there"));
    pictures(
        &[
            service("plain", "10.96.0.10", json!({})),
            service("node-port", "10.96.0.11", node_port),
            service("balanced", "10.96.0.12", local),
            service("sticky", "10.96.0.13", affinity),
            service("internal", "10.96.0.14", internal),
            service("nobody", "10.96.0.15", json!({})),
            service("six", "fd00:10:96::10", json!({})),
        ],
        &[
            slice("plain", "a", &[near.clone(), far.clone()]),
            slice("node-port", "a", &[near.clone(), far.clone()]),
            slice("balanced", "a", &[near.clone(), far.clone()]),
            slice("sticky", "a", &[near.clone(), far.clone()]),
            slice("internal", "a", std::slice::from_ref(&far)),
            slice("six", "a", &[ready("fd00:10:244:1::3", HERE)]),
        ],
    )
}

/// One thing that happens: to which Service, what it becomes (beyond the last: it is deleted),
/// and which of its endpoints are there.
pub(crate) type Happening = (usize, usize, u8);

/// Random histories of a few Services.
pub(crate) fn histories() -> impl proptest::strategy::Strategy<Value = Vec<Happening>> {
    proptest::collection::vec((0..3usize, 0..9usize, 0..16u8), 1..14)
}

/// The changes that each step of a history makes, and the picture after the last one.
pub(crate) fn play(history: &[Happening]) -> (Vec<crate::picture::Changes>, Pictures) {
    let mut index = Index::new(HERE, None);
    let mut all = Vec::new();
    for (number, form, ends) in history {
        happen(&mut index, *number, *form, *ends);
        all.push(index.take_changes());
    }
    (all, index.pictures().clone())
}

fn happen(index: &mut Index, number: usize, form: usize, ends: u8) {
    let name = format!("s{number}");
    let cluster_ip = format!("10.96.0.{}", number + 1);
    let node_port = 30_000 + number;
    let ports = |with: Value| {
        let mut port = json!({"name": "http", "port": 80, "protocol": "TCP"});
        merge(&mut port, with);
        json!([port])
    };
    let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
    let more = match form {
        0 => json!({}),
        1 => json!({"spec": {"type": "NodePort", "ports": ports(json!({"nodePort": node_port}))}}),
        2 => json!({"spec": {"sessionAffinity": "ClientIP"}}),
        3 => json!({"spec": {"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": ports(json!({"nodePort": node_port}))}}),
        4 => json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000 + number,
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "ports": ports(json!({"nodePort": node_port}))}, "status": status}),
        5 => json!({"spec": {"type": "LoadBalancer", "internalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["192.0.2.0/24", "192.0.2.128/25"],
            "ports": ports(json!({"port": 81, "nodePort": node_port}))}, "status": status}),
        6 => json!({"spec": {"externalIPs": ["203.0.113.5", "203.0.113.9"]}}),
        7 => json!({"spec": {"ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "http", "port": 80, "protocol": "UDP"},
        ]}}),
        _ => {
            index.service_deleted(&crate::model::ServiceKey::new("default", &name));
            return;
        }
    };
    index.service_applied(&service(&name, &cluster_ip, more));
    let endpoints: Vec<Value> = (0..4u8)
        .filter(|bit| ends & (1 << bit) != 0)
        .map(|bit| {
            let node = if bit % 2 == 0 { HERE } else { "there" };
            ready(&format!("10.244.1.{}", bit + 2), node)
        })
        .collect();
    index.slice_applied(&slice(&name, "a", &endpoints));
}
