use super::*;
use crate::model::{Requirement, Selector};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn equals(key: &str, value: &str) -> Selector {
    Selector([Requirement::In(key.into(), [value.to_owned()].into())].into())
}

fn name(namespace: &str, name: &str) -> ObjectName {
    (namespace.to_owned(), name.to_owned())
}

fn pod(app: &str, address: &str) -> Pod {
    Pod {
        labels: labels(&[("app", app)]),
        addresses: [address.parse().unwrap()].into(),
        named_ports: [("http".to_owned(), Protocol::Tcp, 8080)].into(),
        ..Pod::default()
    }
}

/// Pod `ns/web` on `fld1`, isolated for ingress except from `app=client` of namespaces with
/// `team=a`, on the port named `http`.
fn index() -> Index {
    let mut index = Index::default();
    index.set_namespace("ns", labels(&[("team", "b")]));
    index.set_namespace("other", labels(&[("team", "a")]));
    index.set_pod(name("ns", "web"), pod("web", "10.0.0.1"));
    index.set_pod(name("other", "client"), pod("client", "10.0.0.2"));
    let addresses = ["10.0.0.1".parse().unwrap()].into();
    index.set_attachment(
        "fld1".into(),
        Attachment {
            pod: name("ns", "web"),
            addresses,
            ..Attachment::default()
        },
    );
    let namespaces = Namespaces::Selected(equals("team", "a"));
    let peer = Peer::Pods(PodSelector {
        namespaces,
        pods: equals("app", "client"),
    });
    let port = PortMatch {
        protocol: Protocol::Tcp,
        port: Port::Named("http".into()),
    };
    let rule = Rule {
        action: Action::Accept,
        peers: Some(vec![peer]),
        ports: Some(vec![port]),
    };
    index.set_policy(Policy {
        name: name("ns", "allow"),
        pods: equals("app", "web"),
        ingress: Some(vec![rule]),
        egress: None,
    });
    index
}

fn peers(index: &mut Index) -> Vec<String> {
    let desired = index.desired();
    let mut all = Vec::new();
    for content in desired.sets.values() {
        if let SetContent::Addresses(addresses) = content {
            all.extend(addresses.iter().map(ToString::to_string));
        }
    }
    all
}

#[test]
fn a_policy_isolates_the_pods_it_selects_in_its_directions() {
    let desired = index().desired();
    let rules = &desired.endpoints["fld1"];
    assert_eq!(rules.ingress.isolating, Some([name("ns", "allow")].into()));
    assert!(rules.egress.is_open());
    assert_eq!(desired.policies.len(), 1);
}

#[test]
fn members_follow_pods_and_namespaces() {
    let mut index = index();
    assert_eq!(peers(&mut index), ["10.0.0.2"]);
    index.set_pod(name("other", "second"), pod("client", "10.0.0.3"));
    assert_eq!(peers(&mut index), ["10.0.0.2", "10.0.0.3"]);
    index.set_pod(name("other", "second"), pod("stranger", "10.0.0.3"));
    assert_eq!(peers(&mut index), ["10.0.0.2"]);
    index.set_namespace("other", labels(&[("team", "c")]));
    assert_eq!(peers(&mut index), [""; 0]);
    index.set_namespace("other", labels(&[("team", "a")]));
    index.remove_pod(&name("other", "client"));
    assert_eq!(peers(&mut index), [""; 0]);
}

#[test]
fn an_address_that_passes_on_stays_a_member() {
    let mut index = index();
    index.set_pod(name("other", "heir"), pod("client", "10.0.0.2"));
    index.remove_pod(&name("other", "client"));
    assert_eq!(peers(&mut index), ["10.0.0.2"]);
}

#[test]
fn what_did_not_change_stays_shared() {
    let mut index = index();
    let before = index.desired();
    index.set_pod(name("ns", "unrelated"), pod("unrelated", "10.0.0.9"));
    let after = index.desired();
    let arc = |desired: &Desired| {
        desired.sets.values().find_map(|content| match content {
            SetContent::Addresses(addresses) => Some(addresses.clone()),
            _ => None,
        })
    };
    assert!(Arc::ptr_eq(&arc(&before).unwrap(), &arc(&after).unwrap()));
}

fn cluster_policy(name: &str, tier: Tier, priority: i32) -> ClusterPolicy {
    let namespaces = Namespaces::Selected(Selector::default());
    ClusterPolicy {
        name: name.to_owned(),
        tier,
        priority,
        subject: Some(PodSelector {
            namespaces,
            pods: equals("app", "web"),
        }),
        ingress: vec![Rule {
            action: Action::Deny,
            peers: Some(vec![Peer::Nodes(equals("role", "edge"))]),
            ports: None,
        }],
        egress: vec![],
    }
}

#[test]
fn cluster_policies_are_asked_by_tier_and_priority() {
    let mut index = index();
    index.set_cluster_policy(cluster_policy("c", Tier::Admin, 5));
    index.set_cluster_policy(cluster_policy("b", Tier::Admin, 5));
    index.set_cluster_policy(cluster_policy("z", Tier::Admin, 1));
    index.set_cluster_policy(cluster_policy("base", Tier::Baseline, 0));
    let names = |ids: &[PolicyId]| ids.iter().map(|id| id.name.1.clone()).collect::<Vec<_>>();
    let judged = index.desired().endpoints["fld1"].clone();
    assert_eq!(names(&judged.ingress.admin), ["z", "b", "c"]);
    assert!(
        judged.ingress.baseline.is_empty(),
        "a NetworkPolicy decides"
    );
    assert!(judged.egress.is_open());
    index.remove_policy(&name("ns", "allow"));
    let judged = index.desired().endpoints["fld1"].clone();
    assert_eq!(names(&judged.ingress.baseline), ["base"]);
}

#[test]
fn members_follow_nodes() {
    let mut index = index();
    index.remove_policy(&name("ns", "allow"));
    index.set_cluster_policy(cluster_policy("c", Tier::Admin, 5));
    assert_eq!(peers(&mut index), [""; 0]);
    let node = Node {
        labels: labels(&[("role", "edge")]),
        addresses: ["192.0.2.1".parse().unwrap()].into(),
    };
    index.set_node("n", node.clone());
    assert_eq!(peers(&mut index), ["192.0.2.1"]);
    index.set_node(
        "n",
        Node {
            labels: labels(&[]),
            ..node
        },
    );
    assert_eq!(peers(&mut index), [""; 0]);
}

#[test]
fn an_interface_of_an_unknown_pod_has_no_rules() {
    let mut index = index();
    index.remove_pod(&name("ns", "web"));
    assert!(index.desired().endpoints.is_empty());
    assert!(index.desired().sets.is_empty());
}

#[test]
fn selectors_pick_all_none_or_a_hundred_thousand_pods() {
    let mut index = index();
    for number in 0..100_000u32 {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string();
        index.set_pod(name("crowd", &number.to_string()), pod("crowd", &address));
    }
    index.set_namespace("crowd", labels(&[]));
    let peer = |pods: Selector| {
        Peer::Pods(PodSelector {
            namespaces: Namespaces::Selected(Selector::default()),
            pods,
        })
    };
    let rule = |selector| Rule {
        peers: Some(vec![peer(selector)]),
        ..Rule::default()
    };
    let never = Selector([Requirement::Never].into());
    let selectors = [Selector::default(), equals("app", "crowd"), never];
    index.set_policy(Policy {
        name: name("ns", "allow"),
        pods: Selector::default(),
        ingress: Some(selectors.map(rule).into()),
        egress: None,
    });
    let count = |index: &mut Index| -> Vec<usize> {
        let desired = index.desired();
        let rules = &desired.policies[&(
            PolicyId {
                tier: Tier::NetworkPolicy,
                name: name("ns", "allow"),
            },
            Direction::Ingress,
        )];
        let peers = rules.iter().flat_map(|rule| rule.peers.as_ref().unwrap());
        peers
            .map(|peer| match peer {
                CompiledPeer::Set(id) => match &desired.sets[id] {
                    SetContent::Addresses(addresses) => addresses.len(),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(count(&mut index), [100_002, 100_000, 0]);
    // A namespace that goes takes its labels with it: its pods are in no namespace that is known.
    index.remove_namespace("crowd");
    assert_eq!(count(&mut index), [2, 0, 0]);
}

#[test]
fn of_two_cluster_policies_of_one_priority_the_first_by_name_is_asked_first() {
    let mut index = index();
    for policy in ["b", "a"] {
        index.set_cluster_policy(ClusterPolicy {
            name: policy.to_owned(),
            tier: Tier::Admin,
            priority: 5,
            subject: Some(PodSelector {
                namespaces: Namespaces::Selected(Selector::default()),
                pods: Selector::default(),
            }),
            ingress: vec![Rule::default()],
            egress: vec![],
        });
    }
    let admin = &index.desired().endpoints["fld1"].ingress.admin;
    let names: Vec<&str> = admin.iter().map(|own| own.name.1.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

/// One change of a small cluster; numbers choose among a few objects and labels.
#[derive(Debug, Clone)]
enum Change {
    Pod(usize, usize, usize),
    NoPod(usize, usize),
    Namespace(usize, usize),
    NoNamespace(usize),
    Policy(usize, usize, usize, usize),
    NoPolicy(usize, usize),
    ClusterPolicy(usize, usize, usize),
    NoClusterPolicy(usize),
    Node(usize),
    NoNode,
    Attachment(usize, usize, usize),
    NoAttachment(usize),
}

fn changes() -> impl proptest::strategy::Strategy<Value = Change> {
    use proptest::prelude::*;
    let n = || 0..3usize;
    prop_oneof![
        4 => (n(), n(), n()).prop_map(|(a, b, c)| Change::Pod(a, b, c)),
        1 => (n(), n()).prop_map(|(a, b)| Change::NoPod(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Change::Namespace(a, b)),
        1 => n().prop_map(Change::NoNamespace),
        4 => (n(), n(), n(), n()).prop_map(|(a, b, c, d)| Change::Policy(a, b, c, d)),
        1 => (n(), n()).prop_map(|(a, b)| Change::NoPolicy(a, b)),
        2 => (n(), n(), n()).prop_map(|(a, b, c)| Change::ClusterPolicy(a, b, c)),
        1 => n().prop_map(Change::NoClusterPolicy),
        1 => n().prop_map(Change::Node),
        1 => Just(Change::NoNode),
        4 => (n(), n(), n()).prop_map(|(a, b, c)| Change::Attachment(a, b, c)),
        1 => n().prop_map(Change::NoAttachment),
    ]
}

fn rule(peer: usize, port: usize) -> Rule {
    let peers = PodSelector {
        namespaces: Namespaces::Selected(equals("team", &peer.to_string())),
        pods: equals("app", &port.to_string()),
    };
    let ports = match port {
        0 => Port::Any,
        1 => Port::Range(80, 80),
        _ => Port::Named("http".into()),
    };
    Rule {
        action: Action::Accept,
        peers: (peer > 0).then(|| vec![Peer::Pods(peers)]),
        ports: Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: ports,
        }]),
    }
}

impl Change {
    fn apply(&self, index: &mut Index) {
        let (ns, own) = (|n: &usize| format!("ns{n}"), |n: &usize| format!("own{n}"));
        let address = |a: &usize, b: &usize| format!("10.0.{a}.{b}");
        match self {
            Self::Pod(a, b, c) => {
                index.set_pod(name(&ns(a), &own(b)), pod(&c.to_string(), &address(a, b)));
            }
            Self::NoPod(a, b) => index.remove_pod(&name(&ns(a), &own(b))),
            Self::Namespace(a, b) => {
                index.set_namespace(&ns(a), labels(&[("team", &b.to_string())]))
            }
            Self::NoNamespace(a) => index.remove_namespace(&ns(a)),
            Self::Policy(a, b, c, d) => index.set_policy(Policy {
                name: name(&ns(a), &own(b)),
                pods: equals("app", &c.to_string()),
                ingress: (*d != 1).then(|| vec![rule(*c, *d)]),
                egress: (*d > 0).then(Vec::new),
            }),
            Self::NoPolicy(a, b) => index.remove_policy(&name(&ns(a), &own(b))),
            Self::ClusterPolicy(a, b, c) => index.set_cluster_policy(ClusterPolicy {
                name: own(a),
                tier: if *b == 0 { Tier::Baseline } else { Tier::Admin },
                priority: *b as i32,
                subject: Some(PodSelector {
                    namespaces: Namespaces::Selected(equals("team", &c.to_string())),
                    pods: Selector::default(),
                }),
                ingress: vec![rule(*b, *c)],
                egress: Vec::new(),
            }),
            Self::NoClusterPolicy(a) => index.remove_cluster_policy(&own(a)),
            Self::Node(a) => index.set_node(
                "node",
                Node {
                    labels: Labels::new(),
                    addresses: [address(a, &200).parse().unwrap()].into(),
                },
            ),
            Self::NoNode => index.remove_node("node"),
            Self::Attachment(a, b, c) => index.set_attachment(
                format!("fld{a}"),
                Attachment {
                    pod: name(&ns(b), &own(c)),
                    addresses: [address(b, c).parse().unwrap()].into(),
                    node: "node".to_owned(),
                },
            ),
            Self::NoAttachment(a) => index.remove_attachment(&format!("fld{a}")),
        }
    }
}

/// What is wanted, with sets by content: their numbers depend on the past.
fn resolved(desired: &Desired) -> String {
    let mut text = format!("{:?}\n{:?}\n", desired.endpoints, desired.addresses);
    for (policy, rules) in desired.policies.iter() {
        text.push_str(&format!("{policy:?}\n"));
        for rule in rules.iter() {
            let peers = rule.peers.iter().flatten();
            let peers = peers.map(|peer| match peer {
                CompiledPeer::Set(id) => format!("{:?}", desired.sets[id]),
                other => format!("{other:?}"),
            });
            let ports = rule.ports.iter().flatten();
            let ports = ports.map(|port| match port {
                CompiledPort::Set(id) => format!("{:?}", desired.sets[id]),
                other => format!("{other:?}"),
            });
            let all: Vec<String> = peers.chain(ports).collect();
            text.push_str(&format!(
                "  {:?} {:?} {all:?}\n",
                rule.action,
                rule.peers.is_none()
            ));
        }
    }
    text.push_str(&format!("{} sets", desired.sets.len()));
    text
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn what_follows_from_changes_one_by_one_follows_from_all_at_once(
        changes in proptest::collection::vec(changes(), 1..60),
    ) {
        let mut step_by_step = Index::default();
        for change in &changes {
            change.apply(&mut step_by_step);
            step_by_step.desired();
        }
        let mut at_once = Index::default();
        for change in &changes {
            change.apply(&mut at_once);
        }
        proptest::prop_assert_eq!(resolved(&step_by_step.desired()), resolved(&at_once.desired()));
    }
}

#[test]
fn a_pod_elsewhere_that_changes_concerns_sets_alone() {
    let mut index = index();
    let before = index.desired();
    index.set_pod(name("other", "second"), pod("client", "10.0.0.3"));
    // A label of the node's own pod that nobody asks for.
    let mut own = pod("web", "10.0.0.1");
    own.labels.insert("any".to_owned(), "more".to_owned());
    index.set_pod(name("ns", "web"), own);
    let after = index.desired();
    assert_ne!(before.sets, after.sets);
    assert!(Arc::ptr_eq(&before.endpoints, &after.endpoints));
    assert!(Arc::ptr_eq(&before.policies, &after.policies));
    assert!(Arc::ptr_eq(&before.addresses, &after.addresses));
}
