//! What is missing or broken around the agent.

use kernel::nflog::Nflog;

use crate::node::{Node, arrived, deny_all, send};

/// The group of the agent's log, which others can take.
const LOG_GROUP: u16 = 4217;

#[test]
fn without_the_api_server_rules_stay_and_a_new_pods_rules_come_from_the_cache() {
    let node = Node::new();
    node.create_namespace("denied");
    node.create_namespace("open");
    node.create(vec![deny_all("denied")]);
    node.create_pods("open", ["listener", "late"].map(str::to_owned).into_iter());
    node.create_pods(
        "denied",
        ["early", "late-denied"].map(str::to_owned).into_iter(),
    );
    node.start_agent();
    let listener = node.start_pod("open", "listener");
    let early = node.start_pod("denied", "early");
    let (sockets, targets) = (listener.listen(), listener.targets());
    node.kill_server();
    let denied = node.start_pod("denied", "late-denied");
    let open = node.start_pod("open", "late");
    node.wait_for("a packet of a new pod without policies", || {
        send(&early.netns, &targets);
        send(&denied.netns, &targets);
        send(&open.netns, &targets);
        let from = arrived(&sockets);
        assert!(
            from.iter().all(|from| open.addresses.contains(&from.ip())),
            "{from:?}"
        );
        !from.is_empty()
    });
}

#[test]
fn without_nflog_policies_are_enforced_and_the_log_says_so() {
    let node = Node::new();
    node.create_namespace("denied");
    node.create(vec![deny_all("denied")]);
    node.create_namespace("open");
    node.create_pods(
        "open",
        ["listener", "sender"].map(str::to_owned).into_iter(),
    );
    node.create_pods("denied", ["denied-sender".to_owned()].into_iter());
    // To a second listener the kernel says what it says without NFLOG: no.
    let _taken = node.host.block_on(async {
        let taken = Nflog::open(LOG_GROUP).unwrap();
        node.start_agent();
        node.wait_for("the agent", || node.is_socket_there());
        taken
    });
    assert!(node.agent_log().contains("NFLOG"), "{}", node.agent_log());
    let listener = node.start_pod("open", "listener");
    let (sockets, targets) = (listener.listen(), listener.targets());
    let denied = node.start_pod("denied", "denied-sender");
    let open = node.start_pod("open", "sender");
    node.wait_for("a packet of a pod without policies", || {
        send(&denied.netns, &targets);
        send(&open.netns, &targets);
        let from = arrived(&sockets);
        assert!(
            from.iter().all(|from| open.addresses.contains(&from.ip())),
            "{from:?}"
        );
        !from.is_empty()
    });
}
