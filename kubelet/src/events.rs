//! Events: what the kubelet tells people of its work.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped rather than slowing the work.
const QUEUE: usize = 1000;
/// Different events that are remembered to count their repetitions.
const REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

#[derive(Debug, Clone)]
struct Note {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events and writes them by and by. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Note>,
}

impl Recorder {
    /// Starts the task that writes; it ends with the last recorder.
    pub(crate) fn start(client: Client, node_name: &str) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, node_name.to_owned(), notes));
        Self { queue }
    }

    /// Something happened to a pod, or to one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| field_path(pod, name)),
        };
        self.record(about, severity, reason, message.into());
    }

    fn record(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let note = Note {
            about,
            severity,
            reason,
            message,
            at: Timestamp::now(),
        };
        if self.queue.try_send(note).is_err() {
            tracing::warn!(reason, "an event was dropped: too many are waiting");
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    use crate::pod::containers::{Kind, find};
    let list = match find(pod, container).map(|spec| spec.kind) {
        Some(Kind::Init | Kind::Sidecar) => "initContainers",
        Some(Kind::Ephemeral) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

type Key = (String, Option<String>, Severity, &'static str, String);

fn key(note: &Note) -> Key {
    let about = &note.about;
    let uid = about
        .uid
        .clone()
        .or_else(|| about.name.clone())
        .unwrap_or_default();
    (
        uid,
        about.field_path.clone(),
        note.severity,
        note.reason,
        note.message.clone(),
    )
}

struct Written {
    name: String,
    count: i32,
}

async fn write_all(client: Client, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut written: BTreeMap<Key, Written> = BTreeMap::new();
    while let Some(note) = notes.recv().await {
        let namespace = note
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let key = key(&note);
        if let Some(before) = written.get_mut(&key) {
            before.count += 1;
            let patch = json!({"count": before.count, "lastTimestamp": Time(note.at)});
            let patched = api
                .patch(&before.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => continue,
                // The event has expired: it is written anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::debug!(%error, "an event was not counted");
                    continue;
                }
            }
        }
        if written.len() >= REMEMBERED {
            written.clear();
        }
        let event = event(&note, &node, &namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                written.insert(key, Written { name, count: 1 });
            }
            // The namespace is going away, or the API is: an event is not worth a retry.
            Err(error) => tracing::debug!(%error, reason = note.reason, "an event was not written"),
        }
    }
}

fn event(note: &Note, node: &str, namespace: &str) -> Event {
    let subject = note.about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{subject}.{:x}", note.at.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: note.about.clone(),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(match note.severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        count: Some(1),
        ..Event::default()
    }
}
