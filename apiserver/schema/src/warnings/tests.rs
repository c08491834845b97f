use serde_json::json;

use super::*;

fn told(group: &str, kind: &str, object: &str) -> Vec<String> {
    let object = serde_json::from_str(object).unwrap();
    on_create(&Gvk::new(group, "v1", kind), &object)
}

/// Warnings about a new pod with this specification.
#[track_caller]
fn check_pod(spec: &str, expect: &[&str]) {
    let object = format!("{{\"metadata\": {{\"name\": \"x\"}}, \"spec\": {spec}}}");
    assert_eq!(told("", "Pod", &object), expect, "{spec}");
}

#[test]
fn pods_are_warned_of_what_will_not_do_what_it_says() {
    check_pod(r#"{"containers": [{"name": "c"}]}"#, &[]);
    check_pod(
        r#"{"nodeSelector": {"beta.kubernetes.io/os": "linux"}}"#,
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ],
    );
    check_pod(
        r#"{"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}]}]}}}}"#,
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: node-role.kubernetes.io/master is use \"node-role.kubernetes.io/control-plane\" instead",
        ],
    );
    check_pod(
        r#"{"topologySpreadConstraints": [{"topologyKey": "x"}], "volumes": [{"name": "v", "storageos": {}}]}"#,
        &[
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
        ],
    );
    check_pod(
        r#"{"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}], "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}"#,
        &[
            "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
            "spec.imagePullSecrets[2].name: invalid empty name \"\"",
        ],
    );
    check_pod(
        r#"{"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "$(A)"}],
            "resources": {"limits": {"memory": "1500m"}}}]}"#,
        &[
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
        ],
    );
    check_pod(
        r#"{"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}}, "terminationGracePeriodSeconds": -1}"#,
        &[
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
        ],
    );
}

#[test]
fn ports_that_meet_are_told() {
    check_pod(
        r#"{"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}]}"#,
        &[
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
        ],
    );
    check_pod(
        r#"{"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}, {"containerPort": 80, "protocol": "TCP"}]}]}"#,
        &[
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
        ],
    );
    check_pod(
        r#"{"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}, {"containerPort": 80, "protocol": "TCP", "hostPort": 80, "hostIP": "10.0.0.1"}]}]}"#,
        &[
            "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
        ],
    );
}

#[test]
fn files_that_meet_are_told() {
    check_pod(
        r#"{"volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}, {"key": "c", "path": "xy"}]}}]}"#,
        &["volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\""],
    );
    check_pod(
        r#"{"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
            {"secret": {"name": "s", "items": [{"key": "a", "path": "token"}]}}, {}]}}]}"#,
        &[
            "volume \"v\" (Projected): overlapping paths: \"token\" (Secret \"s\") with \"token\" (ServiceAccountToken)",
            "volume \"v\" (Projected) has no sources provided",
        ],
    );
}

#[test]
fn names_that_hosts_cannot_have_are_told_of_kinds_that_make_pods() {
    let named = r#"{"metadata": {"name": "a.b"}}"#;
    assert_eq!(
        told("", "Pod", named),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
        ]
    );
    assert_eq!(
        told("batch", "CronJob", named),
        [
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
        ]
    );
    assert!(told("", "Secret", named).is_empty());
    let own = json!({"metadata": {"name": "a.b"}});
    assert!(on_update(&Gvk::new("", "v1", "Pod"), &own, true).is_empty());
}

#[test]
fn templates_are_looked_at_when_the_generation_is_new() {
    let kind = Gvk::new("apps", "v1", "StatefulSet");
    let own = json!({"spec": {"revisionHistoryLimit": -1, "template": {"metadata": {"annotations": {
        "container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}, "spec": {"containers": [{"name": "c"}]}}}});
    let expect = [
        "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
        "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
    ];
    assert_eq!(on_create(&kind, &own), expect);
    assert_eq!(on_update(&kind, &own, true), expect);
    assert!(on_update(&kind, &own, false).is_empty());
}

#[test]
fn services_are_told_what_is_ignored_and_which_addresses_are_spelled_oddly() {
    let check = |spec: &str, expect: &[&str]| {
        let own = told("", "Service", &format!("{{\"spec\": {spec}}}"));
        assert_eq!(own, expect, "{spec}");
    };
    check(
        r#"{"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"], "loadBalancerIP": "1.2.3.4"}"#,
        &[
            "spec.loadBalancerIP is ignored for headless services",
            "spec.externalIPs is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services",
        ],
    );
    check(
        r#"{"type": "ClusterIP", "clusterIP": "010.96.3.3", "clusterIPs": ["010.96.3.3"], "externalName": "a.b", "trafficDistribution": "PreferClose", "externalIPs": ["FD00::1"]}"#,
        &[
            "spec.clusterIPs[0]: non-standard IP address \"010.96.3.3\" will be considered invalid in a future Kubernetes release: use \"10.96.3.3\"",
            "spec.externalIPs[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ],
    );
    check(
        r#"{"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8", "::FFFF:1.2.3.0/120"]}"#,
        &[
            "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
            "spec.loadBalancerSourceRanges[1]: non-standard CIDR value \"::FFFF:1.2.3.0/120\" will be considered invalid in a future Kubernetes release: use \"1.2.3.0/24\"",
        ],
    );
}

#[test]
fn addresses_of_endpoints_and_policies_are_looked_at() {
    assert_eq!(
        told(
            "discovery.k8s.io",
            "EndpointSlice",
            r#"{"addressType": "FQDN"}"#
        ),
        ["addressType: FQDN endpoints are deprecated"]
    );
    assert_eq!(
        told(
            "networking.k8s.io",
            "NetworkPolicy",
            r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/24"}}]}]}}"#
        )
        .len(),
        1
    );
    assert_eq!(
        told(
            "",
            "Endpoints",
            r#"{"subsets": [{"addresses": [{"ip": "010.1.1.1"}]}]}"#
        )
        .len(),
        1
    );
}

#[test]
fn deprecated_annotations_and_kinds_are_named() {
    let ingress = r#"{"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}}"#;
    assert_eq!(told("networking.k8s.io", "Ingress", ingress).len(), 1);
    assert_eq!(
        told(
            "",
            "PersistentVolumeClaim",
            r#"{"spec": {"resources": {"requests": {"storage": "1500m"}}}}"#
        ),
        [
            "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer"
        ]
    );
    assert_eq!(
        told("storage.k8s.io", "StorageClass", r#"{"allowedTopologies": [{"matchLabelExpressions": [{"key": "beta.kubernetes.io/os"}]}]}"#).len(),
        1
    );
    assert!(deprecated_kind(&Gvk::new("", "v1", "Endpoints")).is_some());
    assert!(deprecated_kind(&Gvk::new("", "v1", "Pod")).is_none());
}
