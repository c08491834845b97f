use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::quantity::ResourceList;
use crate::testing::pod;

fn objects() -> Objects {
    let map = serde_json::from_value::<ConfigMap>(
        json!({"data": {"k": "v", "b=d": "x", "with space": "s"}}),
    );
    let secret =
        serde_json::from_value::<Secret>(json!({"data": {"p": "c2VjcmV0", "bin": "/w=="}}));
    Objects {
        config_maps: [("m".to_owned(), Arc::new(map.unwrap()))].into(),
        secrets: [("s".to_owned(), Arc::new(secret.unwrap()))].into(),
    }
}

fn run(container: Value) -> Result<Environment, EnvError> {
    let mut container = container;
    container["name"] = json!("c");
    let pod = pod(json!({"spec": {"containers": [container]}}));
    let allocatable = ResourceList::new();
    environment(&Inputs {
        pod: &pod,
        container: &containers::spec(&pod).containers[0],
        objects: &objects(),
        around: Surroundings {
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            allocatable: &allocatable,
        },
        services: &[
            ("SVC".to_owned(), "svc".to_owned()),
            ("A".to_owned(), "low".to_owned()),
        ]
        .into(),
    })
}

fn check(container: Value, expected: &[(&str, &str)]) {
    let shown = container.to_string();
    let expected: Environment = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(run(container), Ok(expected), "{shown}");
}

#[test]
fn literals_see_what_stands_before_them_and_the_services() {
    check(
        json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(SVC)-$(LATER)-$$(A)"},
            {"name": "LATER", "value": "x"},
        ]}),
        &[
            ("A", "1"),
            ("B", "1-svc-$(LATER)-$(A)"),
            ("LATER", "x"),
            ("SVC", "svc"),
        ],
    );
}

#[test]
fn references_give_values_and_env_goes_over_env_from() {
    check(
        json!({
            "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "p-"},
                        {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "p-k", "value": "over"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none", "optional": true}}},
            ],
        }),
        &[
            ("p-k", "over"),
            ("p-with space", "s"),
            ("A", "secret"),
            ("N", "p"),
            ("SVC", "svc"),
        ],
    );
}

#[test]
fn what_is_missing_is_named() {
    let from = |source: Value| {
        run(json!({"env": [{"name": "A", "valueFrom": source}]}))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})),
        "configmap \"x\" not found"
    );
    assert_eq!(
        from(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
        "couldn't find key k in Secret ns/s"
    );
    let error = run(json!({"envFrom": [{"secretRef": {"name": "x"}}]})).unwrap_err();
    assert_eq!(error.to_string(), "secret \"x\" not found");
}

#[test]
fn services_make_variables_for_their_namespace_and_the_api_server() {
    let service = |namespace: &str, name: &str, ip: &str, ports: Value| -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    };
    let services = [
        service(
            "default",
            "kubernetes",
            "10.96.0.1",
            json!([{"port": 443, "name": "https"}]),
        ),
        service(
            "ns",
            "my-web",
            "fd00::5",
            json!([{"port": 80, "protocol": "TCP"}]),
        ),
        service("ns", "headless", "None", json!([{"port": 80}])),
        service("other", "x", "10.0.0.1", json!([{"port": 80}])),
    ];
    let pod = pod(json!({"spec": {"containers": []}}));
    let variables = of_services(&pod, &services);
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
        ("MY_WEB_SERVICE_HOST", "fd00::5"),
        ("MY_WEB_PORT", "tcp://[fd00::5]:80"),
        ("MY_WEB_PORT_80_TCP", "tcp://[fd00::5]:80"),
    ] {
        assert_eq!(
            variables.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }
    assert!(
        !variables
            .keys()
            .any(|name| name.starts_with("X_") || name.starts_with("HEADLESS"))
    );
}
