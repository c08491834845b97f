//! Writes mirrors of static pods to the API and takes them away, in tasks of their own.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::context::Context;
use crate::static_pods;

/// Between two tries, while the API or the Node object is not there.
const PAUSE: Duration = Duration::from_secs(3);
const TRIES: u32 = 100;

fn api(context: &Context, pod: &Pod) -> Api<Pod> {
    let namespace = pod.namespace().unwrap_or_default();
    Api::namespaced(context.client.clone(), &namespace)
}

/// Makes the mirror of a static pod. One that is there already is the manager's business.
pub(crate) fn create(context: Arc<Context>, pod: Arc<Pod>) {
    tokio::spawn(async move {
        for _ in 0..TRIES {
            if let Some(node) = context.node_object() {
                let mirror = static_pods::mirror(&pod, &node);
                let made = api(&context, &pod)
                    .create(&PostParams::default(), &mirror)
                    .await;
                match made {
                    Ok(_) => return,
                    Err(kube::Error::Api(status)) if status.code == 409 => return,
                    Err(error) => {
                        tracing::debug!(pod = pod.name_any(), %error, "no mirror of a static pod");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
            // Its manifest may be gone by now.
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            if !context.pods.lock().contains_key(uid) {
                return;
            }
        }
        tracing::warn!(
            pod = pod.name_any(),
            "the API takes no mirror of a static pod"
        );
    });
}

/// Deletes a mirror that shows nothing any more.
pub(crate) fn remove(context: Arc<Context>, mirror: Arc<Pod>) {
    tokio::spawn(async move {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: mirror.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        for _ in 0..TRIES {
            match api(&context, &mirror)
                .delete(&mirror.name_any(), &params)
                .await
            {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::debug!(pod = mirror.name_any(), %error, "a mirror was not deleted");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}
