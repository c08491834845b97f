//! Changes under load: no request fails.

use std::net::{IpAddr, UdpSocket};

use kernel::testing::TestNetns;
use proxy::{Config, Mode};
use serde_json::{Value, json};

use super::Way;
use crate::world::load::Held;
use crate::world::{Ip, LIVE, Load, Proxy, World, service, wait_for};

fn spec(policy: &str) -> Value {
    json!({"spec": {
        "type": "NodePort",
        "externalTrafficPolicy": policy,
        "ports": [{"name": "live", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }})
}

/// An endpoint as a rolling update has it.
#[derive(Clone, Copy)]
enum State {
    Ready,
    Terminating,
}

fn slice(ends: &[(IpAddr, &str, State)]) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let v6 = ends.first().is_some_and(|(address, ..)| address.is_ipv6());
    let endpoints: Vec<Value> = ends
        .iter()
        .map(|(address, node, state)| {
            let leaving = matches!(state, State::Terminating);
            json!({"addresses": [address], "nodeName": node, "conditions":
                {"ready": !leaving, "serving": true, "terminating": leaving}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "live", "port": LIVE, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

pub(crate) fn a_rolling_update_under_load_fails_no_request(way: Way) {
    use State::{Ready, Terminating};
    let mut world = World::new();
    world.serve_lines();
    let world = world;
    let x = way.ip.addresses();
    for (policy, other) in [("Cluster", (x.far, "there")), ("Local", (x.a, "here"))] {
        let mut proxy = Proxy::new(&world, &way.config());
        let (b, other) = ((x.b, "here"), other);
        proxy
            .service(&service("web", x.service, spec(policy)))
            .slice(&slice(&[(b.0, b.1, Ready)]))
            .apply();
        let load = [
            Load::start(&world.client, x.node, 30080),
            Load::start(&world.a, x.service, 80),
        ];
        let step = || load.iter().for_each(|load| load.run_for(40));
        step();
        for (old, new) in [(b, other), (other, b), (b, other)] {
            let (old, new) = (|state| (old.0, old.1, state), |state| (new.0, new.1, state));
            for ends in [
                vec![old(Ready), new(Ready)],
                vec![old(Terminating), new(Ready)],
                vec![new(Terminating), old(Terminating)],
                vec![old(Terminating), new(Ready)],
            ] {
                proxy.slice(&slice(&ends)).apply();
                step();
            }
        }
        load.into_iter().for_each(Load::finish);
        proxy.cleanup();
    }
}

pub(crate) fn writing_everything_anew_under_load_fails_no_request(way: Way) {
    let mut world = World::new();
    world.serve_lines();
    let world = world;
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, spec("Cluster")))
        .slice(&slice(&[
            (x.b, "here", State::Ready),
            (x.far, "there", State::Ready),
        ]))
        .apply();
    let load = Load::start(&world.client, x.node, 30080);
    load.run_for(20);
    for _ in 0..5 {
        proxy.resync();
        load.run_for(20);
    }
    // As after a restart of the process.
    let mut next = Proxy::over(&world, &way.config(), &proxy.index);
    load.run_for(20);
    next.resync();
    load.run_for(20);
    load.finish();
}

/// Only where the kernel has flowtables.
pub(crate) fn established_connections_are_offloaded() {
    let mut world = World::new();
    world.serve_lines();
    let world = world;
    let x = Ip::V4.addresses();
    let config = Config {
        nftables: proxy::config::Nftables {
            flowtable_devices: vec!["out".to_owned(), "pod-b".to_owned()],
        },
        ..crate::world::config(Mode::Nftables)
    };
    let mut proxy = Proxy::new(&world, &config);
    proxy
        .service(&service("web", x.service, spec("Cluster")))
        .slice(&slice(&[(x.b, "here", State::Ready)]))
        .apply();
    let mut connection = Held::open(&world.client, x.node, 30080);
    wait_for("the connection to be offloaded", || {
        assert_eq!(connection.ask().expect("an answer"), x.b);
        let flows = world.node.command("conntrack", &["-L", "-p", "tcp"]);
        String::from_utf8_lossy(&flows.stdout).contains("[OFFLOAD]")
    });
    for _ in 0..10 {
        assert_eq!(connection.ask().expect("an answer"), x.b);
    }
}

/// A socket for TCP packets as they are.
fn raw(pod: &TestNetns, v6: bool) -> UdpSocket {
    use socket2::{Domain, Protocol, Socket, Type};
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = pod.run(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP)));
    let socket = socket.expect("root makes raw sockets");
    socket.set_nonblocking(true).expect("a socket");
    // Only to send and to receive with addresses.
    socket.into()
}

/// Without the filter, a client gets them from an address that it never asked, and its reset
/// ends the connection at the back end.
pub(crate) fn packets_of_no_connection_do_not_reach_a_client(way: Way) {
    const WINDOW: [u8; 2] = [0x10, 0];
    let mut world = World::new();
    world.serve_lines();
    let world = world;
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, spec("Cluster")))
        .slice(&slice(&[(x.b, "here", State::Ready)]))
        .apply();
    let mut connection = Held::open(&world.a, x.service, 80);
    let (seen, sender) = (raw(&world.a, x.a.is_ipv6()), raw(&world.b, x.b.is_ipv6()));
    for number in 0..4u8 {
        let mut packet = Vec::new();
        packet.extend(LIVE.to_be_bytes());
        packet.extend(connection.port().to_be_bytes());
        packet.extend([number; 8]); // sequence, acknowledgement
        packet.extend([5 << 4, 0x10]); // the header's length, ACK
        packet.extend(WINDOW);
        // The checksum is wrong: the kernel takes it for no packet of any connection.
        packet.extend([number, 1, 0, 0]);
        sender.send_to(&packet, (x.a, 0)).expect("a route");
    }
    assert_eq!(connection.ask().expect("an answer"), x.b);
    let mut buffer = [0; 256];
    while let Ok((_, from)) = seen.recv_from(&mut buffer) {
        assert_ne!(from.ip(), x.b, "{}", world.dump());
    }
}

/// From one backend to the others and back, with requests all the while.
pub(crate) fn backends_change_under_load(world: &World, ways: &[Way]) {
    let x = ways[0].ip.addresses();
    let mut proxy = Proxy::new(world, &ways[0].config());
    proxy
        .service(&service("web", x.service, spec("Cluster")))
        .slice(&slice(&[
            (x.b, "here", State::Ready),
            (x.far, "there", State::Ready),
        ]))
        .apply();
    let load = [
        Load::start(&world.client, x.node, 30080),
        Load::start(&world.a, x.service, 80),
    ];
    for way in ways {
        proxy.switch(way.mode);
        load.iter().for_each(|load| load.run_for(60));
        if !load.iter().all(Load::goes_on) {
            println!(
                "a request failed at the change to {}\n{}",
                way.mode,
                world.dump()
            );
            break;
        }
    }
    load.into_iter().for_each(Load::finish);
}
