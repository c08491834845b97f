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

/// `status` leaves the decisions as they are, `approval` everything else.
pub(super) fn update_status(new: &mut Value, old: &Value, context: &Context<'_>) {
    let conditions = |o: &Value| {
        o["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let decides = |c: &Value| c["type"].as_str().is_some_and(|t| DECISIONS.contains(&t));
    let approval = context.subresource == "approval";
    let (mut kept, from_new): (Vec<Value>, Vec<Value>) = if approval {
        (
            conditions(old)
                .into_iter()
                .filter(|c| !decides(c))
                .collect(),
            conditions(new).into_iter().filter(|c| decides(c)).collect(),
        )
    } else {
        (
            conditions(old).into_iter().filter(decides).collect(),
            conditions(new)
                .into_iter()
                .filter(|c| !decides(c))
                .collect(),
        )
    };
    kept.extend(from_new);
    for condition in &mut kept {
        stamp(condition, &conditions(old));
    }
    let mut status = if approval {
        old["status"].clone()
    } else {
        new["status"].clone()
    };
    if !status.is_object() {
        status = json!({});
    }
    if kept.is_empty() {
        if let Some(map) = status.as_object_mut() {
            map.remove("conditions");
        }
    } else {
        status["conditions"] = kept.into();
    }
    new["status"] = status;
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
