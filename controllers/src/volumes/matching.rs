//! Which volume suits a claim. Pure.

use std::sync::Arc;

use api_rules::quantity::nanos;
use api_rules::selector::label_selector_matches;
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

pub(crate) fn spec(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimSpec {
    claim.spec.clone().unwrap_or_default()
}

/// The class of a claim or volume; none and the empty one are the same.
pub(crate) fn class_of(claim: &PersistentVolumeClaim) -> String {
    spec(claim).storage_class_name.unwrap_or_default()
}

pub(crate) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// How a volume stands to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    No,
    /// For this claim, by name or by uid.
    ForIt,
    ForAnother,
}

pub(crate) fn reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Reserved {
    let Some(reference) = claim_ref(volume) else {
        return Reserved::No;
    };
    let named =
        reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace;
    let uid = reference.uid.as_deref().unwrap_or_default();
    if named && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref()) {
        Reserved::ForIt
    } else {
        Reserved::ForAnother
    }
}

pub(crate) fn size(list: Option<&std::collections::BTreeMap<String, Quantity>>) -> i128 {
    list.and_then(|list| list.get("storage"))
        .map_or(0, |size| nanos(&size.0).unwrap_or(0))
}

pub(crate) fn requested(claim: &PersistentVolumeClaim) -> i128 {
    let resources = spec(claim).resources;
    size(
        resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()),
    )
}

fn capacity(volume: &PersistentVolume) -> i128 {
    size(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn modes_suit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.clone())
        .unwrap_or_default();
    let mode = |mode: Option<String>| mode.unwrap_or_else(|| "Filesystem".to_owned());
    let wanted = spec(claim);
    mode(
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_mode.clone()),
    ) == mode(wanted.volume_mode)
        && wanted
            .access_modes
            .iter()
            .flatten()
            .all(|wanted| offered.contains(wanted))
}

/// Whether the volume may be bound to the claim that asks for it by name.
pub(crate) fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let class = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    class.unwrap_or_default() == class_of(claim)
        && modes_suit(volume, claim)
        && capacity(volume) >= requested(claim)
}

/// The smallest volume that suits; one that is reserved for the claim comes first.
pub(crate) fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    only_reserved: bool,
) -> Option<Arc<PersistentVolume>> {
    let selector = spec(claim).selector;
    let selected = |volume: &PersistentVolume| {
        selector
            .as_ref()
            .is_none_or(|selector| label_selector_matches(selector, volume.labels()))
    };
    let mut suiting: Vec<(bool, i128, String, &Arc<PersistentVolume>)> = volumes
        .iter()
        .filter(|volume| volume.metadata.deletion_timestamp.is_none())
        .filter_map(|volume| {
            let ours = match reserved(volume, claim) {
                Reserved::ForAnother => return None,
                Reserved::ForIt => true,
                Reserved::No if only_reserved => return None,
                Reserved::No => false,
            };
            let suits = fits(volume, claim) && (ours || selected(volume));
            suits.then(|| (!ours, capacity(volume), volume.name_any(), volume))
        })
        .collect();
    suiting.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
    suiting.first().map(|(_, _, _, volume)| (*volume).clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, change: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({"metadata": {"name": name, "labels": {"tier": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "manual"}});
        for (key, value) in change.as_object().expect("an object") {
            volume["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
                "resources": {"requests": {"storage": "5Gi"}}}});
        for (key, value) in change.as_object().expect("an object") {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).expect("a claim")
    }

    fn best_of(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
        best(claim, volumes, false).map(|volume| volume.name_any())
    }

    #[test]
    fn the_smallest_suiting_volume_is_chosen() {
        let volumes = [
            volume("huge", "50Gi", json!({})),
            volume("right", "6Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("other-class", "5Gi", json!({"storageClassName": "fast"})),
            volume("block", "5Gi", json!({"volumeMode": "Block"})),
            volume(
                "taken",
                "5Gi",
                json!({"claimRef": {"namespace": "ns", "name": "x"}}),
            ),
        ];
        assert_eq!(
            best_of(&claim(json!({})), &volumes).as_deref(),
            Some("right")
        );
        let many = claim(json!({"accessModes": ["ReadWriteMany"]}));
        assert_eq!(best_of(&many, &volumes), None);
        let chosen = claim(json!({"selector": {"matchLabels": {"tier": "huge"}}}));
        assert_eq!(best_of(&chosen, &volumes).as_deref(), Some("huge"));
    }

    #[test]
    fn a_volume_reserved_for_the_claim_comes_first() {
        let reference =
            |uid: &str| json!({"claimRef": {"namespace": "ns", "name": "c", "uid": uid}});
        let volumes = [
            volume("right", "5Gi", json!({})),
            volume("kept", "50Gi", reference("")),
        ];
        assert_eq!(
            best_of(&claim(json!({})), &volumes).as_deref(),
            Some("kept")
        );
        assert_eq!(
            reserved(&volume("v", "1Gi", reference("u")), &claim(json!({}))),
            Reserved::ForIt
        );
        let old = volume("v", "1Gi", reference("old"));
        assert_eq!(reserved(&old, &claim(json!({}))), Reserved::ForAnother);
        assert_eq!(best(&claim(json!({})), &volumes[..1], true), None);
    }
}
