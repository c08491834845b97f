//! `admissionregistration.k8s.io`.

use serde_json::json;

use super::{Object, at, object, object_or_new, objects, set};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "ValidatingWebhookConfiguration" => objects(map, "webhooks").for_each(webhook),
        "MutatingWebhookConfiguration" => {
            for hook in objects(map, "webhooks") {
                webhook(hook);
                set(hook, "reinvocationPolicy", "Never");
            }
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            let Some(spec) = object_or_new(map, "spec") else {
                return;
            };
            set(spec, "failurePolicy", "Fail");
            if let Some(constraints) = object(spec, "matchConstraints") {
                match_resources(constraints);
            }
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            if let Some(resources) = at(map, &["spec", "matchResources"]) {
                match_resources(resources);
            }
        }
        _ => {}
    }
}

fn selectors(map: &mut Object) {
    set(map, "matchPolicy", "Equivalent");
    set(map, "namespaceSelector", json!({}));
    set(map, "objectSelector", json!({}));
}

fn scopes(map: &mut Object, name: &str) {
    for rule in objects(map, name) {
        set(rule, "scope", "*");
    }
}

fn webhook(hook: &mut Object) {
    set(hook, "failurePolicy", "Fail");
    set(hook, "timeoutSeconds", 10);
    selectors(hook);
    scopes(hook, "rules");
    if let Some(service) = at(hook, &["clientConfig", "service"]) {
        set(service, "port", 443);
    }
}

fn match_resources(map: &mut Object) {
    selectors(map);
    scopes(map, "resourceRules");
    scopes(map, "excludeResourceRules");
}
