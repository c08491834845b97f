//! Planned rules in the kernel, judged by real connections between network namespaces: a node
//! that forwards and its pods. Needs root.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use kernel::nftables::Connection;
use kernel::testing::TestNetns;
use policy::index::Index;
use policy::model::{
    Attachment, Labels, Namespaces, Peer, Pod, PodSelector, Policy, Port, PortMatch, Protocol,
    Requirement, Rule, Selector,
};
use policy::plan::{self, Compiled, Names};

/// A refused connection has to be dropped: nothing answers within this.
const PATIENCE: Duration = Duration::from_millis(300);

struct Node {
    host: TestNetns,
    pods: BTreeMap<String, (TestNetns, IpAddr)>,
    index: Index,
    names: Names,
    committed: Option<Compiled>,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn equals(key: &str, value: &str) -> Selector {
    Selector([Requirement::In(key.into(), [value.to_owned()].into())].into())
}

impl Node {
    /// A node with a pod per name, labelled `app=NAME`, each with TCP ports 80 and 81.
    fn new(v6: bool, names: &[&str]) -> Self {
        let host = TestNetns::new("node");
        host.forward();
        host.sysctl("net/ipv6/conf/default/accept_dad", "0");
        let mut node = Self {
            host,
            pods: BTreeMap::new(),
            index: Index::default(),
            names: Names::default(),
            committed: None,
        };
        node.index.set_namespace("ns", labels(&[]));
        for (number, name) in names.iter().enumerate() {
            node.add_pod(v6, name, number);
        }
        node
    }

    fn add_pod(&mut self, v6: bool, name: &str, number: usize) {
        let netns = TestNetns::new(name);
        let interface = format!("fld{number}");
        self.host.join(&interface, &netns, "eth0");
        // A link-local address that is still being checked answers no neighbour.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        let base = if v6 {
            format!("fd00:{number}::")
        } else {
            format!("10.9.{number}.")
        };
        let bits = if v6 { 64 } else { 24 };
        self.host
            .add_address(&interface, &format!("{base}1/{bits}"));
        netns.add_address("eth0", &format!("{base}2/{bits}"));
        let family = if v6 { "-6" } else { "-4" };
        let gateway = format!("{base}1");
        let added = netns.command("ip", &[family, "route", "add", "default", "via", &gateway]);
        assert!(added.status.success(), "{added:?}");
        let address: IpAddr = format!("{base}2").parse().unwrap();
        let pod_name = ("ns".to_owned(), name.to_owned());
        let pod = Pod {
            labels: labels(&[("app", name)]),
            addresses: [address].into(),
            named_ports: [("http".to_owned(), Protocol::Tcp, 80)].into(),
        };
        self.index.set_pod(pod_name.clone(), pod);
        let attachment = Attachment {
            pod: pod_name,
            addresses: [address].into(),
        };
        self.index.set_attachment(interface, attachment);
        self.pods.insert(name.to_owned(), (netns, address));
    }

    fn write(&mut self) {
        let compiled = plan::compile(&self.index.desired(), &mut self.names);
        let transaction = plan::plan(self.committed.as_ref(), &compiled);
        self.host
            .run(|| Connection::open().unwrap().apply(&transaction))
            .unwrap();
        let again = plan::plan(Some(&compiled), &compiled);
        assert!(again.is_empty(), "what is there needs no change:\n{again}");
        self.committed = Some(compiled);
    }

    fn connects(&self, client: &str, server: &str, port: u16) -> bool {
        let (server, address) = &self.pods[server];
        let address = SocketAddr::new(*address, port);
        let _listener = server.run(|| TcpListener::bind(address)).unwrap();
        let (client, _) = &self.pods[client];
        client
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))
            .is_ok()
    }

    /// Which of (client, server, port) get through.
    fn check(&self, expected: &[(&str, &str, u16, bool)]) {
        for (client, server, port, passes) in expected {
            assert_eq!(
                self.connects(client, server, *port),
                *passes,
                "{client} to {server}:{port}"
            );
        }
    }
}

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
