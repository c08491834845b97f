//! `APIService` objects, and what their services say about them; pure.

use base64::Engine;
use serde_json::{Value, json};

use crate::outbound::Place;

/// The label of objects that this server keeps by itself.
pub(super) const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of groups that custom resource definitions make.
const CUSTOM_GROUP_PRIORITY: i64 = 1000;
const CUSTOM_VERSION_PRIORITY: i64 = 100;

/// An `APIService` whose group version another server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub place: Place,
    /// PEM.
    pub authorities: Vec<u8>,
    pub insecure: bool,
}

impl Announced {
    /// `None` for what this server serves itself.
    pub fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let service = spec["service"].as_object()?;
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let bundle = spec["caBundle"].as_str().unwrap_or_default();
        Some(Announced {
            name: text(object["metadata"].get("name")),
            group: text(spec.get("group")),
            version: text(spec.get("version")),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            place: Place::Service {
                namespace: text(service.get("namespace")),
                name: text(service.get("name")),
                port: u16::try_from(port).unwrap_or(443),
            },
            authorities: base64::engine::general_purpose::STANDARD
                .decode(bundle)
                .unwrap_or_default(),
            insecure: spec["insecureSkipTLSVerify"] == true,
        })
    }
}

/// Why an aggregated server cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the Service and its slices say before anybody asks the server itself.
pub(super) fn service_fault(
    announced: &Announced,
    service: Option<&Value>,
    slices: &[Value],
) -> Option<Fault> {
    let Place::Service {
        namespace,
        name,
        port,
    } = &announced.place
    else {
        return None;
    };
    let what = format!("service/{name} in {namespace:?}");
    let fault = |reason, message| Some(Fault { reason, message });
    let Some(service) = service else {
        return fault("ServiceNotFound", format!("{what} is not present"));
    };
    if service["spec"]["type"] == "ExternalName" {
        return None;
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(chosen) = ports.find(|p| p["port"].as_u64() == Some((*port).into())) else {
        return fault(
            "ServicePortError",
            format!("{what} is not listening on port {port}"),
        );
    };
    if slices.is_empty() {
        return fault(
            "EndpointsNotFound",
            format!("cannot find endpointslices for {what}"),
        );
    }
    let port_name = chosen["name"].as_str().unwrap_or_default();
    let reaches = |slice: &Value| {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        ports.any(|p| p["name"].as_str().unwrap_or_default() == port_name)
            && endpoints.any(|e| e["conditions"]["ready"] != false)
    };
    if slices.iter().any(reaches) {
        return None;
    }
    fault(
        "MissingEndpoints",
        format!("endpointslices for {what} have no addresses with port name {port_name:?}"),
    )
}

/// The `Available` condition; the time of the old one stays while it says the same.
pub(super) fn condition(fault: Option<&Fault>, old: &Value, now: &str) -> Value {
    let (status, reason, message) = match fault {
        None => ("True", "Passed", "all checks passed"),
        Some(fault) => ("False", fault.reason, fault.message.as_str()),
    };
    let before = old["status"]["conditions"].as_array().into_iter().flatten();
    let before = before.into_iter().find(|c| c["type"] == "Available");
    let time = before
        .filter(|c| c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str())
        .unwrap_or(now);
    json!({"type": "Available", "status": status, "reason": reason, "message": message,
           "lastTransitionTime": time})
}

/// The object that announces a group version of custom resources.
pub(super) fn for_custom(group: &str, version: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {AUTOMANAGED: "true"}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": CUSTOM_GROUP_PRIORITY,
            "versionPriority": CUSTOM_VERSION_PRIORITY,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced() -> Announced {
        let object = json!({"metadata": {"name": "v1.e"}, "spec": {"group": "e", "version": "v1",
            "groupPriorityMinimum": 2000, "versionPriority": 20, "caBundle": "UEVN",
            "service": {"namespace": "n", "name": "s"}}});
        Announced::of(&object).expect("it has a service")
    }

    #[test]
    fn a_service_without_ready_endpoints_is_a_fault_with_its_reason() {
        let check = |service: Option<Value>, slices: Vec<Value>, expect: Option<&str>| {
            let fault = service_fault(&announced(), service.as_ref(), &slices);
            assert_eq!(fault.map(|f| f.reason), expect);
        };
        let service = json!({"spec": {"ports": [{"port": 443, "name": "https"}]}});
        let slice = json!({"ports": [{"name": "https", "port": 8443}],
                           "endpoints": [{"conditions": {"ready": true}}]});
        let empty = json!({"ports": [{"name": "https"}], "endpoints": []});
        check(None, vec![], Some("ServiceNotFound"));
        let other = json!({"spec": {"ports": [{"port": 80}]}});
        check(Some(other), vec![], Some("ServicePortError"));
        check(Some(service.clone()), vec![], Some("EndpointsNotFound"));
        check(Some(service.clone()), vec![empty], Some("MissingEndpoints"));
        check(Some(service), vec![slice], None);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let first = condition(None, &json!({}), "t1");
        let object = json!({"status": {"conditions": [first]}});
        assert_eq!(condition(None, &object, "t2")["lastTransitionTime"], "t1");
        let fault = Fault {
            reason: "ServiceNotFound",
            message: "m".into(),
        };
        assert_eq!(
            condition(Some(&fault), &object, "t2")["lastTransitionTime"],
            "t2"
        );
    }

    #[test]
    fn what_has_no_service_is_served_here() {
        assert_eq!(Announced::of(&for_custom("e", "v1")), None);
        assert_eq!(announced().authorities, b"PEM");
    }
}
