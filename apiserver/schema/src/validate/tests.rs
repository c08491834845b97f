use serde_json::{Value, json};

use super::validate;
use crate::defaults;
use crate::types::Gvk;

/// The faults of a new object with its defaults, as `REASON FIELD TEXT`.
fn faults_of(kind: &Gvk, mut object: Value) -> Vec<String> {
    defaults::apply(&mut object, kind);
    told(kind, "", &object, None)
}

fn told(kind: &Gvk, subresource: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let errors = validate(kind, subresource, new, old);
    let line = |e: &super::field::Error| format!("{} {}", e.path, e.message());
    errors.list.iter().map(line).collect()
}

/// A pod with the changes merged in.
fn pod(changes: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut pod["spec"], changes);
    pod
}

fn merge(base: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
}

#[test]
fn pods() {
    let kind = Gvk::new("", "v1", "Pod");
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        merge(&mut container, &more);
        json!({"containers": [container]})
    };
    let cases = [
        (json!({}), vec![]),
        (
            json!({"containers": []}),
            vec!["spec.containers Required value"],
        ),
        (
            container(json!({"image": ""})),
            vec!["spec.containers[0].image Required value"],
        ),
        (
            container(json!({"ports": [{"containerPort": 0}]})),
            vec!["spec.containers[0].ports[0].containerPort Required value"],
        ),
        (
            container(json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
            vec!["spec.containers[0].volumeMounts[0].name Not found: \"x\""],
        ),
        (
            container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            vec![
                "spec.containers[0].resources.requests Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            container(json!({"livenessProbe": {"periodSeconds": 1}})),
            vec!["spec.containers[0].livenessProbe Required value: must specify a handler type"],
        ),
        (
            json!({"tolerations": [{"operator": "Equal"}]}),
            vec![
                "spec.tolerations[0].operator Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
    ];
    for (changes, expected) in cases {
        assert_eq!(faults_of(&kind, pod(&changes)), expected, "{changes}");
    }
}

#[test]
fn pods_keep_nearly_everything() {
    let kind = Gvk::new("", "v1", "Pod");
    let mut old = pod(&json!({}));
    defaults::apply(&mut old, &kind);
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "j".into();
    assert_eq!(told(&kind, "", &image, Some(&old)), [""; 0]);
    let mut named = old.clone();
    named["spec"]["nodeName"] = "x".into();
    let faults = told(&kind, "", &named, Some(&old));
    assert_eq!(faults.len(), 1);
    let text =
        "spec Forbidden: pod updates may not change fields other than `spec.containers[*].image`,";
    assert!(faults[0].starts_with(text), "{faults:?}");
    assert!(
        faults[0].contains("\n- \"NodeName\": \"\",\n+ \"NodeName\": \"x\",\n"),
        "{faults:?}"
    );
}

#[test]
fn services() {
    let kind = Gvk::new("", "v1", "Service");
    let service = |spec: Value| {
        let mut own =
            json!({"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"], "ports": [{"port": 80}]});
        merge(&mut own, &spec);
        json!({"metadata": {"name": "s", "namespace": "n"}, "spec": own})
    };
    let cases = [
        (json!({}), vec![]),
        (json!({"ports": []}), vec!["spec.ports Required value"]),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            vec![
                "spec.ports[0].name Required value",
                "spec.ports[1].name Required value",
            ],
        ),
        (
            json!({"type": "X"}),
            vec![
                "spec.type Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(faults_of(&kind, service(spec.clone())), expected, "{spec}");
    }
    let old = service(json!({"type": "ClusterIP", "sessionAffinity": "None"}));
    let mut new = old.clone();
    new["spec"]["clusterIP"] = "10.96.1.2".into();
    new["spec"]["clusterIPs"] = json!(["10.96.1.2"]);
    let faults = told(&kind, "", &new, Some(&old));
    assert_eq!(
        faults.first().map(String::as_str),
        Some("spec.clusterIPs[0] Invalid value: [\"10.96.1.2\"]: may not change once set")
    );
}

#[test]
fn one_fault_of_many_kinds() {
    let meta = json!({"name": "x", "namespace": "default"});
    let cases = [
        (
            ("apps", "v1", "Deployment"),
            json!({"spec": {"replicas": -1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            "spec.replicas Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            ("rbac.authorization.k8s.io", "v1", "Role"),
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": []}]}),
            "rules[0].verbs Required value: verbs must contain at least one value",
        ),
        (
            ("networking.k8s.io", "v1", "NetworkPolicy"),
            json!({"spec": {"podSelector": {}, "policyTypes": ["X"]}}),
            "spec.policyTypes[0] Unsupported value: \"X\": supported values: \"Ingress\", \"Egress\"",
        ),
        (
            ("networking.k8s.io", "v1", "Ingress"),
            json!({"spec": {"rules": [{"http": {"paths": []}}]}}),
            "spec.rules[0].http.paths Required value",
        ),
        (
            ("discovery.k8s.io", "v1", "EndpointSlice"),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
            "endpoints[0].addresses Invalid value: \"fd00::1\": must be an IPv4 address",
        ),
        (
            ("policy", "v1", "PodDisruptionBudget"),
            json!({"spec": {"minAvailable": "150%", "selector": {}}}),
            "spec.minAvailable Invalid value: \"150%\": must not be greater than 100%",
        ),
        (
            ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            json!({"spec": {"minReplicas": 5, "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
            "spec.maxReplicas Invalid value: 3: must be greater than or equal to `minReplicas`",
        ),
        (
            ("", "v1", "LimitRange"),
            json!({"spec": {"limits": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}]}}),
            "spec.limits[0].maxLimitRequestRatio[cpu] Invalid value: \"500m\": ratio 500m is less than 1",
        ),
        (
            ("", "v1", "ResourceQuota"),
            json!({"spec": {"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}}),
            "spec.scopes Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
        ),
        (
            ("node.k8s.io", "v1", "RuntimeClass"),
            json!({"handler": "a.b"}),
            "handler Invalid value: \"a.b\": must not contain dots",
        ),
        (
            (
                "flowcontrol.apiserver.k8s.io",
                "v1",
                "PriorityLevelConfiguration",
            ),
            json!({"spec": {"type": "X"}}),
            "spec.type Unsupported value: \"X\": supported values: \"Exempt\", \"Limited\"",
        ),
        (
            ("", "v1", "Event"),
            json!({"involvedObject": {"namespace": "other"}}),
            "involvedObject.namespace Invalid value: \"other\": does not match event.namespace",
        ),
    ];
    for ((group, version, kind), mut object, expected) in cases {
        object["metadata"] = meta.clone();
        let kind = Gvk::new(group, version, kind);
        assert_eq!(faults_of(&kind, object), [expected], "{kind:?}");
    }
}

#[test]
fn the_note_of_an_event_may_be_changed() {
    let kind = Gvk::new("events.k8s.io", "v1", "Event");
    let old = json!({
        "metadata": {"name": "e", "namespace": "n"}, "regarding": {"namespace": "n"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c",
        "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal", "note": "before",
    });
    let mut new = old.clone();
    new["note"] = json!("after");
    assert_eq!(told(&kind, "", &new, Some(&old)), Vec::<String>::new());
    new["note"] = json!("x".repeat(1025));
    assert_eq!(
        told(&kind, "", &new, Some(&old)),
        ["message Invalid value: \"\": can have at most 1024 characters"]
    );
}

#[test]
fn webhooks_and_policies() {
    let kind = Gvk::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
    );
    let hook = |more: Value| {
        let mut hook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://x/y"},
        });
        merge(&mut hook, &more);
        json!({"metadata": {"name": "x"}, "webhooks": [hook]})
    };
    let cases = [
        (json!({}), vec![]),
        (
            json!({"clientConfig": {"url": "http://x"}}),
            vec![
                "webhooks[0].clientConfig.url Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ],
        ),
        (
            json!({"matchConditions": [{"name": "a", "expression": " "}]}),
            vec!["webhooks[0].matchConditions[0].expression Required value"],
        ),
        (
            json!({"sideEffects": null}),
            vec!["webhooks[0].sideEffects Required value: must specify one of None, NoneOnDryRun"],
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(faults_of(&kind, hook(more.clone())), expected, "{more}");
    }
}

#[test]
fn several_faults_in_upstreams_order() {
    let cases = [
        (
            ("", "ResourceQuota"),
            json!({"spec": {"hard": {"foo": "1"}}}),
            vec![
                "spec.hard[foo] Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "spec.hard[foo] Invalid value: \"foo\": must be a standard resource for quota",
            ],
        ),
        (
            ("", "ResourceQuota"),
            json!({"spec": {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "Terminating", "operator": "In", "values": ["a"]}]}}}),
            vec![
                "spec.scopeSelector.matchExpressions.operator Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ],
        ),
        (
            ("", "Namespace"),
            json!({"spec": {"finalizers": ["a b"]}}),
            vec![
                "spec.finalizers Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "spec.finalizers Invalid value: \"a b\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        ),
        (
            ("", "Node"),
            json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.0.0/24"]}, "status": {"capacity": {"cpu": "-1"}}}),
            vec![
                "status.capacity.cpu Invalid value: \"-1\": must be greater than or equal to 0",
                "status.allocatable.cpu Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.podCIDRs Invalid value: [\"10.0.0.0/24\",\"10.0.0.0/24\"]: may specify no more than one CIDR for each IP family",
                "spec.podCIDRs[1] Duplicate value: \"10.0.0.0/24\"",
            ],
        ),
        (
            ("", "Endpoints"),
            json!({"subsets": [{"addresses": [{"ip": "x"}], "ports": [{"port": 1}]}]}),
            vec![
                "subsets[0].addresses[0].ip Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "subsets[0].addresses[0].ip Invalid value: \"x\": must be a valid IP address",
            ],
        ),
        (
            ("", "PersistentVolume"),
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "-1Gi"}, "hostPath": {"path": "/x"}}}),
            vec![
                "spec.capacity[storage] Invalid value: -1073741824: must be a valid resource quantity",
                "spec.capacity[storage] Invalid value: \"-1Gi\": must be greater than zero",
            ],
        ),
        (
            ("resource.k8s.io", "ResourceSlice"),
            json!({"spec": {"driver": "d.com", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "a", "attributes": {"b c": {}}, "taints": [{"key": "k", "effect": "X"}]}, {"name": "a"}]}}),
            vec![
                "spec Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
                "spec.devices[0].attributes[b c] Invalid value: \"b c\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                "spec.devices[0].attributes[b c] Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0].taints[0].effect Unsupported value: \"X\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                "spec.devices[1] Duplicate value: \"a\"",
            ],
        ),
        (
            ("resource.k8s.io", "ResourceClaim"),
            json!({"spec": {"devices": {
                "requests": [{"name": "a", "exactly": {"deviceClassName": "c", "tolerations": [{"operator": "Exists", "value": "v"}]}}],
                "constraints": [{"requests": ["b"], "matchAttribute": "m"}]}}}),
            vec![
                "spec.devices.requests[0].exactly.tolerations[0].value Invalid value: \"v\": must be empty for operator `Exists`",
                "spec.devices.constraints[0].requests[0] Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute Invalid value: \"m\": a fully qualified name must be a domain and a name separated by a slash",
            ],
        ),
        (
            (
                "admissionregistration.k8s.io",
                "ValidatingAdmissionPolicyBinding",
            ),
            json!({"spec": {"policyName": "p.example.com", "paramRef": {"name": "a", "parameterNotFoundAction": "X"}}}),
            vec![
                "spec.paramRef.parameterNotFoundAction Unsupported value: \"X\": supported values: \"Deny\", \"Allow\"",
                "spec.validationActions Required value: at least one validation action is required",
            ],
        ),
    ];
    for ((group, kind), mut object, expected) in cases {
        object["metadata"] = json!({"name": "x", "namespace": "default"});
        let kind = Gvk::new(group, "v1", kind);
        assert_eq!(faults_of(&kind, object), expected, "{kind:?}");
    }
}
