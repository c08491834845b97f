//! What the scheduler writes: bindings, pod conditions, evictions, events.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde_json::json;
use watch_cache::{ObjectKey, WatchCache};

use crate::pod::PodInfo;
use crate::preemption::{Preemption, REASON};

/// Who asked for a volume's node, read by provisioners.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// How long a claim may take to bind before the pod is tried elsewhere.
const CLAIM_WAIT: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("scheduler: {operation} of {object}: {source}")]
    Api {
        operation: &'static str,
        object: ObjectKey,
        source: Box<kube::Error>,
    },
    #[error("scheduler: claim {claim} was not bound within ten minutes")]
    ClaimTimeout { claim: ObjectKey },
}

fn failed(operation: &'static str, object: &ObjectKey) -> impl FnOnce(kube::Error) -> WriteError {
    let object = object.clone();
    move |source| WriteError::Api {
        operation,
        object,
        source: Box::new(source),
    }
}

/// A pod that is gone, or another of its name, is as good as evicted.
fn unless_gone(result: Result<(), WriteError>) -> Result<(), WriteError> {
    match result {
        Err(WriteError::Api { source, .. }) if is_gone(&source) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

/// What becomes of the node that a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nomination {
    Unchanged,
    To(String),
    /// It waits for none any more.
    Over,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    recorder: Recorder,
    claims: WatchCache<PersistentVolumeClaim>,
}

impl Writer {
    pub fn new(client: Client, name: &str, claims: WatchCache<PersistentVolumeClaim>) -> Self {
        let reporter = Reporter {
            controller: name.to_owned(),
            instance: Some(name.to_owned()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            claims,
        }
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Tells the claims that wait for it which node it will be, waits until they are bound, and
    /// binds the pod.
    pub async fn bind(
        &self,
        pod: &PodInfo,
        node: &str,
        waiting_claims: &[ObjectKey],
    ) -> Result<(), WriteError> {
        for key in waiting_claims {
            self.select_node(key, node).await?;
        }
        for key in waiting_claims {
            self.wait_bound(key).await?;
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..Default::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..Default::default()
            },
        };
        let _: serde_json::Value = self
            .pods(&pod.key.namespace)
            .create_subresource("binding", &pod.key.name, &PostParams::default(), &binding)
            .await
            .map_err(failed("binding", &pod.key))?;
        let note = format!("Successfully assigned {} to {node}", pod.key);
        self.event(pod, EventType::Normal, "Scheduled", "Binding", note)
            .await;
        Ok(())
    }

    async fn select_node(&self, key: &ObjectKey, node: &str) -> Result<(), WriteError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(failed("selecting the node", key))?;
        Ok(())
    }

    async fn wait_bound(&self, key: &ObjectKey) -> Result<(), WriteError> {
        let mut changes = self.claims.subscribe();
        let is_bound = || {
            let claim = self.claims.get_key(key);
            claim
                .and_then(|c| c.status.as_ref()?.phase.clone())
                .as_deref()
                == Some("Bound")
        };
        let wait = async {
            while !is_bound() {
                // A lag or an end of the stream is only another occasion to look.
                let _ = changes.recv().await;
            }
        };
        tokio::time::timeout(CLAIM_WAIT, wait)
            .await
            .map_err(|_| WriteError::ClaimTimeout { claim: key.clone() })
    }

    /// Says on the pod and in an event why it has no node.
    pub async fn report_failure(
        &self,
        pod: &PodInfo,
        message: String,
        nomination: Nomination,
    ) -> Result<(), WriteError> {
        self.event(
            pod,
            EventType::Warning,
            "FailedScheduling",
            "Scheduling",
            message.clone(),
        )
        .await;
        let condition = unschedulable(pod, message);
        if nomination == Nomination::Unchanged && has_condition(pod, &condition) {
            return Ok(());
        }
        let mut status = json!({"conditions": [condition]});
        match nomination {
            Nomination::Unchanged => {}
            Nomination::To(node) => status["nominatedNodeName"] = json!(node),
            Nomination::Over => status["nominatedNodeName"] = json!(null),
        }
        self.patch_status(&pod.key, status).await
    }

    /// The pod no longer waits for room on a node.
    pub async fn end_nomination(&self, pod: &PodInfo) -> Result<(), WriteError> {
        let status = json!({"nominatedNodeName": null});
        unless_gone(self.patch_status(&pod.key, status).await)
    }

    async fn patch_status(
        &self,
        key: &ObjectKey,
        status: serde_json::Value,
    ) -> Result<(), WriteError> {
        let patch = Patch::Strategic(json!({"status": status}));
        self.pods(&key.namespace)
            .patch_status(&key.name, &PatchParams::default(), &patch)
            .await
            .map_err(failed("writing the status", key))?;
        Ok(())
    }

    /// Evicts the victims of a preemption.
    pub async fn evict(&self, by: &PodInfo, preemption: &Preemption) -> Result<(), WriteError> {
        for victim in preemption
            .victims
            .iter()
            .filter(|victim| !victim.is_terminating())
        {
            let message = format!(
                "{}: preempting to accommodate a higher priority pod",
                by.key.name
            );
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": REASON,
                "message": message,
                "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
            });
            let told = self.patch_status(&victim.key, json!({"conditions": [condition]}));
            unless_gone(told.await)?;
            let preconditions = Preconditions {
                uid: Some(victim.uid.clone()),
                resource_version: None,
            };
            let parameters = DeleteParams {
                preconditions: Some(preconditions),
                ..Default::default()
            };
            let deleted = self
                .pods(&victim.key.namespace)
                .delete(&victim.key.name, &parameters)
                .await
                .map(drop)
                .map_err(failed("evicting", &victim.key));
            unless_gone(deleted)?;
            let note = format!("Preempted by pod {} on node {}", by.uid, preemption.node);
            self.event(victim, EventType::Normal, "Preempted", "Preempting", note)
                .await;
        }
        Ok(())
    }

    /// An event that cannot be written is only logged: nothing depends on it.
    async fn event(
        &self,
        pod: &PodInfo,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let reference = pod.pod.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::debug!(pod = %pod.key, %error, "an event was not written");
        }
    }
}

fn unschedulable(pod: &PodInfo, message: String) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message),
        observed_generation: pod.pod.metadata.generation,
        last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            k8s_openapi::jiff::Timestamp::now(),
        )),
        ..Default::default()
    }
}

fn has_condition(pod: &PodInfo, wanted: &PodCondition) -> bool {
    let conditions = pod
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == wanted.type_
            && condition.status == wanted.status
            && condition.reason == wanted.reason
            && condition.message == wanted.message
    })
}
