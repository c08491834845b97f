//! The speaker and its own machine: what others do to routes, links and next hops.

use bgp_agent::config::Peer;

use super::bird::bird;
use super::lan::{Lan, Running, config, routes, set, wait_for};

const OURS: [&str; 2] = [
    "10.244.2.0/24 via 192.0.2.2",
    "fd00:10:244:2::/64 via 2001:db8::2",
];

#[test]
fn a_route_that_somebody_deletes_or_replaces_comes_back() {
    let lan = Lan::new(1);
    let _bird = bird(&lan, 64512, "", "");
    let peers = [("192.0.2.2", Peer::internal(64512))];
    let _running = Running::start(&lan, config(&peers));
    let whole = || routes(&lan.ours, "203") == set(&OURS);
    wait_for("our routes", whole);
    for change in [
        "route del 10.244.2.0/24",
        "-6 route del fd00:10:244:2::/64",
        "route replace 10.244.2.0/24 via 192.0.2.9 proto 203",
        "route replace blackhole 10.244.2.0/24 proto static",
        "route add 10.99.0.0/16 via 192.0.2.9 proto 203",
    ] {
        let words: Vec<&str> = change.split_whitespace().collect();
        assert!(lan.ours.command("ip", &words).status.success(), "{change}");
        wait_for(change, whole);
    }
    let foreign = [
        "route",
        "add",
        "10.98.0.0/16",
        "via",
        "192.0.2.9",
        "proto",
        "static",
    ];
    assert!(lan.ours.command("ip", &foreign).status.success());
    lan.ours.command("ip", &["route", "del", "10.244.2.0/24"]);
    wait_for("the route", whole);
    let kept = lan.ours.command("ip", &["route", "show", "10.98.0.0/16"]);
    assert!(!kept.stdout.is_empty(), "foreign routes stay");
}

#[test]
fn own_ranges_are_blackholes_and_nothing_goes_on_when_nothing_happens() {
    let lan = Lan::new(1);
    let _bird = bird(&lan, 64512, "", "");
    let peers = [("192.0.2.2", Peer::internal(64512))];
    let _running = Running::start(&lan, config(&peers));
    wait_for("our routes", || routes(&lan.ours, "203") == set(&OURS));
    let own = lan
        .ours
        .command("ip", &["route", "show", "type", "blackhole"]);
    assert!(String::from_utf8_lossy(&own.stdout).contains("10.244.1.0/24 proto 203"));
    // Routes of pods come and go with the plugin's number: no reason to look at ours.
    for pod in 1..50 {
        let address = format!("10.244.1.{pod}/32");
        let add = ["route", "add", &address, "dev", "lo", "proto", "204"];
        assert!(lan.ours.command("ip", &add).status.success());
    }
    wait_for("our routes", || routes(&lan.ours, "203") == set(&OURS));
    let metrics = lan.text("/metrics");
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("fairlead_bgp_kernel_repairs_total"), 0);
    assert_eq!(value("fairlead_bgp_neighbors_established"), 1);
    assert_eq!(value("fairlead_bgp_neighbor_prefixes_received"), 2);
}

#[test]
fn a_route_whose_next_hop_cannot_be_reached_waits_until_it_can() {
    let lan = Lan::new(1);
    let far = "protocol static far { ipv4; route 10.50.0.0/16 via 192.0.2.77; }";
    let options =
        "ipv4 { import all; export where proto = \"far\"; next hop self off; next hop keep; };";
    let _bird = bird(&lan, 64512, options, far);
    let peers = [("192.0.2.2", Peer::internal(64512))];
    let _running = Running::start(&lan, config(&peers));
    let there = set(&["10.50.0.0/16 via 192.0.2.77", OURS[1]]);
    wait_for("the route", || routes(&lan.ours, "203") == there);
    let blocked = ["route", "add", "unreachable", "192.0.2.77/32"];
    assert!(lan.ours.command("ip", &blocked).status.success());
    wait_for("the end of the route", || {
        routes(&lan.ours, "203") == set(&[OURS[1]])
    });
    let route = lan.route("10.50.0.0/16").unwrap();
    assert!(!route.paths[0].reachable && !route.paths[0].best);
    assert!(
        lan.ours
            .command("ip", &["route", "del", "unreachable", "192.0.2.77/32"])
            .status
            .success()
    );
    wait_for("the route again", || routes(&lan.ours, "203") == there);
}

#[test]
fn a_network_of_our_own_link_is_not_replaced_by_what_a_router_tells_of_it() {
    let lan = Lan::new(1);
    // BIRD tells of the link itself, and of the range of others behind it.
    let options = "ipv4 { import all; export all; next hop self; };";
    let _bird = bird(&lan, 64512, options, "");
    let peers = [("192.0.2.2", Peer::internal(64512))];
    let _running = Running::start(&lan, config(&peers));
    wait_for("the route of the link", || {
        lan.route("192.0.2.0/24").is_some()
    });
    wait_for("our routes", || routes(&lan.ours, "203") == set(&OURS));
    let link = lan.ours.command("ip", &["route", "show", "192.0.2.0/24"]);
    let link = String::from_utf8_lossy(&link.stdout).into_owned();
    assert!(link.contains("dev eth0 proto kernel"), "{link}");
    assert_eq!(link.lines().count(), 1, "{link}");
}
