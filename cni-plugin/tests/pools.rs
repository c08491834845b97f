//! Addresses out of pools: the plugin asks the node's agent which ranges a pod may use.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use cni_plugin::pools::{Memory, PoolRequest};
use harness::{Container, Host, addresses};
use serde_json::{Value, json};

/// An agent that answers as the function says, and tells what it was asked.
fn agent(
    host: &Host,
    answer: impl Fn(&PoolRequest) -> Value + Send + 'static,
) -> (PathBuf, Receiver<PoolRequest>) {
    let path = host.dir.path().join("pools.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request: PoolRequest = serde_json::from_str(&line).unwrap();
            writeln!(stream, "{}", answer(&request)).unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (path, asked)
}

fn config(host: &Host, socket: &Path) -> Value {
    let mut config = host.config("1.1.0");
    config["poolSocket"] = json!(socket);
    config["policyTimeoutSeconds"] = json!(1);
    config
}

fn range(subnet: &str, first: &str, last: &str) -> Value {
    json!({"subnet": subnet, "rangeStart": first, "rangeEnd": last})
}

/// Two blocks of three addresses, one after the other; then there are none.
fn two_blocks(request: &PoolRequest) -> Value {
    let blocks = [
        range("10.9.0.0/30", "10.9.0.1", "10.9.0.3"),
        range("10.9.0.4/30", "10.9.0.5", "10.9.0.7"),
    ];
    let left = blocks.iter().find(|block| {
        let subnet = block["subnet"].as_str().unwrap().parse().unwrap();
        !request.full.contains(&subnet)
    });
    match left {
        Some(block) => json!({"sets": [[block]]}),
        None => json!({"error": "of pool x every part is full"}),
    }
}

#[test]
fn a_full_block_is_told_and_another_one_asked_for() {
    let host = Host::new("host");
    let (socket, asked) = agent(&host, two_blocks);
    let config = config(&host, &socket);
    let containers: Vec<Container> = (0..7).map(|n| Container::new(&format!("p{n}"))).collect();
    let mut given = Vec::new();
    for container in &containers[..6] {
        let mut call = container.call("ADD", &config);
        call.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart";
        given.extend(addresses(&host.run(&call).unwrap()));
    }
    let expected = [1, 2, 3, 5, 6, 7].map(|last| format!("10.9.0.{last}/32"));
    assert_eq!(given, expected);
    let first = asked.recv().unwrap();
    assert_eq!((&*first.pod_namespace, &*first.pod_name), ("shop", "cart"));
    assert!(first.full.is_empty());
    let mut status = containers[6].call("STATUS", &config);
    status.container = "";
    let error = host.run(&status).unwrap_err();
    assert_eq!(error["code"], 50, "{error}");
    let error = host.add(&containers[6], &config).unwrap_err();
    assert_eq!(error["code"], 100, "{error}");
    assert!(
        error["details"].as_str().unwrap().contains("pool x"),
        "{error}"
    );
    // What comes back is given again.
    host.del(&containers[1], &config).unwrap();
    assert!(host.run(&status).is_ok());
    let again = host.add(&containers[6], &config).unwrap();
    assert_eq!(addresses(&again), ["10.9.0.2/32"]);
}

#[test]
fn a_fixed_address_is_the_pods_or_an_error_that_names_its_owner() {
    let host = Host::new("host");
    let answer = |_: &PoolRequest| json!({"sets": [[range("10.9.0.7/32", "10.9.0.7", "10.9.0.7")]], "addresses": ["10.9.0.7"]});
    let (socket, _asked) = agent(&host, answer);
    let config = config(&host, &socket);
    let (a, b) = (Container::new("a"), Container::new("b"));
    let result = host.add(&a, &config).unwrap();
    assert_eq!(addresses(&result), ["10.9.0.7/32"]);
    assert_eq!(host.check(&a, &config, &result), Ok(Value::Null));
    let error = host.add(&b, &config).unwrap_err();
    assert_eq!(error["code"], 101, "{error}");
    assert!(
        error["details"].as_str().unwrap().contains("container a"),
        "{error}"
    );
}

#[test]
fn an_address_that_was_given_away_meanwhile_is_not_used() {
    let host = Host::new("host");
    let (socket, _asked) = agent(&host, two_blocks);
    let config = config(&host, &socket);
    let memory = Memory {
        data_dir: host.dir.path().to_owned(),
        network: "net".to_owned(),
    };
    let a = Container::new("a");
    host.add(&a, &config).unwrap();
    assert!(!memory.withdraw("10.9.0.0/30".parse().unwrap()).unwrap());
    assert!(memory.withdraw("10.9.0.2/32".parse().unwrap()).unwrap());
    // They live on: the address of one that is gone would be taken back.
    let containers = ["b", "c", "d"].map(Container::new);
    let given = |number: usize| addresses(&host.add(&containers[number], &config).unwrap());
    assert_eq!(given(0), ["10.9.0.3/32"]);
    assert_eq!(given(1), ["10.9.0.5/32"]);
    memory.admit("10.9.0.2/32".parse().unwrap()).unwrap();
    assert_eq!(given(2), ["10.9.0.2/32"]);
}

#[test]
fn without_its_agent_nothing_is_given_and_status_says_so() {
    let host = Host::new("host");
    let config = config(&host, &host.dir.path().join("nobody.sock"));
    let container = Container::new("a");
    let error = host.add(&container, &config).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    let mut status = container.call("STATUS", &config);
    status.container = "";
    assert_eq!(host.run(&status).unwrap_err()["code"], 50);
    assert!(host.links().is_empty() && host.used().is_empty());
    host.del(&container, &config).unwrap();
}
