use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the node's Lease four times in its duration: the sign of life that is cheap.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let seconds = u64::try_from(context.config.lease_seconds)
        .unwrap_or(40)
        .max(4);
    let period = Duration::from_secs(seconds) / 4;
    let mut failures = 0_u32;
    loop {
        let pause = match renew(&context).await {
            Ok(()) => {
                failures = 0;
                period
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "the node's lease was not renewed");
                Duration::from_millis(200 << failures.min(5)).min(period)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn renew(context: &Context) -> Result<(), kube::Error> {
    let api = Api::<Lease>::namespaced(context.client.clone(), NAMESPACE);
    let name = &context.config.node_name;
    let now = MicroTime(Timestamp::now());
    // The owner makes the Lease go with its Node. The Lease can be older than the Node, which
    // is why every renewal says it.
    let owner = context
        .node_object()
        .and_then(|node| owner(name, node.metadata.uid.clone()?));
    let patch = renewal(name, context.config.lease_seconds, &now, owner.as_ref());
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(context.config.lease_seconds),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}

fn owner(node: &str, uid: String) -> Option<OwnerReference> {
    (!uid.is_empty()).then(|| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid,
        ..OwnerReference::default()
    })
}

fn renewal(
    node: &str,
    seconds: i32,
    now: &MicroTime,
    owner: Option<&OwnerReference>,
) -> serde_json::Value {
    let mut patch = json!({"spec": {
        "holderIdentity": node,
        "leaseDurationSeconds": seconds,
        "renewTime": now,
    }});
    if let Some(owner) = owner {
        patch["metadata"] = json!({"ownerReferences": [owner]});
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_names_the_node_as_the_owner_once_there_is_one() {
        let now = MicroTime(Timestamp::UNIX_EPOCH);
        let patch = renewal("n", 40, &now, owner("n", "u".to_owned()).as_ref());
        assert_eq!(
            patch["metadata"]["ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}])
        );
        assert_eq!(patch["spec"]["leaseDurationSeconds"], 40);
        assert_eq!(owner("n", String::new()), None);
        assert!(renewal("n", 40, &now, None).get("metadata").is_none());
    }
}
