use serde_json::{Value, json};

use super::*;

struct Fixed {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Directory for Fixed {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services
            .iter()
            .find(|s| names(&s.metadata) == (namespace, name))
            .cloned()
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let is_it = |slice: &&Arc<EndpointSlice>| {
            names(&slice.metadata).0 == namespace && service_of(slice) == Some(service)
        };
        self.slices.iter().filter(is_it).cloned().collect()
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        namespace == "default"
    }

    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        let has = |s: &&Arc<Service>| {
            s.spec
                .as_ref()
                .is_some_and(|s| addresses(s).contains(&address))
        };
        self.services.iter().find(has).cloned()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = address.to_string();
        let has = |slice: &&Arc<EndpointSlice>| {
            slice
                .endpoints
                .iter()
                .flatten()
                .any(|e| e.addresses.contains(&text))
        };
        self.slices.iter().filter(has).cloned().collect()
    }
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn directory() -> Fixed {
    let ports =
        json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.1.6"], "conditions": {"ready": true}},
            {"addresses": ["10.244.1.7"], "conditions": {"ready": false}},
        ],
    });
    Fixed {
        services: vec![
            service(
                "web",
                json!({"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00::1"], "ports": ports}),
            ),
            service(
                "db",
                json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
            ),
            service("idle", json!({"clusterIP": "None"})),
            service(
                "out",
                json!({"type": "ExternalName", "externalName": "Example.COM."}),
            ),
        ],
        slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
    }
}

fn answer(name: &str, kind: Kind) -> Answer {
    let ranges = vec!["10.96.0.0/12".parse().unwrap()];
    let zone = Zone {
        domain: "cluster.local".to_owned(),
        ranges,
    };
    zone.answer(&directory(), name, kind)
}

/// The answer's data as text, or the kind of failure.
fn data(name: &str, kind: Kind) -> Vec<String> {
    match answer(name, kind) {
        Answer::Found { answers, .. } => answers
            .into_iter()
            .map(|rr| {
                assert_eq!(rr.name, name);
                match rr.data {
                    Data::Address(address) => address.to_string(),
                    Data::Srv {
                        port,
                        weight,
                        target,
                    } => format!("{weight} {port} {target}"),
                    Data::Pointer(name) | Data::Alias(name) | Data::Text(name) => name,
                }
            })
            .collect(),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn names_have_the_data_of_the_specification() {
    let cases: [(&str, Kind, &[&str]); 26] = [
        ("web.default.svc.cluster.local", Kind::A, &["10.96.1.1"]),
        ("web.default.svc.cluster.local", Kind::Aaaa, &["fd00::1"]),
        ("web.default.svc.cluster.local", Kind::Txt, &["Empty"]),
        (
            "_http._tcp.web.default.svc.cluster.local",
            Kind::Srv,
            &["100 80 web.default.svc.cluster.local"],
        ),
        (
            "_dns._udp.web.default.svc.cluster.local",
            Kind::Srv,
            &["100 53 web.default.svc.cluster.local"],
        ),
        (
            "_dns._tcp.web.default.svc.cluster.local",
            Kind::Srv,
            &["NoSuchName"],
        ),
        (
            "_http._tcp.web.default.svc.cluster.local",
            Kind::A,
            &["Empty"],
        ),
        (
            "db.default.svc.cluster.local",
            Kind::A,
            &["10.244.0.5", "10.244.1.6"],
        ),
        (
            "db-0.db.default.svc.cluster.local",
            Kind::A,
            &["10.244.0.5"],
        ),
        (
            "10-244-1-6.db.default.svc.cluster.local",
            Kind::A,
            &["10.244.1.6"],
        ),
        (
            "10-244-1-7.db.default.svc.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        (
            "_sql._tcp.db.default.svc.cluster.local",
            Kind::Srv,
            &[
                "50 5432 10-244-1-6.db.default.svc.cluster.local",
                "50 5432 db-0.db.default.svc.cluster.local",
            ],
        ),
        ("idle.default.svc.cluster.local", Kind::A, &["Empty"]),
        (
            "missing.default.svc.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        ("x.web.default.svc.cluster.local", Kind::A, &["NoSuchName"]),
        (
            "10-244-0-9.default.pod.cluster.local",
            Kind::A,
            &["10.244.0.9"],
        ),
        (
            "fd00--9.default.pod.cluster.local",
            Kind::Aaaa,
            &["fd00::9"],
        ),
        (
            "nonsense.default.pod.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        ("default.svc.cluster.local", Kind::A, &["Empty"]),
        ("missing.svc.cluster.local", Kind::A, &["NoSuchName"]),
        ("cluster.local", Kind::A, &["Empty"]),
        ("dns-version.cluster.local", Kind::Txt, &["1.1.0"]),
        (
            "1.1.96.10.in-addr.arpa",
            Kind::Ptr,
            &["web.default.svc.cluster.local"],
        ),
        (
            "5.0.244.10.in-addr.arpa",
            Kind::Ptr,
            &["db-0.db.default.svc.cluster.local"],
        ),
        ("9.9.96.10.in-addr.arpa", Kind::Ptr, &["NoSuchName"]),
        ("8.8.8.8.in-addr.arpa", Kind::Ptr, &["Elsewhere"]),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(data(name, kind), expected, "{name} {kind:?}");
    }
}

#[test]
fn what_is_not_the_clusters_is_asked_elsewhere() {
    for name in ["example.com", "notcluster.local", "local", ""] {
        assert_eq!(answer(name, Kind::A), Answer::Elsewhere, "{name}");
    }
    let expected = Answer::Alias {
        name: "out.default.svc.cluster.local".into(),
        target: "example.com".into(),
    };
    assert_eq!(answer("out.default.svc.cluster.local", Kind::A), expected);
}

#[test]
fn addresses_of_targets_come_along() {
    let Answer::Found { additionals, .. } =
        answer("_http._tcp.web.default.svc.cluster.local", Kind::Srv)
    else {
        panic!("found nothing");
    };
    let addresses: Vec<_> = additionals.into_iter().map(|rr| rr.data).collect();
    let expected = ["10.96.1.1", "fd00::1"].map(|a| Data::Address(a.parse().unwrap()));
    assert_eq!(addresses, expected);
}

proptest::proptest! {
    #[test]
    fn no_name_panics(name in "[a-z0-9_.-]{0,80}", below in proptest::bool::ANY) {
        let name = if below { format!("{name}.svc.cluster.local") } else { name };
        answer(&name, Kind::Any);
    }
}
