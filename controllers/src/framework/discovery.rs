//! The kinds that the API serves, custom ones included.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::discovery::Scope;
use kube::discovery::{ApiResource, Discovery, verbs};

use super::error::{During, Error};

/// A kind whose objects can be listed.
#[derive(Debug, Clone)]
pub struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub operations: Vec<String>,
}

impl Kind {
    /// The one kind that is known without asking.
    pub fn pods() -> Self {
        Self {
            resource: ApiResource::erase::<Pod>(&()),
            namespaced: true,
            operations: ["list", "delete", "deletecollection"]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    pub fn supports(&self, verb: &str) -> bool {
        self.operations.iter().any(|operation| operation == verb)
    }
}

/// Every kind that can be listed, in its most stable version, in a fixed order.
pub async fn kinds(client: &Client) -> Result<Vec<Kind>, Error> {
    let discovered = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovered) => discovered,
        // Servers before 1.26 know only one request for each group.
        Err(_) => Discovery::new(client.clone())
            .run()
            .await
            .during("discovering", "the API")?,
    };
    let mut kinds: Vec<Kind> = discovered
        .groups()
        .flat_map(|group| group.resources_by_stability())
        .filter(|(_, capabilities)| capabilities.supports_operation(verbs::LIST))
        .map(|(resource, capabilities)| Kind {
            resource,
            namespaced: capabilities.scope == Scope::Namespaced,
            operations: capabilities.operations,
        })
        .collect();
    kinds.sort_by(|a, b| {
        let key = |kind: &Kind| (kind.resource.group.clone(), kind.resource.plural.clone());
        key(a).cmp(&key(b))
    });
    Ok(kinds)
}
