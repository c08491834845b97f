//! Pods get the overhead and the scheduling rules of their runtime class.

use serde_json::{Map, Value, json};

use super::Attributes;
use crate::response::ApiError;

pub(super) fn mutate(a: &mut Attributes<'_>) -> Result<(), ApiError> {
    if !a.is_create_of("", "pods") {
        return Ok(());
    }
    let Some(pod) = a.object.as_deref() else {
        return Ok(());
    };
    let Some(name) = pod["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
        if pod["spec"]["overhead"]
            .as_object()
            .is_some_and(|o| !o.is_empty())
        {
            return Err(a.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        return Ok(());
    };
    let Some(class) = a
        .call
        .registry
        .lookup("node.k8s.io", "runtimeclasses", "", &name)
    else {
        return Err(a.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    let class = class.value();
    let conflict = a
        .object
        .as_deref_mut()
        .and_then(|pod| merge(pod, &class).err());
    match conflict {
        Some(why) => Err(a.forbidden(&format!("pod rejected: {why}"))),
        None => Ok(()),
    }
}

fn merge(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = &mut pod["spec"];
    let fixed = &class["overhead"]["podFixed"];
    let given = spec
        .get("overhead")
        .filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    match (fixed.is_object(), given) {
        (true, Some(given)) if given != fixed => {
            return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (true, None) => spec["overhead"] = fixed.clone(),
        (false, Some(_)) => {
            return Err(
                "Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
            );
        }
        _ => {}
    }
    let scheduling = &class["scheduling"];
    if let Some(selector) = scheduling["nodeSelector"].as_object() {
        let mut own: Map<String, Value> = spec["nodeSelector"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for (key, value) in selector {
            if own.get(key).is_some_and(|v| v != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    own[key].as_str().unwrap_or_default()
                ));
            }
            own.insert(key.clone(), value.clone());
        }
        spec["nodeSelector"] = Value::Object(own);
    }
    if let Some(tolerations) = scheduling["tolerations"].as_array() {
        let mut own: Vec<Value> = spec["tolerations"].as_array().cloned().unwrap_or_default();
        for toleration in tolerations {
            if !own.contains(toleration) {
                own.push(toleration.clone());
            }
        }
        spec["tolerations"] = json!(own);
    }
    Ok(())
}
