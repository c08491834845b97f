//! Flows without connections: they follow the back ends.

use serde_json::json;

use super::Way;
use crate::world::{Proxy, World, service, slice};

fn node_port() -> serde_json::Value {
    json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080}],
    }})
}

pub(crate) fn datagrams_of_one_flow_move_to_the_new_back_end(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, node_port()))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    let flows = [
        world.udp_flow(&world.a, x.service, 80),
        world.udp_flow(&world.client, x.node, 30080),
        world.udp_flow(&world.a, x.node, 30080),
    ];
    for (ends, server) in [
        (vec![(x.b, "here", true)], x.b),
        (vec![(x.far, "there", true)], x.far),
        // First the new one, then the old one goes.
        (vec![(x.far, "there", true), (x.b, "here", true)], x.far),
        (vec![(x.b, "here", true)], x.b),
    ] {
        proxy.slice(&slice("web", &ends)).apply();
        for flow in &flows {
            world.ask_until_served_by(flow, server);
        }
    }
}

pub(crate) fn datagrams_are_refused_without_endpoints_and_served_again_with_them(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, node_port()))
        .slice(&slice("web", &[(x.b, "here", false)]))
        .apply();
    let flows = [
        world.udp_flow(&world.a, x.service, 80),
        world.udp_flow(&world.client, x.node, 30080),
    ];
    for _ in 0..2 {
        for flow in &flows {
            world.ask_until_refused(flow);
        }
        proxy.slice(&slice("web", &[(x.b, "here", true)])).apply();
        for flow in &flows {
            world.ask_until_served_by(flow, x.b);
        }
        proxy.slice(&slice("web", &[(x.b, "here", false)])).apply();
    }
}

pub(crate) fn a_deleted_services_flows_end_and_those_of_one_that_comes_late_begin(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    // The flow is there before anybody knows of the Service, and leads nowhere.
    let flow = world.udp_flow(&world.a, x.external, 80);
    let _ = flow.send(b"who");
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {"externalIPs": [x.external]}});
    for _ in 0..2 {
        proxy
            .service(&service("web", x.service, spec.clone()))
            .slice(&slice("web", &[(x.b, "here", true)]))
            .apply();
        world.ask_until_served_by(&flow, x.b);
        let inside = world.udp_flow(&world.far, x.service, 80);
        world.ask_until_served_by(&inside, x.b);
        proxy
            .index
            .service_deleted(&proxy::model::ServiceKey::new("default", "web"));
        proxy.apply();
        world.ask_until_refused(&inside);
    }
}
