//! The protocol, for every version of the specification.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use harness::{Call, Container, Host, address, addresses};
use kernel::nftables;
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn a_container_is_attached_checked_and_detached_in_every_version() {
    for version in VERSIONS {
        let host = Host::new("host");
        let container = Container::new("c1");
        let config = host.config(version);
        let result = host.add(&container, &config).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(
            addresses(&result),
            ["10.244.1.2/32", "fd00:10:244:1::2/128"]
        );
        assert_eq!(
            result["interfaces"][0]["name"],
            cni_plugin::host_interface_name("c1", "eth0")
        );
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(
            result["interfaces"][1]["sandbox"],
            container.ns.path().to_str().unwrap()
        );
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(result["ips"][1]["gateway"], "fe80::1");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(
            result["routes"][0],
            json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"})
        );
        let old = version < "1.0.0";
        assert_eq!(result["ips"][0].get("version"), old.then_some(&json!("4")));
        let mtu = result["interfaces"][1].get("mtu");
        assert_eq!(mtu, (version == "1.1.0").then_some(&json!(1450)));
        if version >= "0.4.0" {
            assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
        }
        for _ in 0..3 {
            assert_eq!(host.del(&container, &config), Ok(Value::Null));
        }
        assert_eq!(host.links(), Vec::<String>::new());
        assert_eq!(host.elements(), "");
        assert!(host.used().is_empty());
    }
}

#[test]
fn versions_are_told_and_others_refused() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let told = host
        .run(&container.call("VERSION", &json!({"cniVersion": "0.4.0"})))
        .unwrap();
    assert_eq!(told["cniVersion"], "0.4.0");
    assert_eq!(told["supportedVersions"], json!(VERSIONS));
    for version in ["0.2.0", "2.0.0", ""] {
        let error = host.add(&container, &host.config(version)).unwrap_err();
        assert_eq!(error["code"], 1, "{error}");
    }
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let error = host
            .run(&container.call(command, &host.config(version)))
            .unwrap_err();
        assert_eq!(
            (&error["code"], &error["cniVersion"]),
            (&json!(1), &json!(version))
        );
    }
}

#[test]
fn packets_flow_between_containers_and_the_host_in_both_families() {
    let host = Host::new("host");
    let (a, b) = (Container::new("a"), Container::new("b"));
    let config = host.config("1.1.0");
    let first = host.add(&a, &config).unwrap();
    let second = host.add(&b, &config).unwrap();
    host.ns.add_address("lo", "192.0.2.1/32");
    host.ns.add_address("lo", "2001:db8::1/128");
    for family in 0..2 {
        assert!(a.ns.reaches(&b.ns, address(&second, family)));
        assert!(b.ns.reaches(&a.ns, address(&first, family)));
        assert!(host.ns.reaches(&a.ns, address(&first, family)));
    }
}

#[test]
fn a_container_cannot_use_the_address_of_another() {
    let host = Host::new("host");
    let (a, b) = (Container::new("a"), Container::new("b"));
    let config = host.config("1.1.0");
    host.add(&a, &config).unwrap();
    let second = host.add(&b, &config).unwrap();
    for (spoofed, family) in [("10.244.1.77/32", "ip"), ("fd00:10:244:1::77/128", "ip6")] {
        a.ns.add_address("eth0", spoofed);
        let source = spoofed.split('/').next().unwrap();
        let target = address(&second, usize::from(family == "ip6")).to_string();
        let nft = |line: &str| assert!(b.ns.command("nft", &[line]).status.success(), "{line}");
        nft("add table inet seen");
        nft("add chain inet seen in { type filter hook input priority 0; }");
        nft(&format!(
            "add rule inet seen in {family} saddr {source} counter"
        ));
        let target = std::net::SocketAddr::new(target.parse().unwrap(), 9);
        let source: std::net::IpAddr = source.parse().unwrap();
        a.ns.run(|| {
            let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
            let _ = socket.send_to(b"spoofed", target);
        });
        let rules = b.ns.command("nft", &["list", "table", "inet", "seen"]);
        let text = String::from_utf8_lossy(&rules.stdout).into_owned();
        assert!(text.contains("counter packets 0"), "{text}");
        nft("delete table inet seen");
    }
}

#[test]
fn an_interface_that_exists_is_not_replaced_and_nothing_is_left() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let config = host.config("1.1.0");
    let other = kernel::testing::TestNetns::new("other");
    container.ns.join("eth0", &other, "x");
    let error = host.add(&container, &config).unwrap_err();
    assert_eq!(error["code"], 105, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("eth0"));
    assert!(
        container.ns.link("eth0").is_some(),
        "the foreign interface stays"
    );
    assert!(host.links().is_empty() && host.used().is_empty());
    assert_eq!(host.elements(), "");
}

#[test]
fn an_add_after_an_add_without_a_del_is_refused() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let config = host.config("1.1.0");
    let result = host.add(&container, &config).unwrap();
    assert_eq!(host.add(&container, &config).unwrap_err()["code"], 105);
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
}

#[test]
fn one_container_can_have_several_interfaces() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let config = host.config("1.1.0");
    host.add(&container, &config).unwrap();
    let mut second = config.clone();
    second["ipam"]["routes"] = json!([{"dst": "10.244.0.0/16"}, {"dst": "fd00:10:244::/48"}]);
    let routed = second.clone();
    let call = |command| Call {
        ifname: "eth1",
        ..container.call(command, &routed)
    };
    let result = host.run(&call("ADD")).unwrap();
    assert_eq!(addresses(&result)[0], "10.244.1.3/32");
    assert_eq!(result["routes"][0]["dst"], "10.244.0.0/16");
    second["ipam"]["routes"] = json!([]);
    let third = Call {
        ifname: "eth2",
        ..container.call("ADD", &second)
    };
    host.run(&third).unwrap();
    let routes = container.ns.command("ip", &["route", "show", "default"]);
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    assert_eq!(routes.lines().count(), 2, "{routes}");
    assert!(
        routes.starts_with("default via 169.254.1.1 dev eth0 onlink"),
        "{routes}"
    );
    host.run(&Call {
        command: "DEL",
        ..third.clone()
    })
    .unwrap();
    host.run(&call("DEL")).unwrap();
    assert_eq!(host.links().len(), 1, "the others are deleted by now");
    assert!(container.ns.link("eth0").is_some() && container.ns.link("eth1").is_none());
    assert_eq!(host.used().len(), 2);
}

#[test]
fn bad_input_has_the_code_of_the_specification() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let good = host.config("1.1.0");
    let with = |pointer: &str, value: Value| {
        let mut config = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        config
    };
    let cases = [
        (with("/name", json!("")), 7, "name"),
        (with("/name", json!("../x")), 7, "name"),
        (with("/mtu", json!(10)), 7, "mtu"),
        (with("/mtu", json!("big")), 6, "cannot be read"),
        (with("/ipam/ranges", json!([])), 7, "ipam.ranges"),
        (
            with("/ipam/ranges", json!([[{"subnet": "10.0.0.1/24"}]])),
            7,
            "host bits",
        ),
        (
            with("/ipam/ranges", json!([[{"subnet": "nonsense"}]])),
            6,
            "cannot be read",
        ),
        (with("/runtimeConfig", json!({"ips": ["x"]})), 7, "ips"),
        (
            with("/runtimeConfig", json!({"ips": ["192.0.2.1"]})),
            101,
            "192.0.2.1",
        ),
        (
            with("/runtimeConfig", json!({"mac": "ff:ff:ff:ff:ff:ff"})),
            7,
            "multicast",
        ),
        (
            with(
                "/runtimeConfig",
                json!({"portMappings": [{"hostPort": 70000, "containerPort": 1}]}),
            ),
            7,
            "70000",
        ),
        (
            with(
                "/runtimeConfig",
                json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}),
            ),
            7,
            "icmp",
        ),
        (
            with("/sysctl", json!({"kernel.panic": "1"})),
            7,
            "kernel.panic",
        ),
        (
            with("/sysctl", json!({"net.nothing": "1"})),
            103,
            "configure the container",
        ),
        (with("/prevResult", json!({"ips": 3})), 6, "prevResult"),
        (
            with("/ipam/type", json!("no-such-plugin")),
            104,
            "no-such-plugin",
        ),
        (with("/policySocket", json!("/nowhere")), 11, "policy"),
        (json!("text"), 6, "cannot be read"),
    ];
    for (mut config, code, words) in cases {
        if config.is_object() {
            config["policyTimeoutSeconds"] = json!(0);
        }
        let error = host.add(&container, &config).unwrap_err();
        assert_eq!(error["code"], code, "{config}: {error}");
        let text = format!("{}: {}", error["msg"], error["details"]);
        assert!(text.contains(words), "{config}: {text}");
        assert!(
            host.links().is_empty() && host.used().is_empty(),
            "{config}"
        );
        assert!(container.ns.link("eth0").is_none(), "{config}");
    }
    let gone = Call {
        netns: Some("/run/netns/no-such".into()),
        ..container.call("ADD", &good)
    };
    assert_eq!(host.run(&gone).unwrap_err()["code"], 3);
    let unnamed = Call {
        netns: None,
        ..container.call("ADD", &good)
    };
    let error = host.run(&unnamed).unwrap_err();
    assert!(
        error["code"] == 4 && error["msg"].as_str().unwrap().contains("CNI_NETNS"),
        "{error}"
    );
}

#[test]
fn del_succeeds_without_namespace_interface_or_state() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let container = Container::new("c1");
    host.add(&container, &config).unwrap();
    std::fs::remove_dir_all(host.dir.path().join("net")).unwrap();
    let call = Call {
        netns: None,
        ..container.call("DEL", &config)
    };
    assert_eq!(host.run(&call), Ok(Value::Null));
    assert!(host.links().is_empty());

    let gone = Container::new("c2");
    host.add(&gone, &config).unwrap();
    let path = gone.ns.path().to_owned();
    let id = gone.vanish();
    let call = Call {
        netns: Some(path),
        container: &id,
        ..container.call("DEL", &config)
    };
    assert_eq!(host.run(&call), Ok(Value::Null));
    assert_eq!(host.run(&call), Ok(Value::Null));
    assert!(host.links().is_empty() && host.used().is_empty());
}

#[test]
fn del_finds_the_interface_under_another_name() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let container = Container::new("c1");
    host.add(&container, &config).unwrap();
    let name = cni_plugin::host_interface_name("c1", "eth0");
    host.ns
        .execute(&[kernel::link::rename(host.ns.index(&name), "renamed")]);
    host.del(&container, &config).unwrap();
    assert!(host.links().is_empty() && container.ns.link("eth0").is_none());
}

#[test]
fn check_names_what_somebody_took_away() {
    type Damage = fn(&Host, &Container, &str);
    let damages: [(Damage, &str); 6] = [
        (
            |host, _, name| host.ns.execute(&[kernel::link::delete_by_name(name)]),
            "host's interface",
        ),
        (
            |host, _, name| {
                host.ns
                    .command("ip", &["route", "del", "10.244.1.2/32", "dev", name]);
            },
            "route to 10.244.1.2",
        ),
        (
            |_, c, _| {
                c.ns.command("ip", &["addr", "del", "10.244.1.2/32", "dev", "eth0"]);
            },
            "the address 10.244.1.2",
        ),
        (
            |_, c, _| {
                c.ns.command("ip", &["link", "set", "eth0", "mtu", "1300"]);
            },
            "MTU",
        ),
        (
            |host, _, _| {
                host.ns
                    .command("nft", &["flush", "set", "inet", "fairlead-cni", "sources4"]);
            },
            "sources4",
        ),
        (
            |host, _, _| {
                host.ns
                    .command("nft", &["delete", "table", "inet", "fairlead-cni"]);
            },
            "table fairlead-cni",
        ),
    ];
    for (damage, words) in damages {
        let host = Host::new("host");
        let config = host.config("1.1.0");
        let container = Container::new("c1");
        let result = host.add(&container, &config).unwrap();
        damage(
            &host,
            &container,
            &cni_plugin::host_interface_name("c1", "eth0"),
        );
        let error = host.check(&container, &config, &result).unwrap_err();
        assert_eq!(error["code"], 102, "{error}");
        assert!(
            error["details"].as_str().unwrap().contains(words),
            "{words}: {error}"
        );
    }
}

#[test]
fn check_knows_whose_the_addresses_are() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let (container, other) = (Container::new("c1"), Container::new("c2"));
    let result = host.add(&container, &config).unwrap();
    assert_eq!(host.check(&other, &config, &result).unwrap_err()["code"], 3);
    let mut changed = result.clone();
    changed["ips"][0]["address"] = json!("10.244.1.9/32");
    let error = host.check(&container, &config, &changed).unwrap_err();
    assert!(
        error["details"]
            .as_str()
            .unwrap()
            .contains("reservation of 10.244.1.9"),
        "{error}"
    );
    assert_eq!(
        host.run(&container.call("CHECK", &config)).unwrap_err()["code"],
        7
    );
}

#[test]
fn gc_takes_away_what_the_runtime_does_not_name() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let containers: Vec<Container> = ["a", "b", "c", "d"]
        .into_iter()
        .map(Container::new)
        .collect();
    for container in &containers {
        host.add(container, &config).unwrap();
    }
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    let call = containers[0].call("GC", &gc);
    assert_eq!(host.run(&call), Ok(Value::Null));
    assert_eq!(host.links(), [cni_plugin::host_interface_name("b", "eth0")]);
    assert_eq!(host.used(), ["10.244.1.3", "fd00:10:244:1::3"]);
    assert!(host.elements().contains("10.244.1.3") && !host.elements().contains("10.244.1.2"));
    assert_eq!(
        host.run(&containers[0].call("GC", &config)).unwrap_err()["code"],
        7
    );
    assert_eq!(
        host.links().len(),
        1,
        "without a list nothing is taken away"
    );
}

#[test]
fn status_says_beforehand_that_no_address_is_left() {
    let host = Host::new("host");
    let mut config = host.config("1.1.0");
    config["ipam"]["ranges"] = json!([[{"subnet": "10.244.1.0/30"}]]);
    let (a, b) = (Container::new("a"), Container::new("b"));
    assert_eq!(host.run(&a.call("STATUS", &config)), Ok(Value::Null));
    host.add(&a, &config).unwrap();
    let status = host.run(&a.call("STATUS", &config)).unwrap_err();
    assert_eq!(status["code"], 50);
    let words = "no address is left in 10.244.1.0/30: 1 of 1 are in use";
    assert_eq!(status["msg"], words);
    let error = host.add(&b, &config).unwrap_err();
    assert_eq!(
        (&error["code"], &error["msg"]),
        (&json!(100), &json!(words))
    );
    config["policySocket"] = json!("/nowhere");
    assert_eq!(
        host.run(&a.call("STATUS", &config)).unwrap_err()["code"],
        50
    );
}

#[test]
fn an_address_whose_container_is_gone_comes_back_when_it_is_needed() {
    let host = Host::new("host");
    let mut config = host.config("1.1.0");
    config["ipam"]["ranges"] = json!([[{"subnet": "10.244.1.0/30"}]]);
    let (a, b) = (Container::new("a"), Container::new("b"));
    host.add(&a, &config).unwrap();
    a.vanish();
    assert_eq!(
        addresses(&host.add(&b, &config).unwrap()),
        ["10.244.1.2/32"]
    );
}

#[test]
fn the_rules_are_written_once_and_again_when_they_are_lost() {
    let host = Host::new("host");
    let config = host.config("1.1.0");
    let rules = || {
        host.ns.run(|| {
            let mut connection = nftables::Connection::open().unwrap();
            connection
                .rules(&cni_plugin::rules::table(), None)
                .unwrap()
                .len()
        })
    };
    let containers: Vec<Container> = ["a", "b", "c"].into_iter().map(Container::new).collect();
    host.add(&containers[0], &config).unwrap();
    let count = rules();
    host.add(&containers[1], &config).unwrap();
    assert_eq!(rules(), count);
    host.ns.command(
        "nft",
        &["flush", "chain", "inet", "fairlead-cni", "postrouting"],
    );
    host.add(&containers[2], &config).unwrap();
    assert_eq!(rules(), count);
    assert!(
        host.elements().contains("10.244.1.2"),
        "the others' elements stay"
    );
}

#[test]
fn the_program_named_loopback_takes_the_containers_own_interface_up_and_down() {
    let host = Host::new("host");
    let program = host.dir.path().join("loopback");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fairlead-cni"), &program).unwrap();
    let container = Container::new("a");
    let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let call = |command| {
        let mut call = container.call(command, &config);
        call.ifname = "lo";
        host.run_program(&program, &call)
    };
    let up = || {
        let mut socket = container.ns.socket();
        kernel::link::get(&mut socket, "lo").unwrap().unwrap().up
    };
    let result = call("ADD").unwrap();
    assert_eq!(addresses(&result), ["127.0.0.1/8", "::1/128"]);
    assert_eq!(result["cniVersion"], "0.3.1");
    assert!(up());
    call("DEL").unwrap();
    assert!(!up());
    let gone = container.ns.path().to_owned();
    let mut call = container.call("DEL", &config);
    call.netns = Some(gone.with_file_name("fairlead-no-such-namespace"));
    host.run_program(&program, &call).unwrap();
}
