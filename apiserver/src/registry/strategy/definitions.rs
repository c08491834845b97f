//! Custom resource definitions: which versions objects may be stored in.

use serde_json::{Value, json};

use super::Context;

fn storage_version(definition: &Value) -> Option<String> {
    let versions = definition["spec"]["versions"].as_array()?;
    versions.iter().find(|v| v["storage"] == true)?["name"]
        .as_str()
        .map(str::to_owned)
}

/// A new definition has stored nothing but what it is going to store.
pub(super) fn create(definition: &mut Value, _: &Context<'_>) {
    let stored: Vec<String> = storage_version(definition).into_iter().collect();
    definition["status"] = json!({
        "conditions": null,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": stored,
    });
}

/// Another storage version is added to those that objects may have.
pub(super) fn update(new: &mut Value, _old: &Value, _: &Context<'_>) {
    let Some(storage) = storage_version(new) else {
        return;
    };
    let mut stored: Vec<Value> = new["status"]["storedVersions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if !stored.iter().any(|v| *v == storage) {
        stored.push(storage.into());
        new["status"]["storedVersions"] = stored.into();
    }
}
