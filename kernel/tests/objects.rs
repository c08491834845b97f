//! The kernel's objects, made, read back and deleted in namespaces of our own.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnetwork::IpNetwork;
use kernel::address::{self, Address};
use kernel::link::{self, Kind, NewLink, Peer, Settings, Vxlan};
use kernel::neighbour::{self, FdbEntry, Neighbour};
use kernel::netlink::Error;
use kernel::qdisc::{self, TokenBucket};
use kernel::route::{self, Filter, NextHop, Protocol, Route};
use kernel::rule::{self, Family, Rule};
use kernel::testing::TestNetns;
use kernel::{MacAddress, ethtool, sysctl};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vxlan(device: Option<kernel::Ifindex>) -> Vxlan {
    let local = Some(ip("192.0.2.1"));
    Vxlan {
        vni: 1,
        port: 8472,
        local,
        device,
        learning: false,
        group_policy: false,
    }
}

/// A namespace with a veth `eth0` (the other end is in the second namespace).
fn pair() -> (TestNetns, TestNetns) {
    let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
    a.join("eth0", &b, "eth0");
    a.add_address("eth0", "192.0.2.1/24");
    b.add_address("eth0", "192.0.2.2/24");
    a.add_address("eth0", "2001:db8::1/64");
    b.add_address("eth0", "2001:db8::2/64");
    (a, b)
}

#[test]
fn a_veth_pair_joins_two_namespaces_and_carries_both_families() {
    let (a, b) = pair();
    let link = a.link("eth0").unwrap();
    assert_eq!(link.kind, Kind::Veth);
    assert!(link.up && link.link_netns_id.is_some() && link.mac.is_some());
    assert!(a.reaches(&b, ip("192.0.2.2")));
    assert!(a.reaches(&b, ip("2001:db8::2")));
}

#[test]
fn a_vxlan_device_reads_back_as_it_was_made() {
    let (a, _b) = pair();
    let wanted = vxlan(Some(a.index("eth0")));
    let mac: MacAddress = "02:00:00:00:00:01".parse().unwrap();
    let settings = Settings {
        mac: Some(mac),
        mtu: Some(1450),
        ..Settings::up()
    };
    a.execute(&[link::create(
        &NewLink::vxlan("flannel.1", wanted.clone()).with(settings),
    )]);
    let link = a.link("flannel.1").unwrap();
    assert_eq!(link.kind, Kind::Vxlan(wanted));
    assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 1450, true));
    let entry = FdbEntry::tunnel(link.index, MacAddress([2, 0, 0, 0, 0, 9]), ip("192.0.2.2"));
    a.execute(&[neighbour::replace_fdb(&entry)]);
    assert_eq!(
        neighbour::list_fdb(&mut a.socket(), link.index).unwrap(),
        vec![entry.clone()]
    );
    a.execute(&[neighbour::delete_fdb(&entry)]);
    assert_eq!(
        neighbour::list_fdb(&mut a.socket(), link.index).unwrap(),
        vec![]
    );
    a.run(|| ethtool::set_tx_checksum("flannel.1", false))
        .unwrap();
    assert!(!a.run(|| ethtool::tx_checksum("flannel.1")).unwrap());
}

#[test]
fn a_vxlan_device_with_an_ipv6_underlay_reads_back() {
    let (a, _b) = pair();
    let wanted = Vxlan {
        local: Some(ip("2001:db8::1")),
        ..vxlan(Some(a.index("eth0")))
    };
    a.execute(&[link::create(&NewLink::vxlan(
        "flannel-v6.1",
        wanted.clone(),
    ))]);
    let link = a.link("flannel-v6.1").unwrap();
    assert_eq!(link.kind, Kind::Vxlan(wanted));
    let entry = FdbEntry::tunnel(
        link.index,
        MacAddress([2, 0, 0, 0, 0, 9]),
        ip("2001:db8::2"),
    );
    a.execute(&[neighbour::replace_fdb(&entry)]);
    assert_eq!(
        neighbour::list_fdb(&mut a.socket(), link.index).unwrap(),
        vec![entry]
    );
}

#[test]
fn a_bridge_joins_its_ports() {
    let (switch, a, b) = (
        TestNetns::new("sw"),
        TestNetns::new("a"),
        TestNetns::new("b"),
    );
    switch.add_bridge("br0");
    for (name, node, address) in [("p1", &a, "192.0.2.1/24"), ("p2", &b, "192.0.2.2/24")] {
        switch.join(name, node, "eth0");
        switch.enslave("br0", name);
        node.add_address("eth0", address);
    }
    assert_eq!(switch.link("p1").unwrap().master, Some(switch.index("br0")));
    switch.execute(&[link::set_hairpin(switch.index("p1"), true)]);
    assert!(a.reaches(&b, ip("192.0.2.2")));
}

#[test]
fn addresses_are_listed_as_they_were_set_and_deleting_twice_says_not_found() {
    let (a, _b) = pair();
    let index = a.index("eth0");
    let address = Address {
        no_prefix_route: true,
        ..Address::new(index, net("2001:db8:1::5/128"))
    };
    a.execute(&[address::replace(&address), address::replace(&address)]);
    let listed = address::list(&mut a.socket(), Some(index)).unwrap();
    assert!(listed.contains(&address), "{listed:?}");
    assert!(
        listed
            .iter()
            .any(|have| have.network == net("192.0.2.1/24"))
    );
    a.execute(&[address::delete(&address)]);
    let again = a.socket().execute(&address::delete(&address)).unwrap_err();
    assert!(again.is_not_found(), "{again}");
    assert_eq!(
        again.to_string().split(':').next().unwrap(),
        "cannot delete address 2001"
    );
}

#[test]
fn routes_of_every_form_read_back_equal() {
    let (a, _b) = pair();
    let index = a.index("eth0");
    let hop = |text| NextHop::via(ip(text)).on(index);
    let mut wanted = vec![
        Route::new(net("10.1.0.0/24"), Protocol::VXLAN, hop("192.0.2.2")),
        Route::new(
            net("10.2.0.0/24"),
            Protocol::VXLAN,
            hop("10.2.0.0").onlink(),
        )
        .with_source(ip("192.0.2.1"))
        .with_mtu(1400),
        Route::new(net("10.3.0.7/32"), Protocol::CNI, NextHop::device(index)),
        Route::new(net("10.4.0.0/24"), Protocol::BGP, hop("2001:db8::2")),
        Route::blackhole(net("10.5.0.0/24"), Protocol::BGP),
        Route::multipath(
            net("10.6.0.0/24"),
            Protocol::BGP,
            vec![
                hop("192.0.2.3"),
                NextHop {
                    weight: 3,
                    ..hop("192.0.2.2")
                },
            ],
        ),
        Route::new(net("10.1.0.0/24"), Protocol::VXLAN, hop("192.0.2.9")).with_priority(50),
        Route::new(net("10.1.0.0/24"), Protocol::VXLAN, hop("192.0.2.9")).in_table(1000),
        Route::new(net("fd00:1::/64"), Protocol::VXLAN, hop("2001:db8::2")),
        Route::new(net("fd00:2::7/128"), Protocol::CNI, NextHop::device(index)),
        Route::new(
            net("fd00:3::/64"),
            Protocol::VXLAN,
            hop("fd00:3::").onlink(),
        ),
        Route::blackhole(net("fd00:5::/64"), Protocol::BGP),
        Route::multipath(
            net("fd00:6::/64"),
            Protocol::BGP,
            vec![hop("2001:db8::3"), hop("2001:db8::2")],
        ),
    ];
    wanted.sort();
    for result in a
        .socket()
        .batch(&wanted.iter().map(route::add).collect::<Vec<_>>())
        .unwrap()
    {
        result.unwrap();
    }
    let ours = [Protocol::VXLAN, Protocol::BGP, Protocol::CNI];
    let listed: Vec<Route> = route::list(&mut a.socket(), Filter::default())
        .unwrap()
        .into_iter()
        .filter(|route| ours.contains(&route.protocol))
        .collect();
    assert_eq!(listed, wanted);
    let cni = route::list(&mut a.socket(), Filter::protocol(Protocol::CNI)).unwrap();
    assert_eq!(cni.len(), 2);
    let deletions: Vec<_> = wanted.iter().map(route::delete).collect();
    for result in a.socket().batch(&deletions).unwrap() {
        result.unwrap();
    }
    let left = route::list(&mut a.socket(), Filter::default()).unwrap();
    assert!(left.iter().all(|route| !ours.contains(&route.protocol)));
}

#[test]
fn a_route_is_looked_up_as_the_kernel_would() {
    let (a, _b) = pair();
    let found = route::lookup(&mut a.socket(), ip("192.0.2.77"))
        .unwrap()
        .unwrap();
    assert_eq!(found.preferred_source, Some(ip("192.0.2.1")));
    assert_eq!(
        route::lookup(&mut a.socket(), ip("198.51.100.1")).unwrap(),
        None
    );
    assert_eq!(
        route::lookup(&mut a.socket(), ip("2001:db8:ffff::1")).unwrap(),
        None
    );
}

#[test]
fn neighbours_and_proxies_read_back() {
    let (a, _b) = pair();
    let index = a.index("eth0");
    let mac = MacAddress([2, 0, 0, 0, 0, 7]);
    let v4 = Neighbour::permanent(index, ip("169.254.1.1"), mac);
    let v6 = Neighbour::permanent(index, ip("fe80::1"), mac);
    let proxy = Neighbour::proxy(index, ip("2001:db8::77"));
    a.execute(&[
        neighbour::replace(&v4),
        neighbour::replace(&v6),
        neighbour::replace(&proxy),
    ]);
    let permanent: Vec<_> = neighbour::list(&mut a.socket(), Some(index))
        .unwrap()
        .into_iter()
        .filter(|neighbour| neighbour.permanent)
        .collect();
    assert_eq!(permanent, vec![v4.clone(), v6]);
    assert_eq!(
        neighbour::list_proxies(&mut a.socket(), Some(index)).unwrap(),
        vec![proxy]
    );
    a.execute(&[neighbour::delete(&v4)]);
    let again = a.socket().execute(&neighbour::delete(&v4)).unwrap_err();
    assert!(again.is_not_found(), "{again}");
}

#[test]
fn rules_read_back() {
    let a = TestNetns::new("rules");
    let mut from = Rule::new(Family::V4, 100, 1000, Protocol::BGP);
    from.source = Some(net("10.0.0.0/8"));
    let mut marked = Rule::new(Family::V6, 101, 77, Protocol::BGP);
    marked.mark = Some((0x4000, 0x4000));
    a.execute(&[rule::add(&from), rule::add(&marked)]);
    let listed = rule::list(&mut a.socket()).unwrap();
    assert!(
        listed.contains(&from) && listed.contains(&marked),
        "{listed:?}"
    );
    a.execute(&[rule::delete(&from), rule::delete(&marked)]);
    assert!(!rule::list(&mut a.socket()).unwrap().contains(&from));
}

#[test]
fn a_rate_limit_is_set_changed_and_taken_away() {
    let (a, _b) = pair();
    let index = a.index("eth0");
    let limit = |rate| TokenBucket {
        bytes_per_second: rate,
        burst_bytes: 32_000,
    };
    for rate in [125_000, 1_250_000, 10_000_000_000] {
        a.execute(&[qdisc::replace_token_bucket(index, &limit(rate))]);
        let listed = qdisc::list(&mut a.socket(), index).unwrap();
        assert_eq!(listed[0].rate, Some(rate), "{listed:?}");
    }
    a.execute(&[qdisc::delete_root(index)]);
    assert!(
        qdisc::list(&mut a.socket(), index)
            .unwrap()
            .iter()
            .all(|q| q.rate.is_none())
    );
}

#[test]
fn received_packets_are_redirected_to_an_intermediate_device() {
    let (a, b) = pair();
    let index = a.index("eth0");
    a.execute(&[link::create(&NewLink::ifb("ifb-a").with(Settings::up()))]);
    a.execute(&qdisc::redirect_ingress(index, a.index("ifb-a")));
    assert!(a.reaches(&b, ip("192.0.2.2")));
    let counters = a.command("ip", &["-j", "-s", "link", "show", "ifb-a"]);
    let text = String::from_utf8_lossy(&counters.stdout).into_owned();
    assert!(!text.contains("\"tx\":{\"bytes\":0,"), "{text}");
}

#[test]
fn a_batch_reports_each_message_and_goes_on_after_a_failed_one() {
    let a = TestNetns::new("batch");
    let bridges: Vec<_> = (0..600)
        .map(|n| NewLink::ifb(format!("i{}", n % 599)))
        .collect();
    let requests: Vec<_> = bridges.iter().map(link::create).collect();
    let results = a.socket().batch(&requests).unwrap();
    assert_eq!(results.len(), 600);
    let failed: Vec<usize> = (0..600).filter(|n| results[*n].is_err()).collect();
    assert_eq!(failed, vec![599]);
    assert!(results[599].as_ref().unwrap_err().is_exists());
    assert_eq!(link::list(&mut a.socket()).unwrap().len(), 600);
}

#[test]
fn errors_name_the_operation_the_object_and_the_kernels_reason() {
    let a = TestNetns::new("errors");
    let route = Route::new(
        net("10.0.0.0/8"),
        Protocol::BGP,
        NextHop::via(ip("192.0.2.1")),
    );
    let error = a.socket().execute(&route::add(&route)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot add route to 10.0.0.0/8 via 192.0.2.1: ENETUNREACH"),
        "{text}"
    );
    assert!(
        matches!(
            error,
            Error::Refused {
                message: Some(_),
                ..
            }
        ),
        "{text}"
    );
}

#[test]
fn links_are_renamed_moved_and_deleted() {
    let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
    a.execute(&[link::create(&NewLink::veth("x", Peer::named("y")))]);
    let there = Settings {
        netns: Some(b.netns().as_raw_fd()),
        ..Settings::new()
    };
    a.execute(&[
        link::rename(a.index("x"), "eth0"),
        link::set_by_name("y", &there),
    ]);
    assert!(a.link("eth0").is_some() && a.link("x").is_none());
    assert!(b.link("y").is_some());
    a.execute(&[link::delete_by_name("eth0")]);
    assert!(b.link("y").is_none(), "the other end goes with the first");
    let again = a
        .socket()
        .execute(&link::delete_by_name("eth0"))
        .unwrap_err();
    assert!(again.is_not_found(), "{again}");
}

#[test]
fn settings_are_those_of_the_namespace() {
    let a = TestNetns::new("sysctl");
    let here = sysctl::read("net/ipv4/conf/lo/rp_filter").unwrap();
    assert!(
        a.run(|| sysctl::ensure("net/ipv4/conf/lo/rp_filter", "2"))
            .unwrap()
    );
    assert!(
        !a.run(|| sysctl::ensure("net/ipv4/conf/lo/rp_filter", "2"))
            .unwrap()
    );
    assert_eq!(
        a.run(|| sysctl::read("net/ipv4/conf/lo/rp_filter"))
            .unwrap(),
        "2"
    );
    assert_eq!(sysctl::read("net/ipv4/conf/lo/rp_filter").unwrap(), here);
    assert!(
        sysctl::read("net/ipv4/conf/nothing/rp_filter")
            .unwrap_err()
            .is_not_found()
    );
}
