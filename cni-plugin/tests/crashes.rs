//! Killed at any instant, many at once, damaged state: no address is lost or given twice.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use harness::{Container, Host, addresses};
use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_fairlead-cni");

/// What the state says must be what the interfaces have: nobody's address is somebody else's.
fn assert_consistent(host: &Host, containers: &[Container]) {
    let used: BTreeSet<String> = host.used().into_iter().collect();
    let mut seen = BTreeSet::new();
    for container in containers {
        let output = container
            .ns
            .command("ip", &["-j", "-4", "addr", "show", "scope", "global"]);
        let links: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for link in links.as_array().into_iter().flatten() {
            // The other end of one that is being deleted is down already.
            if link["operstate"] != "UP" {
                continue;
            }
            for info in link["addr_info"].as_array().into_iter().flatten() {
                let address = info["local"].as_str().unwrap().to_owned();
                assert!(
                    used.contains(&address),
                    "{address} is used and not reserved"
                );
                assert!(seen.insert(address.clone()), "{address} is used twice");
            }
        }
    }
}

#[test]
fn killed_at_any_instant_it_leaks_nothing_and_gives_nothing_twice() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let containers: Vec<Container> = (0..3).map(|n| Container::new(&format!("c{n}"))).collect();
    for round in 0..60u64 {
        let container = &containers[usize::try_from(round % 3).unwrap()];
        let command = if round % 2 == 0 { "ADD" } else { "DEL" };
        let mut child = host.start(Path::new(PLUGIN), &container.call(command, &config));
        std::thread::sleep(Duration::from_micros(round * 150));
        let _ = child.kill();
        let _ = child.wait();
        assert_consistent(&host, &containers);
        if command == "ADD" {
            // As a runtime does after a failed ADD.
            host.del(container, &config).unwrap();
            let result = host.add(container, &config).unwrap();
            assert_eq!(host.check(container, &config, &result), Ok(Value::Null));
            assert_consistent(&host, &containers);
        }
    }
    for container in &containers {
        host.del(container, &config).unwrap();
    }
    assert!(host.links().is_empty() && host.used().is_empty());
    assert_eq!(host.elements(), "");
}

/// A DEL answers before its interface is deleted; who is killed then leaves the rest to a process
/// that takes its time.
#[test]
fn a_deletion_that_comes_late_leaves_the_next_interface_of_that_name_alone() {
    let host = Host::new("host");
    let mut config = host.config("1.1.0");
    config["runtimeConfig"] =
        json!({"bandwidth": {"egressRate": 8_000_000, "egressBurst": 800_000}});
    let container = Container::new("late");
    host.add(&container, &config).unwrap();
    let del = container.call("DEL", &config);
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some("DEL".into()),
        "CNI_CONTAINERID" => Some(del.container.into()),
        "CNI_IFNAME" => Some(del.ifname.into()),
        "CNI_NETNS" => del.netns.clone().map(Into::into),
        "CNI_PATH" => Some("/usr/lib/cni".into()),
        _ => None,
    };
    let input = serde_json::to_vec(&config).unwrap();
    let answer = host
        .ns
        .run(|| cni_plugin::answer(cni_plugin::Plugin::Pods, variable, &input));
    assert!(answer.success);
    let result = host.add(&container, &config).unwrap();
    let before = host.links();
    host.ns.run(|| answer.deferred.unwrap().run()).unwrap();
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
    assert_eq!(host.links(), before);
    host.del(&container, &config).unwrap();
    assert!(host.links().is_empty());
}

#[test]
fn two_hundred_containers_at_once_get_different_addresses() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let containers: Vec<Container> = (0..200).map(|n| Container::new(&format!("p{n}"))).collect();
    let all = |command: &'static str| -> Vec<Value> {
        let children: Vec<_> = containers
            .iter()
            .map(|container| host.start(Path::new(PLUGIN), &container.call(command, &config)))
            .collect();
        let finish = |child: std::process::Child| {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        };
        children.into_iter().map(finish).collect()
    };
    let given: BTreeSet<String> = all("ADD").iter().flat_map(addresses).collect();
    assert_eq!(given.len(), 400);
    assert_eq!(host.used().len(), 400);
    all("DEL");
    assert!(host.links().is_empty() && host.used().is_empty());
    assert_eq!(host.elements(), "");
}

#[test]
fn damaged_state_is_read_from_what_is_really_there() {
    for damage in [
        &b""[..],
        b"{\"bootId\":\"",
        b"{\"attachments\":{\"a/eth0\":7}}",
        &[0xff; 64],
    ] {
        let host = Host::new("host");
        let config = host.config("1.1.0");
        let (a, b) = (Container::new("a"), Container::new("b"));
        let result = host.add(&a, &config).unwrap();
        for slot in ["net/state.0", "net/state.1"] {
            std::fs::write(host.dir.path().join(slot), damage).unwrap();
        }
        let other = host.add(&b, &config).unwrap();
        assert_ne!(addresses(&other), addresses(&result), "{damage:?}");
        assert_eq!(host.used().len(), 4);
        assert_eq!(host.check(&a, &config, &result), Ok(Value::Null));
        host.del(&a, &config).unwrap();
        host.del(&b, &config).unwrap();
        assert!(host.links().is_empty() && host.used().is_empty());
        assert_eq!(host.elements(), "");
    }
}

#[test]
fn a_full_disk_is_told_and_changes_nothing() {
    let host = Host::new("host");
    let mut config = host.config("1.1.0");
    let container = Container::new("c1");
    let full = host.dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let path = full.to_str().unwrap();
    let mounted = host.ns.command(
        "mount",
        &["-t", "tmpfs", "-o", "size=4096,nr_inodes=3", "full", path],
    );
    assert!(mounted.status.success());
    config["dataDir"] = json!(full);
    let error = host.add(&container, &config);
    host.ns.command("umount", &["-l", path]);
    let error = error.unwrap_err();
    assert!(error["code"] == 11 || error["code"] == 5, "{error}");
    assert!(host.links().is_empty());
}

#[test]
fn addresses_are_reused_oldest_first() {
    let host = Host::new("host");
    let mut config = host.config("1.1.0");
    config["ipam"]["ranges"] = json!([[{"subnet": "10.244.1.0/29"}]]);
    let containers: Vec<Container> = (0..5).map(|n| Container::new(&format!("o{n}"))).collect();
    for container in &containers {
        host.add(container, &config).unwrap();
    }
    let order = [3usize, 0, 4];
    for index in order {
        host.del(&containers[index], &config).unwrap();
    }
    let next: Vec<Container> = (0..3).map(|n| Container::new(&format!("n{n}"))).collect();
    let given: Vec<String> = next
        .iter()
        .map(|c| addresses(&host.add(c, &config).unwrap())[0].clone())
        .collect();
    assert_eq!(given, ["10.244.1.5/32", "10.244.1.2/32", "10.244.1.6/32"]);
}
