//! Planned rules in the kernel, judged by real connections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use policy::model::{
    Action, Namespaces, Peer, PodSelector, Policy, Port, PortMatch, Protocol, Rule,
};

use crate::node::{Node, PATIENCE, equals};

fn policy(name: &str, app: &str, ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> Policy {
    let name = ("ns".to_owned(), name.to_owned());
    Policy {
        name,
        pods: equals("app", app),
        ingress,
        egress,
    }
}

fn from(app: &str) -> Peer {
    let namespaces = Namespaces::One("ns".into());
    Peer::Pods(PodSelector {
        namespaces,
        pods: equals("app", app),
    })
}

fn tcp(port: Port) -> PortMatch {
    PortMatch {
        protocol: Protocol::Tcp,
        port,
    }
}

fn policies_decide(v6: bool) {
    let mut node = Node::new(v6, &["a", "b", "c"]);
    node.write();
    node.check(&[("a", "b", 80, true), ("c", "b", 80, true)]);

    let rule = Rule {
        action: Action::Accept,
        peers: Some(vec![from("a")]),
        ports: Some(vec![tcp(Port::Named("http".into()))]),
    };
    node.index
        .set_policy(policy("in", "b", Some(vec![rule]), None));
    node.write();
    node.check(&[
        ("a", "b", 80, true),
        ("a", "b", 81, false),
        ("c", "b", 80, false),
        ("b", "c", 80, true),
    ]);

    let rule = Rule {
        action: Action::Accept,
        peers: None,
        ports: Some(vec![tcp(Port::Range(81, 90))]),
    };
    node.index
        .set_policy(policy("more", "b", Some(vec![rule]), None));
    node.write();
    node.check(&[
        ("a", "b", 80, true),
        ("c", "b", 81, true),
        ("c", "b", 80, false),
    ]);

    let except = vec![ipnetwork::IpNetwork::from(node.pods["c"].1)];
    let network = if v6 { "fd00::/16" } else { "10.0.0.0/8" }.parse().unwrap();
    let rule = Rule {
        action: Action::Accept,
        peers: Some(vec![Peer::Block { network, except }]),
        ports: None,
    };
    node.index
        .set_policy(policy("out", "a", None, Some(vec![rule])));
    node.write();
    node.check(&[
        ("a", "b", 80, true),
        ("a", "c", 80, false),
        ("c", "a", 80, true),
    ]);

    for name in ["in", "more", "out"] {
        node.index
            .remove_policy(&("ns".to_owned(), name.to_owned()));
    }
    node.write();
    node.check(&[("a", "c", 80, true), ("c", "b", 80, true)]);
}

#[test]
fn policies_decide_over_ipv4() {
    policies_decide(false);
}

#[test]
fn policies_decide_over_ipv6() {
    policies_decide(true);
}

#[test]
fn an_interface_without_rules_passes_nothing() {
    let mut node = Node::new(false, &["a", "b"]);
    node.index.remove_attachment("fld0");
    node.write();
    node.check(&[("a", "b", 80, false), ("b", "a", 80, false)]);
}

#[test]
fn the_node_reaches_its_own_pods() {
    let mut node = Node::new(false, &["a"]);
    node.index
        .set_policy(policy("none", "a", Some(vec![]), Some(vec![])));
    node.write();
    let (pod, address) = &node.pods["a"];
    let address = SocketAddr::new(*address, 80);
    let _listener = pod.run(|| TcpListener::bind(address)).unwrap();
    assert!(
        node.host
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))
            .is_ok()
    );
}

#[test]
fn a_policy_ends_connections_that_it_no_longer_allows() {
    use std::io::{Read, Write};
    let mut node = Node::new(false, &["a", "b"]);
    node.write();
    let address = SocketAddr::new(node.pods["b"].1, 80);
    let listener = node.pods["b"].0.run(|| TcpListener::bind(address)).unwrap();
    let mut client = node.pods["a"]
        .0
        .run(|| TcpStream::connect_timeout(&address, PATIENCE))
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    client.write_all(b"1").unwrap();
    server.read_exact(&mut byte).unwrap();
    node.index
        .set_policy(policy("none", "b", Some(vec![]), None));
    node.write();
    client.write_all(b"2").unwrap();
    assert!(server.read_exact(&mut byte).is_err());
    node.index
        .remove_policy(&("ns".to_owned(), "none".to_owned()));
    node.write();
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    server.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"2");
}

#[test]
fn a_pod_reaches_itself_through_its_node() {
    // As a Service does it: the packet leaves the pod and comes back to it.
    let mut node = Node::new(false, &["a"]);
    node.index
        .set_policy(policy("none", "a", Some(vec![]), Some(vec![])));
    node.write();
    let (pod, address) = &node.pods["a"];
    let service: SocketAddr = ([10, 96, 0, 1], 80).into();
    let rules = format!(
        "table ip nat {{
            chain pre {{ type nat hook prerouting priority dstnat; ip daddr {} dnat to {address}; }}
            chain post {{ type nat hook postrouting priority srcnat; ip saddr {address} ip daddr {address} masquerade; }}
        }}",
        service.ip()
    );
    let added = node.host.command("nft", &[&rules]);
    assert!(added.status.success(), "{added:?}");
    let _listener = pod.run(|| TcpListener::bind((*address, 80))).unwrap();
    let connected = pod.run(|| TcpStream::connect_timeout(&service, Duration::from_secs(5)));
    assert!(connected.is_ok(), "{connected:?}");
}

#[test]
fn a_policy_of_a_thousand_rules_is_one_policy() {
    let mut node = Node::new(false, &["a", "b", "c"]);
    let c = node.pods["c"].1;
    let rules = (0..1000u16).map(|number| Rule {
        action: Action::Accept,
        peers: Some(vec![from("a")]),
        ports: Some(vec![tcp(Port::Range(10_000 + number, 10_000 + number))]),
    });
    let except = ["10.9.2.0/24", "10.9.2.2/32", "10.0.0.0/9"];
    let overlapping = Rule {
        action: Action::Accept,
        peers: Some(vec![Peer::Block {
            network: "10.0.0.0/8".parse().unwrap(),
            except: except.map(|own| own.parse().unwrap()).into(),
        }]),
        ports: None,
    };
    let rules = rules.chain([overlapping]).collect();
    node.index
        .set_policy(policy("many", "b", Some(rules), None));
    node.write();
    assert_eq!(c.to_string(), "10.9.2.2");
    node.check(&[
        ("a", "b", 10_000, true),
        ("a", "b", 10_999, true),
        ("a", "b", 11_000, false),
        ("c", "b", 10_500, false),
    ]);
}
