//! Keeps claims that pods use, volumes that are bound and classes of attributes that either names,
//! by finalizers.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use watch_cache::{Change, ObjectKey, WatchCache};

use crate::framework::act::Object;
use crate::framework::pods::{is_terminal, node_name};
use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate, act};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

/// Starts the protection of claims.
pub(crate) fn start_claims(context: &Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let all_pods = context.caches.of::<Pod>();
    context
        .controller("persistentvolumeclaim-protection-controller")
        .watch(&claims, |change| [change.key()])
        .watch(&all_pods, |change| {
            let pod = change.object();
            let ended = matches!(change, Change::Deleted { .. }) || is_terminal(pod);
            let namespace = pod.namespace().unwrap_or_default();
            let used = if ended { claims_of(pod) } else { Vec::new() };
            used.into_iter()
                .map(move |name| ObjectKey::new(namespace.clone(), name))
                .collect::<Vec<_>>()
        })
        .run(
            context.config.workers,
            Claims {
                context: context.clone(),
                claims,
                all_pods,
            },
        );
}

/// The names of the claims that a pod uses, those of its ephemeral volumes included.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => Some(source.claim_name.clone()),
                (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
                _ => None,
            },
        )
        .collect()
}

fn uses(pod: &Pod, claim: &str) -> bool {
    !is_terminal(pod)
        && !node_name(pod).is_empty()
        && claims_of(pod).iter().any(|name| name == claim)
}

/// The finalizers as they should be; None if they are.
fn finalizers<K: Resource>(object: &K, name: &str, used: bool) -> Option<Vec<String>> {
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    let held = finalizers.iter().any(|finalizer| finalizer == name);
    let going = object.meta().deletion_timestamp.is_some();
    match (going, held, used) {
        (false, false, _) => finalizers.push(name.to_owned()),
        (true, true, false) => finalizers.retain(|finalizer| finalizer != name),
        _ => return None,
    }
    Some(finalizers)
}

async fn set<K: Object>(api: &Api<K>, object: &K, finalizers: Vec<String>) -> Result<(), Error> {
    let change = json!({"metadata": {"finalizers": finalizers}});
    act::merge(api, object, change).await.unless_gone()?;
    Ok(())
}

struct Claims {
    context: Context,
    claims: WatchCache<PersistentVolumeClaim>,
    all_pods: WatchCache<Pod>,
}

impl Reconciler for Claims {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let pods = self.all_pods.list_namespace(&key.namespace);
        let used = pods.iter().any(|pod| uses(pod, &key.name));
        let Some(finalizers) = finalizers(claim.as_ref(), CLAIM_FINALIZER, used) else {
            return Ok(Outcome::Done);
        };
        if claim.metadata.deletion_timestamp.is_some() && self.is_used_really(key).await? {
            return Ok(Outcome::Done);
        }
        set(
            &self.context.api(&key.namespace),
            claim.as_ref(),
            finalizers,
        )
        .await?;
        Ok(Outcome::Done)
    }
}

impl Claims {
    /// A pod may have come that the cache does not show yet; losing its data cannot be undone.
    async fn is_used_really(&self, key: &ObjectKey) -> Result<bool, Error> {
        let api = self.context.api::<Pod>(&key.namespace);
        let pods = api
            .list(&ListParams::default())
            .await
            .during("listing pods of", &key.namespace)?;
        Ok(pods.items.iter().any(|pod| uses(pod, &key.name)))
    }
}

/// Starts the protection of volumes.
pub(crate) fn start_volumes(context: &Context) {
    let volumes = context.caches.of::<PersistentVolume>();
    context
        .controller("persistentvolume-protection-controller")
        .watch(&volumes, |change| [change.key().name])
        .run(
            1,
            Volumes {
                context: context.clone(),
                volumes,
            },
        );
}

struct Volumes {
    context: Context,
    volumes: WatchCache<PersistentVolume>,
}

impl Reconciler for Volumes {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get("", name) else {
            return Ok(Outcome::Done);
        };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if let Some(finalizers) = finalizers(volume.as_ref(), VOLUME_FINALIZER, bound) {
            set(&self.context.cluster_api(), volume.as_ref(), finalizers).await?;
        }
        Ok(Outcome::Done)
    }
}

/// Starts the protection of classes of attributes.
pub(crate) fn start_classes(context: &Context) {
    let classes = context.caches.of::<VolumeAttributesClass>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    context
        .controller("volumeattributesclass-protection-controller")
        .watch(&classes, |change| [change.key().name])
        .watch(&claims, |change| freed(change, classes_of_claim))
        .watch(&volumes, |change| freed(change, classes_of_volume))
        .run(
            1,
            Classes {
                context: context.clone(),
                classes,
                claims,
                volumes,
            },
        );
}

/// The classes that an object named before the change.
fn freed<K>(change: &Change<K>, classes: fn(&K) -> Vec<String>) -> Vec<String> {
    match change {
        Change::Applied { old: Some(old), .. } | Change::Deleted { old } => classes(old),
        Change::Applied { old: None, .. } => Vec::new(),
    }
}

/// The class that a claim wants, the one that it has and the one that it is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.iter();
    let wanted = wanted.filter_map(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.iter();
    let real = status.flat_map(|status| {
        let target = status.modify_volume_status.as_ref();
        let target = target.and_then(|modify| modify.target_volume_attributes_class_name.clone());
        let current = status.current_volume_attributes_class_name.clone();
        current.into_iter().chain(target)
    });
    wanted.chain(real).collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.iter();
    spec.filter_map(|spec| spec.volume_attributes_class_name.clone())
        .collect()
}

struct Classes {
    context: Context,
    classes: WatchCache<VolumeAttributesClass>,
    claims: WatchCache<PersistentVolumeClaim>,
    volumes: WatchCache<PersistentVolume>,
}

impl Reconciler for Classes {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(class) = self.classes.get("", name) else {
            return Ok(Outcome::Done);
        };
        let (claims, volumes) = (self.claims.list(), self.volumes.list());
        let used = claims.iter().any(|c| classes_of_claim(c).contains(name))
            || volumes.iter().any(|v| classes_of_volume(v).contains(name));
        if let Some(finalizers) = finalizers(class.as_ref(), CLASS_FINALIZER, used) {
            set(&self.context.cluster_api(), class.as_ref(), finalizers).await?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_used_is_kept_and_what_is_not_may_go() {
        let claim = |going: bool, held: bool| -> PersistentVolumeClaim {
            let mut claim = json!({"metadata": {"name": "c"}});
            if going {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            if held {
                claim["metadata"]["finalizers"] = json!([CLAIM_FINALIZER]);
            }
            serde_json::from_value(claim).expect("a claim")
        };
        let set = |going, held, used| finalizers(&claim(going, held), CLAIM_FINALIZER, used);
        assert_eq!(
            set(false, false, false),
            Some(vec![CLAIM_FINALIZER.to_owned()])
        );
        assert_eq!(set(false, true, false), None);
        assert_eq!(set(true, true, true), None);
        assert_eq!(set(true, true, false), Some(vec![]));
        assert_eq!(set(true, false, false), None);
    }

    #[test]
    fn a_claim_names_the_class_that_it_wants_has_and_gets() {
        let claim = json!({"spec": {"volumeAttributesClassName": "wanted"}, "status": {
            "currentVolumeAttributesClassName": "had", "modifyVolumeStatus": {
                "status": "InProgress", "targetVolumeAttributesClassName": "next"}}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        assert_eq!(classes_of_claim(&claim), ["wanted", "had", "next"]);
    }

    #[test]
    fn a_pod_uses_its_claims_once_it_has_a_node_until_it_ends() {
        let pod = |node: &str, phase: &str| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"nodeName": node, "containers": [], "volumes": [
                    {"name": "a", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "b", "ephemeral": {}}]}});
            Arc::new(serde_json::from_value(pod).expect("a Pod"))
        };
        assert!(uses(&pod("n", "Running"), "c"));
        assert!(uses(&pod("n", "Running"), "p-b"));
        assert!(!uses(&pod("", "Pending"), "c"));
        assert!(!uses(&pod("n", "Succeeded"), "c"));
        assert!(!uses(&pod("n", "Running"), "d"));
    }
}
