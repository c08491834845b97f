use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::samples::{
    HERE, endpoint, pictures, ready, service, slice, slice_at, terminating, variety,
};

/// The back ends of `default/web`'s first port, as text: under the cluster policy, and under
/// the local one.
fn chosen(more: Value, slices: &[EndpointSlice]) -> (Vec<String>, Vec<String>) {
    let all = pictures(&[service("web", "10.96.0.10", more)], slices);
    let port = &all[&ServiceKey::new("default", "web")].ports[0];
    let text = |backends: &[crate::model::Backend]| {
        let socket = |b: &crate::model::Backend| format!("{}:{}", b.address, b.port);
        backends.iter().map(socket).collect()
    };
    (text(&port.cluster), text(&port.local))
}

fn cluster(more: Value, endpoints: &[Value]) -> Vec<String> {
    chosen(more, &[slice("web", "a", endpoints)]).0
}

#[test]
fn ready_endpoints_are_chosen_and_terminating_ones_only_as_the_last_resort() {
    let (a, b) = ("10.244.1.2", "10.244.2.2");
    for (endpoints, expected) in [
        (
            vec![
                ready(a, HERE),
                endpoint(b, "there", json!({"ready": false})),
            ],
            vec![a],
        ),
        // A missing condition means ready.
        (vec![endpoint(a, HERE, json!({}))], vec![a]),
        (vec![ready(a, HERE), terminating(b, "there", true)], vec![a]),
        (
            vec![terminating(a, HERE, true), terminating(b, "there", false)],
            vec![a],
        ),
        (vec![terminating(a, HERE, false)], vec![]),
        (vec![], vec![]),
    ] {
        let expected: Vec<String> = expected.iter().map(|ip| format!("{ip}:8080")).collect();
        assert_eq!(cluster(json!({}), &endpoints), expected, "{endpoints:?}");
    }
}

#[test]
fn the_local_policy_prefers_ready_local_endpoints_then_local_terminating_ones() {
    let local = json!({"spec": {"internalTrafficPolicy": "Local"}});
    let (near, leaving, far) = ("10.244.1.2", "10.244.1.3", "10.244.2.2");
    for (endpoints, expected) in [
        (
            vec![
                ready(near, HERE),
                terminating(leaving, HERE, true),
                ready(far, "there"),
            ],
            vec![near],
        ),
        (
            vec![terminating(leaving, HERE, true), ready(far, "there")],
            vec![leaving],
        ),
        (vec![ready(far, "there")], vec![]),
    ] {
        let expected: Vec<String> = expected.iter().map(|ip| format!("{ip}:8080")).collect();
        let found = chosen(local.clone(), &[slice("web", "a", &endpoints)]).1;
        assert_eq!(found, expected, "{endpoints:?}");
    }
}

#[test]
fn hints_count_only_where_every_ready_endpoint_has_them_and_one_is_for_here() {
    let hinted = |address: &str, zone: &str| {
        let mut value = ready(address, "there");
        value["hints"] = json!({"forZones": [{"name": zone}]});
        value
    };
    let (a, b) = ("10.244.1.2", "10.244.2.2");
    for (endpoints, expected) in [
        (vec![hinted(a, "east"), hinted(b, "west")], vec![a]),
        (vec![hinted(a, "east"), ready(b, "there")], vec![a, b]),
        (vec![hinted(a, "north"), hinted(b, "west")], vec![a, b]),
    ] {
        let mut index = Index::new(HERE, None);
        index.set_zone(Some("east"));
        index.service_applied(&service("web", "10.96.0.10", json!({})));
        index.slice_applied(&slice("web", "a", &endpoints));
        index.take_changes();
        let port = &index.pictures()[&ServiceKey::new("default", "web")].ports[0];
        let found: Vec<String> = port.cluster.iter().map(|b| b.address.to_string()).collect();
        assert_eq!(found, expected, "{endpoints:?}");
    }
}

#[test]
fn traffic_that_prefers_its_node_stays_there_where_it_can() {
    let same_node = json!({"spec": {"trafficDistribution": "PreferSameNode"}});
    let here = "10.244.1.2";
    let found = cluster(
        same_node.clone(),
        &[ready(here, HERE), ready("10.244.2.2", "there")],
    );
    assert_eq!(found, ["10.244.1.2:8080"]);
    let found = cluster(
        same_node,
        &[ready("10.244.2.2", "there"), ready("10.244.3.2", "x")],
    );
    assert_eq!(found.len(), 2);
}

#[test]
fn slices_made_by_hand_may_share_an_address_or_a_port() {
    let same_address = [
        slice_at("web", "a", 8080, &[ready("10.244.1.2", HERE)]),
        slice_at("web", "b", 9090, &[ready("10.244.1.2", HERE)]),
    ];
    let found = chosen(json!({}), &same_address).0;
    assert_eq!(found, ["10.244.1.2:8080", "10.244.1.2:9090"]);
    let all_different = [
        slice_at("web", "a", 8080, &[ready("10.244.1.2", HERE)]),
        slice_at("web", "b", 9090, &[ready("10.244.2.2", "there")]),
    ];
    let found = chosen(json!({}), &all_different).0;
    assert_eq!(found, ["10.244.1.2:8080", "10.244.2.2:9090"]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_at_its_best() {
    let slices = [
        slice(
            "web",
            "a",
            &[endpoint("10.244.1.2", HERE, json!({"ready": false}))],
        ),
        slice("web", "b", &[ready("10.244.1.2", HERE)]),
    ];
    assert_eq!(chosen(json!({}), &slices).0, ["10.244.1.2:8080"]);
}

#[test]
fn endpoints_that_cannot_be_back_ends_are_left_out() {
    for bad in [
        "10.96.0.99",
        "127.0.0.1",
        "169.254.1.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "not an address",
    ] {
        let found = cluster(json!({}), &[ready(bad, HERE), ready("10.244.1.2", HERE)]);
        assert_eq!(found, ["10.244.1.2:8080"], "{bad}");
    }
    // Of the other family, in a slice that says so too.
    let mixed = serde_json::from_value(json!({
        "metadata": {"name": "web-x", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [ready("fd00::1", HERE)],
    }));
    assert!(chosen(json!({}), &[mixed.expect("a slice")]).0.is_empty());
}

#[test]
fn an_endpoint_port_of_zero_or_none_serves_nobody() {
    let zero = slice_at("web", "a", 0, &[ready("10.244.1.2", HERE)]);
    assert!(chosen(json!({}), &[zero]).0.is_empty());
    let mut none = slice("web", "a", &[ready("10.244.1.2", HERE)]);
    none.ports = None;
    assert!(chosen(json!({}), &[none]).0.is_empty());
}

#[test]
fn ten_thousand_endpoints_in_one_slice_are_all_there() {
    let endpoints: Vec<Value> = (0..10_000u32)
        .map(|n| ready(&format!("10.244.{}.{}", n / 250, n % 250 + 1), HERE))
        .collect();
    assert_eq!(cluster(json!({}), &endpoints).len(), 10_000);
}

#[test]
fn headless_external_names_and_other_proxies_services_are_not_ours() {
    for more in [
        json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}),
    ] {
        let all = pictures(&[service("web", "10.96.0.10", more.clone())], &[]);
        assert!(all.is_empty(), "{more}");
    }
}

#[test]
fn a_proxy_with_a_name_serves_the_services_that_have_it() {
    let mut index = Index::new(HERE, Some("mine"));
    let labels =
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "mine"}}});
    index.service_applied(&service("web", "10.96.0.10", labels));
    index.service_applied(&service("other", "10.96.0.11", json!({})));
    assert_eq!(index.take_changes().len(), 1);
}

fn balanced(ingress: Value, more: Value) -> ServicePicture {
    let spec = json!({
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [ingress]}},
    });
    let mut service = service("web", "10.96.0.10", spec);
    let patch: Service = serde_json::from_value(more).expect("a Service");
    if let (Some(spec), Some(patch)) = (service.spec.as_mut(), patch.spec) {
        spec.external_ips = patch.external_ips;
    }
    let all = pictures(&[service], &[]);
    (*all[&ServiceKey::new("default", "web")]).clone()
}

#[test]
fn a_load_balancers_address_is_a_front_only_where_it_delivers_packets_unchanged() {
    let ip: IpAddr = "203.0.113.9".parse().expect("an address");
    for (mode, is_front) in [
        (json!("VIP"), true),
        (Value::Null, true),
        (json!("Proxy"), false),
    ] {
        let picture = balanced(json!({"ip": ip, "ipMode": mode}), json!({"spec": {}}));
        assert_eq!(
            picture.ports[0].load_balancer_ips.contains(&ip),
            is_front,
            "{mode}"
        );
    }
    // One address in two lists is one front, and source ranges hold for it.
    let both = json!({"spec": {"externalIPs": ["203.0.113.9"]}});
    let picture = balanced(json!({"ip": ip}), both);
    assert!(picture.ports[0].external_ips.is_empty());
}

#[test]
fn of_two_services_with_one_external_address_and_port_the_older_one_gets_it() {
    let at = |name: &str, ip: &str, second: u32| {
        let more = json!({
            "metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"externalIPs": ["203.0.113.5"]},
        });
        service(name, ip, more)
    };
    let mut index = Index::new(HERE, None);
    index.service_applied(&at("younger", "10.96.0.10", 2));
    index.take_changes();
    let has = |index: &Index, name: &str| {
        let picture = &index.pictures()[&ServiceKey::new("default", name)];
        !picture.ports[0].external_ips.is_empty()
    };
    assert!(has(&index, "younger"));
    index.service_applied(&at("older", "10.96.0.11", 1));
    assert_eq!(
        index.take_changes().len(),
        2,
        "one gives up what the other gets"
    );
    assert!(has(&index, "older") && !has(&index, "younger"));
    index.service_deleted(&ServiceKey::new("default", "older"));
    index.take_changes();
    assert!(has(&index, "younger"));
}

#[test]
fn a_services_type_may_change_back_and_forth() {
    let mut index = Index::new(HERE, None);
    index.slice_applied(&slice("web", "a", &[ready("10.244.1.2", HERE)]));
    let key = ServiceKey::new("default", "web");
    let node_port = json!({"spec": {"type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    let external_name = json!({"spec": {"type": "ExternalName", "externalName": "example.org",
        "clusterIP": "", "clusterIPs": []}});
    for (more, expected) in [
        (json!({}), Some(None)),
        (node_port.clone(), Some(Some(30080))),
        (external_name.clone(), None),
        (node_port, Some(Some(30080))),
        (external_name, None),
        (json!({}), Some(None)),
    ] {
        index.service_applied(&service("web", "10.96.0.10", more));
        let changes = index.take_changes();
        let found = changes[&key].as_ref().map(|p| p.ports[0].node_port);
        assert_eq!(found, expected);
        if let Some(picture) = &changes[&key] {
            assert_eq!(picture.ports[0].cluster.len(), 1);
        }
    }
}

#[test]
fn a_health_check_counts_local_endpoints_once_each() {
    let all = variety();
    let health = all[&ServiceKey::new("default", "balanced")].health.clone();
    let health = health.expect("a health check");
    assert_eq!((health.port, health.local_endpoints), (31_000, 1));
    assert!(all[&ServiceKey::new("default", "plain")].health.is_none());
}

#[test]
fn a_dual_stack_service_has_a_port_in_each_family() {
    let both = json!({"spec": {"clusterIPs": ["10.96.0.10", "fd00:10:96::10"]}});
    let slices = [
        slice("web", "a", &[ready("10.244.1.2", HERE)]),
        slice("web", "b", &[ready("fd00:10:244::2", HERE)]),
    ];
    let all = pictures(&[service("web", "10.96.0.10", both)], &slices);
    let ports = &all[&ServiceKey::new("default", "web")].ports;
    assert_eq!(ports.len(), 2);
    for port in ports {
        assert_eq!(port.cluster.len(), 1);
        assert_eq!(Family::of(port.cluster[0].address), port.family());
    }
}

#[test]
fn nothing_changes_where_the_same_is_said_again() {
    let mut index = Index::new(HERE, None);
    let web = service("web", "10.96.0.10", json!({}));
    let ends = slice("web", "a", &[ready("10.244.1.2", HERE)]);
    index.service_applied(&web);
    index.slice_applied(&ends);
    assert_eq!(index.take_changes().len(), 1);
    index.service_applied(&web);
    index.slice_applied(&ends);
    assert!(index.take_changes().is_empty());
    // What no proxy has to know changes nothing either.
    let mut labelled = web.clone();
    labelled.metadata.resource_version = Some("7".to_owned());
    index.service_applied(&labelled);
    assert!(index.take_changes().is_empty());
}
