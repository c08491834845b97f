//! Tells authors of policies what of them cannot be enforced: in the status of a
//! ClusterNetworkPolicy, by an Event about a NetworkPolicy, which has none.
//!
//! Runs once in a cluster, beside the controllers: nodes do not write about policies.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use crate::api::{self, ClusterNetworkPolicy};
use crate::model::ObjectName;

/// What could not be written is written then.
const RESYNC: Duration = Duration::from_secs(30);
const ACCEPTED: &str = "Accepted";

/// Writes until `shutdown`. The cluster has to know ClusterNetworkPolicy, see [`crate::install`].
pub async fn report(client: Client, caches: WatchCaches, shutdown: CancellationToken) {
    let cluster_policies = caches.of::<ClusterNetworkPolicy>();
    let policies = caches.of::<NetworkPolicy>();
    let (mut cluster_changes, mut changes) = (cluster_policies.subscribe(), policies.subscribe());
    // What was told about a policy is told once.
    let mut told: BTreeMap<ObjectName, Vec<String>> = BTreeMap::new();
    loop {
        for policy in cluster_policies.list() {
            if let Err(error) = write_status(&client, &policy).await {
                tracing::warn!(%error, "the status of a ClusterNetworkPolicy is written later");
            }
        }
        let listed = policies.list();
        told.retain(|name, _| listed.iter().any(|own| api::name(&own.metadata) == *name));
        for policy in listed {
            let (_, faults) = api::policy(&policy);
            let name = api::name(&policy.metadata);
            if faults.is_empty() || told.get(&name) == Some(&faults) {
                continue;
            }
            match write_event(&client, &policy, &faults).await {
                Ok(()) => drop(told.insert(name, faults)),
                Err(error) => {
                    tracing::warn!(%error, "an Event about a NetworkPolicy is written later")
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = cluster_changes.recv() => if matches!(changed, Err(RecvError::Closed)) { return },
            changed = changes.recv() => if matches!(changed, Err(RecvError::Closed)) { return },
            () = tokio::time::sleep(RESYNC) => {}
        }
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
