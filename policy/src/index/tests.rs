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
