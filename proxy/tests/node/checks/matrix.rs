//! The tracer says where packets go, and packets go there.

use std::net::IpAddr;

use proxy::trace::{Source, Step};
use serde_json::{Value, json};

use super::Way;
use crate::world::{Answer, Outcome, Proxy, World, service, slice};

/// Whether a connection ended as predicted.
fn agrees(
    predicted: &Step,
    outcome: Outcome,
    from: IpAddr,
    from_node: bool,
    masked: IpAddr,
) -> bool {
    match (predicted, outcome) {
        (Step::Refused, Outcome::Refused) | (Step::Dropped, Outcome::TimedOut) => true,
        (Step::Served(all), Outcome::Answered(Answer { server, source })) => {
            all.iter().any(|served| {
                let seen = match served.source {
                    Source::Kept => from,
                    Source::Masqueraded => masked,
                };
                served.by.ip() == server && (seen == source || from_node)
            })
        }
        _ => false,
    }
}

pub(crate) fn packets_go_where_the_tracer_says(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let bits = if x.client.is_ipv6() { 128 } else { 32 };
    let front = |external: &str, internal: &str, ranges: Value| {
        json!({
            "spec": {
                "type": "LoadBalancer",
                "externalTrafficPolicy": external,
                "internalTrafficPolicy": internal,
                "externalIPs": [x.external],
                "loadBalancerSourceRanges": ranges,
                "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": x.balancer}]}},
        })
    };
    let only_client = json!([format!("{}/{bits}", x.client)]);
    let (here, there) = ((x.b, "here", true), (x.far, "there", true));
    let own = (x.a, "here", true);
    for (spec, ends) in [
        (front("Cluster", "Cluster", json!([])), vec![here, there]),
        (front("Local", "Local", json!([])), vec![here, there]),
        (front("Local", "Local", json!([])), vec![there]),
        (front("Local", "Cluster", only_client.clone()), vec![own]),
        (front("Cluster", "Local", only_client), vec![there]),
        (front("Local", "Local", json!([])), vec![]),
        (front("Cluster", "Cluster", json!([])), vec![]),
    ] {
        let ends_of_family = slice_of(way, &ends);
        proxy
            .service(&service("web", x.service, spec.clone()))
            .slice(&ends_of_family)
            .apply();
        let froms = [
            (&world.a, x.a, false),
            (&world.far, x.far, false),
            (&world.client, x.client, false),
            (&world.node, x.node, true),
        ];
        for (from, address, from_node) in froms {
            for (to, port) in [
                (x.service, 80),
                (x.service, 81),
                (x.node, 30080),
                (x.external, 80),
                (x.balancer, 80),
            ] {
                let predicted = proxy.predict(address, to, port);
                // In a cluster, a pod of another node reaches itself by that node.
                let itself = |step: &Step| match step {
                    Step::Served(all) => all.iter().any(|served| served.by.ip() == address),
                    _ => false,
                };
                if address == x.far && itself(&predicted) {
                    continue;
                }
                let outcome = match predicted {
                    Step::Dropped => world.tcp_in_vain(from, to, port),
                    _ => world.tcp(from, to, port),
                };
                assert!(
                    agrees(&predicted, outcome, address, from_node, x.node_pod_side),
                    "from {address} to {to} port {port} with {spec} and {ends:?}: \
                     {predicted}, but it was {outcome:?}\n{}",
                    world.dump()
                );
            }
        }
    }
}

/// A slice of the way's family also where it is empty.
fn slice_of(
    way: Way,
    ends: &[crate::world::End],
) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let mut slice = slice("web", ends);
    let v6 = way.ip.addresses().node.is_ipv6();
    slice.address_type = if v6 { "IPv6" } else { "IPv4" }.to_owned();
    slice
}
