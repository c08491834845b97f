//! The self-test: what it says of nodes whose network has one fault each.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::time::Duration;

use flannel_vxlan::doctor::{Finding, Level, Probe, diagnose, measure};
use harness::{TestNode, cluster, eventually};
use k8s_openapi::api::core::v1::Node;

const SOON: Duration = Duration::from_secs(10);

/// What the node finds out.
fn examine(node: &TestNode, peers: &[&TestNode]) -> Vec<Finding> {
    let mut nodes: Vec<Node> = Vec::new();
    for own in peers.iter().copied().chain([node]) {
        nodes.push(serde_json::from_value(node.api.node(&own.name)).unwrap());
    }
    let probe = Probe {
        node_name: node.name.clone(),
        conflist: node.conflist(),
        ..Probe::default()
    };
    let (machine, peers) = node.ns.run(|| measure(&probe, &nodes)).unwrap();
    diagnose(&machine, &peers)
}

fn faults(found: &[Finding]) -> Vec<String> {
    let bad = found.iter().filter(|own| own.level == Level::Fault);
    bad.map(|own| format!("{}: {}", own.about, own.text))
        .collect()
}

fn started() -> (kernel::testing::TestNetns, Vec<TestNode>) {
    let (switch, _api, mut nodes) = cluster(2);
    nodes.iter_mut().for_each(TestNode::start);
    for node in &nodes {
        node.ns.forward();
        eventually("tunnels", SOON, || {
            let v4 = node.show("ip", "route show proto 202");
            let v6 = node.show("ip", "-6 route show proto 202");
            !v4.is_empty() && !v6.is_empty() && node.conflist().exists()
        });
    }
    (switch, nodes)
}

#[test]
fn a_whole_network_is_fine_in_both_families() {
    let (_switch, nodes) = started();
    let found = examine(&nodes[0], &[&nodes[1]]);
    assert_eq!(faults(&found), [""; 0], "{found:?}");
    let fine: Vec<&str> = found.iter().map(|own| own.text.as_str()).collect();
    assert!(
        fine.contains(&"pods 10.244.2.0/24 by tunnel, 1430 bytes"),
        "{fine:?}"
    );
    assert!(
        fine.contains(&"pods fd00:10:244:2::/64 by tunnel, 1430 bytes"),
        "{fine:?}"
    );
}

#[test]
fn a_path_that_swallows_large_packets_is_measured_to_the_byte() {
    let (switch, nodes) = started();
    // The switch forwards nothing larger, and says nothing.
    let made = switch.command("ip", &["link", "set", "p2", "mtu", "1400"]);
    assert!(made.status.success());
    let found = faults(&examine(&nodes[0], &[&nodes[1]]));
    assert_eq!(found.len(), 2, "{found:?}");
    // A bridge's port lets the four bytes of a VLAN tag more through (skbuff.h, is_skb_forwardable).
    let expected = [1350, 1354].map(|most| format!("node2: through the tunnel to 10.244.2.0/24 packets of {most} bytes arrive, but pods send 1430: the path to 192.0.2.2 carries packets of 1400 bytes, not 1500; mend the path or give the network --mtu 1350"));
    assert!(
        found.iter().any(|text| expected.contains(text)),
        "{found:?}"
    );
}

#[test]
fn a_firewall_before_the_overlay_is_told_from_a_node_that_is_away() {
    let (_switch, nodes) = started();
    let drop = |line: &str| {
        let made = nodes[1]
            .ns
            .command("nft", &line.split(' ').collect::<Vec<_>>());
        assert!(made.status.success(), "{made:?}");
    };
    drop("add table inet firewall");
    drop("add chain inet firewall in { type filter hook input priority 0 ; }");
    drop("add rule inet firewall in udp dport 8472 drop");
    let found = faults(&examine(&nodes[0], &[&nodes[1]]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .all(|text| text.contains("a firewall drops the overlay's UDP port")),
        "{found:?}"
    );
    nodes[1].ip("link set eth0 down");
    let found = faults(&examine(&nodes[0], &[&nodes[1]]));
    assert!(
        found.iter().all(|text| text.contains("does not answer")),
        "{found:?}"
    );
}

#[test]
fn what_somebody_switched_off_on_the_machine_is_named() {
    let (_switch, mut nodes) = started();
    nodes[0].stop();
    nodes[0].ns.sysctl("net/ipv4/ip_forward", "0");
    nodes[0].ip("route del 10.244.2.0/24");
    std::fs::remove_file(nodes[0].conflist()).unwrap();
    let found = faults(&examine(&nodes[0], &[&nodes[1]]));
    for words in [
        "IPv4 are not forwarded",
        "10-fairlead.conflist is missing",
        "no route to its pods 10.244.2.0/24",
    ] {
        assert!(
            found.iter().any(|text| text.contains(words)),
            "{words}: {found:?}"
        );
    }
}
