//! From apply on the client's side to apply on the server's.
//!
//! `kubectl apply` keeps what it applied in an annotation. When kubectl applies the same object
//! on the server, what its earlier self set is no conflict, as long as nobody changed it since;
//! and the annotation follows, so that the way back stays open.

use schema::types::StructRef;
use serde_json::Value;

use super::{FieldSet, meta, typed};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager that this is for: under another name kubectl stands for itself.
const MANAGER: &str = "kubectl";

/// Bytes that an object's annotations may have together; more than that is not recorded.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

fn recorded(object: &Value) -> Option<&str> {
    let text = object["metadata"]["annotations"][ANNOTATION].as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The fields of the live object that still are as the client applied them.
pub(super) fn still_applied(
    shape: &StructRef,
    manager: &str,
    api_version: &str,
    live: &Value,
) -> FieldSet {
    let text = recorded(live).filter(|_| manager == MANAGER);
    let Some(Ok(applied)) = text.map(serde_json::from_str::<Value>) else {
        return FieldSet::default();
    };
    if applied["apiVersion"] != api_version || typed::check(shape, &applied).is_err() {
        return FieldSet::default();
    }
    let compared = typed::compare(shape, &applied, live);
    typed::field_set(shape, &applied)
        .difference(&compared.modified)
        .difference(&compared.added)
        .difference(&compared.removed)
}

/// Makes the annotation say what is applied now, where there is one.
pub(super) fn renew(manager: &str, applied: &Value, merged: &mut Value) {
    if manager != MANAGER || recorded(merged).is_none() {
        return;
    }
    let mut applied = applied.clone();
    let metadata = meta::of_mut(&mut applied);
    metadata.remove("managedFields");
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    let Some(annotations) = merged["metadata"]["annotations"].as_object_mut() else {
        return;
    };
    let mut text = format!("{applied}\n");
    let others = annotations.iter().filter(|(key, _)| *key != ANNOTATION);
    let size: usize = others
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size + ANNOTATION.len() + text.len() > ANNOTATIONS_LIMIT {
        text.clear();
    }
    annotations.insert(ANNOTATION.into(), text.into());
}
