//! What the proxy tells people by Events of the API.

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use watch_cache::WatchCache;

use crate::model::ServiceKey;

/// Writes Events, each in a task of its own; an Event that cannot be written is only logged.
pub(crate) struct Events {
    recorder: Recorder,
    node: String,
    services: WatchCache<Service>,
}

impl Events {
    pub(crate) fn new(client: kube::Client, node: &str, services: WatchCache<Service>) -> Self {
        let reporter = Reporter {
            controller: "fairlead-proxy".to_owned(),
            instance: Some(node.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            node: node.to_owned(),
            services,
        }
    }

    /// Somebody else changed our rules.
    pub(crate) fn repaired(&self, mode: crate::Mode) {
        let note = format!("Another program changed the {mode} rules of Services; written anew");
        self.publish("ServiceRulesChanged", "Repair", note, self.node());
    }

    /// Nothing can be written, as where the kernel lacks what a mode needs.
    pub(crate) fn failed(&self, mode: crate::Mode, message: &str) {
        let note = format!("Services cannot be brought into the kernel by {mode}: {message}");
        self.publish("ServiceRulesFailed", "Program", note, self.node());
    }

    fn node(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            // By convention, and what `kubectl describe node` looks for.
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        }
    }

    /// The kernel does not take a Service.
    pub(crate) fn refused(&self, key: &ServiceKey, message: &str) {
        let object = self.services.get(&key.namespace, &key.name);
        let service = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: object.and_then(|object| object.metadata.uid.clone()),
            ..ObjectReference::default()
        };
        let note = format!("The kernel of node {} refused it: {message}", self.node);
        self.publish("ServiceRefused", "Program", note, service);
    }

    fn publish(&self, reason: &str, action: &str, mut note: String, object: ObjectReference) {
        // The API takes no more than 1024 bytes.
        if let Some((end, _)) = note.char_indices().nth(250) {
            note.truncate(end);
        }
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &object).await {
                tracing::debug!(%error, reason = event.reason, "an Event could not be written");
            }
        });
    }
}
