//! What pools learn of themselves. A node writes only what is not so already, so of many that find
//! the same one writes.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::model::Pool;
use crate::resources::{Acceptance, GROUP, IpPool};

/// Whether each pool can be used.
fn acceptance(pool: &IpPool) -> Acceptance {
    let problem = Pool::read(&pool.name_any(), &pool.spec).err();
    Acceptance {
        accepted: Some(problem.is_none()),
        message: problem.map(|own| own.to_string()),
    }
}

pub(super) async fn pools(client: &Client, all: &[Arc<IpPool>]) {
    for pool in all {
        let wanted = acceptance(pool);
        if pool.status.as_ref() == Some(&wanted) {
            continue;
        }
        let name = pool.name_any();
        let patch = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "IPPool",
            "metadata": { "name": name },
            "status": { "accepted": wanted.accepted, "message": wanted.message },
        });
        let api: Api<IpPool> = Api::all(client.clone());
        let parameters = PatchParams::apply("fairlead-pools").force();
        let patch = Patch::Apply(&patch);
        if let Err(error) = api.patch_status(&name, &parameters, &patch).await {
            tracing::warn!(name, %error, "the status is not written");
        }
    }
}
