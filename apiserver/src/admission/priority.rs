//! Pods get the number of their priority class.

use serde_json::Value;

use super::{Attributes, Operation};
use crate::response::ApiError;

const GROUP: &str = "scheduling.k8s.io";
const NEVER_OR_LOWER: &str = "PreemptLowerPriority";

pub(super) fn mutate(a: &mut Attributes<'_>) -> Result<(), ApiError> {
    if a.operation == Operation::Update && a.is_for("", "pods") {
        keep(a);
        return Ok(());
    }
    if !a.is_create_of("", "pods") {
        return Ok(());
    }
    let Some(pod) = a.object.as_deref() else {
        return Ok(());
    };
    let spec = &pod["spec"];
    let named = spec["priorityClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let class = if named.is_empty() {
        default_class(a)
    } else {
        find(a, &named)?
    };
    let (name, value, policy) = match &class {
        Some(class) => (
            class["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            class["value"].as_i64().unwrap_or(0),
            class["preemptionPolicy"]
                .as_str()
                .unwrap_or(NEVER_OR_LOWER)
                .to_owned(),
        ),
        None => (String::new(), 0, NEVER_OR_LOWER.to_owned()),
    };
    if let Some(given) = spec["priority"].as_i64()
        && given != value
    {
        return Err(a.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = spec["preemptionPolicy"].as_str()
        && given != policy
    {
        return Err(a.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let Some(pod) = a.object.as_deref_mut() {
        let spec = &mut pod["spec"];
        if !name.is_empty() {
            spec["priorityClassName"] = name.into();
        }
        spec["priority"] = value.into();
        spec["preemptionPolicy"] = policy.into();
    }
    Ok(())
}

/// What an update leaves out stays.
fn keep(a: &mut Attributes<'_>) {
    let (Some(pod), Some(old)) = (a.object.as_deref_mut(), a.old) else {
        return;
    };
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"].get(field).is_none_or(Value::is_null)
            && let Some(value) = old["spec"].get(field)
        {
            pod["spec"][field] = value.clone();
        }
    }
}

fn find(a: &Attributes<'_>, name: &str) -> Result<Option<Value>, ApiError> {
    match a.call.registry.lookup(GROUP, "priorityclasses", "", name) {
        Some(class) => Ok(Some(class.value())),
        None => Err(a.forbidden(&format!("no PriorityClass with name {name} was found"))),
    }
}

/// The class for all pods that name none: of several the one with the lowest value.
fn default_class(a: &Attributes<'_>) -> Option<Value> {
    let all = a.call.registry.list(GROUP, "priorityclasses", "");
    let defaults = all
        .iter()
        .map(|c| c.value())
        .filter(|c| c["globalDefault"] == true);
    defaults.min_by_key(|c| c["value"].as_i64().unwrap_or(0))
}

/// There is one default class.
pub(super) fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    let writes = matches!(a.operation, Operation::Create | Operation::Update);
    if !writes || !a.is_for(GROUP, "priorityclasses") {
        return Ok(());
    }
    let Some(class) = a.object.as_deref() else {
        return Ok(());
    };
    if class["globalDefault"] != true {
        return Ok(());
    }
    match default_class(a) {
        Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
            let name = other["metadata"]["name"].as_str().unwrap_or_default();
            Err(a.forbidden(&format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            )))
        }
        _ => Ok(()),
    }
}
