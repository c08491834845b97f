use serde_json::{Value, json};

use super::*;
use crate::types::{Gvk, custom_root, root};

fn decode(kind: (&str, &str, &str), body: &str) -> Result<Decoded, DecodeError> {
    decode_json(
        body.as_bytes(),
        &root(kind.0, kind.1, kind.2).expect("built in"),
    )
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");
const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

#[test]
fn unknown_and_duplicate_fields_are_dropped_and_named() {
    let body = r#"{"kind":"Pod","metadata":{"foo":1,"labels":{"a":"1","a":"2"}},
        "spec":{"containers":[{"name":"c","nope":{"x":[1]}}],"hostNetwork":true,"hostNetwork":true}}"#;
    let own = decode(POD, body).expect("well-formed");
    assert_eq!(
        own.strict_error().as_deref(),
        Some(
            "strict decoding error: unknown field \"metadata.foo\", duplicate field \"metadata.labels.a\", \
             unknown field \"spec.containers[0].nope\", duplicate field \"spec.hostNetwork\""
        )
    );
    assert_eq!(
        own.value["spec"],
        json!({"containers": [{"name": "c"}], "hostNetwork": true})
    );
    assert_eq!(own.value["metadata"]["labels"]["a"], "2");
}

#[test]
fn a_value_of_another_type_is_refused_in_gos_words() {
    let go = "json: cannot unmarshal";
    for (kind, body, expect) in [
        (
            POD,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            POD,
            r#"{"metadata":{"labels":[]}}"#,
            "array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            POD,
            r#"{"metadata":{"finalizers":"x"}}"#,
            "string into Go struct field ObjectMeta.metadata.finalizers of type []string",
        ),
        (
            POD,
            r#"{"spec":[]}"#,
            "array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            POD,
            r#"{"spec":{"containers":{}}}"#,
            "object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            POD,
            r#"{"spec":{"restartPolicy":5}}"#,
            "number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            POD,
            r#"{"spec":{"volumes":[{"fc":{"lun":"x"}}]}}"#,
            "string into Go struct field FCVolumeSource.spec.volumes.VolumeSource.fc.lun of type int32",
        ),
        (
            DEPLOYMENT,
            r#"{"spec":{"replicas":"3"}}"#,
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            r#"{"spec":{"replicas":3000000000}}"#,
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (POD, "[]", "array into Go value of type v1.Pod"),
    ] {
        let error = decode(kind, body).expect_err(body);
        assert_eq!(error.to_string(), format!("{go} {expect}"), "{body}");
    }
}

#[test]
fn leaves_get_their_canonical_form() {
    let body = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":0.5,"memory":"1024Mi"}}}]},
        "metadata":{"creationTimestamp":"2026-01-02T03:04:05+01:00"}}"#;
    let own = decode(POD, body).expect("well-formed").value;
    assert_eq!(
        own["spec"]["containers"][0]["resources"]["requests"],
        json!({"cpu": "500m", "memory": "1Gi"})
    );
    assert_eq!(own["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
}

#[test]
fn zero_values_of_go_values_read_as_absent_and_pointers_are_kept() {
    let body = r#"{"spec":{"hostNetwork":false,"enableServiceLinks":false,"nodeName":"","priority":0,"tolerations":[],
        "containers":[null]}}"#;
    let own = decode(POD, body).expect("well-formed").value;
    assert_eq!(
        own["spec"],
        json!({"enableServiceLinks": false, "priority": 0, "containers": [{}]})
    );
}

#[test]
fn completion_adds_what_is_always_written() {
    let mut own = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "c"}]}});
    complete(&mut own, &root("", "v1", "Pod").expect("built in"));
    assert_eq!(
        own["spec"]["containers"][0],
        json!({"name": "c", "resources": {}})
    );
    assert_eq!(own["status"], json!({}));
    let mut role = json!({"metadata": {}});
    complete(
        &mut role,
        &root("rbac.authorization.k8s.io", "v1", "Role").expect("built in"),
    );
    assert_eq!(role["rules"], Value::Null);
    assert!(role.get("rules").is_some());
}

#[test]
fn custom_resources_are_pruned_and_keep_their_nulls() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "nullable": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let shape = custom_root(&Gvk::new("k8s.io", "v1", "Widget"), Some(&schema));
    let body = r#"{"apiVersion":"k8s.io/v1","kind":"Widget","metadata":{"name":"a","foo":1},
        "spec":{"size":null,"x":1,"free":{"a":[{"b":null}],"c":1,"c":2}},"other":{}}"#;
    let own = decode_json(body.as_bytes(), &shape).expect("well-formed");
    assert_eq!(
        own.value["spec"],
        json!({"size": null, "free": {"a": [{"b": null}], "c": 2}})
    );
    assert_eq!(
        own.strict,
        [
            "unknown field \"metadata.foo\"",
            "unknown field \"spec.x\"",
            "duplicate field \"spec.free.c\"",
            "unknown field \"other\""
        ]
    );
}

fn request(body: &str) -> Result<Decoded, String> {
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let shape = root("", "v1", "ConfigMap").expect("built in");
    decode_request(&Request {
        body: body.as_bytes(),
        format: Format::Json,
        expected: &gvk,
        shape: &shape,
        custom: false,
    })
}

#[test]
fn a_body_without_type_is_of_the_resources_kind() {
    let own = request(r#"{"data":{"a":"1"}}"#).expect("accepted");
    assert_eq!(
        (&own.value["apiVersion"], &own.value["kind"]),
        (&json!("v1"), &json!("ConfigMap"))
    );
}

#[test]
fn bodies_that_are_no_object_of_the_kind_are_refused() {
    for (body, expect) in [
        (
            "{",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)",
        ),
        (
            r#"{"apiVersion":"a/b/c"}"#,
            "the object provided is unrecognized (must be of type ConfigMap): unexpected GroupVersion string: a/b/c ({\"apiVersion\":\"a/b/c\"})",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion",
        ),
        (
            r#"{"data":{"a":5}}"#,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
    ] {
        assert_eq!(request(body).expect_err(body), expect);
    }
    assert!(request("[]").expect_err("an array").ends_with(" (5b5d)"));
    assert!(request("").expect_err("empty").ends_with(" (<empty>)"));
}

#[test]
fn yaml_reads_as_the_same_object() {
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let shape = root("", "v1", "ConfigMap").expect("built in");
    let body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: |\n    x\n";
    let own = decode_request(&Request {
        body,
        format: Format::Yaml,
        expected: &gvk,
        shape: &shape,
        custom: false,
    });
    assert_eq!(own.expect("accepted").value["data"]["k"], "x\n");
}

#[test]
fn depth_is_bounded_but_for_the_metadata() {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let shape = custom_root(&Gvk::new("k8s.io", "v1", "Widget"), Some(&schema));
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let text = |key: &str, levels: usize| format!("{{\"{key}\":{}}}", nested(levels));
    let refused = Err(DecodeError::Syntax("exceeded max depth".into()));
    assert!(decode_json(text("spec", 99).as_bytes(), &shape).is_ok());
    assert_eq!(decode_json(text("spec", 100).as_bytes(), &shape), refused);
    let fields = format!(
        "{{\"metadata\":{{\"managedFields\":[{{\"fieldsV1\":{}}}]}}}}",
        nested(110)
    );
    assert!(decode_json(fields.as_bytes(), &shape).is_ok());
}
