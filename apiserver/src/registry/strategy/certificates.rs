//! Certificate signing requests: who asks, and which part each subresource changes.

use serde_json::{Value, json};

use super::Context;

/// The request is made in the name of the user, whatever it says.
pub(super) fn create(request: &mut Value, context: &Context<'_>) {
    request["status"] = json!({});
    let Some(user) = context.user else { return };
    let spec = &mut request["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    spec["username"] = user.name.as_str().into();
    if let Some(spec) = spec.as_object_mut() {
        for key in ["uid", "groups", "extra"] {
            spec.remove(key);
        }
        if !user.uid.is_empty() {
            spec.insert("uid".into(), user.uid.as_str().into());
        }
        if !user.groups.is_empty() {
            spec.insert("groups".into(), json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.insert("extra".into(), json!(user.extra));
        }
    }
}

const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// `status` leaves the decisions as they are, `approval` everything but the conditions.
pub(super) fn update_status(new: &mut Value, old: &Value, context: &Context<'_>) {
    let approval = context.subresource == "approval";
    let before = conditions(old);
    let mut told = conditions(new);
    if !approval {
        keep_decisions(&mut told, &before);
    }
    for condition in &mut told {
        stamp(condition, &before);
    }
    let from = if approval { old } else { &*new };
    let mut status = from["status"].as_object().cloned().unwrap_or_default();
    if told.is_empty() {
        status.remove("conditions");
    } else {
        status.insert("conditions".into(), told.into());
    }
    new["status"] = status.into();
}

fn conditions(request: &Value) -> Vec<Value> {
    let list = request["status"]["conditions"].as_array();
    list.cloned().unwrap_or_default()
}

/// Each decision is the one that was there. Where one was added or removed it is left to the
/// validation, which refuses that.
fn keep_decisions(new: &mut [Value], old: &[Value]) {
    for kind in DECISIONS {
        let before: Vec<&Value> = old.iter().filter(|c| c["type"] == kind).collect();
        let (at, _): (Vec<usize>, Vec<_>) =
            (new.iter().enumerate().filter(|(_, c)| c["type"] == kind)).unzip();
        if at.len() == before.len() {
            for (at, condition) in at.into_iter().zip(before) {
                new[at] = condition.clone();
            }
        }
    }
}

/// Times that the client leaves out.
fn stamp(condition: &mut Value, old: &[Value]) {
    let now = crate::registry::meta::now();
    let before = old.iter().find(|o| o["type"] == condition["type"]);
    let missing = |c: &Value, key: &str| c.get(key).is_none_or(Value::is_null);
    if missing(condition, "lastTransitionTime") {
        let same = before.filter(|b| b["status"] == condition["status"]);
        let time = same.and_then(|b| b.get("lastTransitionTime")).cloned();
        condition["lastTransitionTime"] = time.unwrap_or_else(|| now.clone().into());
    }
    if missing(condition, "lastUpdateTime") {
        condition["lastUpdateTime"] = now.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(subresource: &str, old: Value, new: Value) -> Value {
        let context = Context {
            subresource,
            ..Context::default()
        };
        let mut request = json!({"status": new});
        update_status(&mut request, &json!({"status": old}), &context);
        for condition in request["status"]["conditions"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            for time in ["lastTransitionTime", "lastUpdateTime"] {
                assert!(condition[time].is_string(), "{condition}");
                condition.as_object_mut().unwrap().remove(time);
            }
        }
        request["status"].take()
    }

    #[test]
    fn approval_changes_all_conditions_and_nothing_else() {
        let status = updated(
            "approval",
            json!({"certificate": "eA==", "conditions": [{"type": "A"}]}),
            json!({"certificate": "eQ==", "conditions": [{"type": "B"}, {"type": "Approved"}]}),
        );
        assert_eq!(
            status,
            json!({"certificate": "eA==", "conditions": [{"type": "B"}, {"type": "Approved"}]})
        );
    }

    #[test]
    fn status_keeps_the_decision_in_its_place() {
        let time = "2020-01-01T00:00:00Z";
        let stamped = json!({"type": "Approved", "reason": "x", "lastTransitionTime": time, "lastUpdateTime": time});
        let status = updated(
            "status",
            json!({"conditions": [stamped]}),
            json!({"certificate": "eA==", "conditions": [{"type": "B"}, {"type": "Approved", "reason": "y"}]}),
        );
        assert_eq!(
            status,
            json!({"certificate": "eA==", "conditions": [{"type": "B"}, {"type": "Approved", "reason": "x"}]})
        );
    }
}
