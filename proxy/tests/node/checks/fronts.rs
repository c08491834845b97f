//! What a Service is reached by, and what is no Service's.

use ipnetwork::IpNetwork;
use proxy::Config;
use proxy::model::ServiceKey;
use serde_json::{Value, json};

use super::{Way, answered};
use crate::world::{Ip, Outcome, Proxy, TARGET, World, service, slice};

fn second(ip: std::net::IpAddr) -> std::net::IpAddr {
    match ip {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip) + 1).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) + 1).into(),
    }
}

pub(crate) fn several_ports_in_both_families_lead_to_their_own_targets(way: Way) {
    const OTHER: u16 = 9090;
    let mut world = World::new();
    for x in [Ip::V4.addresses(), Ip::V6.addresses()] {
        world.serve_also(|world| &world.far, x.far, OTHER);
    }
    let world = world;
    let mut proxy = Proxy::new(&world, &way.config());
    let (four, six) = (Ip::V4.addresses(), Ip::V6.addresses());
    let (first, then) = match way.ip {
        Ip::V4 => (&four, &six),
        Ip::V6 => (&six, &four),
    };
    let spec = json!({"spec": {
        "clusterIPs": [first.service, then.service],
        "ipFamilies": [],
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"},
            {"name": "named", "port": 81, "protocol": "TCP", "targetPort": "other"},
        ],
    }});
    proxy.service(&service("web", first.service, spec));
    for (x, suffix) in [(first, "first"), (then, "then")] {
        let mut ends = slice("web", &[(x.b, "here", true)]);
        ends.metadata.name = Some(format!("web-{suffix}"));
        proxy.slice(&ends);
        let mut other = slice("web", &[(x.far, "there", true)]);
        other.metadata.name = Some(format!("web-{suffix}-named"));
        other.ports = serde_json::from_value(json!([
            {"name": "named", "port": OTHER, "protocol": "TCP"},
        ]))
        .expect("ports");
        proxy.slice(&other);
    }
    proxy.apply();
    for x in [first, then] {
        assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
        assert_eq!(world.tcp(&world.a, x.service, 81), answered(x.far, x.a));
    }
}

pub(crate) fn a_load_balancer_may_have_no_node_port_and_other_modes_of_delivery(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let balanced = |mode: &str| {
        json!({
            "spec": {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": false,
                "loadBalancerClass": "example.org/any",
            },
            "status": {"loadBalancer": {"ingress": [{"ip": x.balancer, "ipMode": mode}]}},
        })
    };
    proxy.slice(&slice("web", &[(x.b, "here", true)]));
    for (mode, served) in [("VIP", true), ("Proxy", false), ("VIP", true)] {
        proxy
            .service(&service("web", x.service, balanced(mode)))
            .apply();
        let outcome = match served {
            true => world.tcp(&world.client, x.balancer, 80),
            false => world.tcp_in_vain(&world.client, x.balancer, 80),
        };
        let ours = outcome == answered(x.b, x.node_pod_side);
        assert_eq!(ours, served, "{mode}: {outcome:?}");
        assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    }
}

pub(crate) fn node_ports_are_served_on_the_chosen_addresses_alone(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let config = Config {
        nodeport_addresses: vec![IpNetwork::from(x.node)],
        localhost_nodeports: false,
        ..way.config()
    };
    let mut proxy = Proxy::new(&world, &config);
    let spec = json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    proxy
        .service(&service("web", x.service, spec))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    for from in [&world.client, &world.a, &world.node] {
        let chosen = world.tcp(from, x.node, 30080);
        assert!(matches!(chosen, Outcome::Answered(_)), "{chosen:?}");
        assert_eq!(world.tcp(from, x.node_pod_side, 30080), Outcome::Refused);
    }
    assert_eq!(world.tcp(&world.node, x.loopback, 30080), Outcome::Refused);
}

pub(crate) fn addresses_of_the_service_range_that_nobody_has_are_refused(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    let nobody = second(x.service);
    for from in [&world.a, &world.node, &world.client] {
        assert_eq!(world.tcp(from, nobody, 80), Outcome::Refused);
    }
    // A datagram of the node itself does not even begin. How often the kernel tells of errors
    // is limited.
    for from in [&world.a, &world.client] {
        world.ask_until_refused(&world.udp_flow(from, nobody, 80));
    }
    proxy
        .service(&service("late", nobody, json!({})))
        .slice(&slice("late", &[(x.b, "here", true)]))
        .apply();
    assert_eq!(world.tcp(&world.a, nobody, 80), answered(x.b, x.a));
    proxy
        .index
        .service_deleted(&ServiceKey::new("default", "late"));
    proxy.apply();
    assert_eq!(world.tcp(&world.a, nobody, 80), Outcome::Refused);
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
}

pub(crate) fn services_of_other_proxies_and_headless_ones_are_left_alone(way: Way) {
    const LABEL: &str = "service.kubernetes.io/service-proxy-name";
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let others = json!({"metadata": {"labels": {LABEL: "somebody"}}});
    proxy.slice(&slice("web", &[(x.b, "here", true)]));
    for (more, outcome) in [
        (others.clone(), Outcome::Refused),
        (json!({}), answered(x.b, x.a)),
        (others, Outcome::Refused),
    ] {
        proxy.service(&service("web", x.service, more)).apply();
        assert_eq!(world.tcp(&world.a, x.service, 80), outcome);
    }
    let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    proxy
        .service(&service("headless", x.service, headless))
        .slice(&slice("headless", &[(x.b, "here", true)]));
    assert!(proxy.index.take_changes().is_empty(), "nothing to write");
}

pub(crate) fn pods_in_the_nodes_own_network_serve_and_ask(way: Way) {
    let mut world = World::new();
    let x = way.ip.addresses();
    world.serve_also(|world| &world.node, x.node, TARGET);
    let world = world;
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = |policy: &str| {
        json!({"spec": {
            "type": "NodePort",
            "externalTrafficPolicy": policy,
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
        }})
    };
    for policy in ["Cluster", "Local"] {
        proxy
            .service(&service("web", x.service, spec(policy)))
            .slice(&slice("web", &[(x.node, "here", true)]))
            .apply();
        assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.node, x.a));
        for (from, to, port) in [
            (&world.node, x.service, 80),
            (&world.client, x.service, 80),
            (&world.client, x.node, 30080),
            (&world.a, x.node, 30080),
            (&world.node, x.node, 30080),
        ] {
            let servers = world.servers(from, to, port);
            assert_eq!(servers, [x.node], "{policy}: to {to} port {port}");
        }
    }
    // The node itself asks a pod, and a pod of another node.
    proxy
        .slice(&slice(
            "web",
            &[(x.b, "here", true), (x.far, "there", true)],
        ))
        .apply();
    assert_eq!(world.servers(&world.node, x.service, 80), [x.b, x.far]);
}

pub(crate) fn of_two_services_with_one_external_address_the_older_one_is_served(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let with = |created: &str| -> Value {
        json!({
            "metadata": {"creationTimestamp": created},
            "spec": {"externalIPs": [x.external]},
        })
    };
    let (old, young) = (with("2020-01-01T00:00:00Z"), with("2024-01-01T00:00:00Z"));
    proxy
        .service(&service("young", second(x.service), young))
        .slice(&slice("young", &[(x.far, "there", true)]))
        .apply();
    assert_eq!(world.servers(&world.client, x.external, 80), [x.far]);
    proxy
        .service(&service("old", x.service, old))
        .slice(&slice("old", &[(x.b, "here", true)]))
        .apply();
    assert_eq!(world.servers(&world.client, x.external, 80), [x.b]);
    assert_eq!(world.servers(&world.a, second(x.service), 80), [x.far]);
    proxy
        .index
        .service_deleted(&ServiceKey::new("default", "old"));
    proxy.apply();
    assert_eq!(world.servers(&world.client, x.external, 80), [x.far]);
}
