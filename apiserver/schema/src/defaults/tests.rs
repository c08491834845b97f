use serde_json::{Value, json};

use super::*;

fn defaulted(group: &str, version: &str, kind: &str, mut object: Value) -> Value {
    apply(
        &mut object,
        &Gvk::new(group.to_owned(), version.to_owned(), kind.to_owned()),
    );
    object
}

#[test]
fn a_minimal_pod_gets_what_a_kubelet_needs() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let own = defaulted("", "v1", "Pod", pod);
    assert_eq!(
        own["spec"],
        json!({
            "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Always",
                            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        })
    );
    assert_eq!(own["status"]["phase"], "Pending");
}

#[test]
fn requests_come_from_limits_and_pod_requests_from_containers() {
    let container = |cpu: &str| json!({"name": cpu, "resources": {"limits": {"cpu": cpu}}});
    let pod = json!({"spec": {"containers": [container("500m"), container("1")],
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}});
    let own = defaulted("", "v1", "Pod", pod);
    assert_eq!(
        own["spec"]["containers"][0]["resources"]["requests"]["cpu"],
        "500m"
    );
    assert_eq!(
        own["spec"]["resources"]["requests"],
        json!({"cpu": "1500m", "memory": "1Gi"})
    );
}

#[test]
fn a_deployment_rolls_and_a_recreating_one_does_not() {
    let own = defaulted(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": []}}}}),
    );
    assert_eq!(
        own["spec"]["strategy"]["rollingUpdate"],
        json!({"maxSurge": "25%", "maxUnavailable": "25%"})
    );
    assert_eq!(
        (
            &own["spec"]["replicas"],
            &own["spec"]["progressDeadlineSeconds"]
        ),
        (&json!(1), &json!(600))
    );
    assert!(
        own["spec"]["template"]["spec"]
            .get("enableServiceLinks")
            .is_none()
    );
    let own = defaulted(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}}),
    );
    assert_eq!(own["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(own["spec"]["replicas"], 0);
}

#[test]
fn defaults_of_defaults_change_nothing() {
    let objects = [
        (
            "",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}}),
        ),
        (
            "",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "1m"}}]}}),
        ),
        (
            "batch",
            "Job",
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            json!({"spec": {"egress": [{"ports": [{"port": 1}]}]}}),
        ),
        (
            "apps",
            "StatefulSet",
            json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "a"}}]}}),
        ),
        (
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            json!({"spec": {"names": {"kind": "Foo"}, "versions": [{"name": "v1", "storage": true}]}}),
        ),
    ];
    for (group, kind, object) in objects {
        let once = defaulted(group, "v1", kind, object);
        assert_eq!(defaulted(group, "v1", kind, once.clone()), once, "{kind}");
    }
}

#[test]
fn a_services_ports_target_themselves() {
    let own = defaulted(
        "",
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}),
    );
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 81, "protocol": "TCP", "targetPort": "web"}]);
    assert_eq!(own["spec"]["ports"], ports);
    assert_eq!(own["spec"]["internalTrafficPolicy"], "Cluster");
    assert!(own["spec"].get("externalTrafficPolicy").is_none());
}

#[test]
fn an_empty_group_of_a_binding_is_no_group_at_all() {
    let group = "rbac.authorization.k8s.io";
    let object = defaulted(
        group,
        "v1",
        "RoleBinding",
        json!({"roleRef": {"apiGroup": "", "kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "apiGroup": "", "name": "u"},
            {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
    );
    assert_eq!(object["roleRef"]["apiGroup"], group);
    assert_eq!(object["subjects"][0]["apiGroup"], group);
    assert_eq!(object["subjects"][1].get("apiGroup"), None);
}

#[test]
fn secrets_take_texts_as_data() {
    let own = defaulted(
        "",
        "v1",
        "Secret",
        json!({"data": {"b": "eA=="}, "stringData": {"a": "x"}}),
    );
    assert_eq!(
        own,
        json!({"data": {"a": "eA==", "b": "eA=="}, "type": "Opaque"})
    );
}

#[test]
fn custom_resources_get_what_their_schema_declares() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
        "size": {"type": "integer", "default": 3}, "maybe": {"type": "string", "nullable": true, "default": "x"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": "b"}}}}}}}});
    let shape = crate::types::custom_root(&Gvk::new("example.com", "v1", "Foo"), Some(&schema));
    let mut own = json!({"spec": {"size": null, "maybe": null, "list": [{}]}});
    apply_custom(&mut own, &shape);
    assert_eq!(
        own,
        json!({"spec": {"size": 3, "maybe": null, "list": [{"a": "b"}]}})
    );
    let mut empty = json!({});
    apply_custom(&mut empty, &shape);
    assert_eq!(empty, json!({"spec": {"size": 3, "maybe": "x"}}));
}
