//! Attaches the volumes of storage plugins to the nodes of the pods that use them, and detaches
//! them when no pod does and the node's kubelet has let go.
//!
//! What is wanted is a VolumeAttachment; the plugin's own attacher does the work and says so in
//! its status. A node's `volumesAttached` tells its kubelet, `volumesInUse` is the kubelet's word
//! that something is mounted: nothing of that is detached before the kubelet has taken it down,
//! unless the node is gone, marked as out of service, or unwell for six minutes.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use watch_cache::{Change, Index, ObjectKey, WatchCache};

use self::plan::{Attachment, Hold, Op, Volume, plan};
use super::protection::claims_of;
use crate::framework::pods::{is_terminal, node_name};
use crate::framework::{Context, During, Error, EventType, Outcome, Reconciler, Tolerate, act};

const NAME: &str = "persistentvolume-attach-detach-controller";
const EVENT_SOURCE: &str = "attachdetach-controller";
/// On nodes whose kubelet leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a kubelet that does not answer keeps a volume that no pod wants.
const PATIENCE: Duration = Duration::from_secs(360);

pub(crate) fn start(context: &Context) {
    let attacher = Attacher {
        context: context.clone(),
        claims: context.caches.of(),
        volumes: context.caches.of(),
        nodes: context.caches.of(),
        drivers: context.caches.of(),
        users: context.caches.of::<Pod>().index("used claims", |pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let names = claims_of(pod).into_iter();
            names.map(|name| format!("{namespace}/{name}")).collect()
        }),
        of_volume: context
            .caches
            .of::<VolumeAttachment>()
            .index("attached volume", |a| volume_of(a).into_iter().collect()),
        of_node: context
            .caches
            .of::<VolumeAttachment>()
            .index("attached node", |a| vec![a.spec.node_name.clone()]),
        unwanted: Mutex::default(),
    };
    let (claims, volumes) = (attacher.claims.clone(), attacher.volumes.clone());
    let of_node = attacher.of_node.clone();
    context
        .controller(NAME)
        .watch(&attacher.volumes, |change| [change.key().name])
        .watch(&attacher.claims, |change| volume_name(change.object()))
        .watch(&context.caches.of::<Pod>(), move |change| {
            let pod = change.object();
            let namespace = pod.namespace().unwrap_or_default();
            let used = claims_of(pod).into_iter();
            used.filter_map(|name| volume_name(claims.get(&namespace, &name)?.as_ref()))
                .collect::<Vec<_>>()
        })
        .watch(&context.caches.of::<VolumeAttachment>(), |change| {
            volume_of(change.object())
        })
        .watch(&attacher.drivers, move |change| {
            let driver = change.key().name;
            let all = volumes.list().into_iter();
            all.filter(|volume| csi(volume).is_some_and(|csi| csi.driver == driver))
                .map(|volume| volume.name_any())
                .collect::<Vec<_>>()
        })
        .watch(&attacher.nodes, move |change| {
            let names = if matters(change) {
                of_node.get(&change.key().name)
            } else {
                Vec::new()
            };
            names
                .iter()
                .filter_map(|attachment| volume_of(attachment))
                .collect::<Vec<_>>()
        })
        // One worker: a node's list of attached volumes is written as a whole.
        .run(1, attacher);
}

fn volume_of(attachment: &VolumeAttachment) -> Option<String> {
    attachment.spec.source.persistent_volume_name.clone()
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.spec.as_ref()?.volume_name.clone();
    name.filter(|name| !name.is_empty())
}

fn csi(
    volume: &PersistentVolume,
) -> Option<&k8s_openapi::api::core::v1::CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

fn in_use(node: &Node) -> &[String] {
    let status = node.status.as_ref();
    let names = status.and_then(|status| status.volumes_in_use.as_deref());
    names.unwrap_or_default()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether a node's change says something about what may be detached from it.
fn matters(change: &Change<Node>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => {
            in_use(old) != in_use(new)
                || is_ready(old) != is_ready(new)
                || is_out_of_service(old) != is_out_of_service(new)
        }
        _ => true,
    }
}

struct Attacher {
    context: Context,
    claims: WatchCache<PersistentVolumeClaim>,
    volumes: WatchCache<PersistentVolume>,
    nodes: WatchCache<Node>,
    drivers: WatchCache<CSIDriver>,
    /// Pods by `NAMESPACE/CLAIM`.
    users: Index<Pod>,
    of_volume: Index<VolumeAttachment>,
    of_node: Index<VolumeAttachment>,
    /// Since when a node keeps a volume that it should not, by volume and node.
    unwanted: Mutex<BTreeMap<(String, String), Instant>>,
}

impl Reconciler for Attacher {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get("", name) else {
            return Ok(Outcome::Done);
        };
        let Some(facts) = self.facts(&volume) else {
            return Ok(Outcome::Done);
        };
        let users = self.users(&volume);
        let wanted: BTreeSet<String> = users.iter().map(|pod| node_name(pod).to_owned()).collect();
        let found = self.of_volume.get(name);
        let attachments: Vec<Attachment> = found.iter().map(seen).collect();
        let hold = |node: &str| self.hold(&facts, name, node);
        let ops = plan(&facts, &wanted, &attachments, hold);
        let waiting: BTreeSet<&String> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Await { node } => Some(node),
                _ => None,
            })
            .collect();
        self.unwanted
            .lock()
            .retain(|(volume, node), _| volume != name || waiting.contains(node));
        for op in &ops {
            self.act(op, name, &facts, &users, &found).await?;
        }
        for attachment in &found {
            self.tell_failure(attachment, name, &users);
            let going =
                |op: &Op| matches!(op, Op::Detach { name, .. } if *name == attachment.name_any());
            if !ops.iter().any(going) {
                self.report(&attachment.spec.node_name, "", name, &users)
                    .await?;
            }
        }
        Ok(Outcome::after(
            (!waiting.is_empty()).then_some(PATIENCE / 6),
        ))
    }
}

fn seen(attachment: &Arc<VolumeAttachment>) -> Attachment {
    Attachment {
        name: attachment.name_any(),
        node: attachment.spec.node_name.clone(),
        going: attachment.metadata.deletion_timestamp.is_some(),
    }
}

impl Attacher {
    fn facts(&self, volume: &PersistentVolume) -> Option<Volume> {
        let source = csi(volume)?;
        let object = self.drivers.get("", &source.driver);
        let required = object.and_then(|object| object.spec.attach_required);
        let spec = volume.spec.as_ref();
        let modes = spec.and_then(|spec| spec.access_modes.as_deref());
        let shared = |mode: &String| mode == "ReadWriteMany" || mode == "ReadOnlyMany";
        Some(Volume {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            attaches: required != Some(false),
            shared: modes.unwrap_or_default().iter().any(shared),
        })
    }

    /// The pods that use the volume, each on a node that leaves attaching to us.
    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
        let Some(reference) = reference else {
            return Vec::new();
        };
        let key = ObjectKey::new(
            reference.namespace.unwrap_or_default(),
            reference.name.unwrap_or_default(),
        );
        let bound = self.claims.get_key(&key).is_some_and(|claim| {
            claim.metadata.uid == reference.uid
                && volume_name(&claim).as_deref() == volume.metadata.name.as_deref()
        });
        if !bound {
            return Vec::new();
        }
        let uses = |pod: &Arc<Pod>| {
            let node = self.nodes.get("", node_name(pod));
            let managed = |node: Arc<Node>| {
                node.annotations()
                    .get(MANAGED)
                    .is_some_and(|word| word == "true")
            };
            !is_terminal(pod) && node.is_some_and(managed)
        };
        let mut users = self.users.get(&key.to_string());
        users.retain(uses);
        users
    }

    fn hold(&self, facts: &Volume, volume: &str, node: &str) -> Hold {
        let Some(object) = self.nodes.get("", node) else {
            return Hold::Free;
        };
        if is_out_of_service(&object) || !in_use(&object).contains(&facts.on_nodes()) {
            return Hold::Free;
        }
        let key = (volume.to_owned(), node.to_owned());
        let since = *self.unwanted.lock().entry(key).or_insert_with(Instant::now);
        match is_ready(&object) || since.elapsed() < PATIENCE {
            true => Hold::Mounted,
            false => Hold::Free,
        }
    }

    async fn act(
        &self,
        op: &Op,
        volume: &str,
        facts: &Volume,
        users: &[Arc<Pod>],
        found: &[Arc<VolumeAttachment>],
    ) -> Result<(), Error> {
        match op {
            Op::Await { .. } => Ok(()),
            Op::Attach { node } => self.attach(volume, facts, node).await,
            Op::Detach { name, node } => {
                // The node has to know first: its kubelet must not mount what is about to go.
                self.report(node, name, volume, users).await?;
                let Some(attachment) = found.iter().find(|a| a.name_any() == *name) else {
                    return Ok(());
                };
                let api = self.context.cluster_api();
                act::delete(&api, attachment.as_ref(), DeleteParams::default()).await?;
                Ok(())
            }
            Op::Refuse { node } => {
                let message = refusal(volume, node, users);
                let reason = "FailedAttachVolume";
                self.tell(users, node, EventType::Warning, reason, &message);
                Ok(())
            }
        }
    }

    async fn attach(&self, volume: &str, facts: &Volume, node: &str) -> Result<(), Error> {
        let attachment = VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(facts.attachment(node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: facts.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.to_owned()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        match act::create(&self.context.cluster_api(), &attachment).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes into the node's status what is attached to it, without one attachment, and tells
    /// the pods when their volume is new there.
    async fn report(
        &self,
        node: &str,
        without: &str,
        volume: &str,
        users: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let Some(object) = self.nodes.get("", node) else {
            return Ok(());
        };
        let attachments = self.of_node.get(node);
        let attached = attachments.iter().filter(|attachment| {
            let done = attachment.status.as_ref().is_some_and(|s| s.attached);
            let going = attachment.metadata.deletion_timestamp.is_some();
            done && !going && attachment.name_any() != without
        });
        let named = |attachment: &Arc<VolumeAttachment>| {
            let name = volume_of(attachment)?;
            let facts = self.facts(self.volumes.get("", &name)?.as_ref())?;
            Some((facts.on_nodes(), name))
        };
        let names: BTreeMap<String, String> = attached.filter_map(named).collect();
        let status = object.status.as_ref();
        let told = status.and_then(|status| status.volumes_attached.as_deref());
        let told: BTreeSet<&String> = told.unwrap_or_default().iter().map(|v| &v.name).collect();
        if names.keys().collect::<BTreeSet<_>>() == told {
            return Ok(());
        }
        if names
            .iter()
            .any(|(name, of)| of == volume && !told.contains(name))
        {
            let message = format!("AttachVolume.Attach succeeded for volume \"{volume}\" ");
            let reason = "SuccessfulAttachVolume";
            self.tell(users, node, EventType::Normal, reason, &message);
        }
        let list: Vec<_> = names
            .keys()
            .map(|name| json!({"name": name, "devicePath": ""}))
            .collect();
        let change = json!({"status": {"volumesAttached": list}});
        let written = self
            .context
            .cluster_api::<Node>()
            .patch_status(node, &PatchParams::default(), &Patch::Merge(&change))
            .await;
        written
            .during("telling the attached volumes to", format!("Node {node}"))
            .unless_gone()?;
        Ok(())
    }

    fn tell_failure(&self, attachment: &VolumeAttachment, volume: &str, users: &[Arc<Pod>]) {
        let status = attachment.status.as_ref().filter(|status| !status.attached);
        let error = status.and_then(|status| status.attach_error.as_ref());
        if let Some(text) = error.and_then(|error| error.message.as_ref()) {
            let message = format!("AttachVolume.Attach failed for volume \"{volume}\" : {text}");
            let node = &attachment.spec.node_name;
            let reason = "FailedAttachVolume";
            self.tell(users, node, EventType::Warning, reason, &message);
        }
    }

    fn tell(
        &self,
        users: &[Arc<Pod>],
        node: &str,
        kind: EventType,
        reason: &'static str,
        message: &str,
    ) {
        for pod in users.iter().filter(|pod| node_name(pod) == node) {
            let recorder = &self.context.recorder;
            recorder.event(EVENT_SOURCE, pod.as_ref(), kind, reason, message);
        }
    }
}

/// Why pods of a node wait, with the pods that have the volume elsewhere.
fn refusal(volume: &str, node: &str, users: &[Arc<Pod>]) -> String {
    let others: Vec<String> = users
        .iter()
        .filter(|pod| node_name(pod) != node)
        .map(|pod| pod.name_any())
        .collect();
    let detail = if others.is_empty() {
        "Volume is already exclusively attached to one node and can't be attached to another"
            .to_owned()
    } else {
        format!("Volume is already used by pod(s) {}", others.join(", "))
    };
    format!("Multi-Attach error for volume \"{volume}\" {detail}")
}
