//! What is dropped is told.

use std::net::SocketAddr;
use std::time::Duration;

use kernel::nflog::Nflog;
use policy::model::{Direction, Policy, PolicyId, Protocol, Rule, Tier};
use policy::plan::{LOG_GROUP, Log, Told};
use policy::verdict::Decision;

use crate::node::{Node, equals};

#[test]
fn the_log_names_who_dropped_a_packet() {
    let mut node = Node::new(false, &["a", "b"]);
    node.log = Log::DROPS;
    let name = ("ns".to_owned(), "none".to_owned());
    node.index.set_policy(Policy {
        name: name.clone(),
        pods: equals("app", "b"),
        ingress: Some(vec![]),
        egress: None,
    });
    node.write();
    let to = SocketAddr::new(node.pods["b"].1, 80);
    let (source, target) = (node.pods["a"].1, node.pods["b"].1);
    let logged = node.host.block_on(async {
        let mut log = Nflog::open(LOG_GROUP).unwrap();
        assert!(!node.arrives("a", to, Protocol::Tcp, false));
        let next = tokio::time::timeout(Duration::from_secs(10), log.next());
        next.await.unwrap().unwrap()
    });
    let first = &logged[0];
    assert_eq!(
        (first.packet.source, first.packet.destination),
        (source, target)
    );
    assert_eq!(first.packet.ports.unwrap().1, 80);
    assert_eq!(first.out_interface.as_deref(), Some("fld1"));
    let desired = node.index.desired();
    let told = node.names.told(&first.prefix, &desired).unwrap();
    let expected = Told {
        direction: Direction::Ingress,
        accepted: false,
        decision: Decision::NoneAllows([name].into()),
    };
    assert_eq!(told, expected);
}

#[test]
fn the_log_names_who_accepted_a_connection_if_that_is_asked_for() {
    let mut node = Node::new(false, &["a", "b"]);
    node.log = Log {
        drops: true,
        accepted: true,
    };
    let name = ("ns".to_owned(), "all".to_owned());
    node.index.set_policy(Policy {
        name: name.clone(),
        pods: equals("app", "b"),
        ingress: Some(vec![Rule::default()]),
        egress: None,
    });
    node.write();
    let to = SocketAddr::new(node.pods["b"].1, 80);
    let logged = node.host.block_on(async {
        let mut log = Nflog::open(LOG_GROUP).unwrap();
        assert!(node.arrives("a", to, Protocol::Tcp, true));
        let mut logged = Vec::new();
        while logged.len() < 2 {
            let next = tokio::time::timeout(Duration::from_secs(10), log.next());
            logged.extend(next.await.unwrap().unwrap());
        }
        logged
    });
    let desired = node.index.desired();
    let told = |number: usize| node.names.told(&logged[number].prefix, &desired).unwrap();
    let accepted = |direction, decision| Told {
        direction,
        accepted: true,
        decision,
    };
    assert_eq!(told(0), accepted(Direction::Egress, Decision::Default));
    let policy = PolicyId {
        tier: Tier::NetworkPolicy,
        name,
    };
    let rule = Decision::Rule { policy, rule: 0 };
    assert_eq!(told(1), accepted(Direction::Ingress, rule));
}
