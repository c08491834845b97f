//! The rules of `metadata`: what the server fills in, what never changes, what is refused.

use jiff::Timestamp;
use rand::Rng;
use serde_json::{Map, Value, json};

use super::names;
use super::resource::Resource;
use crate::response::{ApiError, Cause};

/// The longest generated name; the rest of `generateName` is cut.
const MAX_GENERATED: usize = 63;
const SUFFIX: usize = 5;
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The object's metadata, made when it is absent.
pub fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// A text in the metadata; empty when absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Now, to the second, as the API spells times.
pub fn now() -> String {
    time(Timestamp::now())
}

pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `PREFIX` and five letters.
pub fn generate_name(prefix: &str) -> String {
    let mut cut = prefix.len().min(MAX_GENERATED - SUFFIX);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{}", &prefix[..cut], random_suffix(SUFFIX))
}

/// Letters as generated names end in.
pub fn random_suffix(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .map(|_| char::from(SUFFIX_LETTERS[rng.random_range(0..SUFFIX_LETTERS.len())]))
        .collect()
}

/// Puts the request's namespace in; refuses another one.
pub fn set_namespace(
    resource: &Resource,
    object: &mut Value,
    namespace: &str,
) -> Result<(), ApiError> {
    let metadata = of_mut(object);
    let given = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !resource.namespaced() {
        if !given.is_empty() {
            return Err(namespace_mismatch());
        }
        metadata.remove("namespace");
        return Ok(());
    }
    if given.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    } else if given != namespace {
        return Err(namespace_mismatch());
    }
    Ok(())
}

fn namespace_mismatch() -> ApiError {
    ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
}

/// What the server alone decides, on creation.
pub fn fill_system_fields(object: &mut Value) {
    let metadata = of_mut(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("creationTimestamp".into(), now().into());
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty()
        && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
        && !prefix.is_empty()
    {
        let generated = generate_name(prefix);
        metadata.insert("name".into(), generated.into());
    }
}

/// What an update cannot change is taken over from the old object when it is left out.
pub fn carry_system_fields(old: &Value, new: &mut Value) {
    let old_deleting = is_deleting(old);
    let metadata = of_mut(new);
    let before = &old["metadata"];
    metadata.remove("selfLink");
    let mut carry = |field: &str, always: bool| {
        if always || !metadata.contains_key(field) {
            match &before[field] {
                Value::Null => metadata.remove(field),
                value => metadata.insert(field.into(), value.clone()),
            };
        }
    };
    carry("uid", false);
    carry("generation", true);
    carry("creationTimestamp", true);
    carry("generateName", false);
    carry("deletionTimestamp", old_deleting);
    carry("deletionGracePeriodSeconds", false);
}

/// Owner references of the same uid are one; `blockOwnerDeletion` and so on stay.
pub fn dedup_owners(object: &mut Value) -> Option<String> {
    let owners = object
        .pointer_mut("/metadata/ownerReferences")?
        .as_array_mut()?;
    let mut seen = Vec::new();
    let before = owners.len();
    let mut repeated = Vec::new();
    owners.retain(|owner| {
        let fresh = !seen.contains(owner);
        if fresh {
            seen.push(owner.clone());
        } else {
            repeated.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        }
        fresh
    });
    (owners.len() < before).then(|| {
        repeated.dedup();
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

/// What is wrong with the metadata of any object.
pub fn validate(resource: &Resource, object: &Value, faults: &mut Vec<Cause>) {
    let metadata = &object["metadata"];
    let generate = text(object, "generateName");
    let name = name(object);
    if !generate.is_empty() {
        let trimmed = generate
            .strip_suffix('-')
            .map_or_else(|| generate.to_owned(), |g| format!("{g}a"));
        for fault in (resource.strategy.name_faults)(&trimmed) {
            faults.push(invalid("metadata.generateName", generate, &fault));
        }
    }
    if name.is_empty() {
        faults.push(Cause::new(
            "FieldValueRequired",
            "Required value: name or generateName is required",
            "metadata.name",
        ));
    } else {
        for fault in (resource.strategy.name_faults)(name) {
            faults.push(invalid("metadata.name", name, &fault));
        }
    }
    if resource.namespaced() {
        let namespace = text(object, "namespace");
        if namespace.is_empty() {
            faults.push(Cause::new(
                "FieldValueRequired",
                "Required value",
                "metadata.namespace",
            ));
        } else {
            for fault in names::label_faults(namespace) {
                faults.push(invalid("metadata.namespace", namespace, &fault));
            }
        }
    }
    validate_labels(&metadata["labels"], "metadata.labels", faults);
    validate_annotations(metadata, faults);
    validate_owners(metadata, faults);
    validate_finalizers(metadata, has_standard_finalizers(resource), faults);
}

fn invalid(field: &str, value: &str, why: &str) -> Cause {
    Cause::new(
        "FieldValueInvalid",
        format!("Invalid value: {}: {why}", quote(value)),
        field,
    )
}

/// A text in Go's quotes, which JSON's nearly are.
pub fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// What is wrong with a map of labels.
pub fn validate_labels(labels: &Value, field: &str, faults: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for fault in names::qualified_name_faults(key) {
            faults.push(invalid(field, key, &fault));
        }
        let value = value.as_str().unwrap_or_default();
        for fault in names::label_value_faults(value) {
            faults.push(invalid(field, value, &fault));
        }
    }
}

const MAX_ANNOTATIONS: usize = 256 * 1024;

fn validate_annotations(metadata: &Value, faults: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        for fault in names::qualified_name_faults(&key.to_lowercase()) {
            faults.push(invalid("metadata.annotations", key, &fault));
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_ANNOTATIONS {
        faults.push(Cause::new(
            "FieldValueTooLong",
            format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
            "metadata.annotations",
        ));
    }
}

/// Extensions of the API are judged by rules that know no standard names.
fn has_standard_finalizers(resource: &Resource) -> bool {
    let extension = matches!(
        resource.group.as_ref(),
        "apiextensions.k8s.io" | "apiregistration.k8s.io"
    );
    !extension && !resource.is_custom()
}

/// `strict`: names without a domain have to be standard ones.
fn validate_finalizers(metadata: &Value, strict: bool, faults: &mut Vec<Cause>) {
    let all = metadata["finalizers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let has = |name: &str| all.iter().any(|f| f == name);
    for (i, finalizer) in all.iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let field = "metadata.finalizers";
        let wrong = names::qualified_name_faults(finalizer);
        for fault in &wrong {
            faults.push(invalid(field, finalizer, fault));
        }
        if strict
            && wrong.is_empty()
            && !finalizer.contains('/')
            && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes")
        {
            faults.push(invalid(
                &format!("{field}[{i}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if has("orphan") && has("foregroundDeletion") {
        let shown: Vec<String> = all.iter().map(|f| format!("{f}")).collect();
        faults.push(Cause::new(
            "FieldValueInvalid",
            format!(
                "Invalid value: [{}]: finalizer orphan and foregroundDeletion cannot be both set",
                shown.join(",")
            ),
            "metadata.finalizers",
        ));
    }
}

/// An owner as messages show it.
fn shown_owner(owner: &Value) -> String {
    let fields = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ];
    let present = fields.iter().filter(|f| !owner[**f].is_null());
    let parts: Vec<String> = present.map(|f| format!("\"{f}\":{}", owner[*f])).collect();
    format!("{{{}}}", parts.join(","))
}

fn validate_owners(metadata: &Value, faults: &mut Vec<Cause>) {
    let owners = metadata["ownerReferences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let field = "metadata.ownerReferences";
    let mut broken = |value: String, why: String| {
        let message = format!("Invalid value: {value}: {why}");
        faults.push(Cause::new("FieldValueInvalid", message, field));
    };
    let mut first: Option<String> = None;
    let mut parts_missing = Vec::new();
    for owner in owners {
        let part = |key: &str| owner[key].as_str().unwrap_or_default();
        let version = part("apiVersion");
        if version.is_empty() || version.matches('/').count() > 1 || version.ends_with('/') {
            let why = "version must not be empty";
            parts_missing.push(invalid(&format!("{field}.apiVersion"), version, why));
        }
        for key in ["kind", "name", "uid"] {
            if part(key).is_empty() {
                let why = "must not be empty";
                parts_missing.push(invalid(&format!("{field}.{key}"), "", why));
            }
        }
        if version == "v1" && part("kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner".to_owned();
            broken(shown_owner(owner), why);
        }
    }
    for owner in owners.iter().filter(|o| o["controller"] == true) {
        let part = |key: &str| owner[key].as_str().unwrap_or_default();
        let own = format!("{}/{}", part("kind"), part("name"));
        if let Some(first) = &first {
            let all: Vec<String> = owners.iter().map(shown_owner).collect();
            broken(
                format!("[{}]", all.join(",")),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}"
                ),
            );
        } else {
            first = Some(own);
        }
    }
    faults.extend(parts_missing);
}

/// What an update must not change in the metadata.
pub fn validate_update(resource: &Resource, old: &Value, new: &Value, faults: &mut Vec<Cause>) {
    let (before, after) = (&old["metadata"], &new["metadata"]);
    if is_deleting(old) {
        let known = finalizers(old);
        let added: Vec<&str> = finalizers(new)
            .into_iter()
            .filter(|f| !known.contains(f))
            .collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| quote(f)).collect();
            faults.push(Cause::new(
                "FieldValueForbidden",
                format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
                "metadata.finalizers",
            ));
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if before[field] != after[field] {
            let shown = match &after[field] {
                Value::Null => "null".to_owned(),
                value => value.to_string(),
            };
            let fault = Cause::new(
                "FieldValueInvalid",
                format!("Invalid value: {shown}: field is immutable"),
                format!("metadata.{field}"),
            );
            faults.extend(std::iter::repeat_n(
                fault,
                if resource.is_custom() { 1 } else { 2 },
            ));
        }
    }
    // Upstream looks at these in four places and tells each time; the message says it once.
    let times = if resource.is_custom() { 1 } else { 4 };
    let mut own = Vec::new();
    validate_labels(&after["labels"], "metadata.labels", &mut own);
    validate_annotations(after, &mut own);
    validate_owners(after, &mut own);
    validate_finalizers(after, has_standard_finalizers(resource), &mut own);
    for _ in 0..times {
        faults.extend(own.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_cut_and_have_five_letters_more() {
        let long = "x".repeat(80);
        assert_eq!(generate_name(&long).len(), 63);
        assert!(generate_name("a-").starts_with("a-"));
        assert_eq!(generate_name("a-").len(), 7);
    }

    #[test]
    fn repeated_owner_references_are_told_and_dropped() {
        let owner = json!({"uid": "1", "name": "a"});
        let mut object = json!({"metadata": {"ownerReferences": [owner, owner]}});
        assert!(dedup_owners(&mut object).is_some_and(|w| w.ends_with("observed: 1")));
        assert_eq!(
            object["metadata"]["ownerReferences"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
    }
}
