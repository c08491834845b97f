//! Random policies on random pods: the evaluator of the API's words, the tracer and the planned
//! rules agree; for some of them real packets agree as well.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use policy::api;
use policy::index::Index;
use policy::model::{Attachment, Direction, Labels, Node as ModelNode, Pod, Protocol};
use policy::plan::{self, Compiled, Log, Names};
use policy::verdict::{Packet, judge};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::node::Node;
use crate::oracle::{Attempt, TestPod, World};
use crate::simulated::{self, Seen};

const PODS: usize = 4;
const PORTS: [u16; 3] = [80, 81, 90];

fn labels() -> impl Strategy<Value = Value> {
    let value = || prop::option::of(0..2u8);
    (value(), value()).prop_map(|(a, b)| {
        let mut labels = Map::new();
        for (key, value) in [("a", a), ("b", b)] {
            if let Some(value) = value {
                labels.insert(key.to_owned(), format!("v{value}").into());
            }
        }
        labels.into()
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let key = || prop::sample::select(vec!["a", "b"]);
    let value = || prop::sample::select(vec!["v0", "v1"]);
    prop_oneof![
        Just(json!({})),
        (key(), value()).prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        (key(), value(), any::<bool>()).prop_map(|(key, value, negate)| {
            let operator = if negate { "NotIn" } else { "In" };
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]})
        }),
        (key(), any::<bool>()).prop_map(|(key, negate)| {
            let operator = if negate { "DoesNotExist" } else { "Exists" };
            json!({"matchExpressions": [{"key": key, "operator": operator}]})
        }),
    ]
}

fn network(v6: bool) -> impl Strategy<Value = &'static str> {
    prop::sample::select(match v6 {
        false => vec![
            "0.0.0.0/0",
            "10.9.0.0/16",
            "10.9.0.0/23",
            "10.9.2.2/32",
            "192.0.2.0/24",
            "::/0",
        ],
        true => vec![
            "::/0",
            "fd00::/16",
            "fd00:0::/31",
            "fd00:2::2/128",
            "2001:db8::/32",
            "0.0.0.0/0",
        ],
    })
}

fn peer(v6: bool) -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|own| json!({"podSelector": own})),
        selector().prop_map(|own| json!({"namespaceSelector": own})),
        (selector(), selector())
            .prop_map(|(a, b)| json!({"podSelector": a, "namespaceSelector": b})),
        (network(v6), prop::option::of(network(v6))).prop_map(|(cidr, except)| {
            // The API takes exceptions inside of the block only.
            let except = except.filter(|own| own.contains(':') == cidr.contains(':'));
            json!({"ipBlock": {"cidr": cidr, "except": except.into_iter().collect::<Vec<_>>()}})
        }),
    ]
}

fn protocol() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["TCP", "UDP", "SCTP"])
}

fn port() -> impl Strategy<Value = Value> {
    let number = || prop::sample::select(PORTS.to_vec());
    prop_oneof![
        Just(json!({})),
        protocol().prop_map(|own| json!({"protocol": own})),
        (protocol(), number()).prop_map(|(own, port)| json!({"protocol": own, "port": port})),
        (number(), number()).prop_map(|(a, b)| json!({"port": a.min(b), "endPort": a.max(b)})),
        (protocol(), prop::sample::select(vec!["web", "dns", "none"]))
            .prop_map(|(own, name)| json!({"protocol": own, "port": name})),
    ]
}

fn rule(peers_field: &'static str, v6: bool) -> impl Strategy<Value = Value> {
    let peers = prop::option::of(prop::collection::vec(peer(v6), 0..3));
    let ports = prop::option::of(prop::collection::vec(port(), 0..3));
    (peers, ports).prop_map(move |(peers, ports)| {
        let mut rule = json!({});
        if let Some(peers) = peers {
            rule[peers_field] = peers.into();
        }
        if let Some(ports) = ports {
            rule["ports"] = ports.into();
        }
        rule
    })
}

fn policy(v6: bool) -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        json!(null),
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]);
    let ingress = prop::option::of(prop::collection::vec(rule("from", v6), 0..3));
    let egress = prop::option::of(prop::collection::vec(rule("to", v6), 0..3));
    (0..2u8, selector(), types, ingress, egress).prop_map(|(ns, pods, types, ingress, egress)| {
        let mut spec = json!({"podSelector": pods});
        let fields = [
            ("policyTypes", types),
            ("ingress", json!(ingress)),
            ("egress", json!(egress)),
        ];
        for (field, value) in fields {
            if !value.is_null() {
                spec[field] = value;
            }
        }
        json!({"metadata": {"namespace": format!("n{ns}")}, "spec": spec})
    })
}

fn cluster_pods() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|own| json!({"namespaces": own})),
        (selector(), selector())
            .prop_map(|(a, b)| json!({"pods": {"namespaceSelector": a, "podSelector": b}})),
    ]
}

fn cluster_rule(peers_field: &'static str, v6: bool) -> impl Strategy<Value = Value> {
    let beyond = match peers_field {
        "to" => prop_oneof![
            selector().prop_map(|own| json!({"nodes": own})),
            network(v6).prop_map(|own| json!({"networks": [own]})),
            prop::sample::select(vec!["a.example", "*.example", "*.a.example"])
                .prop_map(|own| json!({"domainNames": [own]})),
        ]
        .boxed(),
        _ => cluster_pods().boxed(),
    };
    let peer = prop_oneof![2 => cluster_pods(), 1 => beyond];
    let number = || prop::sample::select(PORTS.to_vec());
    let lower = || prop::sample::select(vec!["tcp", "udp", "sctp"]);
    let protocol = prop_oneof![
        lower().prop_map(|own| json!({own: {}})),
        (lower(), number()).prop_map(|(own, port)| json!({own: {"destinationPort": {"number": port}}})),
        (lower(), number()).prop_map(
            |(own, port)| json!({own: {"destinationPort": {"range": {"start": port, "end": port + 5}}}})
        ),
        prop::sample::select(vec!["web", "dns"]).prop_map(|own| json!({"destinationNamedPort": own})),
    ];
    let action = prop::sample::select(vec!["Accept", "Deny", "Pass"]);
    let protocols = prop::option::of(prop::collection::vec(protocol, 1..3));
    (action, prop::collection::vec(peer, 1..3), protocols).prop_map(
        move |(action, peers, protocols)| {
            // The API takes names in rules that accept only.
            let names = json!(peers).to_string().contains("domainNames");
            let action = if names { "Accept" } else { action };
            let mut rule = json!({"action": action, peers_field: peers});
            if let Some(protocols) = protocols {
                rule["protocols"] = protocols.into();
            }
            rule
        },
    )
}

fn cluster_policy(v6: bool) -> impl Strategy<Value = Value> {
    let tier = prop::sample::select(vec!["Admin", "Baseline"]);
    let ingress = prop::collection::vec(cluster_rule("from", v6), 0..3);
    let egress = prop::collection::vec(cluster_rule("to", v6), 0..3);
    (tier, 0..3, cluster_pods(), ingress, egress).prop_map(
        |(tier, priority, subject, ingress, egress)| {
            json!({"metadata": {}, "spec": {"tier": tier, "priority": priority,
                "subject": subject, "ingress": ingress, "egress": egress}})
        },
    )
}

fn address(number: usize, v6: bool) -> IpAddr {
    let text = match v6 {
        false => format!("10.9.{number}.2"),
        true => format!("fd00:{number}::2"),
    };
    text.parse().unwrap()
}

fn world(v6: bool) -> impl Strategy<Value = World> {
    let namespaces = prop::collection::vec(labels(), 2);
    let pods = prop::collection::vec(labels(), PODS);
    let policies = prop::collection::vec(policy(v6), 0..4);
    let cluster_policies = prop::collection::vec(cluster_policy(v6), 0..3);
    (namespaces, pods, labels(), policies, cluster_policies).prop_map(
        move |(namespaces, pods, node_labels, mut policies, mut cluster_policies)| {
            let named = policies.iter_mut().chain(&mut cluster_policies);
            for (number, policy) in named.enumerate() {
                policy["metadata"]["name"] = format!("p{number}").into();
            }
            let pods = pods
                .into_iter()
                .enumerate()
                .map(|(number, labels)| TestPod {
                    namespace: format!("n{}", number % 2),
                    name: format!("p{number}"),
                    labels,
                    address: address(number, v6),
                    ports: vec![
                        ("web".to_owned(), "TCP", PORTS[number % 2]),
                        ("dns".to_owned(), "UDP", 90),
                    ],
                });
            let (node, host, [first, second]) = match v6 {
                true => ("2001:db8::1", "2001:db8::2", ["2001:db8::9", "2001:db8::8"]),
                false => ("192.0.2.1", "192.0.2.2", ["198.51.100.1", "198.51.100.2"]),
            };
            let learnt = [
                ("a.example", first),
                ("b.a.example", second),
                ("b.other", second),
            ];
            let namespaces = namespaces.into_iter().enumerate();
            World {
                namespaces: namespaces
                    .map(|(n, labels)| (format!("n{n}"), labels))
                    .collect(),
                pods: pods.collect(),
                node_labels,
                node_address: node.parse().unwrap(),
                host: host.parse().unwrap(),
                learnt: learnt
                    .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
                    .into(),
                policies,
                cluster_policies,
            }
        },
    )
}

fn model_labels(labels: &Value) -> Labels {
    serde_json::from_value(labels.clone()).unwrap()
}

impl World {
    fn enter(&self, index: &mut Index) {
        for (name, labels) in &self.namespaces {
            index.set_namespace(name, model_labels(labels));
        }
        for (number, pod) in self.pods.iter().enumerate() {
            let name = (pod.namespace.clone(), pod.name.clone());
            let ports = pod.ports.iter();
            let ports = ports.map(|(name, protocol, port)| {
                (
                    name.clone(),
                    Protocol::parse(Some(protocol)).unwrap(),
                    *port,
                )
            });
            let model = Pod {
                labels: model_labels(&pod.labels),
                addresses: [pod.address].into(),
                named_ports: ports.collect(),
                ..Pod::default()
            };
            index.set_pod(name.clone(), model);
            let attachment = Attachment {
                pod: name,
                addresses: [pod.address].into(),
                node: "host".to_owned(),
            };
            index.set_attachment(format!("fld{number}"), attachment);
        }
        let node = ModelNode {
            labels: model_labels(&self.node_labels),
            addresses: [self.node_address].into(),
        };
        index.set_node("node", node);
        let host = ModelNode {
            addresses: [self.host].into(),
            ..ModelNode::default()
        };
        index.set_node("host", host);
        for (name, address) in &self.learnt {
            let hour = Duration::from_secs(3600);
            index.learn(name, &[(*address, hour)], SystemTime::now());
        }
        for object in &self.policies {
            index.set_policy(api::policy(&serde_json::from_value(object.clone()).unwrap()).0);
        }
        for object in &self.cluster_policies {
            let object = serde_json::from_value(object.clone()).unwrap();
            index.set_cluster_policy(api::cluster_policy(&object).0);
        }
    }

    fn leave(&self, index: &mut Index) {
        for object in &self.policies {
            let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
            index.remove_policy(&(text("namespace"), text("name")));
        }
        for object in &self.cluster_policies {
            index.remove_cluster_policy(object["metadata"]["name"].as_str().unwrap());
        }
    }

    /// From each pod to each pod, to the node and to somewhere else.
    fn attempts(&self, protocols: &[&'static str]) -> Vec<Attempt> {
        let mut beyond = vec![self.node_address, self.host];
        beyond.extend(self.learnt.iter().map(|(_, address)| *address));
        let mut attempts = Vec::new();
        for from in &self.pods {
            for to in self
                .pods
                .iter()
                .map(|pod| pod.address)
                .chain(beyond.clone())
            {
                for protocol in protocols {
                    attempts.extend(PORTS.map(|port| Attempt {
                        from: from.address,
                        to,
                        protocol,
                        port,
                    }));
                }
            }
        }
        attempts
    }

    fn interface(&self, address: IpAddr) -> Option<String> {
        let number = self.pods.iter().position(|pod| pod.address == address)?;
        Some(format!("fld{number}"))
    }
}

fn agree(world: &World, index: &mut Index, compiled: &Compiled) {
    let desired = index.desired();
    for attempt in world.attempts(&["TCP", "UDP", "SCTP"]) {
        if attempt.from == attempt.to {
            continue;
        }
        let protocol = Protocol::parse(Some(attempt.protocol)).unwrap();
        let packet = Packet {
            source: attempt.from,
            destination: attempt.to,
            protocol,
            port: attempt.port,
        };
        let seen = Seen {
            from: attempt.from,
            to: attempt.to,
            protocol,
            port: attempt.port,
        };
        let (mut traced, mut planned) = (true, true);
        // The kernel finds its own addresses in another hook.
        let egress = match attempt.to == world.host {
            true => &compiled.layout.to_node,
            false => &compiled.layout.egress,
        };
        let ends = [
            (attempt.from, Direction::Egress, egress),
            (attempt.to, Direction::Ingress, &compiled.layout.ingress),
        ];
        for (address, direction, goals) in ends {
            if let Some(interface) = world.interface(address) {
                traced &= judge(&desired, &interface, direction, &packet).allowed;
                planned &= simulated::passes(&goals[&interface], compiled, &seen);
            }
        }
        let allowed = world.allows(&attempt);
        assert_eq!(
            (traced, planned),
            (allowed, allowed),
            "tracer, rules: {attempt:?}"
        );
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    /// Also after the index has seen another world before, as a cluster changes.
    #[test]
    fn evaluator_tracer_and_rules_agree(
        first in world(false), second in world(false), v6 in world(true),
        drops in any::<bool>(), accepted in any::<bool>(),
    ) {
        let log = Log { drops, accepted };
        let (mut index, mut names) = (Index::default(), Names::default());
        for world in [&first, &second] {
            world.enter(&mut index);
            let compiled = plan::compile(&index.desired(), &mut names, log);
            agree(world, &mut index, &compiled);
            world.leave(&mut index);
        }
        let mut index = Index::default();
        v6.enter(&mut index);
        let compiled = plan::compile(&index.desired(), &mut names, log);
        agree(&v6, &mut index, &compiled);
    }
}

/// A few worlds, one after the other in the same kernel: each is written as the difference to the
/// one before it.
fn packets_agree(v6: bool, seed: u8) {
    let names: Vec<String> = (0..PODS).map(|number| format!("p{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut node = Node::new(v6, &names);
    for name in &names {
        node.index
            .remove_pod(&("ns".to_owned(), (*name).to_owned()));
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = world(v6);
    for number in 0..4 {
        let world = strategy.new_tree(&mut runner).unwrap().current();
        world.enter(&mut node.index);
        node.write();
        let attempts = world.attempts(&["TCP", "UDP"]);
        std::thread::scope(|scope| {
            for (client, name) in names.iter().enumerate() {
                let (world, node, attempts) = (&world, &node, &attempts);
                scope.spawn(move || {
                    let from = world.pods[client].address;
                    for attempt in attempts.iter().filter(|own| own.from == from) {
                        if attempt.to == from || world.interface(attempt.to).is_none() {
                            continue;
                        }
                        let to = SocketAddr::new(attempt.to, attempt.port);
                        let protocol = Protocol::parse(Some(attempt.protocol)).unwrap();
                        let expected = world.allows(attempt);
                        assert_eq!(
                            node.arrives(name, to, protocol, expected),
                            expected,
                            "world {number}: {attempt:?} in {world:#?}"
                        );
                    }
                });
            }
        });
        world.leave(&mut node.index);
    }
}

#[test]
fn real_packets_agree_over_ipv4() {
    packets_agree(false, 4);
}

#[test]
fn real_packets_agree_over_ipv6() {
    packets_agree(true, 6);
}
