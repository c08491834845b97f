//! Which back ends get the traffic, and for how long.

use std::net::IpAddr;
use std::time::Duration;

use proxy::Config;
use serde_json::{Value, json};

use super::Way;
use crate::world::{Outcome, Proxy, TARGET, World, service, slice};

/// An endpoint with hints: its address, its node, and for whom it is.
type Hinted<'a> = (IpAddr, &'a str, Value);

fn hinted(ends: &[Hinted<'_>]) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let v6 = ends.first().is_some_and(|(address, ..)| address.is_ipv6());
    let endpoints: Vec<Value> = ends
        .iter()
        .map(|(address, node, hints)| {
            json!({
                "addresses": [address],
                "nodeName": node,
                "conditions": {"ready": true},
                "hints": hints,
            })
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "tcp", "port": TARGET, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

pub(crate) fn hints_and_distributions_keep_traffic_near(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    assert!(proxy.index.set_zone(Some("east")));
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let node = |name: &str, zone: &str| json!({"forNodes": [{"name": name}], "forZones": [{"name": zone}]});
    let spec = |distribution: &str| json!({"spec": {"trafficDistribution": distribution}});
    let (here, there) = ((x.b, "here"), (x.far, "there"));
    let with = |(address, node): (IpAddr, &'static str), hints| (address, node, hints);
    for (distribution, ends, servers) in [
        (
            "PreferSameZone",
            [with(here, zone("west")), with(there, zone("east"))],
            vec![x.far],
        ),
        (
            "PreferClose",
            [with(here, zone("east")), with(there, zone("west"))],
            vec![x.b],
        ),
        // No endpoint is for this zone: all of them serve it.
        (
            "PreferSameZone",
            [with(here, zone("west")), with(there, zone("west"))],
            vec![x.b, x.far],
        ),
        (
            "PreferSameNode",
            [
                with(here, node("here", "east")),
                with(there, node("there", "east")),
            ],
            vec![x.b],
        ),
        // Slices that nobody wrote hints into still name the node.
        (
            "PreferSameNode",
            [with(here, Value::Null), with(there, Value::Null)],
            vec![x.b],
        ),
        (
            "PreferSameZone",
            [with(here, Value::Null), with(there, Value::Null)],
            vec![x.b, x.far],
        ),
    ] {
        proxy
            .service(&service("web", x.service, spec(distribution)))
            .slice(&hinted(&ends))
            .apply();
        let found = world.servers(&world.a, x.service, 80);
        assert_eq!(found, servers, "{distribution} {ends:?}");
    }
}

pub(crate) fn affinity_ends_when_its_time_is_over(way: Way) {
    const SECONDS: u64 = 3;
    let world = World::new();
    let x = way.ip.addresses();
    // IPVS keeps a client with its back end also for as long as it knows a connection of it.
    let config = Config {
        ipvs: proxy::config::Ipvs {
            udp_timeout: Some(Duration::from_secs(1)),
            ..Default::default()
        },
        ..way.config()
    };
    let mut proxy = Proxy::new(&world, &config);
    let spec = json!({"spec": {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": SECONDS}},
    }});
    let ends = [(x.b, "here", true), (x.far, "there", true)];
    proxy
        .service(&service("web", x.service, spec))
        .slice(&slice("web", &ends))
        .apply();
    let ask = || match world.udp(&world.a, x.service, 80) {
        Outcome::Answered(answer) => answer.server,
        other => panic!("{other:?}\n{}", world.dump()),
    };
    let first = ask();
    // Each time the choice is anew, among two: that it is the same twenty times in a row
    // happens once in a million runs.
    let moved = (0..20).any(|_| {
        std::thread::sleep(Duration::from_secs(SECONDS + 1));
        ask() != first
    });
    assert!(moved, "the client stays with {first}\n{}", world.dump());
}
