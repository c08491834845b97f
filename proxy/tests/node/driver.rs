//! The proxy as a whole, with an API server in memory and a node in network namespaces.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use kernel::iptables::Variant;
use proxy::{Config, Mode};
use serde_json::{Value, json};

use crate::api::{NODES, SERVICES, SLICES};
use crate::running::{Running, api_with_node, repairs, served, web};
use crate::world::{Ip, World, config, service, slice, wait_for};

#[test]
fn flushed_nftables_are_repaired_with_an_event() {
    repairs(
        Mode::Nftables,
        None,
        &[
            &["nft", "flush", "ruleset"],
            &["nft", "delete", "table", "ip", "fairlead-proxy"],
        ],
    );
}

#[test]
fn flushed_rules_of_either_iptables_are_repaired_with_an_event() {
    for (variant, program) in [
        (Variant::Nft, "iptables-nft"),
        (Variant::Legacy, "iptables-legacy"),
    ] {
        repairs(
            Mode::Iptables,
            Some(variant),
            &[
                &[program, "-t", "nat", "-F"],
                &[program, "-t", "nat", "-D", "PREROUTING", "1"],
            ],
        );
    }
}

#[test]
fn the_mode_changes_while_the_proxy_runs() {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let running = Running::start(&world, &api, config(Mode::Nftables));
    wait_for("the Service to be served", || served(&world));
    let has = |text: &str| world.dump().contains(text);
    for mode in [Mode::Iptables, Mode::Nftables] {
        running.mode.send(mode).expect("the proxy listens");
        wait_for(&format!("the rules to be those of {mode}"), || {
            has("KUBE-SERVICES") == (mode == Mode::Iptables)
                && has("fairlead-proxy") == (mode == Mode::Nftables)
        });
        assert!(served(&world), "{}", world.dump());
    }
}

#[test]
fn a_mode_that_cannot_work_here_is_told_of_and_the_rules_stay_as_they_are() {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let running = Running::start(&world, &api, config(Mode::Nftables));
    wait_for("the Service to be served", || served(&world));
    // With the module, there is nothing that cannot work.
    if kernel::ipvs::Ipvs::open().is_ok() {
        return;
    }
    running.mode.send(Mode::Ipvs).expect("the proxy listens");
    let told = ("ServiceRulesFailed".to_owned(), "here".to_owned());
    wait_for("an Event", || api.events().contains(&told));
    assert!(served(&world), "{}", world.dump());
    assert!(world.node.link("kube-ipvs0").is_none());
    // The old mode goes on with its work.
    let x = Ip::V4.addresses();
    api.apply(SLICES, &slice("web", &[(x.far, "there", true)]));
    wait_for("the change to be written", || {
        world.servers(&world.a, x.service, 80) == [x.far]
    });
    running
        .mode
        .send(Mode::Iptables)
        .expect("the proxy listens");
    wait_for("the rules to be those of iptables", || {
        world.dump().contains("KUBE-SERVICES")
    });
    assert!(served(&world), "{}", world.dump());
}

#[test]
fn idle_and_half_closed_connections_are_tracked_for_as_long_as_is_wanted() {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let close_wait = std::time::Duration::from_secs(1234);
    let asked = Config {
        conntrack: proxy::config::Conntrack {
            tcp_close_wait: Some(close_wait),
            ..Default::default()
        },
        ..config(Mode::Nftables)
    };
    let _running = Running::start(&world, &api, asked);
    wait_for("the Service to be served", || served(&world));
    for (name, seconds) in [("established", "86400"), ("close_wait", "1234")] {
        let setting = format!("net/netfilter/nf_conntrack_tcp_timeout_{name}");
        let held = world.node.run(|| kernel::sysctl::read(&setting));
        assert_eq!(held.expect("a setting"), seconds, "{name}");
    }
}

/// Status and body of a GET, from outside.
fn get(world: &World, port: u16, path: &str) -> Option<(u16, Value)> {
    let to = SocketAddr::new(Ip::V4.addresses().node, port);
    let text = world.client.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = text.ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    Some((status, body))
}

#[test]
fn health_checks_tell_of_local_back_ends_and_of_a_node_that_goes() {
    let world = World::new();
    let x = Ip::V4.addresses();
    let api = api_with_node();
    let balanced = json!({"spec": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000,
    }});
    api.apply(SERVICES, &service("web", x.service, balanced));
    api.apply(
        SLICES,
        &slice("web", &[(x.b, "here", true), (x.a, "here", true)]),
    );
    let healthz = Config {
        healthz: Some("0.0.0.0:10256".parse().expect("an address")),
        ..config(Mode::Nftables)
    };
    let _running = Running::start(&world, &api, healthz);
    let check = |status: u16, local: u64| {
        wait_for("the health check", || {
            get(&world, 31_000, "/").is_some_and(|(found, body)| {
                (found, &body["localEndpoints"]) == (status, &json!(local))
            })
        });
    };
    check(200, 2);
    api.apply(
        SLICES,
        &slice("web", &[(x.b, "here", true), (x.far, "there", true)]),
    );
    check(200, 1);
    api.apply(SLICES, &slice("web", &[(x.far, "there", true)]));
    check(503, 0);
    api.apply(SLICES, &slice("web", &[(x.b, "here", true)]));
    check(200, 1);
    let status = |path| get(&world, 10_256, path).map(|(status, _)| status);
    assert_eq!(status("/healthz"), Some(200));
    api.apply(
        NODES,
        &json!({"metadata": {"name": "here"}, "spec": {"taints": [
            {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"},
        ]}}),
    );
    wait_for("load balancers to be told", || {
        status("/healthz") == Some(503)
    });
    assert_eq!(status("/livez"), Some(200));
    // Its back end is there, but is to get nothing new.
    check(503, 1);
}

/// The text of an answer, asked for on the node itself.
fn text(world: &World, port: u16, path: &str) -> String {
    let to = SocketAddr::new(Ip::V4.addresses().loopback, port);
    let answer = world.node.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    answer.unwrap_or_default()
}

#[test]
fn metrics_and_the_mode_are_told_where_kube_proxy_tells_them() {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let config = Config {
        metrics: Config::default().metrics,
        ..config(Mode::Nftables)
    };
    let running = Running::start(&world, &api, config);
    wait_for("the Service to be served", || served(&world));
    let metric = |name: &str| -> Option<f64> {
        let text = text(&world, 10_249, "/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    let full = "kubeproxy_sync_full_proxy_rules_duration_seconds_count";
    let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count";
    wait_for("a first write", || metric(full) >= Some(1.0));
    assert_eq!(metric("kubeproxy_services"), Some(1.0));
    let before = metric(partial).expect("a number");
    let x = Ip::V4.addresses();
    let mut ends = slice("web", &[(x.far, "there", true)]);
    let trigger = "endpoints.kubernetes.io/last-change-trigger-time";
    let annotations = [(trigger.to_owned(), "2020-01-01T00:00:00Z".to_owned())];
    ends.metadata.annotations = Some(annotations.into());
    api.apply(SLICES, &ends);
    wait_for("the change to be counted", || {
        metric(partial) > Some(before)
            && metric("kubeproxy_network_programming_duration_seconds_count") >= Some(1.0)
    });
    assert!(metric("kubeproxy_sync_proxy_rules_endpoint_changes_total") >= Some(1.0));
    assert!(text(&world, 10_249, "/proxyMode").ends_with("nftables"));
    running
        .mode
        .send(Mode::Iptables)
        .expect("the proxy listens");
    wait_for("the mode to be told", || {
        text(&world, 10_249, "/proxyMode").ends_with("iptables")
    });
}
