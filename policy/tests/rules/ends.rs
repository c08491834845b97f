//! Ends of a connection that are no pods: the pod's own node, names, and what IPVS sends on.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use kernel::testing::TestNetns;
use policy::model::{
    Action, ClusterPolicy, DomainPattern, Namespaces, Node as ModelNode, Peer, PodSelector, Policy,
    Protocol, Rule, Selector, Tier,
};
use socket2::{Domain, Socket, Type};

use crate::node::{Node, PATIENCE, equals};

fn everything(name: &str, app: &str) -> Policy {
    Policy {
        name: ("ns".to_owned(), name.to_owned()),
        pods: equals("app", app),
        ingress: Some(vec![]),
        egress: Some(vec![]),
    }
}

fn admin(egress: Vec<Rule>) -> ClusterPolicy {
    ClusterPolicy {
        name: "admin".to_owned(),
        tier: Tier::Admin,
        priority: 1,
        subject: Some(PodSelector {
            namespaces: Namespaces::Selected(Selector::default()),
            pods: Selector::default(),
        }),
        ingress: vec![],
        egress,
    }
}

fn rule(action: Action, peer: Peer) -> Rule {
    Rule {
        action,
        peers: Some(vec![peer]),
        ports: None,
    }
}

fn own_node(v6: bool) {
    let mut node = Node::new(v6, &["a", "b"]);
    node.index.set_policy(everything("none", "a"));
    node.write();
    let address: IpAddr = if v6 { "fd00:1::1" } else { "10.9.1.1" }.parse().unwrap();
    let port = SocketAddr::new(address, 80);
    let arrives = |node: &Node, expected| node.arrives("a", port, Protocol::Tcp, expected);
    assert!(arrives(&node, true), "NetworkPolicies allow the own node");
    let other = SocketAddr::new(node.pods["b"].1, 80);
    assert!(!node.arrives("a", other, Protocol::Tcp, false));

    let host = ModelNode {
        addresses: [address].into(),
        ..ModelNode::default()
    };
    node.index.set_node("host", host);
    let nodes = Peer::Nodes(Selector::default());
    node.index
        .set_cluster_policy(admin(vec![rule(Action::Deny, nodes)]));
    node.write();
    assert!(!arrives(&node, false), "a cluster policy speaks of nodes");
    node.index.remove_cluster_policy("admin");
    node.write();
    assert!(arrives(&node, true));
}

#[test]
fn a_pod_reaches_its_own_node_unless_a_cluster_policy_denies_it_over_ipv4() {
    own_node(false);
}

#[test]
fn a_pod_reaches_its_own_node_unless_a_cluster_policy_denies_it_over_ipv6() {
    own_node(true);
}

#[test]
fn a_name_opens_the_way_to_its_addresses_for_their_time() {
    for v6 in [false, true] {
        let mut node = Node::new(v6, &["a", "b", "c"]);
        let names = [DomainPattern::new("*.example.com")].into();
        let network = if v6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap();
        let all = Peer::Block {
            network,
            except: vec![],
        };
        node.index.set_cluster_policy(admin(vec![
            rule(Action::Accept, Peer::Domains(names)),
            rule(Action::Deny, all),
        ]));
        node.write();
        let (b, c) = (node.pods["b"].1, node.pods["c"].1);
        let arrives = |node: &Node, to: IpAddr, expected| {
            node.arrives("a", SocketAddr::new(to, 80), Protocol::Tcp, expected)
        };
        assert!(!arrives(&node, b, false));
        let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
        let learn = |node: &mut Node, name: &str, address, at| {
            node.index.learn(name, &[(address, minute)], at)
        };
        assert!(learn(&mut node, "b.example.com.", b, now));
        assert!(!learn(&mut node, "c.example.org", c, now));
        node.write();
        assert!(arrives(&node, b, true));
        assert!(!arrives(&node, c, false));
        // The lease is renewed by another answer, and by connections.
        assert!(learn(&mut node, "b.example.com", b, now + minute / 2));
        node.write();
        assert!(arrives(&node, b, true));
        node.index.forget_past(now + 2 * minute, &[b].into());
        node.write();
        assert!(arrives(&node, b, true));
        node.index.forget_past(now + 5 * minute, &BTreeSet::new());
        node.write();
        assert!(!arrives(&node, b, false));
    }
}

/// Whether a datagram that the host sends from somebody else's address comes to a pod, as
/// IPVS sends on what came to a Service's address.
fn sent_on(node: &Node, from: IpAddr, pod: &str, expected: bool) -> bool {
    let (netns, address): &(TestNetns, IpAddr) = &node.pods[pod];
    let to = SocketAddr::new(*address, 90);
    let server = netns.run(|| UdpSocket::bind(to)).unwrap();
    // A busy machine may be late with what is expected.
    let attempts = if expected { 4 } else { 1 };
    (0..attempts).any(|attempt| {
        let patience = PATIENCE * (1 << attempt);
        server.set_read_timeout(Some(patience)).unwrap();
        let sent = node.host.run(|| {
            let domain = Domain::for_address(to);
            let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
            if to.is_ipv4() {
                socket.set_ip_transparent_v4(true).unwrap();
            }
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket.send_to(b"x", &to.into())
        });
        // A packet that is dropped on its way out is told to the sender.
        sent.is_ok() && server.recv(&mut [0; 1]).is_ok()
    })
}

#[test]
fn what_ipvs_sends_on_is_judged_by_its_real_ends() {
    for v6 in [false, true] {
        let mut node = Node::new(v6, &["a", "b", "c"]);
        node.host.sysctl("net/ipv6/ip_nonlocal_bind", "1");
        // Masquerading, which is not here, gives what comes back to a pod another source.
        let pod = &node.pods["a"].0;
        pod.sysctl("net/ipv4/conf/eth0/accept_local", "1");
        pod.sysctl("net/ipv4/conf/eth0/rp_filter", "0");
        let a = node.pods["a"].1;
        let (own, outside) = match v6 {
            false => ("10.9.1.1", "198.51.100.7"),
            true => ("fd00:1::1", "2001:db8::7"),
        };
        let (own, outside): (IpAddr, IpAddr) = (own.parse().unwrap(), outside.parse().unwrap());
        node.write();
        assert!(sent_on(&node, a, "b", true) && sent_on(&node, outside, "b", true));
        let mut ingress = everything("in", "b");
        ingress.egress = None;
        node.index.set_policy(ingress);
        node.write();
        assert!(!sent_on(&node, a, "b", false), "a pod of this node");
        assert!(!sent_on(&node, outside, "b", false), "from outside");
        assert!(sent_on(&node, own, "b", true), "the node itself");
        let mut egress = everything("out", "a");
        egress.ingress = None;
        node.index.set_policy(egress);
        node.write();
        assert!(!sent_on(&node, a, "c", false), "a may not send");
        assert!(sent_on(&node, a, "a", true), "but to itself");
        assert!(sent_on(&node, outside, "c", true));
    }
}
