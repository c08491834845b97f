//! Tells authors of policies what of them cannot be enforced: in the status of a
//! ClusterNetworkPolicy, by an Event about a NetworkPolicy, which has none.
//!
//! Runs once in a cluster, beside the controllers: nodes do not write about policies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use watch_cache::{Change, WatchCaches};

use crate::api::{self, ClusterNetworkPolicy};
use crate::model::ObjectName;

/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(30);
const ACCEPTED: &str = "Accepted";

/// Writes until `shutdown`. The cluster has to know ClusterNetworkPolicy, see [`crate::install`].
pub async fn report(client: Client, caches: WatchCaches, shutdown: CancellationToken) {
    let cluster_policies = caches.of::<ClusterNetworkPolicy>();
    let policies = caches.of::<NetworkPolicy>();
    let mut changes = futures::stream::select(
        cluster_policies.updates(of_cluster, || None),
        policies.updates(of_namespace, || None),
    );
    let mut reporter = Reporter {
        client,
        told: BTreeMap::new(),
        later: Vec::new(),
    };
    // What was there before the first change that is told.
    let mut all = true;
    loop {
        if std::mem::take(&mut all) {
            for policy in cluster_policies.list() {
                reporter.report(Changed::OfCluster(policy)).await;
            }
            for policy in policies.list() {
                reporter.report(Changed::OfNamespace(policy)).await;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = changes.next() => match change {
                Some(Some(changed)) => reporter.report(changed).await,
                Some(None) => all = true,
                None => return,
            },
            () = tokio::time::sleep(RETRY), if !reporter.later.is_empty() => {
                for changed in std::mem::take(&mut reporter.later) {
                    reporter.report(changed).await;
                }
            }
        }
    }
}

enum Changed {
    OfCluster(Arc<ClusterNetworkPolicy>),
    OfNamespace(Arc<NetworkPolicy>),
    Gone(ObjectName),
}

impl Changed {
    fn name(&self) -> ObjectName {
        match self {
            Self::OfCluster(policy) => api::name(&policy.metadata),
            Self::OfNamespace(policy) => api::name(&policy.metadata),
            Self::Gone(name) => name.clone(),
        }
    }
}

fn of_cluster(change: Change<ClusterNetworkPolicy>) -> Option<Changed> {
    Some(match change {
        Change::Applied { new, .. } => Changed::OfCluster(new),
        // A status goes with its object.
        Change::Deleted { old } => Changed::Gone(api::name(&old.metadata)),
    })
}

fn of_namespace(change: Change<NetworkPolicy>) -> Option<Changed> {
    Some(match change {
        Change::Applied { new, .. } => Changed::OfNamespace(new),
        Change::Deleted { old } => Changed::Gone(api::name(&old.metadata)),
    })
}

struct Reporter {
    client: Client,
    /// What was told about a policy is told once.
    told: BTreeMap<ObjectName, Vec<String>>,
    /// What could not be written.
    later: Vec<Changed>,
}

impl Reporter {
    async fn report(&mut self, changed: Changed) {
        let name = changed.name();
        self.later.retain(|older| older.name() != name);
        let written = match &changed {
            Changed::OfCluster(policy) => write_status(&self.client, policy).await,
            Changed::OfNamespace(policy) => self.tell(policy).await,
            Changed::Gone(name) => {
                self.told.remove(name);
                Ok(())
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, "what of a policy cannot be enforced is told later");
            self.later.push(changed);
        }
    }

    async fn tell(&mut self, policy: &NetworkPolicy) -> Result<(), kube::Error> {
        let (_, faults) = api::policy(policy);
        let name = api::name(&policy.metadata);
        if faults.is_empty() {
            self.told.remove(&name);
        } else if self.told.get(&name) != Some(&faults) {
            write_event(&self.client, policy, &faults).await?;
            self.told.insert(name, faults);
        }
        Ok(())
    }
}

async fn write_status(client: &Client, policy: &ClusterNetworkPolicy) -> Result<(), kube::Error> {
    let (_, faults) = api::cluster_policy(policy);
    let Some(conditions) = conditions(policy, &faults, &now()) else {
        return Ok(());
    };
    let api: Api<ClusterNetworkPolicy> = Api::all(client.clone());
    let (_, name) = api::name(&policy.metadata);
    let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    match api
        .patch_status(&name, &PatchParams::default(), &patch)
        .await
    {
        // It went meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// The conditions with ours as it has to be; `None` where it is so.
fn conditions(policy: &ClusterNetworkPolicy, faults: &[String], now: &str) -> Option<Vec<Value>> {
    let generation = policy.metadata.generation.unwrap_or_default();
    let (status, reason, message) = match faults {
        [] => ("True", "Enforced", "every rule is enforced".to_owned()),
        faults => (
            "False",
            "NotUnderstood",
            format!("fails closed: {}", faults.join("; ")),
        ),
    };
    let mut conditions = policy.status.conditions.clone();
    let old = conditions.iter().position(|own| own["type"] == ACCEPTED);
    let since = match old.map(|at| conditions.remove(at)) {
        Some(old)
            if old["observedGeneration"] == generation
                && old["status"] == status
                && old["message"] == message.as_str() =>
        {
            return None;
        }
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    conditions.push(json!({
        "type": ACCEPTED,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }));
    Some(conditions)
}

async fn write_event(
    client: &Client,
    policy: &NetworkPolicy,
    faults: &[String],
) -> Result<(), kube::Error> {
    let (namespace, name) = api::name(&policy.metadata);
    let now = now();
    let event: Event = serde_json::from_value(json!({
        "metadata": { "generateName": format!("{name}."), "namespace": namespace },
        "involvedObject": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "namespace": namespace,
            "name": name,
            "uid": policy.metadata.uid,
        },
        "reason": "NotEnforced",
        "message": format!("allows nothing: {}", faults.join("; ")),
        "type": "Warning",
        "source": { "component": "fairlead-policy" },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }))
    .map_err(kube::Error::SerdeError)?;
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    api.create(&PostParams::default(), &event).await.map(drop)
}

fn now() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(conditions: Value) -> ClusterNetworkPolicy {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "generation": 3},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn the_status_is_written_once_and_others_conditions_stay() {
        let foreign = json!({"type": "Other", "status": "True"});
        let first = conditions(&policy(json!([foreign])), &[], "t1").unwrap();
        assert_eq!(first[0], foreign);
        assert_eq!(first[1]["status"], "True");
        assert_eq!(conditions(&policy(json!(first)), &[], "t2"), None);
        let faults = ["x".to_owned()];
        let second = conditions(&policy(json!(first)), &faults, "t2").unwrap();
        assert_eq!(
            (&second[1]["status"], &second[1]["lastTransitionTime"]),
            (&json!("False"), &json!("t2"))
        );
        let faults = ["y".to_owned()];
        let third = conditions(&policy(json!(second)), &faults, "t3").unwrap();
        assert_eq!(
            third[1]["lastTransitionTime"], "t2",
            "the status did not change"
        );
    }
}
