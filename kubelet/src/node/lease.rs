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
    let patch = json!({"spec": {
        "holderIdentity": name,
        "leaseDurationSeconds": context.config.lease_seconds,
        "renewTime": now,
    }});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    // The owner makes the Lease go with its Node.
    let owner = context.node_object().map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    });
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
