use std::net::Ipv4Addr;

use kernel::conntrack::Tuple;

use super::*;
use crate::model::{PortId, TrafficPolicy};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn backend(text: &str, local: bool) -> Backend {
    Backend {
        address: ip(text),
        port: 5353,
        local,
    }
}

fn key() -> ServiceKey {
    ServiceKey::new("default", "dns")
}

/// A Service over UDP with a cluster IP, an external IP and a node port.
fn picture(backends: &[Backend]) -> ServicePicture {
    let port = ServicePort {
        id: PortId {
            service: key(),
            port: "dns".into(),
        },
        protocol: Protocol::Udp,
        cluster_ip: ip("10.96.0.10"),
        port: 53,
        node_port: Some(30053),
        external_ips: [ip("203.0.113.5")].into(),
        load_balancer_ips: BTreeSet::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        cluster: backends.to_vec(),
        local: Vec::new(),
        leaving: Vec::new(),
        served: true,
        ipvs: Default::default(),
    };
    ServicePicture {
        ports: vec![port],
        health: None,
    }
}

/// A flow from a client to a front, served by somebody.
fn flow(to: (&str, u16), by: (&str, u16)) -> Flow {
    let client = (ip("10.244.1.2"), 40_000);
    let tuple = |source: (IpAddr, u16), destination: (IpAddr, u16)| Tuple {
        source: source.0,
        destination: destination.0,
        protocol: 17,
        source_port: source.1,
        destination_port: destination.1,
    };
    Flow::new(
        tuple(client, (ip(to.0), to.1)),
        tuple((ip(by.0), by.1), client),
        if to == by { 0 } else { status::DNAT },
    )
}

fn own() -> BTreeSet<IpAddr> {
    [ip("192.168.9.1"), IpAddr::V4(Ipv4Addr::LOCALHOST)].into()
}

const A: (&str, u16) = ("10.244.1.3", 5353);
const B: (&str, u16) = ("10.244.1.4", 5353);

fn with(backends: &[Backend]) -> Fronts {
    let mut fronts = Fronts::default();
    let pictures = BTreeMap::from([(key(), Arc::new(picture(backends)))]);
    let range = "10.96.0.0/12".parse().expect("a range");
    fronts.replace(&pictures, &[range], Mode::Nftables);
    fronts.unknown_past = false;
    fronts
}

#[test]
fn flows_to_a_back_end_that_serves_stay_and_others_go() {
    let fronts = with(&[backend(A.0, true)]);
    for front in [
        ("10.96.0.10", 53),
        ("203.0.113.5", 53),
        ("192.168.9.1", 30053),
    ] {
        assert!(!fronts.is_stale(&flow(front, A), &own()), "{front:?}");
        assert!(fronts.is_stale(&flow(front, B), &own()), "{front:?}");
        assert!(
            fronts.is_stale(&flow(front, front), &own()),
            "{front:?}: untranslated"
        );
    }
}

#[test]
fn what_is_sent_elsewhere_is_none_of_our_business() {
    let fronts = with(&[backend(A.0, true)]);
    for (to, by) in [
        // Another node's node port.
        (("192.168.9.77", 30053), ("192.168.9.77", 30053)),
        // A pod itself, another port of an external address, some host port.
        (B, B),
        (("203.0.113.5", 54), ("10.244.1.9", 54)),
        (("192.168.9.1", 8053), B),
        (("8.8.8.8", 53), ("8.8.8.8", 53)),
    ] {
        assert!(!fronts.is_stale(&flow(to, by), &own()), "{to:?} {by:?}");
    }
}

#[test]
fn without_endpoints_every_flow_of_the_service_goes() {
    let mut fronts = with(&[backend(A.0, true)]);
    let kinds = fronts.change(&key(), Some(&picture(&[])));
    assert_eq!(kinds, Kinds::from([(Family::V4, Protocol::Udp)]));
    for front in [("10.96.0.10", 53), ("192.168.9.1", 30053)] {
        assert!(fronts.is_stale(&flow(front, A), &own()), "{front:?}");
    }
}

#[test]
fn a_deleted_services_flows_go_wherever_they_were_sent_to() {
    let mut fronts = with(&[backend(A.0, true)]);
    assert!(!fronts.change(&key(), None).is_empty());
    for front in [
        ("10.96.0.10", 53),
        ("203.0.113.5", 53),
        ("192.168.9.1", 30053),
    ] {
        assert!(fronts.is_stale(&flow(front, A), &own()), "{front:?}");
    }
    // What a program of the node serves at the address was never ours.
    let elsewhere = ("192.168.9.1", 30053);
    assert!(!fronts.is_stale(&flow(elsewhere, elsewhere), &own()));
}

#[test]
fn what_was_deleted_while_nobody_looked_is_found_by_its_range() {
    let mut fronts = with(&[]);
    let range = "10.96.0.0/12".parse().expect("a range");
    fronts.replace(&BTreeMap::new(), &[range], Mode::Nftables);
    fronts.forgotten.clear();
    assert!(fronts.is_stale(&flow(("10.96.7.7", 53), A), &own()));
    assert!(fronts.is_stale(&flow(("192.168.9.1", 31_111), A), &own()));
    assert!(!fronts.is_stale(&flow(("192.168.9.1", 1111), A), &own()));
}

#[test]
fn nothing_is_looked_for_where_back_ends_only_came() {
    let mut fronts = with(&[backend(A.0, true)]);
    let more = picture(&[backend(A.0, true), backend(B.0, true)]);
    assert!(fronts.change(&key(), Some(&more)).is_empty());
    let less = picture(&[backend(B.0, true)]);
    assert!(!fronts.change(&key(), Some(&less)).is_empty());
    let none = picture(&[]);
    fronts.change(&key(), Some(&none));
    // The first one: flows that were not translated must be.
    assert!(!fronts.change(&key(), Some(&less)).is_empty());
}

#[test]
fn a_back_end_that_is_leaving_keeps_its_flows() {
    let mut picture = picture(&[backend(A.0, true)]);
    picture.ports[0].leaving = vec![backend(B.0, true)];
    let mut fronts = Fronts::default();
    fronts.change(&key(), Some(&picture));
    assert!(!fronts.is_stale(&flow(("10.96.0.10", 53), B), &own()));
}

#[test]
fn a_local_external_policy_lets_pods_reach_all_but_the_cluster_ip_only_its_own() {
    let mut picture = picture(&[backend(A.0, false)]);
    let port = &mut picture.ports[0];
    port.external_policy = TrafficPolicy::Local;
    port.internal_policy = TrafficPolicy::Local;
    port.local = vec![backend(B.0, true)];
    let mut fronts = Fronts::default();
    fronts.change(&key(), Some(&picture));
    let external = ("203.0.113.5", 53);
    assert!(!fronts.is_stale(&flow(external, A), &own()));
    assert!(!fronts.is_stale(&flow(external, B), &own()));
    assert!(fronts.is_stale(&flow(("10.96.0.10", 53), A), &own()));
    assert!(!fronts.is_stale(&flow(("10.96.0.10", 53), B), &own()));
}

#[test]
fn flows_that_ipvs_translated_end_when_it_does_not_translate_any_more() {
    let mut left = flow(("10.96.0.10", 53), A);
    left.status = 0;
    let mut fronts = with(&[backend(A.0, true)]);
    assert!(fronts.is_stale(&left, &own()));
    fronts.by_ipvs = true;
    assert!(!fronts.is_stale(&left, &own()));
}
