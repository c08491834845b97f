//! Two and three nodes in namespaces, with real packets between their pods.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::time::Duration;

use flannel_vxlan::Config;
use flannel_vxlan::config::ChecksumOffload;
use harness::{TestNode, cluster, eventually, node};
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn routes_to(node: &TestNode, other: u8) -> usize {
    let v4 = node.show("ip", &format!("route show 10.244.{other}.0/24 proto 202"));
    let v6 = node.show(
        "ip",
        &format!("-6 route show fd00:10:244:{other}::/64 proto 202"),
    );
    v4.lines().count() + v6.lines().count()
}

fn ready(nodes: &[TestNode]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.number != node.number) {
            eventually("routes", SOON, || routes_to(node, other.number) == 2);
        }
        eventually("conflist", SOON, || node.conflist().exists());
    }
}

fn started(
    count: u8,
) -> (
    kernel::testing::TestNetns,
    std::sync::Arc<harness::NodeApi>,
    Vec<TestNode>,
) {
    let (switch, api, mut nodes) = cluster(count);
    nodes.iter_mut().for_each(TestNode::start);
    ready(&nodes);
    (switch, api, nodes)
}

fn assert_pods_talk(a: &TestNode, b: &TestNode) {
    for v6 in [false, true] {
        assert!(
            a.pod.reaches(&b.pod, b.pod_address(v6)),
            "{} to {} ipv6: {v6}",
            a.name,
            b.name
        );
        assert!(
            b.pod.reaches(&a.pod, a.pod_address(v6)),
            "{} to {} ipv6: {v6}",
            b.name,
            a.name
        );
    }
}

#[test]
fn pods_of_three_nodes_reach_each_other_and_other_nodes_reach_pods() {
    let (_switch, _api, nodes) = started(3);
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.number > a.number) {
            assert_pods_talk(a, b);
        }
    }
    for v6 in [false, true] {
        assert!(nodes[0].ns.reaches(&nodes[1].pod, nodes[1].pod_address(v6)));
    }
    let fdb = nodes[0].show("bridge", "fdb show dev flannel.1");
    assert_eq!(fdb.lines().count(), 2, "{fdb}");
    let neighbours = nodes[0].show("ip", "-4 neigh show dev flannel.1 nud permanent");
    assert_eq!(neighbours.lines().count(), 2, "{neighbours}");
}

#[test]
fn pods_talk_where_the_firewall_forwards_nothing() {
    let (_switch, _api, mut nodes) = cluster(2);
    for node in &nodes {
        for program in ["iptables", "ip6tables"] {
            let set = node.ns.command(program, &["-P", "FORWARD", "DROP"]);
            assert!(set.status.success(), "{set:?}");
        }
    }
    nodes.iter_mut().for_each(TestNode::start);
    ready(&nodes);
    for node in &nodes {
        for program in ["iptables-save", "ip6tables-save"] {
            eventually("accepting rules", SOON, || {
                node.show(program, "-t filter")
                    .contains("-A FORWARD -j FAIRLEAD-FORWARD")
            });
        }
    }
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn a_node_says_and_writes_what_flannel_would() {
    let (_switch, api, nodes) = started(2);
    let annotations = api.node("node1")["metadata"]["annotations"].clone();
    let value = |name: &str| annotations[format!("flannel.alpha.coreos.com/{name}")].clone();
    let mac = nodes[0].ns.link("flannel.1").unwrap().mac.unwrap();
    assert_eq!(
        value("backend-data"),
        json!(format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}"))
    );
    assert_eq!(value("backend-type"), "vxlan");
    assert_eq!(value("public-ip"), "192.0.2.1");
    assert_eq!(value("public-ipv6"), "2001:db8::1");
    assert_eq!(value("kube-subnet-manager"), "true");
    let env = std::fs::read_to_string(nodes[0].dir.path().join("subnet.env")).unwrap();
    assert!(env.contains("FLANNEL_SUBNET=10.244.1.1/24\n"), "{env}");
    assert!(env.contains("FLANNEL_MTU=1430\n"), "{env}");
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(nodes[0].conflist()).unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["mtu"], 1430);
    assert_eq!(
        list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
        "10.244.1.0/24"
    );
}

#[test]
fn what_somebody_deletes_is_restored_within_a_second() {
    let (_switch, _api, nodes) = started(2);
    let node = &nodes[0];
    let damages: [(&str, &str); 9] = [
        ("ip", "link del flannel.1"),
        ("ip", "link del flannel-v6.1"),
        ("ip", "link set flannel.1 down"),
        ("ip", "addr del 10.244.1.0/32 dev flannel.1"),
        ("ip", "route del 10.244.2.0/24"),
        ("ip", "-6 route del fd00:10:244:2::/64"),
        ("ip", "neigh del 10.244.2.0 dev flannel.1"),
        ("ip", "link set flannel.1 mtu 1300"),
        ("nft", "delete table inet fairlead-masquerade"),
    ];
    let whole = || {
        let state = [
            node.show("ip", "-o link show flannel.1"),
            node.show("ip", "-o link show flannel-v6.1"),
            node.show("ip", "-o -4 addr show dev flannel.1"),
            node.show("ip", "route show proto 202"),
            node.show("ip", "-6 route show proto 202"),
            node.show("ip", "neigh show dev flannel.1 nud permanent"),
            node.show("bridge", "fdb show dev flannel.1"),
            node.show("nft", "list table inet fairlead-masquerade"),
        ];
        // The number of an interface that was made anew is another one.
        state.map(|text| {
            text.split_once(": ")
                .map_or(text.clone(), |(_, rest)| rest.to_owned())
        })
    };
    let before = whole();
    for (program, line) in damages {
        let done = node
            .ns
            .command(program, &line.split(' ').collect::<Vec<_>>());
        assert!(done.status.success(), "{line}: {done:?}");
        eventually(line, SECOND, || whole() == before);
    }
    let mac = nodes[1].ns.link("flannel.1").unwrap().mac.unwrap();
    let line = format!("fdb del {mac} dev flannel.1 dst 192.0.2.2 self");
    assert!(
        node.ns
            .command("bridge", &line.split(' ').collect::<Vec<_>>())
            .status
            .success()
    );
    eventually(&line, SECOND, || whole() == before);
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn a_restart_changes_nothing_and_what_happened_meanwhile_is_made_good() {
    let (switch, api, mut nodes) = started(3);
    let index = nodes[0].ns.index("flannel.1");
    nodes[0].stop();
    assert_pods_talk(&nodes[0], &nodes[1]);
    // While it is away: one node goes, one comes, foreign things appear.
    api.delete("node3");
    let mut fourth = TestNode::new(4, &switch, &api);
    fourth.start();
    nodes[0].ip("route add 10.9.0.0/24 via 192.0.2.2");
    nodes[0].ip("route add 10.8.0.0/24 via 192.0.2.2 proto 203");
    eventually("the new node's tunnels", SOON, || {
        api.node("node4")["metadata"]["annotations"].is_object()
    });
    nodes[0].start();
    eventually("the new node", SOON, || routes_to(&nodes[0], 4) == 2);
    eventually("the old node's routes go", SOON, || {
        routes_to(&nodes[0], 3) == 0
    });
    let fdb = nodes[0].show("bridge", "fdb show dev flannel.1");
    assert!(
        !fdb.contains("192.0.2.3") && fdb.contains("192.0.2.4"),
        "{fdb}"
    );
    assert_eq!(
        nodes[0].ns.index("flannel.1"),
        index,
        "the device is the same"
    );
    assert!(
        nodes[0]
            .show("ip", "route show 10.9.0.0/24")
            .contains("192.0.2.2")
    );
    assert!(
        nodes[0]
            .show("ip", "route show 10.8.0.0/24")
            .contains("192.0.2.2")
    );
    assert_pods_talk(&nodes[0], &fourth);
}

#[test]
fn nothing_is_deleted_before_the_nodes_are_known() {
    let (_switch, api, mut nodes) = started(2);
    nodes[0].stop();
    api.hang_lists(true);
    nodes[0].start();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(routes_to(&nodes[0], 2), 2);
    assert_pods_talk(&nodes[0], &nodes[1]);
    api.hang_lists(false);
    eventually("still there", SOON, || routes_to(&nodes[0], 2) == 2);
}

#[test]
fn checksum_offload_is_switched_off_and_stays_off() {
    let (_switch, _api, mut nodes) = cluster(2);
    let off = |node: &TestNode| {
        node.ns
            .run(|| kernel::ethtool::tx_checksum("flannel.1"))
            .is_ok_and(|on| !on)
    };
    let config = Config {
        checksum_offload: ChecksumOffload::Off,
        ..nodes[0].config()
    };
    nodes[0].start_with(config);
    nodes[1].start();
    ready(&nodes);
    assert!(
        off(&nodes[0]) && !off(&nodes[1]),
        "this kernel does it right"
    );
    nodes[0].ip("link del flannel.1");
    eventually("off again", SOON, || off(&nodes[0]));
}

#[test]
fn nodes_on_one_link_get_plain_routes_with_direct_routing() {
    let (_switch, _api, mut nodes) = cluster(2);
    for node in &mut nodes {
        let config = Config {
            direct_routing: true,
            ..node.config()
        };
        node.start_with(config);
    }
    ready(&nodes);
    let route = nodes[0].show("ip", "route show 10.244.2.0/24");
    assert!(route.contains("via 192.0.2.2 dev eth0"), "{route}");
    assert_eq!(nodes[0].show("bridge", "fdb show dev flannel.1"), "");
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn without_an_ipv6_underlay_both_families_use_one_tunnel() {
    let (_switch, api, mut nodes) = cluster(2);
    for node in &mut nodes {
        let mut object = node.object();
        object["status"]["addresses"]
            .as_array_mut()
            .unwrap()
            .remove(1);
        api.put(object);
        node.ip(&format!(
            "-6 addr del 2001:db8::{}/64 dev eth0",
            node.number
        ));
        node.start();
    }
    ready(&nodes);
    assert!(nodes[0].ns.link("flannel-v6.1").is_none());
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn a_cluster_of_ipv6_alone_works() {
    let (_switch, api, mut nodes) = cluster(2);
    for node in &mut nodes {
        let n = node.number;
        api.put(harness::node(
            &node.name,
            &[format!("fd00:10:244:{n}::/64")],
            &[format!("2001:db8::{n}")],
        ));
        node.ip(&format!("addr del 192.0.2.{n}/24 dev eth0"));
        node.start();
    }
    for (a, b) in [(0, 1), (1, 0)] {
        let destination = format!(
            "-6 route show fd00:10:244:{}::/64 proto 202",
            nodes[b].number
        );
        eventually("route", SOON, || {
            !nodes[a].show("ip", &destination).is_empty()
        });
    }
    assert!(nodes[0].ns.link("flannel.1").is_none());
    assert!(
        nodes[0]
            .pod
            .reaches(&nodes[1].pod, nodes[1].pod_address(true))
    );
}

#[test]
fn what_leaves_the_pod_network_is_masqueraded_and_nothing_within_it() {
    let (switch, _api, nodes) = started(2);
    // Somebody outside who knows no way to the pods.
    switch.add_address("br0", "192.0.2.99/24");
    switch.add_address("br0", "2001:db8::99/64");
    let from = &nodes[0].pod;
    let peer_of = |server: &kernel::testing::TestNetns, address: &str| {
        let listener = server
            .run(|| std::net::TcpListener::bind((address, 0)))
            .unwrap();
        let to = listener.local_addr().unwrap();
        let dial = || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(3));
        let _stream = from.run(dial).unwrap();
        listener.accept().unwrap().1.ip().to_string()
    };
    eventually("rules", SOON, || {
        nodes[0]
            .show("nft", "list tables")
            .contains("fairlead-masquerade")
    });
    assert_eq!(peer_of(&switch, "192.0.2.99"), "192.0.2.1");
    eventually("addresses", SOON, || {
        !switch
            .command("ip", &["-6", "addr", "show", "tentative"])
            .stdout
            .starts_with(b"2")
    });
    assert_eq!(peer_of(&switch, "2001:db8::99"), "2001:db8::1");
    assert_eq!(peer_of(&nodes[1].pod, "10.244.2.5"), "10.244.1.5");
    assert_eq!(
        peer_of(&nodes[1].pod, "fd00:10:244:2::5"),
        "fd00:10:244:1::5"
    );
}

#[test]
fn a_device_that_flannel_left_is_taken_over() {
    let (_switch, _api, mut nodes) = cluster(2);
    let node = &nodes[0];
    node.ip("link add flannel.1 address 02:aa:bb:cc:dd:ee type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    node.ip("addr add 10.244.1.0/32 dev flannel.1");
    node.ip("link set flannel.1 up mtu 1450");
    node.ip("route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
    node.ip("route add 10.244.77.0/24 via 10.244.77.0 dev flannel.1 onlink");
    let index = node.ns.index("flannel.1");
    nodes.iter_mut().for_each(TestNode::start);
    ready(&nodes);
    let node = &nodes[0];
    assert_eq!(node.ns.index("flannel.1"), index);
    assert_eq!(
        node.ns.link("flannel.1").unwrap().mac.unwrap().to_string(),
        "02:aa:bb:cc:dd:ee"
    );
    eventually("stale routes go", SOON, || {
        node.show("ip", "route show 10.244.77.0/24").is_empty()
            && node.show("ip", "route show 10.244.2.0/24").lines().count() == 1
    });
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn contradictions_become_events_and_the_others_work_on() {
    let (_switch, api, nodes) = started(2);
    let mut twin = node("twin", &["10.244.9.0/24".into()], &["192.0.2.2".into()]);
    let mac = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}"#;
    twin["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/backend-data": mac,
        "flannel.alpha.coreos.com/public-ip": "192.0.2.2",
    });
    twin["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    api.put(twin);
    let mut broken = node("broken", &["10.244.8.0/24".into()], &["192.0.2.8".into()]);
    broken["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/backend-data": "{nonsense",
        "flannel.alpha.coreos.com/public-ip": "192.0.2.8",
    });
    api.put(broken);
    let told = |words: &str| {
        api.events().iter().any(|event| {
            event["involvedObject"]["name"] == "node1"
                && event["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains(words)
        })
    };
    eventually("the twin is told", SOON, || {
        told("both have the address 192.0.2.2")
    });
    eventually("the broken one is told", SOON, || {
        told("node broken is left out")
    });
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn a_machine_that_answers_for_the_nodes_address_becomes_an_event() {
    let (switch, api, nodes) = started(2);
    let watching = nodes[0].watch_conflicts();
    let told = || -> Vec<String> {
        let events = api.events();
        let messages = events.iter().filter_map(|event| event["message"].as_str());
        let about = messages.filter(|text| text.contains("192.0.2.1 as well"));
        about.map(str::to_owned).collect()
    };
    let intruder = kernel::testing::TestNetns::new("intruder");
    switch.join("p9", &intruder, "eth0");
    switch.enslave("br0", "p9");
    intruder.add_address("eth0", "192.0.2.1/24");
    let mac = intruder.link("eth0").unwrap().mac.unwrap();
    eventually("an event", 6 * SOON, || !told().is_empty());
    assert!(told()[0].contains(&mac.to_string()), "{:?}", told());
    let event = api
        .events()
        .into_iter()
        .find(|event| event["message"] == *told()[0])
        .unwrap();
    assert_eq!(event["involvedObject"]["name"], "node1");
    assert_eq!(event["type"], "Warning");
    // It goes on, and is not told again.
    intruder.run(|| {
        let mut echo = kernel::icmp::Echo::open(false).unwrap();
        for _ in 0..3 {
            // Nobody has to answer: whoever sends says whose the address is.
            let _ = echo.send([192, 0, 2, 2].into(), 100, Duration::from_millis(200));
        }
    });
    assert_eq!(told().len(), 1, "{:?}", told());
    drop(watching);
}

#[test]
fn a_vni_that_another_device_uses_is_told_and_recovered_from() {
    let (_switch, api, mut nodes) = cluster(2);
    nodes[0].ip("link add other type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    nodes.iter_mut().for_each(TestNode::start);
    let told = || {
        api.events().iter().any(|e| {
            e["message"]
                .as_str()
                .unwrap_or_default()
                .contains("flannel.1")
        })
    };
    eventually("an event", SOON, told);
    assert!(nodes[0].ns.link("other").is_some());
    nodes[0].ip("link del other");
    ready(&nodes);
    assert_pods_talk(&nodes[0], &nodes[1]);
}

#[test]
fn an_interface_that_has_the_overlays_name_is_left_alone() {
    let (_switch, api, mut nodes) = cluster(1);
    nodes[0].ip("link add flannel.1 type bridge");
    nodes[0].start();
    let told = || {
        api.events().iter().any(|e| {
            e["message"]
                .as_str()
                .unwrap_or_default()
                .contains("no VXLAN device")
        })
    };
    eventually("an event", SOON, told);
    assert_eq!(
        nodes[0].ns.link("flannel.1").unwrap().kind,
        kernel::link::Kind::Bridge
    );
}

#[test]
fn an_underlay_that_comes_back_brings_the_overlay_back() {
    let (_switch, _api, nodes) = started(2);
    let tunnel = nodes[0].ns.index("flannel-v6.1");
    nodes[0].ip("link set eth0 down");
    nodes[0].ip("link set eth0 up");
    nodes[0].ip("-6 addr replace 2001:db8::1/64 dev eth0 nodad");
    eventually("routes", SOON, || routes_to(&nodes[0], 2) == 2);
    assert_eq!(
        nodes[0].ns.index("flannel-v6.1"),
        tunnel,
        "the tunnel waits for its address"
    );
    for v6 in [false, true] {
        let other = nodes[1].pod_address(v6);
        eventually("pods talk", SOON, || {
            nodes[0].pod.reaches(&nodes[1].pod, other)
        });
    }
}

#[test]
fn sweeping_takes_away_ours_and_nothing_else() {
    let (_switch, _api, mut nodes) = started(2);
    nodes[0].stop();
    nodes[0].ip("route add 10.9.0.0/24 via 192.0.2.2");
    let eth0 = nodes[0].ns.link("eth0");
    nodes[0].ns.run(|| flannel_vxlan::sweep(1)).unwrap();
    nodes[0].ns.run(|| flannel_vxlan::sweep(1)).unwrap();
    assert!(nodes[0].ns.link("flannel.1").is_none() && nodes[0].ns.link("flannel-v6.1").is_none());
    assert_eq!(nodes[0].show("ip", "route show proto 202"), "");
    assert!(
        nodes[0]
            .show("ip", "route show 10.9.0.0/24")
            .contains("192.0.2.2")
    );
    assert_eq!(nodes[0].ns.link("eth0"), eth0);
}
