use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn settings() -> Settings {
    Settings {
        vni: 1,
        port: 8472,
        direct_routing: false,
        carries: Carries::Everything,
        no_tx_checksum: true,
        mtu: None,
    }
}

fn local_endpoint(address: &str) -> LocalEndpoint {
    LocalEndpoint {
        address: ip(address),
        interface: Ifindex(2),
        underlay_mtu: 1500,
        mac: mac(1),
    }
}

fn local() -> Local {
    Local {
        name: "a".into(),
        pod_networks: vec![net("10.244.1.0/24"), net("fd00:1::/64")],
        endpoints: [
            (Outer::V4, local_endpoint("192.0.2.1")),
            (Outer::V6, local_endpoint("2001:db8::1")),
        ]
        .into(),
        on_link: vec![(net("192.0.2.1/24"), Ifindex(2))],
    }
}

fn remote(name: &str, n: u8) -> Remote {
    let endpoint = |address: String| Endpoint {
        public_ip: ip(&address),
        mac: mac(n),
        vni: 1,
    };
    Remote {
        name: name.into(),
        pod_networks: vec![
            net(&format!("10.244.{n}.0/24")),
            net(&format!("fd00:{n}::/64")),
        ],
        endpoints: [
            (Outer::V4, endpoint(format!("192.0.2.{n}"))),
            (Outer::V6, endpoint(format!("2001:db8::{n}"))),
        ]
        .into(),
    }
}

#[test]
fn each_remote_node_has_one_route_neighbour_and_fdb_entry_for_each_family() {
    let (desired, problems) = desired(&settings(), &local(), &[remote("b", 2), remote("c", 3)]);
    assert!(problems.is_empty());
    assert_eq!(
        (
            desired.routes.len(),
            desired.neighbours.len(),
            desired.fdb.len()
        ),
        (4, 4, 4)
    );
    let via = &desired.routes[&net("fd00:3::/64")];
    assert_eq!(
        *via,
        Via::Tunnel {
            outer: Outer::V6,
            gateway: ip("fd00:3::")
        }
    );
    assert_eq!(desired.neighbours[&(Outer::V4, ip("10.244.2.0"))], mac(2));
    assert_eq!(desired.fdb[&(Outer::V6, mac(3))], ip("2001:db8::3"));
    assert_eq!(
        desired.devices[&Outer::V4].addresses,
        [ip("10.244.1.0")].into()
    );
    assert_eq!(desired.devices[&Outer::V4].mtu, 1450);
    assert_eq!(desired.devices[&Outer::V6].mtu, 1430);
    assert_eq!(pod_mtu(&settings(), &desired), Some(1430));
}

#[test]
fn without_an_ipv6_underlay_ipv6_pods_use_the_ipv4_tunnel() {
    let mut local = local();
    local.endpoints.remove(&Outer::V6);
    let (desired, problems) = desired(&settings(), &local, &[remote("b", 2)]);
    assert!(problems.is_empty());
    let device = &desired.devices[&Outer::V4];
    assert_eq!(device.addresses, [ip("10.244.1.0"), ip("fd00:1::")].into());
    let via = &desired.routes[&net("fd00:2::/64")];
    assert_eq!(
        *via,
        Via::Tunnel {
            outer: Outer::V4,
            gateway: ip("fd00:2::")
        }
    );
    assert_eq!(desired.fdb.len(), 1);
    assert_eq!(published(&settings(), &local).len(), 1);
}

#[test]
fn ipv6_alone_is_enough() {
    let mut local = local();
    local.pod_networks.remove(0);
    local.endpoints.remove(&Outer::V4);
    let mut other = remote("b", 2);
    other.pod_networks.remove(0);
    other.endpoints.remove(&Outer::V4);
    let (desired, problems) = desired(&settings(), &local, &[other]);
    assert!(problems.is_empty());
    assert_eq!(desired.devices.keys().collect::<Vec<_>>(), [&Outer::V6]);
    assert_eq!(desired.routes.len(), 1);
}

#[test]
fn nodes_on_the_link_get_plain_routes_when_the_operator_wants_it() {
    let settings = Settings {
        direct_routing: true,
        ..settings()
    };
    let mut far = remote("c", 3);
    far.endpoints.get_mut(&Outer::V4).unwrap().public_ip = ip("198.51.100.3");
    let (desired, _) = desired(&settings, &local(), &[remote("b", 2), far]);
    let direct = Via::Direct {
        gateway: ip("192.0.2.2"),
        interface: Ifindex(2),
    };
    assert_eq!(desired.routes[&net("10.244.2.0/24")], direct);
    assert!(matches!(
        desired.routes[&net("10.244.3.0/24")],
        Via::Tunnel { .. }
    ));
    assert!(
        !desired
            .neighbours
            .contains_key(&(Outer::V4, ip("10.244.2.0")))
    );
}

#[test]
fn beside_a_routing_daemon_the_overlay_carries_what_is_left_to_it() {
    let mut far = remote("c", 3);
    far.endpoints.get_mut(&Outer::V4).unwrap().public_ip = ip("198.51.100.3");
    let carried = |when: When| -> Vec<IpNetwork> {
        let ranges = [
            (net("10.244.0.0/16"), when),
            (net("10.244.9.0/24"), When::Always),
        ];
        let settings = Settings {
            carries: Carries::Within(ranges.into()),
            ..settings()
        };
        let (desired, problems) = desired(&settings, &local(), &[remote("b", 2), far.clone()]);
        assert!(problems.is_empty());
        assert!(
            desired
                .routes
                .values()
                .all(|via| matches!(via, Via::Tunnel { .. }))
        );
        desired.routes.keys().copied().collect()
    };
    assert_eq!(carried(When::Never), []);
    assert_eq!(carried(When::OtherLinks), [net("10.244.3.0/24")]);
    let both = [net("10.244.2.0/24"), net("10.244.3.0/24")];
    assert_eq!(carried(When::Always), both);
}

#[test]
fn a_node_that_has_said_nothing_is_waited_for() {
    let quiet = Remote {
        endpoints: BTreeMap::new(),
        ..remote("b", 2)
    };
    let (desired, problems) = desired(&settings(), &local(), &[quiet]);
    assert!(desired.routes.is_empty() && problems.is_empty());
}

#[test]
fn contradicting_nodes_are_told_and_the_others_work_on() {
    let with = |change: fn(&mut Remote)| {
        let mut remote = remote("x", 7);
        change(&mut remote);
        remote
    };
    let cases: [(Remote, &str); 6] = [
        (
            with(|x| x.endpoints.get_mut(&Outer::V4).unwrap().public_ip = ip("192.0.2.1")),
            "address 192.0.2.1",
        ),
        (
            with(|x| x.endpoints.get_mut(&Outer::V4).unwrap().public_ip = ip("192.0.2.2")),
            "nodes b and x",
        ),
        (
            with(|x| x.endpoints.get_mut(&Outer::V4).unwrap().mac = mac(2)),
            "Ethernet address",
        ),
        (
            with(|x| x.endpoints.get_mut(&Outer::V4).unwrap().vni = 9),
            "VNI 9",
        ),
        (
            with(|x| x.pod_networks[0] = net("10.244.2.128/25")),
            "overlap",
        ),
        (
            with(|x| x.pod_networks[0] = net("10.244.0.0/16")),
            "overlap",
        ),
    ];
    let whole = desired(&settings(), &local(), &[remote("b", 2)]).0;
    for (odd, words) in cases {
        let (desired, problems) = desired(&settings(), &local(), &[remote("b", 2), odd]);
        let text: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(
            text.iter().any(|problem| problem.contains(words)),
            "{words}: {text:?}"
        );
        for (destination, via) in &whole.routes {
            assert_eq!(desired.routes.get(destination), Some(via), "{words}");
        }
        for (key, destination) in &whole.fdb {
            assert_eq!(desired.fdb.get(key), Some(destination), "{words}");
        }
    }
}
