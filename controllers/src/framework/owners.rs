//! Who controls an object, and who may take it over or let it go.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

/// A reference that says: this object is managed by that one.
pub fn controller_of<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference of an object to the one that manages it.
pub fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_deref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The controlling owner, if it is of this group's kind.
pub fn controller_of_kind<O: Resource<DynamicType = ()>>(
    object: &impl Resource,
) -> Option<&OwnerReference> {
    controller(object).filter(|owner| {
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        owner.kind == O::kind(&()) && group == O::group(&())
    })
}

/// Whether the object is controlled by the one with this uid.
pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    controller(object).is_some_and(|owner| owner.uid == uid)
}

/// Which candidates are a controller's own, and which are to change hands.
#[derive(Debug)]
pub struct Claim<K> {
    /// Its own already, still selected.
    pub owned: Vec<Arc<K>>,
    /// Nobody's, and selected.
    pub adopt: Vec<Arc<K>>,
    /// Its own, no longer selected.
    pub release: Vec<Arc<K>>,
}

impl<K> Claim<K> {
    /// Everything that is its own once adoption succeeds.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.owned.iter().chain(&self.adopt).cloned().collect()
    }
}

/// Sorts candidates for the owner. An owner that is being deleted neither adopts nor
/// releases, and nobody adopts what is being deleted.
pub fn claim<O: Resource, K: Resource>(
    owner: &O,
    candidates: Vec<Arc<K>>,
    selects: impl Fn(&K) -> bool,
) -> Claim<K> {
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let going = owner.meta().deletion_timestamp.is_some();
    let mut claim = Claim {
        owned: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    for object in candidates {
        if object.meta().namespace != owner.meta().namespace {
            continue;
        }
        let selected = selects(&object);
        match controller(object.as_ref()) {
            Some(reference) if reference.uid != uid => {}
            Some(_) if selected => claim.owned.push(object),
            Some(_) if going => {}
            Some(_) => claim.release.push(object),
            None if going || !selected || object.meta().deletion_timestamp.is_some() => {}
            None => claim.adopt.push(object),
        }
    }
    claim
}

/// The owner references of the object with this controller added.
pub fn with_owner<K: Resource>(object: &K, owner: &OwnerReference) -> Vec<OwnerReference> {
    let mut owners = without_owner(object, &owner.uid);
    owners.push(owner.clone());
    owners
}

/// The owner references of the object without those to this uid.
pub fn without_owner<K: Resource>(object: &K, uid: &str) -> Vec<OwnerReference> {
    let owners = object
        .meta()
        .owner_references
        .as_deref()
        .unwrap_or_default();
    owners
        .iter()
        .filter(|owner| owner.uid != uid)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn set(deleting: bool) -> ReplicaSet {
        let mut set = json!({"metadata": {"namespace": "ns", "name": "rs", "uid": "u"}});
        if deleting {
            set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(set).expect("a ReplicaSet")
    }

    fn pod(owner: Option<&str>, selected: bool, deleting: bool) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"namespace": "ns", "name": "p",
            "labels": {"app": if selected { "yes" } else { "no" }}}});
        if let Some(uid) = owner {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true}]);
        }
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    }

    #[test]
    fn a_claim_keeps_adopts_and_releases_by_the_truth_table() {
        // owner's uid on the pod, selected, pod deleting, owner deleting -> owned, adopt, release
        let cases = [
            (Some("u"), true, false, false, (1, 0, 0)),
            (Some("u"), true, true, true, (1, 0, 0)),
            (Some("u"), false, false, false, (0, 0, 1)),
            (Some("u"), false, false, true, (0, 0, 0)),
            (Some("x"), true, false, false, (0, 0, 0)),
            (None, true, false, false, (0, 1, 0)),
            (None, true, true, false, (0, 0, 0)),
            (None, true, false, true, (0, 0, 0)),
            (None, false, false, false, (0, 0, 0)),
        ];
        for (owner, selected, pod_going, going, expect) in cases {
            let claim = claim(&set(going), vec![pod(owner, selected, pod_going)], |pod| {
                pod.metadata
                    .labels
                    .as_ref()
                    .is_some_and(|labels| labels["app"] == "yes")
            });
            let got = (claim.owned.len(), claim.adopt.len(), claim.release.len());
            assert_eq!(got, expect, "{owner:?} {selected} {pod_going} {going}");
        }
    }
}
