//! What is dropped is told.

use std::net::SocketAddr;
use std::time::Duration;

use kernel::nflog::Nflog;
use policy::model::{Direction, Policy, Protocol};
use policy::plan::{LOG_GROUP, Log};
use policy::verdict::Decision;

use crate::node::{Node, equals};

#[test]
fn the_log_names_who_dropped_a_packet() {
    let mut node = Node::new(false, &["a", "b"]);
    node.log = Log::Drops;
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
    let (direction, decision) = node.names.decision(&first.prefix, &desired).unwrap();
    assert_eq!(direction, Direction::Ingress);
    assert_eq!(decision, Decision::NoneAllows([name].into()));
}
