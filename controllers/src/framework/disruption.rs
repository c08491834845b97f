//! Tells in a pod's status that it is deleted by the cluster and not by its own fault.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::error::{During, Error};

/// Sets the DisruptionTarget condition, and the phase Failed if `fail`.
pub async fn mark(
    api: &Api<Pod>,
    pod: &Pod,
    reason: &str,
    message: &str,
    fail: bool,
) -> Result<(), Error> {
    let status = pod.status.as_ref();
    let mut conditions: Vec<PodCondition> = status
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(Timestamp::now())),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    let mut change = json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": conditions}});
    if fail {
        change["status"]["phase"] = json!("Failed");
    }
    let name = pod.name_any();
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&change))
        .await
        .during("marking Pod", &name)
        .map(drop)
}
