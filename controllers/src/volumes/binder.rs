//! Binds claims to volumes that exist, and tells provisioners which claims want a new one.
//!
//! A binding is told on both objects: first on the volume (`claimRef`), which is the lock,
//! then on the claim (`volumeName`). A crash in between is finished by the next sync.

use events::reference;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;
use watch_cache::{Change, ObjectKey, WatchCache};

use super::matching::{self, Reserved, claim_ref, class_of, reserved, spec};
use crate::framework::{Context, Error, EventType, Outcome, Reconciler, Tolerate, act};

const NAME: &str = "persistentvolume-binder-controller";
const EVENT_SOURCE: &str = "persistentvolume-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The class of local volumes that nobody provisions.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Claim(ObjectKey),
    Volume(String),
}

pub(crate) fn start(context: &Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    let classes = context.caches.of::<StorageClass>();
    let (waiting, unclassed) = (claims.clone(), claims.clone());
    context
        .controller(NAME)
        .watch(&claims, |change| {
            let mut keys = vec![Key::Claim(change.key())];
            let volume = spec(change.object())
                .volume_name
                .filter(|name| !name.is_empty());
            keys.extend(volume.map(Key::Volume));
            keys
        })
        .watch(&volumes, move |change| volume_keys(change, &waiting))
        .watch(&classes, move |_| {
            let all = unclassed.list();
            let pending = all.iter().filter(|claim| is_pending(claim));
            pending
                .map(|claim| Key::Claim(ObjectKey::of(claim.as_ref())))
                .collect::<Vec<_>>()
        })
        // One worker: two claims at once could choose the same volume and one had to go back.
        .run(
            1,
            Binder {
                context: context.clone(),
                claims,
                volumes,
                classes,
            },
        );
}

fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Bound" | "Lost"))
}

fn volume_keys(
    change: &Change<PersistentVolume>,
    claims: &WatchCache<PersistentVolumeClaim>,
) -> Vec<Key> {
    let volume = change.object();
    let mut keys = vec![Key::Volume(volume.name_any())];
    match claim_ref(volume) {
        Some(reference) => {
            let key = ObjectKey::new(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            );
            keys.push(Key::Claim(key));
        }
        None => {
            let all = claims.list();
            let pending = all.iter().filter(|claim| is_pending(claim));
            keys.extend(pending.map(|claim| Key::Claim(ObjectKey::of(claim.as_ref()))));
        }
    }
    keys
}

struct Binder {
    context: Context,
    claims: WatchCache<PersistentVolumeClaim>,
    volumes: WatchCache<PersistentVolume>,
    classes: WatchCache<StorageClass>,
}

impl Reconciler for Binder {
    type Key = Key;

    async fn sync(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Claim(key) => {
                if let Some(claim) = self.claims.get_key(key) {
                    self.claim(&claim).await?;
                }
            }
            Key::Volume(name) => {
                if let Some(volume) = self.volumes.get("", name) {
                    self.volume(&volume).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}

impl Binder {
    async fn claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let named = spec(claim).volume_name.filter(|name| !name.is_empty());
        let completed = claim.annotations().contains_key(BIND_COMPLETED);
        match named {
            None => self.find_volume(claim).await,
            Some(name) => match self.volumes.get("", &name) {
                None if completed => {
                    let message =
                        "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                    self.lose(claim, message).await
                }
                None => self.set_claim_phase(claim, "Pending", None).await,
                Some(volume) => match reserved(&volume, claim) {
                    Reserved::ForIt => self.bind(&volume, claim).await,
                    Reserved::No if completed || matching::fits(&volume, claim) => {
                        self.bind(&volume, claim).await
                    }
                    Reserved::ForAnother if completed => {
                        let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                        self.lose(claim, message).await
                    }
                    _ => {
                        let message = format!(
                            "volume \"{name}\" does not suit the claim or is bound to another one"
                        );
                        self.warn(claim, "VolumeMismatch", &message);
                        self.set_claim_phase(claim, "Pending", None).await
                    }
                },
            },
        }
    }

    fn warn(&self, claim: &PersistentVolumeClaim, reason: &'static str, message: &str) {
        self.context
            .recorder
            .event(EVENT_SOURCE, claim, EventType::Warning, reason, message);
    }

    fn tell(&self, claim: &PersistentVolumeClaim, reason: &'static str, message: &str) {
        self.context
            .recorder
            .event(EVENT_SOURCE, claim, EventType::Normal, reason, message);
    }

    async fn lose(&self, claim: &PersistentVolumeClaim, message: &str) -> Result<(), Error> {
        if claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            != Some("Lost")
        {
            self.warn(claim, "ClaimLost", message);
        }
        self.set_claim_phase(claim, "Lost", None).await
    }

    async fn find_volume(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if self.give_default_class(claim).await? {
            return Ok(());
        }
        let class = self.classes.get("", &class_of(claim));
        let delayed = class.as_ref().is_some_and(|class| {
            class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
        }) && !claim.annotations().contains_key(SELECTED_NODE);
        if let Some(volume) = matching::best(claim, &self.volumes.list(), delayed) {
            return self.bind(&volume, claim).await;
        }
        match class {
            _ if delayed => {
                let message = "waiting for first consumer to be created before binding";
                self.tell(claim, "WaitForFirstConsumer", message);
            }
            Some(class) if class.provisioner != NO_PROVISIONER => {
                self.ask_provisioner(claim, &class).await?;
            }
            None if !class_of(claim).is_empty() => {
                let message = format!(
                    "storageclass.storage.k8s.io \"{}\" not found",
                    class_of(claim)
                );
                self.warn(claim, "ProvisioningFailed", &message);
            }
            _ => {
                let message =
                    "no persistent volumes available for this claim and no storage class is set";
                self.tell(claim, "FailedBinding", message);
            }
        }
        self.set_claim_phase(claim, "Pending", None).await
    }

    /// A claim that names no class, not even the empty one, gets the default class.
    async fn give_default_class(&self, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        if spec(claim).storage_class_name.is_some() {
            return Ok(false);
        }
        let all = self.classes.list();
        let defaults = all.iter().filter(|class| {
            class
                .annotations()
                .get(DEFAULT_CLASS)
                .is_some_and(|value| value == "true")
        });
        // Of several the youngest.
        let Some(class) = defaults.max_by_key(|class| class.creation_timestamp()) else {
            return Ok(false);
        };
        let change = json!({"spec": {"storageClassName": class.name_any()}});
        let api = self.context.api(&claim.namespace().unwrap_or_default());
        act::merge(&api, claim, change).await.unless_gone()?;
        Ok(true)
    }

    /// Provisioners outside watch for claims with their name.
    async fn ask_provisioner(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Error> {
        if claim.annotations().get(PROVISIONER) != Some(&class.provisioner) {
            let old = "volume.beta.kubernetes.io/storage-provisioner";
            let change = json!({"metadata": {"annotations": {
                PROVISIONER: class.provisioner, old: class.provisioner}}});
            let api = self.context.api(&claim.namespace().unwrap_or_default());
            act::merge(&api, claim, change).await.unless_gone()?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
            class.provisioner
        );
        self.tell(claim, "ExternalProvisioning", &message);
        Ok(())
    }

    async fn bind(
        &self,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let volumes = self.context.cluster_api::<PersistentVolume>();
        let mut volume = volume.clone();
        let uid = claim_ref(&volume).and_then(|reference| reference.uid.clone());
        if uid.as_deref().unwrap_or_default().is_empty() {
            let by_controller = claim_ref(&volume).is_none();
            let mut change = json!({"spec": {"claimRef": reference(claim)}});
            if by_controller {
                change["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
            }
            match act::merge(&volumes, &volume, change).await.unless_gone()? {
                Some(bound) => volume = bound,
                None => return Ok(()),
            }
        }
        self.set_volume_phase(&volume, "Bound").await?;
        let name = volume.name_any();
        let mut claim = claim.clone();
        let mut notes = serde_json::Map::new();
        let named = spec(&claim)
            .volume_name
            .filter(|name| !name.is_empty())
            .is_some();
        if !named {
            notes.insert(BOUND_BY_CONTROLLER.to_owned(), json!("yes"));
        }
        if !named || !claim.annotations().contains_key(BIND_COMPLETED) {
            notes.insert(BIND_COMPLETED.to_owned(), json!("yes"));
            let change = json!({"metadata": {"annotations": notes}, "spec": {"volumeName": name}});
            let api = self.context.api(&claim.namespace().unwrap_or_default());
            match act::merge(&api, &claim, change).await.unless_gone()? {
                Some(bound) => claim = bound,
                None => return Ok(()),
            }
        }
        self.set_claim_phase(&claim, "Bound", Some(&volume)).await
    }

    async fn set_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Error> {
        let old = claim.status.clone().unwrap_or_default();
        let mut new = PersistentVolumeClaimStatus {
            phase: Some(phase.to_owned()),
            ..old.clone()
        };
        match volume.and_then(|volume| volume.spec.as_ref()) {
            // A resize in progress owns the capacity of a bound claim.
            Some(spec) if old.phase.as_deref() != Some("Bound") || old.capacity.is_none() => {
                new.access_modes = spec.access_modes.clone();
                new.capacity = spec.capacity.clone();
            }
            Some(_) => {}
            None if phase == "Pending" => {
                new.access_modes = None;
                new.capacity = None;
            }
            None => {}
        }
        if old == new {
            return Ok(());
        }
        let updated = PersistentVolumeClaim {
            status: Some(new),
            ..claim.clone()
        };
        let api = self.context.api(&claim.namespace().unwrap_or_default());
        act::replace_status(&api, &updated).await.unless_gone()?;
        Ok(())
    }

    async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str) -> Result<(), Error> {
        let old = volume.status.clone().unwrap_or_default();
        if old.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        let new = PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            last_phase_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::now(),
            )),
            message: None,
            reason: None,
        };
        let updated = PersistentVolume {
            status: Some(new),
            ..volume.clone()
        };
        act::replace_status(&self.context.cluster_api(), &updated)
            .await
            .unless_gone()?;
        Ok(())
    }

    async fn volume(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let Some(reference) = claim_ref(volume) else {
            return self.set_volume_phase(volume, "Available").await;
        };
        let uid = reference.uid.as_deref().unwrap_or_default();
        if uid.is_empty() {
            return self.set_volume_phase(volume, "Available").await;
        }
        let key = ObjectKey::new(
            reference.namespace.clone().unwrap_or_default(),
            reference.name.clone().unwrap_or_default(),
        );
        let claim = self
            .claims
            .get_key(&key)
            .filter(|claim| claim.uid().as_deref() == Some(uid));
        if let Some(claim) = claim {
            let named = spec(&claim).volume_name.unwrap_or_default();
            return if named == volume.name_any() {
                self.set_volume_phase(volume, "Bound").await
            } else if named.is_empty() {
                self.bind(volume, &claim).await
            } else {
                Ok(())
            };
        }
        // The cache may only be behind: the server decides that the claim is gone.
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        let live = api.get_opt(&key.name).await;
        let live = crate::framework::During::during(live, "reading PersistentVolumeClaim", &key)?;
        if live.is_some_and(|claim| claim.uid().as_deref() == Some(uid)) {
            return Ok(());
        }
        let phase = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if phase != Some("Failed") {
            self.set_volume_phase(volume, "Released").await?;
        }
        self.reclaim(volume);
        Ok(())
    }

    /// Volumes of provisioners are deleted by these; nobody here can delete any other.
    fn reclaim(&self, volume: &PersistentVolume) {
        let policy = volume
            .spec
            .as_ref()
            .and_then(|s| s.persistent_volume_reclaim_policy.clone());
        if policy.as_deref() == Some("Delete") && !volume.annotations().contains_key(PROVISIONED_BY)
        {
            let message = "error getting deleter volume plugin for volume: no deletable volume plugin matched";
            let kind = EventType::Warning;
            self.context
                .recorder
                .event(EVENT_SOURCE, volume, kind, "VolumeFailedDelete", message);
        }
    }
}
