//! Which names of a definition are accepted, and the conditions that tell.

use serde_json::{Value, json};

use crate::registry::meta;

/// One condition of a definition.
fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": kind,
        "status": if status { "True" } else { "False" },
        "lastTransitionTime": meta::now(),
        "reason": reason,
        "message": message,
    })
}

/// Puts the condition in the place of the one of its type; nothing changes when it says the same.
fn set(status: &mut Value, new: Value) {
    let mut all: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
    match all.iter_mut().find(|c| c["type"] == new["type"]) {
        Some(old) => {
            let same = ["status", "reason", "message"]
                .iter()
                .all(|key| old[*key] == new[*key]);
            if !same {
                let keep_time = old["status"] == new["status"];
                let time = old["lastTransitionTime"].clone();
                *old = new;
                if keep_time {
                    old["lastTransitionTime"] = time;
                }
            }
        }
        None => all.push(new),
    }
    status["conditions"] = all.into();
}

pub(super) fn is_true(definition: &Value, kind: &str) -> bool {
    let all = definition["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    all.into_iter()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

/// Names that a definition takes: resource names and kind names are two worlds.
struct Names {
    resources: Vec<String>,
    kinds: Vec<String>,
}

fn names(from: &Value) -> Names {
    let text = |key: &str| from[key].as_str().unwrap_or_default().to_owned();
    let mut resources = vec![text("plural"), text("singular")];
    let short = from["shortNames"].as_array().into_iter().flatten();
    resources.extend(short.filter_map(|s| s.as_str().map(str::to_owned)));
    resources.retain(|r| !r.is_empty());
    let mut kinds = vec![text("kind"), text("listKind")];
    kinds.retain(|k| !k.is_empty());
    Names { resources, kinds }
}

/// The definition's status, given all others of its group (in any order).
pub(super) fn decide_status(definition: &Value, others: &[Value]) -> Value {
    let wanted = &definition["spec"]["names"];
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let taken: Vec<Names> = others
        .iter()
        .map(|o| names(&o["status"]["acceptedNames"]))
        .collect();
    let resource_taken = |name: &str| taken.iter().any(|n| n.resources.iter().any(|r| r == name));
    let kind_taken = |name: &str| taken.iter().any(|n| n.kinds.iter().any(|k| k == name));
    let mut accepted = status["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({});
    }
    let mut conflict: Option<(&str, String)> = None;
    for (key, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
    ] {
        let name = wanted[key].as_str().unwrap_or_default();
        if resource_taken(name) {
            conflict.get_or_insert((reason, format!("{name:?} is already in use")));
        } else {
            put(&mut accepted, key, &wanted[key]);
        }
    }
    let short = wanted["shortNames"].as_array().cloned().unwrap_or_default();
    let taken_short: Vec<&str> = short
        .iter()
        .filter_map(Value::as_str)
        .filter(|s| resource_taken(s))
        .collect();
    if taken_short.is_empty() {
        put(&mut accepted, "shortNames", &wanted["shortNames"]);
    } else {
        conflict.get_or_insert((
            "ShortNamesConflict",
            format!("{:?} is already in use", taken_short[0]),
        ));
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = wanted[key].as_str().unwrap_or_default();
        if kind_taken(name) {
            conflict.get_or_insert((reason, format!("{name:?} is already in use")));
        } else {
            put(&mut accepted, key, &wanted[key]);
        }
    }
    put(&mut accepted, "categories", &wanted["categories"]);
    for key in ["kind", "plural"] {
        if accepted.get(key).is_none() {
            accepted[key] = "".into();
        }
    }
    status["acceptedNames"] = accepted;
    let ok = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    set(
        &mut status,
        condition("NamesAccepted", ok, reason, &message),
    );
    let established = is_true(definition, "Established");
    if ok && !established {
        set(
            &mut status,
            condition(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        );
    } else if !established {
        set(
            &mut status,
            condition(
                "Established",
                false,
                "NotAccepted",
                "not all names are accepted",
            ),
        );
    }
    status
}

fn put(accepted: &mut Value, key: &str, value: &Value) {
    let Some(map) = accepted.as_object_mut() else {
        return;
    };
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.into(), value.clone());
    }
}

/// The status of a definition whose objects are being removed.
pub(super) fn terminating_status(definition: &Value) -> Value {
    let mut status = definition["status"].clone();
    set(
        &mut status,
        condition(
            "Terminating",
            true,
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        ),
    );
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"spec": {"names": {"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List")}}})
    }

    #[test]
    fn free_names_are_accepted_and_then_established() {
        let mut own = definition("foos", "Foo");
        own["status"] = decide_status(&own, &[]);
        assert!(is_true(&own, "NamesAccepted") && is_true(&own, "Established"));
        assert_eq!(own["status"]["acceptedNames"]["kind"], "Foo");
        let again = decide_status(&own, &[]);
        assert_eq!(again, own["status"]);
    }

    #[test]
    fn a_taken_kind_is_a_conflict() {
        let mut first = definition("foos", "Foo");
        first["status"] = decide_status(&first, &[]);
        let mut second = definition("bars", "Foo");
        second["status"] = decide_status(&second, &[first]);
        assert!(!is_true(&second, "NamesAccepted") && !is_true(&second, "Established"));
        assert_eq!(second["status"]["conditions"][0]["reason"], "KindConflict");
    }
}
