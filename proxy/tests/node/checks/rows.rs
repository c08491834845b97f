//! Rows of the API's semantics, and bad input.

use std::net::TcpListener;
use std::sync::Arc;

use proxy::Mode;
use proxy::model::ServiceKey;
use serde_json::{Value, json};

use super::{Way, answered};
use crate::world::{Ip, Outcome, Proxy, TARGET, World, service, slice};

pub(crate) fn a_services_type_changes_while_it_is_there(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let cluster_ip = json!({});
    let node_port = json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let external_name = json!({"spec": {
        "type": "ExternalName", "externalName": "example.org", "clusterIP": "", "clusterIPs": [],
    }});
    proxy.slice(&slice("web", &[(x.b, "here", true)]));
    for (spec, by_cluster_ip, by_node_port) in [
        (cluster_ip.clone(), true, false),
        (node_port.clone(), true, true),
        (external_name.clone(), false, false),
        (node_port, true, true),
        (external_name, false, false),
        (cluster_ip, true, false),
    ] {
        proxy
            .service(&service("web", x.service, spec.clone()))
            .apply();
        let expected = |served| match served {
            true => answered(x.b, x.node_pod_side),
            false => Outcome::Refused,
        };
        assert_eq!(
            world.tcp(&world.client, x.service, 80),
            expected(by_cluster_ip),
            "{spec}"
        );
        assert_eq!(
            world.tcp(&world.client, x.node, 30080),
            expected(by_node_port),
            "{spec}"
        );
    }
}

/// A slice with a name of its own, for a port that it names.
fn by_hand(
    suffix: &str,
    address: std::net::IpAddr,
    port: u16,
    conditions: Value,
) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("web-{suffix}"),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": if address.is_ipv6() { "IPv6" } else { "IPv4" },
        "ports": [{"name": "tcp", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": "here", "conditions": conditions}],
    }))
    .expect("a slice")
}

pub(crate) fn slices_made_by_hand_lead_to_all_of_their_targets(way: Way) {
    const OTHER: u16 = 9090;
    let mut world = World::new();
    let x = way.ip.addresses();
    world.serve_also(|world| &world.b, x.b, OTHER);
    world.serve_also(|world| &world.far, x.far, OTHER);
    let world = world;
    let mut proxy = Proxy::new(&world, &way.config());
    let ready = || json!({"ready": true});
    // Different addresses and ports.
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&by_hand("1", x.b, TARGET, ready()))
        .slice(&by_hand("2", x.far, OTHER, ready()))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b, x.far]);
    // One address, two ports: each is reached when the other is gone, and both are tried.
    proxy.slice(&by_hand("2", x.b, OTHER, ready())).apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
    proxy
        .slice(&by_hand("1", x.b, TARGET, json!({"ready": false})))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
    proxy.slice(&by_hand("2", x.far, OTHER, ready())).apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.far]);
}

pub(crate) fn leaving_back_ends_are_the_last_resort(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let leaving = |serving: bool| json!({"ready": false, "serving": serving, "terminating": true});
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&by_hand("1", x.b, TARGET, leaving(true)))
        .slice(&by_hand("2", x.far, TARGET, json!({"ready": true})))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.far]);
    proxy
        .slice(&by_hand("2", x.far, TARGET, leaving(false)))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
    proxy
        .slice(&by_hand("1", x.b, TARGET, leaving(false)))
        .apply();
    assert_eq!(world.tcp(&world.a, x.service, 80), Outcome::Refused);
}

pub(crate) fn a_node_port_that_a_program_holds_leads_to_the_service(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let any = if way.ip == Ip::V4 {
        "0.0.0.0:30080"
    } else {
        "[::]:30080"
    };
    let _holder = world.node.run(|| TcpListener::bind(any).expect("free"));
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    proxy
        .service(&service("web", x.service, spec))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    assert_eq!(
        world.tcp(&world.client, x.node, 30080),
        answered(x.b, x.node_pod_side)
    );
}

pub(crate) fn names_may_be_as_long_as_the_api_allows(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let long = |letter: &str| letter.repeat(63);
    let spec = json!({
        "metadata": {"namespace": long("n")},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "externalIPs": [x.external],
            "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8:1::/48"],
            "ports": [{"name": long("p"), "port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": x.balancer}]}},
    });
    let mut ends = slice(&long("s"), &[(x.b, "here", true), (x.far, "there", true)]);
    ends.metadata.namespace = Some(long("n"));
    if let Some(port) = ends.ports.iter_mut().flatten().next() {
        port.name = Some(long("p"));
    }
    proxy
        .service(&service(&long("s"), x.service, spec.clone()))
        .slice(&ends)
        .apply();
    assert!(matches!(
        world.tcp(&world.a, x.service, 80),
        Outcome::Answered(_)
    ));
    assert_eq!(
        world.tcp(&world.client, x.external, 80),
        answered(x.b, x.client)
    );
    // Without endpoints there are other rules with the name.
    if let Some(endpoint) = ends.endpoints.iter_mut().flatten().next() {
        endpoint.conditions = None;
        endpoint.node_name = Some("there".to_owned());
    }
    proxy.slice(&ends).apply();
    assert_eq!(
        world.tcp_in_vain(&world.client, x.external, 80),
        Outcome::TimedOut
    );
}

pub(crate) fn one_service_that_the_kernel_refuses_holds_nobody_up(way: Way) {
    let world = World::new();
    let (x, other) = (way.ip.addresses(), other(way.ip).addresses());
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .service(&service("bad", second(x.service), json!({})))
        .slice(&slice("bad", &[(x.b, "here", true)]));
    // No API object gives such a picture: a back end of the other family.
    let mut changes = proxy.index.take_changes();
    let key = ServiceKey::new("default", "bad");
    let mut bad = (**changes[&key].as_ref().expect("a picture")).clone();
    for port in &mut bad.ports {
        port.cluster[0].address = other.b;
    }
    changes.insert(key.clone(), Some(Arc::new(bad.clone())));
    // IPVS and nftables refuse a part; iptables refuses a whole input, and is asked again.
    let outcome = world.node.run(|| proxy.applier.apply(&changes));
    let outcome = outcome.or_else(|error| {
        assert_eq!(way.mode, Mode::Iptables, "{error}");
        let mut desired = proxy.desired();
        desired.services.insert(key.clone(), Arc::new(bad));
        world.node.run(|| proxy.applier.resync(way.mode, &desired))
    });
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<&ServiceKey> = outcome.failed.keys().collect();
    assert_eq!(failed, [&key], "{outcome:?}");
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
}

fn other(ip: Ip) -> Ip {
    match ip {
        Ip::V4 => Ip::V6,
        Ip::V6 => Ip::V4,
    }
}

/// The address behind this one.
fn second(ip: std::net::IpAddr) -> std::net::IpAddr {
    match ip {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip) + 1).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) + 1).into(),
    }
}

pub(crate) fn thousands_of_back_ends_are_reached(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let mut address = x.far;
    let mut ends = vec![(x.b, "here", true)];
    for _ in 1..10_000 {
        address = second(address);
        ends.push((address, "there", true));
    }
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &ends))
        .apply();
    // Down to the one that is really there.
    proxy.slice(&slice("web", &ends[..1])).apply();
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    proxy.slice(&slice("web", &ends)).apply();
    assert!(proxy.intact());
}

/// Not among the checks of every kernel: many have no SCTP.
pub(crate) fn sctp_associations_reach_their_back_ends(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    for (pod, address) in [(&world.b, x.b), (&world.far, x.far)] {
        crate::world::serve_sctp(pod, address);
    }
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "sctp", "port": 80, "protocol": "SCTP", "nodePort": 30080}],
    }});
    let ends = |address| {
        let mut ends = by_hand("1", address, TARGET, json!({"ready": true}));
        if let Some(port) = ends.ports.iter_mut().flatten().next() {
            port.name = Some("sctp".to_owned());
            port.protocol = Some("SCTP".to_owned());
        }
        ends
    };
    proxy.service(&service("web", x.service, spec));
    for server in [x.b, x.far] {
        proxy.slice(&ends(server)).apply();
        let inside = world.sctp(&world.a, x.service, 80);
        assert_eq!(inside, answered(server, x.a), "{way:?}\n{}", world.dump());
        let outside = world.sctp(&world.client, x.node, 30080);
        assert_eq!(outside, answered(server, x.node_pod_side), "{way:?}");
    }
}
