//! `apiextensions.k8s.io` and `apiregistration.k8s.io`.

use serde_json::{Value, json};

use super::{Object, at, object, object_or_new, set, text};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "CustomResourceDefinition" => definition(map),
        "APIService" => {
            if let Some(service) = at(map, &["spec", "service"]) {
                set(service, "port", 443);
            }
        }
        _ => {}
    }
}

fn definition(map: &mut Object) {
    let Some(spec) = object_or_new(map, "spec") else {
        return;
    };
    if let Some(names) = object_or_new(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set(names, "singular", kind.to_lowercase());
            set(names, "listKind", format!("{kind}List"));
        }
    }
    set(spec, "conversion", json!({"strategy": "None"}));
    if let Some(service) = at(spec, &["conversion", "webhook", "clientConfig", "service"]) {
        set(service, "port", 443);
    }
    let versions = spec.get("versions").and_then(Value::as_array);
    let storage: Vec<Value> = versions
        .into_iter()
        .flatten()
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect();
    if let Some(status) = object_or_new(map, "status")
        && status
            .get("storedVersions")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    {
        status.insert("storedVersions".into(), storage.into());
        set(status, "acceptedNames", json!({}));
        if let Some(names) = object(status, "acceptedNames") {
            // Written also while nothing is accepted yet.
            set(names, "plural", "");
            set(names, "kind", "");
        }
    }
}
