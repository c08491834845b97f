//! Binding: the scheduler tells a pod its node.

use bytes::Bytes;
use schema::types::Gvk;
use serde_json::{Value, json};

use crate::admission::topology::LABELS;
use crate::registry::options::WriteOptions;
use crate::registry::verbs::Decision;
use crate::registry::{Call, meta};
use crate::response::{ApiError, ApiResponse, Cause};

/// POST of `pods/NAME/binding`, or of a Binding to the namespace's collection.
pub(crate) async fn bind(call: &Call, body: Bytes) -> Result<ApiResponse, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let binding = call.decode(
        &Gvk::new("", "v1", "Binding"),
        &body,
        options.field_validation,
    )?;
    let name = if call.info.name.is_empty() {
        meta::name(&binding)
    } else {
        &call.info.name
    };
    if !call.info.name.is_empty()
        && !meta::name(&binding).is_empty()
        && meta::name(&binding) != name
    {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    validate(&binding)?;
    let binding = {
        let name = name.to_owned();
        super::admit(call, binding, name, &options).await?
    };
    let name = if call.info.name.is_empty() {
        meta::name(&binding)
    } else {
        &call.info.name
    };
    let pods = call
        .registry
        .catalog
        .get("", "v1", "pods")
        .ok_or_else(|| ApiError::internal("there are no pods"))?;
    let pod_call = call.for_object(pods, name, "binding");
    let node = binding["target"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    pod_call
        .change(&options, |pod| assign(pod, &binding, &node))
        .await?;
    Ok(super::created_status(call))
}

fn validate(binding: &Value) -> Result<(), ApiError> {
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    if !matches!(kind, "" | "Node") {
        causes.push(Cause::new(
            "FieldValueNotSupported",
            format!("Unsupported value: {kind:?}: supported values: \"Node\", \"\""),
            "target.kind",
        ));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::new(
            "FieldValueRequired",
            "Required value",
            "target.name",
        ));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(
            "",
            "Binding",
            meta::name(binding),
            causes,
        ))
    }
}

/// The pod on its node, unless it is going away or has one.
fn assign(pod: &Value, binding: &Value, node: &str) -> Result<Decision, ApiError> {
    let name = meta::name(pod);
    let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", name, &why));
    let uid = meta::text(binding, "uid");
    if !uid.is_empty() && uid != meta::text(pod, "uid") {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(pod, "uid")
        ));
    }
    if meta::is_deleting(pod) {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return conflict(format!(
            "pod {name} is already assigned to node \"{assigned}\""
        ));
    }
    if pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|g| !g.is_empty())
    {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        let own = meta::of_mut(&mut new)
            .entry("annotations")
            .or_insert_with(|| json!({}));
        for (key, value) in annotations {
            own[key] = value.clone();
        }
    }
    for label in LABELS {
        if let Some(value) = binding["metadata"]["labels"][label].as_str() {
            let own = meta::of_mut(&mut new)
                .entry("labels")
                .or_insert_with(|| json!({}));
            own[label] = value.into();
        }
    }
    set_scheduled(&mut new);
    Ok(Decision::Write(new))
}

fn set_scheduled(pod: &mut Value) {
    let now = meta::now();
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    });
    let conditions = &mut pod["status"]["conditions"];
    let mut all: Vec<Value> = conditions.as_array().cloned().unwrap_or_default();
    all.retain(|c| c["type"] != "PodScheduled");
    all.push(condition);
    *conditions = all.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_assigned_once() {
        let binding = json!({"target": {"name": "n"}});
        let pod = json!({"metadata": {"name": "p"}, "spec": {}});
        let Ok(Decision::Write(bound)) = assign(&pod, &binding, "n") else {
            panic!("refused")
        };
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
        let refused = assign(&bound, &binding, "n2").unwrap_err();
        assert!(
            refused
                .message()
                .ends_with("pod p is already assigned to node \"n\"")
        );
    }
}
