//! What a pod's persistent volume claims mean for its node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_rules::{quantity, selector};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use watch_cache::ObjectKey;

use crate::filter::{Plugin, Rejection};
use crate::pod::PodInfo;
use crate::state::{ClusterState, NodeInfo};

/// Claims, volumes, classes and what plugins say of nodes, by name.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    pub claims: BTreeMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    pub classes: BTreeMap<String, Arc<StorageClass>>,
    pub nodes: BTreeMap<String, Arc<CSINode>>,
}

/// The claim that a pod's volume means, if it means one.
fn claim_name(pod: &PodInfo, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume
        .ephemeral
        .as_ref()
        .map(|_| format!("{}-{}", pod.key.name, volume.name))
}

pub(crate) fn claim_names(pod: &PodInfo) -> impl Iterator<Item = String> {
    let volumes = pod
        .spec()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    volumes.iter().filter_map(|volume| claim_name(pod, volume))
}

fn reject(reason: impl Into<String>) -> Rejection {
    Rejection::new(Plugin::VolumeBinding, reason, false)
}

pub(crate) fn filter(volumes: &Volumes, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    for name in claim_names(pod) {
        let key = ObjectKey::new(&pod.key.namespace, &name);
        let Some(claim) = volumes.claims.get(&key) else {
            return Err(reject(format!("persistentvolumeclaim {name:?} not found")));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(reject(format!(
                "persistentvolumeclaim {name:?} is being deleted"
            )));
        }
        filter_claim(volumes, claim, node)?;
    }
    Ok(())
}

/// Placed pods that use a claim of the pod's which one pod alone may use (ReadWriteOncePod).
pub(crate) fn holders(
    state: &ClusterState,
    pod: &PodInfo,
    gone: &BTreeSet<String>,
) -> BTreeSet<String> {
    let exclusive: BTreeSet<String> = claim_names(pod)
        .filter(|name| {
            let key = ObjectKey::new(&pod.key.namespace, name);
            let claim = state.volumes.claims.get(&key);
            let spec = claim.and_then(|claim| claim.spec.as_ref());
            let mut modes = spec.iter().flat_map(|s| s.access_modes.iter().flatten());
            modes.any(|mode| mode == "ReadWriteOncePod")
        })
        .collect();
    if exclusive.is_empty() {
        return BTreeSet::new();
    }
    let others = state.pods().map(|(_, other)| other).filter(|other| {
        other.key.namespace == pod.key.namespace
            && other.uid != pod.uid
            && !other.is_finished()
            && !gone.contains(&other.uid)
    });
    others
        .filter(|other| claim_names(other).any(|name| exclusive.contains(&name)))
        .map(|other| other.uid.clone())
        .collect()
}

/// Refuses while somebody else has such a claim, wherever he is.
pub(crate) fn filter_holders(holders: &BTreeSet<String>, node: &NodeInfo) -> Result<(), Rejection> {
    if holders.is_empty() {
        return Ok(());
    }
    let here = holders.iter().any(|uid| node.pods.contains_key(uid));
    Err(Rejection::new(
        Plugin::VolumeRestrictions,
        "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        here,
    ))
}

fn filter_claim(
    volumes: &Volumes,
    claim: &PersistentVolumeClaim,
    node: &NodeInfo,
) -> Result<(), Rejection> {
    let spec = claim.spec.as_ref();
    let bound = spec
        .and_then(|s| s.volume_name.as_deref())
        .filter(|name| !name.is_empty());
    if let Some(name) = bound {
        return match volumes.volumes.get(name) {
            None => Err(reject(format!("persistentvolume {name:?} not found"))),
            Some(volume) if reachable(volume, node) => Ok(()),
            Some(_) => Err(reject(
                "node(s) didn't match PersistentVolume's node affinity",
            )),
        };
    }
    let Some(class) = delayed_class(volumes, claim) else {
        return Err(reject("pod has unbound immediate PersistentVolumeClaims"));
    };
    let fits =
        |volume: &&Arc<PersistentVolume>| satisfies(volume, claim) && reachable(volume, node);
    let provisioned = class.provisioner != "kubernetes.io/no-provisioner";
    if provisioned || volumes.volumes.values().any(|volume| fits(&volume)) {
        return Ok(());
    }
    Err(reject(
        "node(s) didn't find available persistent volumes to bind",
    ))
}

/// The claim's class if it wants to know the node before it binds.
fn delayed_class<'a>(
    volumes: &'a Volumes,
    claim: &PersistentVolumeClaim,
) -> Option<&'a Arc<StorageClass>> {
    let name = claim.spec.as_ref()?.storage_class_name.as_deref()?;
    let class = volumes.classes.get(name)?;
    (class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")).then_some(class)
}

fn reachable(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|terms| selector::node_selector_matches(terms, &node.node))
}

/// Whether an unclaimed volume has the class, modes and size that a claim asks for.
fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(have), Some(want)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let free = have.claim_ref.as_ref().is_none_or(|owner| {
        owner.name == claim.metadata.name && owner.namespace == claim.metadata.namespace
    });
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let modes = want.access_modes.iter().flatten();
    let size = |list: Option<&BTreeMap<String, _>>| {
        list.and_then(|list| list.get("storage"))
            .map_or(0, |q| quantity::value(q).unwrap_or(0))
    };
    let wanted = want.resources.as_ref().and_then(|r| r.requests.as_ref());
    free && class(&have.storage_class_name) == class(&want.storage_class_name)
        && modes
            .into_iter()
            .all(|mode| have.access_modes.iter().flatten().any(|m| m == mode))
        && size(have.capacity.as_ref()) >= size(wanted)
}

/// Claims that have to be told the pod's node before they can bind.
pub(crate) fn waiting_claims(volumes: &Volumes, pod: &PodInfo) -> Vec<ObjectKey> {
    claim_names(pod)
        .map(|name| ObjectKey::new(&pod.key.namespace, name))
        .filter(|key| {
            volumes.claims.get(key).is_some_and(|claim| {
                let spec = claim.spec.as_ref();
                let unbound =
                    spec.is_none_or(|s| s.volume_name.as_deref().is_none_or(str::is_empty));
                unbound && delayed_class(volumes, claim).is_some()
            })
        })
        .collect()
}
