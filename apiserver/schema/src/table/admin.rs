//! Groups that administrators use: RBAC, admission, flow control, certificates, leases.

use serde_json::Value;

use super::Cells;
use super::duration::human_duration;
use super::text::{View, condition, selector};

pub(super) fn cells(view: View<'_>, kind: &str) -> Option<Cells> {
    let text = |pointer: &str| Value::from(view.text(pointer));
    let mut own = vec![view.name()];
    match kind {
        "RoleBinding" | "ClusterRoleBinding" => own.extend(binding(view)),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            own.extend([view.count("/webhooks"), view.age()])
        }
        "ValidatingAdmissionPolicy" => own.extend([
            view.count("/spec/validations"),
            param_kind(view),
            view.age(),
        ]),
        "MutatingAdmissionPolicy" => {
            own.extend([view.count("/spec/mutations"), param_kind(view), view.age()])
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            own.extend([text("/spec/policyName"), param_ref(view), view.age()]);
        }
        "PriorityClass" => own.extend([
            view.number("/value").into(),
            view.flag("/globalDefault").into(),
            view.age(),
            text("/preemptionPolicy"),
        ]),
        "Lease" => own.extend([text("/spec/holderIdentity"), view.age()]),
        "RuntimeClass" => own.extend([text("/handler"), view.age()]),
        "CertificateSigningRequest" => own.extend(signing_request(view)),
        "FlowSchema" => own.extend(flow_schema(view)),
        "PriorityLevelConfiguration" => own.extend(priority_level(view)),
        "APIService" => own.extend([service(view), available(view), view.age()]),
        _ => return None,
    }
    Some(own)
}

fn binding(view: View<'_>) -> [Value; 5] {
    let subjects = |kind: &str| {
        let own = view
            .list("/subjects")
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| {
                let name = s["name"].as_str().unwrap_or_default();
                match s["namespace"].as_str() {
                    Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                    _ => name.to_owned(),
                }
            });
        Value::from(own.collect::<Vec<_>>().join(", "))
    };
    let role = format!(
        "{}/{}",
        view.text("/roleRef/kind"),
        view.text("/roleRef/name")
    );
    [
        role.into(),
        view.age(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn param_kind(view: View<'_>) -> Value {
    if view.at("/spec/paramKind").is_null() {
        return "<unset>".into();
    }
    format!(
        "{}/{}",
        view.text("/spec/paramKind/apiVersion"),
        view.text("/spec/paramKind/kind")
    )
    .into()
}

fn param_ref(view: View<'_>) -> Value {
    if view.at("/spec/paramRef").is_null() {
        return "<unset>".into();
    }
    match (
        view.text("/spec/paramRef/namespace"),
        view.text("/spec/paramRef/name"),
    ) {
        (_, "") => selector(view.at("/spec/paramRef/selector")).into(),
        ("", name) => format!("*/{name}").into(),
        (namespace, name) => format!("{namespace}/{name}").into(),
    }
}

fn signing_request(view: View<'_>) -> [Value; 5] {
    let has = |kind: &str| condition(view.at("/status/conditions"), kind).is_some();
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !view.text("/status/certificate").is_empty() {
        status.push_str(",Issued");
    }
    let duration = view
        .at("/spec/expirationSeconds")
        .as_i64()
        .map_or_else(|| "<none>".into(), human_duration);
    [
        view.age(),
        view.text_or("/spec/signerName", "<none>"),
        view.text("/spec/username").into(),
        duration.into(),
        status.into(),
    ]
}

fn flow_schema(view: View<'_>) -> [Value; 5] {
    let dangling =
        condition(view.at("/status/conditions"), "Dangling").and_then(|c| c["status"].as_str());
    [
        view.text_or("/spec/priorityLevelConfiguration/name", "<none>"),
        view.number("/spec/matchingPrecedence").into(),
        view.text_or("/spec/distinguisherMethod/type", "<none>"),
        view.age(),
        dangling.unwrap_or("?").into(),
    ]
}

fn priority_level(view: View<'_>) -> [Value; 6] {
    let number = |pointer: &str| match view.at(pointer) {
        Value::Null => "<none>".into(),
        own => own.clone(),
    };
    let queuing = |name: &str| number(&format!("/spec/limited/limitResponse/queuing/{name}"));
    [
        view.text("/spec/type").into(),
        number("/spec/limited/nominalConcurrencyShares"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        view.age(),
    ]
}

fn service(view: View<'_>) -> Value {
    if view.at("/spec/service").is_null() {
        return "Local".into();
    }
    format!(
        "{}/{}",
        view.text("/spec/service/namespace"),
        view.text("/spec/service/name")
    )
    .into()
}

fn available(view: View<'_>) -> Value {
    match condition(view.at("/status/conditions"), "Available") {
        None => "Unknown".into(),
        Some(c) if c["status"] == "True" => "True".into(),
        Some(c) => {
            let text = |name: &str| c[name].as_str().unwrap_or_default();
            format!("{} ({})", text("status"), text("reason")).into()
        }
    }
}
