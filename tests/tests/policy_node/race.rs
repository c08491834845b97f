//! The race between a pod's first packet and its policy.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kernel::testing::TestNetns;

use crate::node::{Node, arrived, deny_all, send, send_here};

const PODS: usize = 1000;
const AT_ONCE: usize = 16;
/// How often the agent is killed while pods start.
const BETWEEN_KILLS: Duration = Duration::from_millis(2500);
/// A pod goes on sending for this when it runs.
const AFTERWARDS: Duration = Duration::from_millis(100);

#[test]
fn no_packet_of_a_denied_pod_gets_through_while_pods_start_and_the_agent_is_killed() {
    let node = Node::new();
    node.create_namespace("denied");
    node.create_namespace("open");
    node.create(vec![deny_all("denied")]);
    let names = ["listener", "sender"].map(str::to_owned).into_iter();
    node.create_pods("open", names);
    node.create_pods("denied", (0..PODS).map(|number| format!("p{number}")));
    node.start_agent();
    let listener = node.start_pod("open", "listener");
    let sender = node.start_pod("open", "sender");
    let (sockets, targets) = (listener.listen(), listener.targets());
    let an_allowed_packet_arrives = || {
        node.wait_for("a packet of a pod without policies", || {
            send(&sender.netns, &targets);
            let from = arrived(&sockets);
            let denied = from
                .iter()
                .find(|from| !sender.addresses.contains(&from.ip()));
            assert_eq!(denied, None);
            !from.is_empty()
        });
    };
    an_allowed_packet_arrives();

    let (next, ended, kills) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(BETWEEN_KILLS);
                node.kill_agent();
                node.start_agent();
                kills.fetch_add(1, Ordering::Relaxed);
            }
        });
        let starters: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= PODS {
                            return;
                        }
                        start_while_it_sends(&node, &format!("p{number}"), &targets);
                    }
                })
            })
            .collect();
        let results: Vec<_> = starters.into_iter().map(|own| own.join()).collect();
        ended.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
    assert!(kills.load(Ordering::Relaxed) > 0, "the agent was killed");
    assert_eq!(arrived(&sockets), [], "packets of denied pods");
    an_allowed_packet_arrives();
}

/// The pod sends before it has an interface, and does not stop.
fn start_while_it_sends(node: &Node, name: &str, targets: &[std::net::SocketAddr]) {
    let netns = TestNetns::new(name);
    let runs = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            netns.run(|| {
                while !runs.load(Ordering::Relaxed) {
                    send_here(targets);
                    thread::sleep(Duration::from_micros(500));
                }
            });
        });
        node.attach(&netns, "denied", name);
        thread::sleep(AFTERWARDS);
        runs.store(true, Ordering::Relaxed);
    });
}
