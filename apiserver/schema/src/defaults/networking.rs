//! `networking.k8s.io` and `discovery.k8s.io`.

use serde_json::Value;

use super::{Object, object, object_or_new, objects, set};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "NetworkPolicy" => network_policy(map),
        "IngressClass" => {
            if let Some(parameters) = object(map, "spec").and_then(|s| object(s, "parameters")) {
                set(parameters, "scope", "Cluster");
            }
        }
        "EndpointSlice" => {
            for port in objects(map, "ports") {
                set(port, "name", "");
                set(port, "protocol", "TCP");
            }
        }
        _ => {}
    }
}

fn network_policy(map: &mut Object) {
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    for direction in ["ingress", "egress"] {
        for rule in objects(spec, direction) {
            for port in objects(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
    if spec
        .get("policyTypes")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        let egress = spec
            .get("egress")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty());
        let types = if egress {
            vec!["Ingress", "Egress"]
        } else {
            vec!["Ingress"]
        };
        spec.insert("policyTypes".into(), types.into());
    }
}
