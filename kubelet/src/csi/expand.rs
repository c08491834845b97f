//! A volume that was made larger: what is on it has to fill it.

use cri::csi::{CapacityRange, NodeExpandVolumeRequest, VolumeCapability};
use events::EventType;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{CsiError, Driver};
use crate::context::Context;
use crate::quantity::{ResourceList, value};

/// Conditions of a claim that end with the expansion.
const OVER: [&str; 2] = ["Resizing", "FileSystemResizePending"];

/// A mounted volume, as the plugin is told of it.
pub(super) struct Place<'a> {
    pub(super) handle: &'a str,
    pub(super) path: String,
    pub(super) staging_path: String,
    pub(super) capability: VolumeCapability,
}

fn storage(list: Option<&ResourceList>) -> Option<Quantity> {
    list?.get("storage").cloned()
}

/// The size that the claim does not have yet although its volume has.
fn missing(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let has = storage(volume.spec.as_ref()?.capacity.as_ref())?;
    let status = claim.status.as_ref()?;
    let told = storage(status.capacity.as_ref())?;
    (value(&has) > value(&told)).then_some(has)
}

/// What the claim's status says afterwards.
fn told(claim: &PersistentVolumeClaim, size: &Quantity) -> Value {
    let status = claim.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.clone());
    let mut conditions = conditions.unwrap_or_default();
    conditions.retain(|condition| !OVER.contains(&condition.type_.as_str()));
    json!({"status": {
        "capacity": {"storage": size},
        "conditions": conditions,
        "allocatedResourceStatuses": null,
    }})
}

/// Has the plugin expand what it mounted, if the volume has grown, and tells the claim its size.
/// A failure is told by an event and tried again with the next look at the volume.
pub(super) async fn expand(
    context: &Context,
    pod: &Pod,
    driver: &Driver,
    (volume, claim): (&PersistentVolume, &PersistentVolumeClaim),
    place: Place<'_>,
) {
    let Some(size) = missing(volume, claim).filter(|_| driver.expands) else {
        return;
    };
    let name = volume.name_any();
    let result = match ask(driver, place, &size).await {
        Ok(()) => tell(context, claim, &size).await,
        failed => failed,
    };
    let (kind, reason, message) = match result {
        Ok(()) => (
            EventType::Normal,
            "FileSystemResizeSuccessful",
            format!(
                "MountVolume.NodeExpandVolume succeeded for volume \"{name}\" {}",
                context.config.node_name
            ),
        ),
        Err(error) => (
            EventType::Warning,
            "VolumeResizeFailed",
            format!("NodeExpandVolume.NodeExpandVolume failed for volume \"{name}\" : {error}"),
        ),
    };
    context.events.pod(pod, None, kind, reason, message);
}

async fn ask(driver: &Driver, place: Place<'_>, size: &Quantity) -> Result<(), CsiError> {
    let request = NodeExpandVolumeRequest {
        volume_id: place.handle.to_owned(),
        volume_path: place.path,
        capacity_range: Some(CapacityRange {
            required_bytes: value(size),
            limit_bytes: 0,
        }),
        staging_target_path: place.staging_path,
        volume_capability: Some(place.capability),
        secrets: Default::default(),
    };
    let mut client = driver.client();
    let answer = client.node_expand_volume(request);
    driver.call("NodeExpandVolume", answer).await.map(drop)
}

async fn tell(
    context: &Context,
    claim: &PersistentVolumeClaim,
    size: &Quantity,
) -> Result<(), CsiError> {
    let namespace = claim.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &namespace);
    let (name, change) = (claim.name_any(), told(claim, size));
    let written = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&change))
        .await;
    written.map(drop).map_err(|error| CsiError::Api {
        what: format!("the status of claim {namespace}/{name}"),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_told_the_size_of_its_volume_and_that_the_resize_is_over() {
        let volume = |size: &str| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"capacity": {"storage": size}}})).unwrap()
        };
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "status": {"capacity": {"storage": "1Gi"}, "conditions": [
                {"type": "FileSystemResizePending", "status": "True"},
                {"type": "Other", "status": "True"}]}}))
        .unwrap();
        assert_eq!(missing(&volume("1024Mi"), &claim), None);
        let size = missing(&volume("2Gi"), &claim).unwrap();
        let told = told(&claim, &size);
        assert_eq!(told["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(told["status"]["conditions"].as_array().unwrap().len(), 1);
    }
}
