//! Events: what the kubelet tells people of its work.

use events::{EventType, Occurrence, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;

/// Takes events and writes them by and by. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    events: events::Recorder,
    node: String,
}

impl Recorder {
    /// Starts the task that writes; it ends with the last recorder.
    pub(crate) fn start(client: Client, node_name: &str) -> Self {
        let (events, write) = events::Recorder::new(client);
        tokio::spawn(write);
        Self {
            events,
            node: node_name.to_owned(),
        }
    }

    /// Something happened to a pod, or to one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut object = reference(pod);
        object.field_path = container.map(|name| field_path(pod, name));
        self.events.record(Occurrence {
            component: "kubelet",
            host: Some(self.node.clone()),
            object,
            kind,
            reason,
            message: message.into(),
            at: Timestamp::now(),
        });
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
