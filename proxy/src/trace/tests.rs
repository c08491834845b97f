use serde_json::json;

use super::*;
use crate::samples::{HERE, pictures, ready, service, slice, variety};

fn config() -> Config {
    Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        ..Config::default()
    }
}

/// The last step of a packet's way to port 80, or to another one that is named.
fn end(pictures: &Pictures, config: &Config, source: &str, destination: &str) -> Step {
    let node = Node {
        addresses: ["192.168.9.1".parse().expect("an address")].into(),
        config,
    };
    let (destination, port) = match destination.parse::<SocketAddr>() {
        Ok(socket) => (socket.ip(), socket.port()),
        Err(_) => (destination.parse().expect("an address"), 80),
    };
    let packet = Packet {
        source: source.parse().expect("an address"),
        destination,
        protocol: Protocol::Tcp,
        port,
    };
    trace(pictures, &node, &packet).pop().expect("a step")
}

const POD: &str = "10.244.1.2";
const NODE: &str = "192.168.9.1";
const CLIENT: &str = "192.0.2.7";

fn to(servers: &[&str], source: Source) -> Step {
    let by = |text: &&str| Served {
        by: format!("{text}:8080").parse().expect("a socket"),
        source,
    };
    Step::Served(servers.iter().map(by).collect())
}

const NEAR: &str = "10.244.1.3";
const FAR: &str = "10.244.2.2";

#[test]
fn every_way_ends_where_the_api_says() {
    use Source::{Kept, Masqueraded};
    let all = variety();
    let config = config();
    for (source, destination, expected) in [
        (POD, "10.96.0.10", to(&[NEAR, FAR], Kept)),
        (NODE, "10.96.0.10", to(&[NEAR, FAR], Masqueraded)),
        (CLIENT, "10.96.0.10", to(&[NEAR, FAR], Masqueraded)),
        (POD, "10.96.0.10:81", Step::Refused),
        (POD, "10.96.77.77", Step::Refused),
        (POD, "10.96.0.15", Step::Refused),
        (POD, "8.8.8.8", Step::Unchanged),
        (CLIENT, "192.168.9.1:30080", to(&[NEAR, FAR], Masqueraded)),
        (NODE, "127.0.0.1:30080", to(&[NEAR, FAR], Masqueraded)),
        (CLIENT, "192.168.9.77:30080", Step::Unchanged),
        (CLIENT, "192.168.9.1:30081", to(&[NEAR], Kept)),
        (POD, "192.168.9.1:30081", to(&[NEAR, FAR], Kept)),
        (NODE, "192.168.9.1:30081", to(&[NEAR, FAR], Masqueraded)),
        (CLIENT, "203.0.113.9", to(&[NEAR], Kept)),
        ("203.0.113.77", "203.0.113.9", Step::Dropped),
        ("203.0.113.77", "203.0.113.5", to(&[NEAR], Kept)),
        (POD, "10.96.0.14", Step::Dropped),
    ] {
        let found = end(&all, &config, source, destination);
        assert_eq!(found, expected, "{source} to {destination}");
    }
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded_and_only_then() {
    let one = pictures(
        &[service("web", "10.96.0.10", json!({}))],
        &[slice("web", "a", &[ready(POD, HERE), ready(FAR, "there")])],
    );
    let Step::Served(served) = end(&one, &config(), POD, "10.96.0.10") else {
        panic!("not served");
    };
    let sources: Vec<Source> = served.iter().map(|served| served.source).collect();
    assert_eq!(sources, [Source::Masqueraded, Source::Kept]);
}

#[test]
fn ipvs_serves_no_node_ports_on_loopback_and_chosen_ranges_bind_everybody() {
    let all = variety();
    let ipvs = Config {
        mode: Mode::Ipvs,
        ..config()
    };
    assert_eq!(end(&all, &ipvs, NODE, "127.0.0.1:30080"), Step::Unchanged);
    let chosen = Config {
        nodeport_addresses: vec!["192.168.10.0/24".parse().expect("a range")],
        ..config()
    };
    assert_eq!(
        end(&all, &chosen, CLIENT, "192.168.9.1:30080"),
        Step::Unchanged
    );
}

#[test]
fn steps_read_like_sentences() {
    let config = config();
    let node = Node {
        addresses: BTreeSet::new(),
        config: &config,
    };
    let packet = Packet {
        source: POD.parse().expect("an address"),
        destination: "10.96.0.13".parse().expect("an address"),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let text: Vec<String> = trace(&variety(), &node, &packet)
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    it comes from a pod
    it is sent to the cluster IP of default/sticky:http
    any back end may serve it
    its client stays with one back end for 10800 s
    it goes to 10.244.1.3:8080 with its own source, 10.244.2.2:8080 with its own source
    ");
}

#[test]
fn the_api_s_objects_say_enough() {
    let node = serde_json::from_value(serde_json::json!({
        "metadata": {"name": HERE, "labels": {"topology.kubernetes.io/zone": "east"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": HERE},
            {"type": "InternalIP", "address": "192.168.9.1"},
        ]},
    }))
    .expect("a Node");
    let ports = serde_json::json!({"spec": {
        "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let hinted = |address: &str, zone: &str| {
        let mut end = ready(address, "there");
        end["hints"] = serde_json::json!({"forZones": [{"name": zone}]});
        end
    };
    let ends = [hinted("10.244.1.3", "east"), hinted("10.244.2.2", "west")];
    let objects = Objects {
        services: &[service("web", "10.96.0.10", ports)],
        slices: &[slice("web", "a", &ends)],
        node: &node,
    };
    let config = config();
    let follow = |source: &str, destination: &str, port| {
        let packet = Packet {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            protocol: Protocol::Tcp,
            port,
        };
        trace_objects(&objects, &config, &packet).pop()
    };
    let near = |source| Some(to(&["10.244.1.3"], source));
    assert_eq!(follow("10.244.1.9", "10.96.0.10", 80), near(Source::Kept));
    assert_eq!(
        follow("192.0.2.7", "192.168.9.1", 30080),
        near(Source::Masqueraded)
    );
    assert_eq!(follow("10.244.1.9", "10.96.0.10", 81), Some(Step::Refused));
}
