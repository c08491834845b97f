//! Ownership and apply on real kinds of the type table.

use serde_json::json;

use super::*;

fn writer<'a>(shape: &'a StructRef, manager: &str) -> Writer<'a> {
    Writer {
        shape,
        manager: manager.into(),
        api_version: "v1".into(),
        subresource: String::new(),
        reset: &[],
        now: "2026-01-01T00:00:00Z".into(),
    }
}

fn config_map() -> StructRef {
    schema::types::root("", "v1", "ConfigMap").expect("a built-in kind")
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    entries
        .iter()
        .map(|e| {
            (
                e["manager"].as_str().unwrap().to_owned(),
                e["fieldsV1"].clone(),
            )
        })
        .collect()
}

fn applied(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})
}

#[test]
fn an_update_takes_what_it_changes() {
    let shape = config_map();
    let mut new = applied(json!({"a": "1", "b": "2"}));
    writer(&shape, "one").update(&empty(), &mut new, true);
    assert_eq!(
        owners(&new),
        [(
            "one".into(),
            json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})
        )]
    );
    let mut newer = new.clone();
    newer["data"]["a"] = "9".into();
    writer(&shape, "two").update(&new, &mut newer, false);
    assert_eq!(
        owners(&newer),
        [
            ("one".into(), json!({"f:data": {".": {}, "f:b": {}}})),
            ("two".into(), json!({"f:data": {"f:a": {}}})),
        ]
    );
}

#[test]
fn what_is_applied_no_longer_is_removed_unless_another_applier_owns_it() {
    let shape = config_map();
    let first = writer(&shape, "one")
        .apply(&empty(), &applied(json!({"a": "1", "b": "2"})), false)
        .unwrap();
    let second = writer(&shape, "two")
        .apply(&first, &applied(json!({"b": "2"})), false)
        .unwrap();
    let third = writer(&shape, "one")
        .apply(&second, &applied(json!({})), false)
        .unwrap();
    assert_eq!(third["data"], json!({"b": "2"}));
}

#[test]
fn another_value_is_a_conflict_unless_forced() {
    let shape = config_map();
    let first = writer(&shape, "one")
        .apply(&empty(), &applied(json!({"a": "1"})), false)
        .unwrap();
    let refused = writer(&shape, "two")
        .apply(&first, &applied(json!({"a": "2"})), false)
        .unwrap_err();
    assert_eq!(
        refused,
        ApplyError::Conflicts(vec![("\"one\"".into(), ".data.a".into())])
    );
    let forced = writer(&shape, "two")
        .apply(&first, &applied(json!({"a": "2"})), true)
        .unwrap();
    assert_eq!(
        owners(&forced),
        [("two".into(), json!({"f:data": {"f:a": {}}}))]
    );
}

#[test]
fn unknown_fields_and_repeated_keys_are_refused() {
    let shape = schema::types::root("", "v1", "Pod").expect("a built-in kind");
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"name": "c"}, {"name": "c"}]}});
    let fault = writer(&shape, "one")
        .apply(&empty(), &pod, false)
        .unwrap_err()
        .to_string();
    assert_eq!(
        fault,
        ".spec.containers: duplicate entries for key [name=\"c\"]"
    );
    let fault = writer(&shape, "one")
        .apply(&empty(), &json!({"zz": 1}), false)
        .unwrap_err()
        .to_string();
    assert_eq!(fault, ".zz: field not declared in schema");
}

#[test]
fn what_kubectl_applied_on_its_side_is_its_own_on_the_server() {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let shape = config_map();
    let first = applied(json!({"a": "1", "b": "2"}));
    let mut live = first.clone();
    live["metadata"]["annotations"] = json!({ANNOTATION: first.to_string()});
    writer(&shape, "kubectl-client-side-apply").update(&empty(), &mut live, true);
    let next = applied(json!({"a": "9", "b": "2"}));
    // Another manager has no such past.
    assert!(writer(&shape, "other").apply(&live, &next, false).is_err());
    let merged = writer(&shape, "kubectl")
        .apply(&live, &next, false)
        .unwrap();
    assert_eq!(merged["data"], json!({"a": "9", "b": "2"}));
    let recorded = merged["metadata"]["annotations"][ANNOTATION]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(recorded).unwrap(), next);
    // What somebody changed since is his.
    let mut changed = live.clone();
    changed["data"]["a"] = "5".into();
    writer(&shape, "editor").update(&live, &mut changed, false);
    let Err(ApplyError::Conflicts(conflicts)) =
        writer(&shape, "kubectl").apply(&changed, &next, false)
    else {
        panic!("no conflict");
    };
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert!(conflicts[0].0.contains("editor"), "{conflicts:?}");
}
