//! Services and slices as a cluster has them.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Where back ends listen.
pub(crate) const TARGET: u16 = 8080;
/// Endpoints' addresses begin anew after so many.
const ADDRESSES: u32 = 0x000b_0000;

/// The cluster IP of a Service.
pub(crate) fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + 256 + number)
}

/// The address of an endpoint.
pub(crate) fn endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0af4_0000 + number % ADDRESSES)
}

pub(crate) fn service(number: u32) -> Service {
    let ip = cluster_ip(number);
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": format!("service-{number}"), "namespace": "bench"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }))
    .expect("a Service")
}

/// The slice of a Service, whose endpoints begin with this one.
pub(crate) fn slice(number: u32, first: u32, endpoints: u32) -> EndpointSlice {
    let list: Vec<_> = (0..endpoints)
        .map(|i| {
            let ip = endpoint(first + i);
            serde_json::json!({"addresses": [ip], "nodeName": "other", "conditions": {"ready": true}})
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": format!("service-{number}-a"),
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": TARGET, "protocol": "TCP"}],
        "endpoints": list,
    }))
    .expect("a slice")
}
