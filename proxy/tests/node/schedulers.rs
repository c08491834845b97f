//! Each scheduler of IPVS by its definition, chosen by annotation; and what `ipvsadm` shows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::testing::TestNetns;
use proxy::{Config, Mode};
use serde_json::json;

use crate::world::load::Held;
use crate::world::{Ip, LIVE, Proxy, World, config, service};

/// Back ends with their weights.
type Weights<'a> = &'a [(IpAddr, u32)];

struct Trial<'w> {
    proxy: Proxy<'w>,
    address: IpAddr,
}

impl<'w> Trial<'w> {
    /// A Service of pods that keep connections.
    fn new(world: &'w World, ip: Ip, scheduler: &str, flags: &str, weights: Weights<'_>) -> Self {
        let x = ip.addresses();
        let mut proxy = Proxy::new(world, &config(Mode::Ipvs));
        let text: Vec<String> = weights
            .iter()
            .map(|(address, weight)| format!("{address}={weight}"))
            .collect();
        let mut object = service(
            "web",
            x.service,
            json!({
                "metadata": {"annotations": {
                    proxy::SCHEDULER_ANNOTATION: scheduler,
                    proxy::FLAGS_ANNOTATION: flags,
                    proxy::WEIGHTS_ANNOTATION: text.join(","),
                }},
                "spec": {"ports": [{"name": "live", "port": 80, "protocol": "TCP"}]},
            }),
        );
        if let Some(annotations) = object.metadata.annotations.as_mut()
            && flags.is_empty()
        {
            annotations.remove(proxy::FLAGS_ANNOTATION);
        }
        let ends: Vec<_> = weights
            .iter()
            .map(|(address, _)| {
                json!({"addresses": [address], "nodeName": "here", "conditions": {"ready": true}})
            })
            .collect();
        let slice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": if x.service.is_ipv6() { "IPv6" } else { "IPv4" },
            "ports": [{"name": "live", "port": LIVE, "protocol": "TCP"}],
            "endpoints": ends,
        }));
        proxy
            .service(&object)
            .slice(&slice.expect("a slice"))
            .apply();
        Self {
            proxy,
            address: x.service,
        }
    }

    /// Opens connections and keeps them.
    fn hold(&self, from: &TestNetns, count: usize) -> Vec<Held> {
        (0..count)
            .map(|_| Held::open(from, self.address, 80))
            .collect()
    }

    /// How many of some connections, one after the other, each server got.
    fn spread(&self, from: &TestNetns, count: usize) -> BTreeMap<IpAddr, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..count {
            *spread
                .entry(Held::open(from, self.address, 80).server)
                .or_default() += 1;
        }
        spread
    }

    fn finish(mut self) {
        self.proxy.cleanup();
    }
}

fn count(held: &[Held]) -> BTreeMap<IpAddr, usize> {
    let mut counts = BTreeMap::new();
    for connection in held {
        *counts.entry(connection.server).or_default() += 1;
    }
    counts
}

pub(crate) fn each_scheduler_balances_by_its_definition(ip: Ip) {
    let mut world = World::new();
    world.serve_lines();
    let world = &world;
    let x = ip.addresses();
    let even = [(x.b, 1), (x.far, 1)];
    let by_turns = |scheduler: &str, weights: Weights<'_>, expected: [usize; 2]| {
        let trial = Trial::new(world, ip, scheduler, "", weights);
        let spread = trial.spread(&world.client, expected.iter().sum());
        assert_eq!(
            spread,
            BTreeMap::from([(x.b, expected[0]), (x.far, expected[1])]),
            "{scheduler}"
        );
        trial.finish();
    };
    by_turns("rr", &even, [10, 10]);
    // Round robin knows no weights but none.
    by_turns("wrr", &[(x.b, 3), (x.far, 1)], [15, 5]);
    least_connections(world, ip);
    shortest_delay(world, ip);
    for scheduler in ["dh", "lblc", "lblcr"] {
        // One destination is one server's, whoever asks.
        let trial = Trial::new(world, ip, scheduler, "", &even);
        let mut spread = trial.spread(&world.client, 8);
        spread.extend(trial.spread(&world.a, 8));
        assert_eq!(spread.len(), 1, "{scheduler}: {spread:?}");
        trial.finish();
    }
    for (scheduler, flags) in [("sh", "sh-port"), ("mh", "mh-port")] {
        // One source is one server's.
        let trial = Trial::new(world, ip, scheduler, "", &even);
        for from in [&world.client, &world.a] {
            let spread = trial.spread(from, 8);
            assert_eq!(spread.len(), 1, "{scheduler}: {spread:?}");
        }
        trial.finish();
        // With its port it is many sources: all at one server once in a million runs.
        let trial = Trial::new(world, ip, scheduler, flags, &even);
        let spread = trial.spread(&world.client, 20);
        assert_eq!(spread.len(), 2, "{scheduler} with {flags}: {spread:?}");
        trial.finish();
    }
}

fn least_connections(world: &World, ip: Ip) {
    let x = ip.addresses();
    let trial = Trial::new(world, ip, "lc", "", &[(x.b, 1), (x.far, 1)]);
    let mut held = trial.hold(&world.client, 6);
    assert_eq!(count(&held), BTreeMap::from([(x.b, 3), (x.far, 3)]), "lc");
    held.retain(|connection| connection.server == x.far);
    let more = trial.hold(&world.client, 3);
    assert_eq!(
        count(&more),
        BTreeMap::from([(x.b, 3)]),
        "lc after some ended"
    );
    drop((held, more));
    trial.finish();
    let trial = Trial::new(world, ip, "wlc", "", &[(x.b, 3), (x.far, 1)]);
    let held = trial.hold(&world.client, 8);
    let at_b = count(&held)[&x.b];
    assert!((5..=7).contains(&at_b), "wlc: {at_b} of 8");
    drop(held);
    trial.finish();
}

fn shortest_delay(world: &World, ip: Ip) {
    let x = ip.addresses();
    let uneven = [(x.b, 9), (x.far, 1)];
    // The fast one stays the faster one also with a connection.
    let trial = Trial::new(world, ip, "sed", "", &uneven);
    let held = trial.hold(&world.client, 4);
    assert_eq!(count(&held), BTreeMap::from([(x.b, 4)]), "sed");
    drop(held);
    trial.finish();
    // Nobody waits while a server is idle.
    let trial = Trial::new(world, ip, "nq", "", &uneven);
    let held = trial.hold(&world.client, 2);
    assert_eq!(count(&held), BTreeMap::from([(x.b, 1), (x.far, 1)]), "nq");
    drop(held);
    trial.finish();
}

pub(crate) fn ipvsadm_shows_what_was_wanted() {
    let world = World::new();
    let x = Ip::V4.addresses();
    let config = Config {
        ipvs: proxy::config::Ipvs {
            scheduler: "wlc".to_owned(),
            ..Default::default()
        },
        ..config(Mode::Ipvs)
    };
    let mut proxy = Proxy::new(&world, &config);
    let spec = json!({"spec": {
        "type": "NodePort",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let bad = json!({"metadata": {"annotations": {proxy::SCHEDULER_ANNOTATION: "magic"}}});
    proxy
        .service(&service("web", x.service, spec))
        .slice(&crate::world::slice(
            "web",
            &[(x.b, "here", true), (x.far, "there", true)],
        ))
        .service(&service("bad", x.external, bad))
        .slice(&crate::world::slice("bad", &[(x.b, "here", true)]))
        .apply();
    let output = world.node.command("ipvsadm", &["-Ln"]);
    let text = String::from_utf8_lossy(&output.stdout);
    // The order of virtual servers is the kernel's.
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("IP Virtual")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match blocks.last_mut() {
            Some(block) if words.first() == Some(&"->") => {
                block.push_str(&format!("\n  {}", words.join(" ")));
            }
            _ => blocks.push(words.join(" ")),
        }
    }
    blocks.retain(|block| !block.starts_with("Prot"));
    blocks.sort();
    let web = |at: &str| {
        format!(
            "TCP {at} wlc persistent 77\n  -> 10.244.1.3:8080 Masq 1 0 0\n  -> 10.244.2.2:8080 Masq 1 0 0"
        )
    };
    let expected = [
        web("10.244.1.1:30080"),
        web("10.96.0.10:80"),
        web("192.168.9.1:30080"),
        "TCP 203.0.113.5:80 wlc\n  -> 10.244.1.3:8080 Masq 1 0 0".to_owned(),
        "UDP 203.0.113.5:80 wlc\n  -> 10.244.1.3:8080 Masq 1 0 0".to_owned(),
    ];
    assert_eq!(blocks, expected, "{text}");
    let addresses = world
        .node
        .command("ip", &["-o", "-4", "address", "show", "kube-ipvs0"]);
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    assert!(addresses.contains("10.96.0.10/32"), "{addresses}");
}
