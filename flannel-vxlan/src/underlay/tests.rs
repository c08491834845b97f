use kernel::link::Kind;
use kernel::route::{NextHop, Protocol};

use super::*;

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index: Ifindex(index),
        name: name.into(),
        kind: Kind::Other(String::new()),
        mac: None,
        mtu,
        up: true,
        running: true,
        loopback: name == "lo",
        master: None,
        link: None,
        link_netns_id: None,
        alias: None,
    }
}

fn address(index: u32, text: &str) -> Address {
    Address::new(Ifindex(index), text.parse().unwrap())
}

fn interfaces() -> Interfaces {
    let hop = NextHop::via("203.0.113.1".parse().unwrap()).on(Ifindex(3));
    Interfaces {
        links: vec![
            link(1, "lo", 65536),
            link(2, "eth0", 1500),
            link(3, "wan0", 9000),
        ],
        addresses: vec![
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.1/24"),
            address(2, "2001:db8::1/64"),
            address(2, "fe80::5/64"),
            address(3, "203.0.113.9/24"),
        ],
        routes: vec![Route::new(
            "0.0.0.0/0".parse().unwrap(),
            Protocol::BOOT,
            hop,
        )],
        reaching: Some(Ifindex(3)),
    }
}

fn chosen(underlay: &Underlay, node: &[&str]) -> Result<Vec<String>, NoUnderlay> {
    let node: Vec<IpAddr> = node.iter().map(|text| text.parse().unwrap()).collect();
    let choices = choose(underlay, &node, &interfaces())?;
    Ok(choices
        .values()
        .map(|c| format!("{} {} {}", c.address, c.interface, c.mtu))
        .collect())
}

#[test]
fn the_nodes_own_addresses_are_used() {
    let chosen = chosen(&Underlay::KubernetesAddress, &["192.0.2.1", "2001:db8::1"]);
    assert_eq!(chosen.unwrap(), ["192.0.2.1 2 1500", "2001:db8::1 2 1500"]);
}

#[test]
fn an_address_that_is_translated_falls_back_to_the_default_route() {
    let chosen = chosen(&Underlay::KubernetesAddress, &["198.51.100.7"]);
    assert_eq!(chosen.unwrap(), ["203.0.113.9 3 9000"]);
    let nothing = Interfaces {
        routes: Vec::new(),
        ..interfaces()
    };
    let error = choose(
        &Underlay::KubernetesAddress,
        &["198.51.100.7".parse().unwrap()],
        &nothing,
    );
    assert!(matches!(error, Err(NoUnderlay::NoAddress(_))));
}

#[test]
fn an_interface_is_chosen_by_name_pattern_and_reachability() {
    let both = ["192.0.2.1 2 1500", "2001:db8::1 2 1500"];
    assert_eq!(
        chosen(&Underlay::Interface("eth0".into()), &[]).unwrap(),
        both
    );
    let pattern = |text: &str| Underlay::Pattern(regex::Regex::new(text).unwrap());
    assert_eq!(chosen(&pattern("^eth"), &[]).unwrap(), both);
    assert_eq!(chosen(&pattern(r"^192\.0\.2\."), &[]).unwrap(), both);
    let reaching = Underlay::Reaching("198.51.100.1".parse().unwrap());
    assert_eq!(chosen(&reaching, &[]).unwrap(), ["203.0.113.9 3 9000"]);
}

#[test]
fn what_is_not_there_is_named() {
    let error = chosen(&Underlay::Interface("eth7".into()), &[]).unwrap_err();
    assert_eq!(error.to_string(), "there is no interface eth7");
    let lo = chosen(&Underlay::Interface("lo".into()), &[]).unwrap_err();
    assert!(lo.to_string().contains("lo"), "{lo}");
    let pattern = Underlay::Pattern(regex::Regex::new("^ens").unwrap());
    assert!(
        chosen(&pattern, &[])
            .unwrap_err()
            .to_string()
            .contains("^ens")
    );
}

#[test]
fn an_address_that_is_missing_for_a_moment_stays_chosen() {
    let node: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let mut interfaces = interfaces();
    let before = choose(&Underlay::KubernetesAddress, &node, &interfaces).unwrap();
    interfaces
        .addresses
        .retain(|address| address.network.is_ipv4());
    let now = choose(&Underlay::KubernetesAddress, &node, &interfaces).unwrap();
    assert_eq!(now.len(), 1);
    let kept = |node: &[IpAddr], interfaces: &Interfaces| {
        keep_missing(now.clone(), &before, node, interfaces)
    };
    assert_eq!(kept(&node, &interfaces), before);
    assert_eq!(
        kept(&node[..1], &interfaces),
        now,
        "the node has it no more"
    );
    interfaces.links.retain(|link| link.name != "eth0");
    assert_eq!(kept(&node, &interfaces), now, "the interface is gone");
}
