use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

fn cells(group: &str, version: &str, kind: &str, object: Value) -> Vec<Value> {
    let printer = Printer::Builtin(Gvk::new(group, version, kind));
    let own = printer.cells(&object, now());
    assert_eq!(
        own.len(),
        printer.columns().len(),
        "{kind}: a cell for each column"
    );
    own
}

fn pod_status(status: Value, spec: Value) -> Vec<Value> {
    let object = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:50:00Z"}, "spec": spec, "status": status});
    cells("", "v1", "Pod", object)[1..5].to_vec()
}

#[test]
fn every_built_in_kind_has_as_many_cells_as_columns() {
    for r in crate::resources::builtin()
        .iter()
        .filter(|r| r.allows("list"))
    {
        cells(
            &r.group,
            &r.version,
            &r.kind,
            json!({"metadata": {"name": "a"}}),
        );
    }
}

#[test]
fn a_pods_status_is_that_of_its_containers() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let crashed = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                         "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}});
    let own = pod_status(
        json!({"phase": "Running", "containerStatuses": [running, crashed]}),
        spec.clone(),
    );
    assert_eq!(
        own,
        [
            json!("1/2"),
            json!("CrashLoopBackOff"),
            json!("3 (60s ago)"),
            json!("10m")
        ]
    );
    let own = pod_status(json!({"phase": "Pending"}), spec.clone());
    assert_eq!(own[..3], [json!("0/2"), json!("Pending"), json!("0")]);
    let done = json!({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let own = pod_status(
        json!({"phase": "Succeeded", "containerStatuses": [done, done]}),
        spec,
    );
    assert_eq!(own[1], "Completed");
}

#[test]
fn an_initializing_pod_says_how_far_it_is() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    let own = pod_status(
        json!({"phase": "Pending", "initContainerStatuses": [done, {"name": "s", "state": {"waiting": {}}}]}),
        spec.clone(),
    );
    assert_eq!(own[..2], [json!("0/2"), json!("Init:1/2")]);
    let sidecar = json!({"name": "s", "started": true, "ready": true, "state": {"running": {}}});
    let main = json!({"name": "c", "ready": true, "state": {"running": {}}});
    let status = json!({"phase": "Running", "initContainerStatuses": [done, sidecar], "containerStatuses": [main]});
    assert_eq!(
        pod_status(status, spec.clone())[..2],
        [json!("2/2"), json!("Running")]
    );
    let failed = json!({"name": "i", "state": {"terminated": {"exitCode": 2}}});
    let own = pod_status(
        json!({"phase": "Failed", "initContainerStatuses": [failed]}),
        spec,
    );
    assert_eq!(own[1], "Init:ExitCode:2");
}

#[test]
fn a_services_addresses_depend_on_its_type() {
    let service = |spec: Value, status: Value| {
        cells(
            "",
            "v1",
            "Service",
            json!({"metadata": {"name": "s"}, "spec": spec, "status": status}),
        )[1..5]
            .to_vec()
    };
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]);
    let own = service(
        json!({"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": ports}),
        json!({}),
    );
    assert_eq!(
        own,
        [
            json!("LoadBalancer"),
            json!("10.0.0.1"),
            json!("<pending>"),
            json!("80:30080/TCP,53/UDP")
        ]
    );
    let status =
        json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a.example.com"}]}});
    let own = service(
        json!({"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "externalIPs": ["1.1.1.1"]}),
        status,
    );
    assert_eq!(own[2], "2.2.2.2,a.example.com,1.1.1.1");
    let own = service(
        json!({"type": "ExternalName", "externalName": "x.example.com"}),
        json!({}),
    );
    assert_eq!(
        own[1..4],
        [json!("<none>"), json!("x.example.com"), json!("<none>")]
    );
}

#[test]
fn selectors_are_shown_as_text() {
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {"matchLabels": {"b": "1"},
        "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]}}});
    assert_eq!(
        cells("networking.k8s.io", "v1", "NetworkPolicy", policy)[1],
        "a in (x,y),b=1,!c"
    );
}

#[test]
fn a_node_shows_its_roles_and_that_it_is_cordoned() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": ""}},
        "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let own = cells("", "v1", "Node", node);
    assert_eq!(
        own[1..3],
        [json!("NotReady,SchedulingDisabled"), json!("edge,worker")]
    );
}

#[test]
fn both_versions_of_a_kind_show_the_same() {
    let v1 = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let own = cells("autoscaling", "v1", "HorizontalPodAutoscaler", v1);
    assert_eq!(
        own[1..5],
        [
            json!("Deployment/d"),
            json!("cpu: <unknown>/60%"),
            json!("<unset>"),
            json!(3)
        ]
    );
}

#[test]
fn custom_columns_follow_their_paths() {
    let columns = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                         {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1},
                         {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}]);
    let printer = Printer::Custom(CustomColumns::new(&columns).expect("valid paths"));
    let object = json!({"metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"size": 3}});
    let own = printer.table(
        &[&object],
        &json!({"resourceVersion": "7"}),
        IncludeObject::Metadata,
        Headers::Shown,
        now(),
    );
    assert_eq!(own["rows"][0]["cells"], json!(["w", 3, "60m", null]));
    assert_eq!(own["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(own["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(own["columnDefinitions"].as_array().map(Vec::len), Some(4));
    assert!(CustomColumns::new(&json!([{"name": "X", "jsonPath": ".a["}])).is_err());
}

#[test]
fn an_ended_pod_is_marked() {
    let printer = Printer::Builtin(Gvk::new("", "v1", "Pod"));
    let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Failed"}});
    let own = printer.table(
        &[&pod],
        &json!({}),
        IncludeObject::None,
        Headers::Hidden,
        now(),
    );
    assert_eq!(own["rows"][0]["conditions"][0]["type"], "Completed");
    assert!(own["rows"][0]["object"].is_null() && own["columnDefinitions"].is_null());
}
