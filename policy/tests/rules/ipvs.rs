//! Policies behind IPVS: what a pod sends to a Service's address is judged with the real back end.
//!
//! Where this kernel has no IPVS, the test runs itself under one that has, by
//! `tests/with-ipvs-kernel`. It never passes without IPVS. Needs root.
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use policy::model::{Action, Namespaces, Peer, PodSelector, Policy, Rule};

use crate::node::{Node, PATIENCE, equals};

const TEST: &str = "ipvs::a_service_of_ipvs_is_judged_by_its_real_back_end";

#[test]
fn a_service_of_ipvs_is_judged_by_its_real_back_end() {
    if kernel::ipvs::Ipvs::open().is_ok() {
        return judged();
    }
    let elsewhere = std::env::var_os("IPVS_KERNEL").is_none();
    assert!(elsewhere, "the other kernel has no IPVS either");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/with-ipvs-kernel");
    #[expect(
        clippy::disallowed_methods,
        reason = "runs itself under another kernel"
    )]
    let mut command = Command::new(script);
    command.args(["-t", "600", "--"]);
    command.arg(std::env::current_exe().unwrap());
    command.args([TEST, "--exact", "--nocapture"]);
    let status = command.status().unwrap();
    assert!(status.success(), "{status}");
}

fn policy(name: &str, app: &str, ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> Policy {
    Policy {
        name: ("ns".to_owned(), name.to_owned()),
        pods: equals("app", app),
        ingress,
        egress,
    }
}

fn only(app: &str) -> Vec<Rule> {
    vec![Rule {
        action: Action::Accept,
        peers: Some(vec![Peer::Pods(PodSelector {
            namespaces: Namespaces::One("ns".into()),
            pods: equals("app", app),
        })]),
        ports: None,
    }]
}

fn judged() {
    let mut node = Node::new(false, &["a", "b", "c"]);
    node.host.sysctl("net/ipv4/vs/conntrack", "1");
    let service: SocketAddr = ([10, 96, 0, 1], 80).into();
    node.host.add_address("lo", "10.96.0.1/32");
    let back_end = SocketAddr::new(node.pods["b"].1, 80);
    let (service_text, back_end_text) = (service.to_string(), back_end.to_string());
    for arguments in [
        vec!["-A", "-t", &service_text, "-s", "rr"],
        vec!["-a", "-t", &service_text, "-r", &back_end_text, "-m"],
    ] {
        let output = node.host.command("ipvsadm", &arguments);
        assert!(output.status.success(), "{output:?}");
    }
    let _listener = node.pods["b"]
        .0
        .run(|| TcpListener::bind(back_end))
        .unwrap();
    let connects = |node: &Node, client: &str| {
        let connect = || TcpStream::connect_timeout(&service, 4 * PATIENCE);
        node.pods[client].0.run(connect).is_ok()
    };
    node.write();
    assert!(connects(&node, "a") && connects(&node, "c"));
    node.index
        .set_policy(policy("in", "b", Some(only("a")), None));
    node.write();
    assert!(connects(&node, "a"), "the back end lets it in");
    assert!(!connects(&node, "c"), "the back end does not");
    node.index
        .set_policy(policy("out", "a", None, Some(only("b"))));
    node.write();
    assert!(connects(&node, "a"), "the back end is what it may reach");
    node.index
        .set_policy(policy("out", "a", None, Some(only("c"))));
    node.write();
    assert!(!connects(&node, "a"), "it may reach another pod only");
}
