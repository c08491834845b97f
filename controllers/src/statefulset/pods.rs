//! The pods and claims of a StatefulSet: names, identity, storage.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::framework::history::HASH_LABEL;
use crate::framework::owners::controller_of;
use crate::framework::pods::from_template;

pub(crate) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
pub(crate) const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number at the end of a pod's name, if the rest is the set's name.
pub(crate) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let (parent, number) = pod.rsplit_once('-')?;
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (parent == set && plain).then(|| number.parse().ok())?
}

pub(crate) fn revision(pod: &Pod) -> &str {
    pod.labels().get(HASH_LABEL).map_or("", String::as_str)
}

pub(crate) fn claim_name(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The pod of an ordinal, from the template of a revision.
pub(crate) fn pod(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let namespace = set.namespace().unwrap_or_default();
    let name = format!("{}-{ordinal}", set.name_any());
    let mut pod = from_template(template, &namespace, &name, controller_of(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    spec.subdomain = service.filter(|name| !name.is_empty());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    for (template, claim) in claims {
        volumes.retain(|volume| volume.name != template);
        volumes.push(Volume {
            name: template,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name_any(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    pod
}

/// The claims of an ordinal, with the names of their templates.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = &set.spec else {
        return Vec::new();
    };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            let name = template.name_any();
            claim.metadata.name = Some(claim_name(&name, &set.name_any(), ordinal));
            claim.metadata.namespace = set.metadata.namespace.clone();
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            (name, claim)
        })
        .collect()
}

/// Whether claims go with the set, and with a pod that scaling takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub delete_with_set: bool,
    pub delete_when_scaled: bool,
}

pub(crate) fn retention(set: &StatefulSet) -> Retention {
    let policy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_claim_retention_policy.clone())
        .unwrap_or_default();
    Retention {
        delete_with_set: policy.when_deleted.as_deref() == Some("Delete"),
        delete_when_scaled: policy.when_scaled.as_deref() == Some("Delete"),
    }
}

/// The owners of a claim as the policy wants them; None if they are. An owner makes the
/// garbage collector delete the claim with it. `condemned` is the pod that scaling takes away.
pub(crate) fn claim_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: Option<&Pod>,
    condemned: bool,
) -> Option<Vec<OwnerReference>> {
    let policy = retention(set);
    let set_uid = set.uid().unwrap_or_default();
    let pod_uid = pod.and_then(|pod| pod.uid()).unwrap_or_default();
    let old = claim.owner_references().to_vec();
    let mut new = old.clone();
    new.retain(|owner| owner.uid != set_uid && owner.uid != pod_uid);
    // Those of somebody else who manages the claim are respected.
    if new.iter().any(|owner| owner.controller == Some(true)) {
        return None;
    }
    let by_pod = condemned && policy.delete_when_scaled;
    if let Some(pod) = pod.filter(|_| by_pod) {
        new.push(OwnerReference {
            block_owner_deletion: None,
            controller: None,
            ..controller_of(pod)
        });
    } else if policy.delete_with_set {
        new.push(OwnerReference {
            block_owner_deletion: None,
            controller: None,
            ..controller_of(set)
        });
    }
    let uids = |owners: &[OwnerReference]| -> Vec<String> {
        owners.iter().map(|owner| owner.uid.clone()).collect()
    };
    (uids(&old) != uids(&new)).then_some(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
            "spec": {"serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
                "persistentVolumeClaimRetentionPolicy":
                    {"whenDeleted": deleted, "whenScaled": scaled},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}]}}))
        .expect("a StatefulSet")
    }

    #[test]
    fn an_ordinal_is_the_number_after_the_sets_name() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web", "web-12"), Some(12));
        assert_eq!(ordinal("web", "web-a-1"), None);
        assert_eq!(ordinal("web", "web-+1"), None);
        assert_eq!(ordinal("web", "web-"), None);
        assert_eq!(ordinal("web", "web-99999999999"), None);
    }

    #[test]
    fn a_pod_has_its_identity_and_its_claims() {
        let set = set("Retain", "Retain");
        let template = set.spec.clone().expect("a spec").template;
        let pod = pod(&set, &template, "web-1", 3);
        assert_eq!(pod.name_any(), "web-3");
        assert_eq!(pod.labels()[POD_INDEX], "3");
        assert_eq!(revision(&pod), "web-1");
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.subdomain.as_deref(), Some("web"));
        let volumes = spec.volumes.expect("volumes");
        let source = volumes[0]
            .persistent_volume_claim
            .as_ref()
            .expect("a claim");
        assert_eq!(source.claim_name, "data-web-3");
    }

    #[test]
    fn the_retention_policy_decides_who_owns_a_claim() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-0", "uid": "p"}}))
            .expect("a Pod");
        let owner = |deleted: &str, scaled: &str, condemned: bool| {
            let set = set(deleted, scaled);
            let claim = claims(&set, 0).remove(0).1;
            let owners = claim_owners(&set, &claim, Some(&pod), condemned);
            owners.map(|owners| {
                owners
                    .iter()
                    .map(|owner| owner.uid.clone())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(owner("Retain", "Retain", true), None);
        assert_eq!(owner("Delete", "Retain", true), Some(vec!["s".to_owned()]));
        assert_eq!(owner("Delete", "Delete", true), Some(vec!["p".to_owned()]));
        assert_eq!(owner("Retain", "Delete", true), Some(vec!["p".to_owned()]));
        assert_eq!(owner("Retain", "Delete", false), None);
    }
}
