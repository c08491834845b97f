use serde_json::{Value, json};

use super::*;
use crate::config::{Community, NextHopMode, Verdict};

fn node(name: &str, address: &str, ranges: &[&str]) -> Host {
    let addresses: Vec<_> = address
        .split(',')
        .filter(|a| !a.is_empty())
        .map(|a| json!({"type": "InternalIP", "address": a}))
        .collect();
    let node = json!({"metadata": {"name": name, "labels": {"name": name}},
        "spec": {"podCIDRs": ranges}, "status": {"addresses": addresses}});
    Host::of(&serde_json::from_value(node).unwrap())
}

fn inputs(own: &str) -> Inputs {
    Inputs {
        own_name: own.to_owned(),
        hosts: vec![
            node("a", "10.0.0.1,fd00::1", &["10.244.0.0/24", "fd01::/64"]),
            node("b", "10.0.0.2", &["10.244.1.0/24"]),
            node("c", "10.0.1.3", &["10.244.2.0/24"]),
            node("homeless", "", &[]),
        ],
        ..Inputs::default()
    }
}

fn many(own: &str, count: u8, configuration: Value) -> Inputs {
    let hosts = (0..count).map(|n| Host {
        created: 1000 - i64::from(n),
        ..node(&format!("n{n}"), &format!("10.0.0.{n}"), &[])
    });
    Inputs {
        own_name: own.to_owned(),
        hosts: hosts.collect(),
        configuration: serde_json::from_value(configuration).unwrap(),
        ..Inputs::default()
    }
}

fn peer(value: Value) -> BgpPeerSpec {
    serde_json::from_value(value).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn every_other_node_is_a_peer_and_one_side_of_each_pair_connects() {
    let a = inputs("a").compile().unwrap().config;
    let b = inputs("b").compile().unwrap().config;
    assert_eq!(a.originate.len(), 2);
    assert_eq!(
        a.peers.keys().copied().collect::<Vec<_>>(),
        [ip("10.0.0.2"), ip("10.0.1.3")]
    );
    assert_ne!(
        a.peers[&ip("10.0.0.2")].passive,
        b.peers[&ip("10.0.0.1")].passive
    );
    assert_eq!(inputs("homeless").compile(), None);
    assert_eq!(inputs("missing").compile(), None);
}

#[test]
fn the_mesh_can_be_switched_off_and_peers_named() {
    let mut inputs = inputs("a");
    inputs.configuration.node_to_node_mesh_enabled = Some(false);
    assert!(inputs.compile().unwrap().config.peers.is_empty());
    let to_router = json!({"peerIP": "192.0.2.1:1179", "asNumber": 65001, "defaultAction": "Accept",
        "nodeSelector": "name == 'a'", "nextHopMode": "Keep", "ttlSecurity": 1,
        "sourceAddress": "UseNodeIP", "keepaliveTime": 10});
    inputs.peers.insert("router".to_owned(), peer(to_router));
    let own = inputs.compile().unwrap();
    let router = &own.config.peers[&ip("192.0.2.1")];
    assert_eq!(
        (router.asn, router.port, router.hold_time),
        (65001, 1179, 30)
    );
    assert_eq!(router.next_hop, NextHopMode::Keep);
    assert_eq!(router.source, Some(ip("10.0.0.1")));
    assert!(router.import.is_open() && own.problems.is_empty());
    inputs.own_name = "b".to_owned();
    assert!(inputs.compile().unwrap().config.peers.is_empty());
}

#[test]
fn nodes_peer_with_selected_nodes_in_both_directions() {
    let mut inputs = inputs("a");
    inputs.configuration.node_to_node_mesh_enabled = Some(false);
    inputs.peers.insert(
        "to-b".to_owned(),
        peer(json!({"nodeSelector": "name != 'b'", "peerSelector": "name == 'b'"})),
    );
    let peers = |name: &str| -> Vec<IpAddr> {
        let own = Inputs {
            own_name: name.to_owned(),
            ..inputs.clone()
        };
        own.compile()
            .unwrap()
            .config
            .peers
            .keys()
            .copied()
            .collect()
    };
    assert_eq!(peers("a"), [ip("10.0.0.2")]);
    assert_eq!(peers("c"), [ip("10.0.0.2")]);
    assert_eq!(peers("b"), [ip("10.0.0.1"), ip("10.0.1.3")]);
}

#[test]
fn another_system_gets_nothing_until_something_says_so() {
    let mut inputs = inputs("a");
    inputs.peers.insert(
        "router".to_owned(),
        peer(json!({"peerIP": "192.0.2.1", "asNumber": 65001})),
    );
    let compiled = inputs.compile().unwrap();
    assert_eq!(
        compiled.config.peers[&ip("192.0.2.1")].export.rest,
        Verdict::Reject
    );
    let told = &compiled.problems[&(Kind::Peer, "router".to_owned())];
    assert!(told.contains("RFC 8212"), "{told}");
}

#[test]
fn above_the_limit_the_oldest_nodes_reflect() {
    let automatic = json!({"routeReflectors": {"automaticAbove": 5, "count": 2}});
    let peers = |own: &str, count: u8| {
        many(own, count, automatic.clone())
            .compile()
            .unwrap()
            .config
            .peers
    };
    assert_eq!(peers("n0", 5).len(), 4, "a full mesh");
    // The last ones of the helper are the oldest.
    let of_client = peers("n0", 6);
    assert_eq!(
        of_client.keys().copied().collect::<Vec<_>>(),
        [ip("10.0.0.4"), ip("10.0.0.5")]
    );
    assert!(of_client.values().all(|peer| !peer.client));
    let of_reflector = peers("n5", 6);
    assert_eq!(of_reflector.len(), 5);
    assert_eq!(of_reflector.values().filter(|peer| peer.client).count(), 4);
    let by_label = json!({"routeReflectors": {"nodeSelector": "name == 'n1'"}});
    let config = many("n0", 6, by_label).compile().unwrap().config;
    assert_eq!(
        config.peers.keys().copied().collect::<Vec<_>>(),
        [ip("10.0.0.1")]
    );
}

#[test]
fn a_range_brings_dynamic_peers_and_a_missing_secret_is_told() {
    let mut inputs = inputs("a");
    let secret = json!({"secretKeyRef": {"name": "bgp-secrets", "key": "tor"}});
    let dynamic = json!({"peerIP": "192.0.2.0/24", "asNumber": 65001, "maxDynamicPeers": 3,
        "password": secret, "defaultAction": "Accept"});
    inputs.peers.insert("rack".to_owned(), peer(dynamic));
    let compiled = inputs.compile().unwrap();
    assert!(compiled.config.dynamic.is_empty());
    assert!(compiled.problems[&(Kind::Peer, "rack".to_owned())].contains("bgp-secrets"));
    let reference = inputs.wanted_secrets().pop_first().unwrap();
    inputs.secrets.insert(reference, "s3cret".to_owned());
    let config = inputs.compile().unwrap().config;
    let own = &config.dynamic[&"192.0.2.0/24".parse().unwrap()];
    assert_eq!(own.most, 3);
    assert_eq!(own.peer.password.as_ref().unwrap().as_bytes(), b"s3cret");
    assert!(
        !format!("{config:?}").contains("s3cret"),
        "keys are not shown"
    );
}

#[test]
fn filters_become_rules_and_what_is_wrong_with_them_is_told() {
    let mut inputs = inputs("a");
    let filter = json!({"exportV4": [{"cidr": "10.244.0.0/16", "matchOperator": "In",
        "prefixLength": {"min": 24, "max": 26}, "action": "Accept", "peerType": "eBGP",
        "operations": [{"addCommunity": {"value": "65000:1"}}, {"prependASPath": {"prefix": [1, 1]}}]}],
        "importV6": [{"action": "Reject", "communities": {"values": ["65000:2"]}}]});
    inputs
        .filters
        .insert("f".to_owned(), serde_json::from_value(filter).unwrap());
    let to_router = json!({"peerIP": "192.0.2.1", "asNumber": 65001, "filters": ["f"],
        "defaultAction": "Reject"});
    inputs.peers.insert("router".to_owned(), peer(to_router));
    let config = inputs.compile().unwrap().config;
    let router = &config.peers[&ip("192.0.2.1")];
    assert_eq!(
        (router.export.rules.len(), router.import.rules.len()),
        (1, 1)
    );
    assert_eq!(router.export.rules[0].changes.len(), 2);
    assert_eq!(router.export.rest, Verdict::Reject);
    for wrong in [
        json!({"exportV4": [{"cidr": "fd00::/8", "action": "Accept"}]}),
        json!({"exportV4": [{"cidr": "10", "action": "Accept"}]}),
        json!({"exportV4": [{"action": "Accept", "operations": [{}]}]}),
        json!({"exportV4": [{"action": "Accept", "communities": {"values": ["x"]}}]}),
    ] {
        inputs
            .filters
            .insert("f".to_owned(), serde_json::from_value(wrong).unwrap());
        let compiled = inputs.compile().unwrap();
        assert!(!compiled.config.peers.contains_key(&ip("192.0.2.1")));
        assert!(
            compiled
                .problems
                .contains_key(&(Kind::Filter, "f".to_owned()))
        );
        assert!(
            compiled
                .problems
                .contains_key(&(Kind::Peer, "router".to_owned()))
        );
    }
}

fn service(name: &str, policy: &str) -> Arc<Service> {
    let service = json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIPs": ["10.96.0.7"], "externalIPs": ["198.51.100.7", "8.8.8.8"],
            "externalTrafficPolicy": policy},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}});
    Arc::new(serde_json::from_value(service).unwrap())
}

fn slice(service: &str, node: &str) -> Arc<EndpointSlice> {
    let slice = json!({"metadata": {"name": "s", "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.9"], "nodeName": node,
            "conditions": {"ready": true}}]});
    Arc::new(serde_json::from_value(slice).unwrap())
}

#[test]
fn addresses_of_local_services_come_from_nodes_with_endpoints_only() {
    let mut inputs = inputs("a");
    inputs.configuration = serde_json::from_value(json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceExternalIPs": [{"cidr": "198.51.100.0/24"}],
        "serviceLoadBalancerIPs": [{"cidr": "203.0.113.0/24"}],
    }))
    .unwrap();
    let advertised = |inputs: &Inputs| -> BTreeSet<String> {
        let config = inputs.compile().unwrap().config;
        let own = config.originate.keys().map(ToString::to_string);
        own.filter(|range| !range.starts_with("10.244") && !range.starts_with("fd01"))
            .collect()
    };
    let set = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| (*t).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let ranges = ["10.96.0.0/12", "198.51.100.0/24", "203.0.113.0/24"];
    inputs.services = vec![service("web", "Cluster")];
    assert_eq!(advertised(&inputs), set(&ranges));
    inputs.services = vec![service("web", "Local")];
    inputs.slices = vec![slice("web", "b"), slice("other", "a")];
    assert_eq!(advertised(&inputs), set(&ranges), "no endpoints here");
    inputs.slices.push(slice("web", "a"));
    let mut all = set(&ranges);
    all.extend(set(&["10.96.0.7/32", "198.51.100.7/32", "203.0.113.7/32"]));
    assert_eq!(advertised(&inputs), all);
    let config = inputs.compile().unwrap().config;
    assert!(config.is_kept_from_kernel(&"203.0.113.7/32".parse().unwrap()));
    inputs.hosts[0].labels.insert(
        "node.kubernetes.io/exclude-from-external-load-balancers".to_owned(),
        String::new(),
    );
    assert!(advertised(&inputs).is_empty());
}

#[test]
fn pools_decide_on_tunnels_and_on_what_is_told() {
    let mut inputs = inputs("a");
    inputs.on_link = vec!["10.0.0.0/24".parse().unwrap()];
    let pool = |mode: &str, hidden: bool| -> IpPoolSpec {
        serde_json::from_value(json!({"cidr": "10.244.0.0/16", "vxlanMode": mode,
            "disableBGPExport": hidden}))
        .unwrap()
    };
    let tunnelled = |inputs: &Inputs| -> Vec<String> {
        let config = inputs.compile().unwrap().config;
        config
            .not_for_kernel
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    for (mode, expected) in [
        ("Never", vec![]),
        ("CrossSubnet", vec!["10.244.2.0/24"]),
        ("Always", vec!["10.244.1.0/24", "10.244.2.0/24"]),
    ] {
        inputs.pools = [("p".to_owned(), pool(mode, false))].into();
        assert_eq!(tunnelled(&inputs), expected, "{mode}");
    }
    inputs.pools = [("p".to_owned(), pool("Never", true))].into();
    let config = inputs.compile().unwrap().config;
    let hidden = &config.originate[&"10.244.0.0/24".parse().unwrap()];
    assert!(hidden.blackhole && hidden.communities == [Community::Standard(0xffff_ff02)]);
    assert!(
        config.originate[&"fd01::/64".parse().unwrap()]
            .communities
            .is_empty()
    );
}

#[test]
fn what_is_advertised_gets_its_communities() {
    let mut inputs = inputs("a");
    inputs.configuration = serde_json::from_value(json!({
        "communities": [{"name": "pods", "value": "65000:7"}],
        "prefixAdvertisements": [{"cidr": "10.244.0.0/16", "communities": ["pods", "1:2:3"]}],
    }))
    .unwrap();
    let config = inputs.compile().unwrap().config;
    let tags = &config.originate[&"10.244.0.0/24".parse().unwrap()].communities;
    assert_eq!(
        tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["65000:7", "1:2:3"]
    );
}

#[test]
fn a_node_has_settings_of_its_own_in_the_place_of_those_for_all() {
    let mut inputs = inputs("a");
    inputs.configuration = serde_json::from_value(json!({
        "holdTime": 30, "maxPaths": 4,
        "communities": [{"name": "rack", "value": "65000:1"}, {"name": "all", "value": "65000:9"}],
        "prefixAdvertisements": [{"cidr": "10.244.0.0/16", "communities": ["all"]}],
    }))
    .unwrap();
    let everybodys = inputs.compile().unwrap().config;
    inputs.own_configuration = Some(
        serde_json::from_value(json!({
            "holdTime": 9, "asNumber": 65099,
            "communities": [{"name": "rack", "value": "65000:2"}],
            "prefixAdvertisements": [{"cidr": "10.244.0.0/24", "communities": ["rack", "all"]}],
        }))
        .unwrap(),
    );
    let compiled = inputs.compile().unwrap();
    let hold = |config: &Config| config.peers[&ip("10.0.0.2")].hold_time;
    assert_eq!((hold(&everybodys), hold(&compiled.config)), (30, 9));
    assert_eq!(compiled.config.multipath, 4, "what it does not say");
    let tags = |config: &Config| {
        config.originate[&"10.244.0.0/24".parse().unwrap()]
            .communities
            .clone()
    };
    let standard = |low: u32| Community::Standard(65000 << 16 | low);
    assert_eq!(tags(&everybodys), [standard(9)]);
    assert_eq!(tags(&compiled.config), [standard(2), standard(9)]);
    assert_eq!(compiled.config.local_as, everybodys.local_as);
    let problem = &compiled.problems[&(Kind::Configuration, "node.a".to_owned())];
    assert!(problem.starts_with("asNumber: "), "{problem}");
}
