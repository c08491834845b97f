use std::sync::Arc;

use serde_json::{Value, json};

use super::desired::*;
use super::*;

fn service(spec: Value) -> Service {
    let mut service = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
    for (key, value) in spec.as_object().expect("an object") {
        service["spec"][key] = value.clone();
    }
    serde_json::from_value(service).expect("a Service")
}

fn pod(name: &str, change: impl Fn(&mut Value)) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c",
            "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": "10.244.0.1",
            "podIPs": [{"ip": "10.244.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).expect("a Pod"))
}

fn node(name: &str) -> Option<Arc<Node>> {
    (name == "n1").then(|| {
        let node = json!({"metadata": {"name": "n1", "labels": {ZONE: "z1"}}});
        Arc::new(serde_json::from_value(node).expect("a Node"))
    })
}

/// ready, serving, terminating of the only endpoint.
fn conditions(service: &Service, pod: Arc<Pod>) -> Option<(bool, bool, bool)> {
    let groups = groups(service, &[pod], node);
    let conditions = groups.first()?.endpoints.first()?.conditions.clone()?;
    Some((
        conditions.ready?,
        conditions.serving?,
        conditions.terminating?,
    ))
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let unready = |pod: &mut Value| pod["status"]["conditions"] = json!([]);
    let going = |pod: &mut Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    };
    let plain = service(json!({}));
    let all = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(
        conditions(&plain, pod("a", |_| {})),
        Some((true, true, false))
    );
    assert_eq!(
        conditions(&plain, pod("a", unready)),
        Some((false, false, false))
    );
    assert_eq!(
        conditions(&plain, pod("a", going)),
        Some((false, true, true))
    );
    assert_eq!(
        conditions(&all, pod("a", unready)),
        Some((true, false, false))
    );
    assert_eq!(conditions(&all, pod("a", going)), Some((true, true, true)));
}

#[test]
fn pods_without_address_or_at_their_end_or_on_no_node_are_no_endpoints() {
    let plain = service(json!({}));
    let failed = |pod: &mut Value| pod["status"]["phase"] = json!("Failed");
    let no_ip = |pod: &mut Value| pod["status"] = json!({"phase": "Pending"});
    let lost = |pod: &mut Value| pod["spec"]["nodeName"] = json!("gone");
    assert_eq!(conditions(&plain, pod("a", failed)), None);
    assert_eq!(conditions(&plain, pod("a", no_ip)), None);
    assert_eq!(conditions(&plain, pod("a", lost)), None);
}

#[test]
fn an_endpoint_says_who_where_and_by_which_port() {
    let hosted = pod("a", |pod| {
        pod["spec"]["hostname"] = json!("a-0");
        pod["spec"]["subdomain"] = json!("web");
    });
    let groups = groups(&service(json!({})), &[hosted], node);
    let [group] = groups.as_slice() else {
        panic!("one group")
    };
    assert_eq!(group.ports[0].port, Some(8080));
    let endpoint = &group.endpoints[0];
    assert_eq!(endpoint.addresses, ["10.244.0.1"]);
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.zone.as_deref(), Some("z1"));
    assert_eq!(endpoint.hostname.as_deref(), Some("a-0"));
    assert_eq!(endpoint.hints, None);
}

#[test]
fn pods_with_other_numbers_for_a_named_port_are_told_apart() {
    let other = pod("b", |pod| {
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
        pod["status"]["podIPs"] = json!([{"ip": "10.244.0.2"}]);
    });
    let groups = groups(&service(json!({})), &[pod("a", |_| {}), other], node);
    assert_eq!(groups.len(), 2);
}

#[test]
fn a_dual_stack_service_has_endpoints_of_both_families() {
    let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
    let groups = groups(&dual, &[pod("a", |_| {})], node);
    let told: Vec<_> = groups
        .iter()
        .map(|group| {
            (
                group.address_type.as_str(),
                group.endpoints[0].addresses[0].as_str(),
            )
        })
        .collect();
    assert_eq!(told, [("IPv4", "10.244.0.1"), ("IPv6", "fd00::1")]);
}

#[test]
fn traffic_distribution_becomes_hints() {
    let hints = |wish: &str| {
        let near = service(json!({"trafficDistribution": wish}));
        let groups = groups(&near, &[pod("a", |_| {})], node);
        let hints = groups[0].endpoints[0].hints.clone().expect("hints");
        (hints.for_zones.is_some(), hints.for_nodes.is_some())
    };
    assert_eq!(hints("PreferClose"), (true, false));
    assert_eq!(hints("PreferSameZone"), (true, false));
    assert_eq!(hints("PreferSameNode"), (true, true));
}

#[test]
fn slices_carry_the_labels_of_their_service_and_its_name() {
    let mut headless = service(json!({"clusterIP": "None"}));
    headless.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    let labels = mold(&headless).labels;
    assert_eq!(labels["team"], "a");
    assert_eq!(labels[SERVICE_NAME], "web");
    assert_eq!(labels[MANAGED_BY], OURS);
    assert_eq!(labels[HEADLESS], "");
}
