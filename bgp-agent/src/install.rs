//! Brings the resources' definitions into a cluster.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::resources::definitions;

/// A server that has just started may not take them yet: how soon it is tried again, at first and
/// at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Applies the definitions, again and again until they are there or `shutdown` comes.
pub async fn install(client: Client, shutdown: CancellationToken) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let parameters = PatchParams::apply("fairlead").force();
    for definition in definitions() {
        let name = definition.name_any();
        let mut wait = RETRY_FIRST;
        loop {
            let patch = Patch::Apply(&definition);
            let Err(error) = api.patch(&name, &parameters, &patch).await else {
                break;
            };
            tracing::warn!(name, %error, "a definition is not taken, it is tried again");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MOST),
            }
        }
    }
}
