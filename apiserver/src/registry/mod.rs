//! The generic pipeline: one path for every kind and verb.
//!
//! [`Call`] is one request; `verbs/` has its handlers. [`cache`] holds the objects, [`Catalog`]
//! the resources, [`strategy`] what differs between kinds and data cannot say, [`kinds`] what
//! the `schema` crate knows.

mod alloc;
pub mod cache;
mod call;
mod catalog;
mod continue_token;
pub mod custom;
pub mod fields;
pub mod kinds;
pub mod managed;
pub mod meta;
pub mod names;
pub mod object;
pub mod options;
pub mod patch;
mod render;
pub mod resource;
mod selector;
pub mod strategy;
pub mod verbs;

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use storage::{Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use cache::Cacher;
pub use call::Call;
pub use catalog::Catalog;
pub use resource::Resource;
pub use selector::{FieldSelector, LabelSelector};
pub use verbs::{Stored, validate_object};

use self::alloc::Claims;
use self::object::Object;
use self::options::WriteOptions;
use crate::admission::Admission;
use crate::aggregation::Aggregation;
use crate::authz::Authorizer;
use crate::config::Config;
use crate::openapi::OpenApiCache;
use crate::outbound::Outbound;
use crate::response::ApiError;
use crate::subresources::{NodeConnector, token::TokenAuthority};

/// What all requests share.
pub struct Registry {
    pub config: Config,
    pub catalog: Catalog,
    pub cacher: Arc<Cacher>,
    pub admission: Admission,
    claims: Claims,
    pub(crate) openapi: OpenApiCache,
    pub authorizer: Arc<dyn Authorizer>,
    /// Group versions that other servers serve.
    pub aggregation: Aggregation,
    /// Calls to webhooks.
    pub outbound: Outbound,
    pub shutdown: CancellationToken,
    tokens: OnceLock<Arc<dyn TokenAuthority>>,
    nodes: OnceLock<Arc<dyn NodeConnector>>,
}

impl Registry {
    /// Loads the store and registers the built-in resources.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        authorizer: Arc<dyn Authorizer>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let cacher = Cacher::start(store, shutdown.clone()).await?;
        let catalog = Catalog::default();
        for definition in schema::resources::builtin().iter() {
            if let Some(resource) = Resource::built_in(definition, &cacher) {
                catalog.insert(Arc::new(resource));
            }
        }
        let registry = Arc::new(Registry {
            claims: Claims::new(
                config.service_cidrs.clone(),
                cacher.resource("", "services"),
            ),
            config,
            catalog,
            aggregation: Aggregation::default(),
            outbound: Outbound::new(cacher.clone()),
            admission: Admission::new(&cacher),
            cacher,
            openapi: OpenApiCache::default(),
            authorizer,
            shutdown,
            tokens: OnceLock::new(),
            nodes: OnceLock::new(),
        });
        custom::controller::start(&registry).await;
        Ok(registry)
    }

    /// Gives the server what makes tokens; once, before it serves.
    pub fn set_tokens(&self, tokens: Arc<dyn TokenAuthority>) {
        let _ = self.tokens.set(tokens);
    }

    /// Gives the server its way to the nodes; once, before it serves.
    pub fn set_nodes(&self, nodes: Arc<dyn NodeConnector>) {
        let _ = self.nodes.set(nodes);
    }

    pub fn tokens(&self) -> Result<&Arc<dyn TokenAuthority>, ApiError> {
        self.tokens
            .get()
            .ok_or_else(|| ApiError::unavailable("this server makes no tokens"))
    }

    pub fn nodes(&self) -> Result<&Arc<dyn NodeConnector>, ApiError> {
        self.nodes
            .get()
            .ok_or_else(|| ApiError::unavailable("this server reaches no nodes"))
    }

    /// Where clients reach this server, for discovery.
    pub fn server_address(&self) -> String {
        let address = self
            .config
            .advertise_address
            .unwrap_or(self.config.bind_address);
        std::net::SocketAddr::new(address, self.config.secure_port).to_string()
    }

    /// Takes what an object claims of a shared range (service addresses, node ports).
    pub fn allocate(
        &self,
        call: &Call,
        new: &mut Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        if !is_service(&call.resource) || call.info.subresource == "status" {
            return Ok(());
        }
        let key = call
            .resource
            .key(meta::text(new, "namespace"), meta::name(new));
        self.claims.claim(&key, new, old, options)
    }

    /// Gives back what a removed object had claimed.
    pub fn release(&self, call: &Call, old: &Value) {
        if is_service(&call.resource) {
            let key = call
                .resource
                .key(meta::text(old, "namespace"), meta::name(old));
            self.claims.release(&key);
        }
    }

    /// The object as the cache has it.
    pub fn lookup(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        let key = cache::object_key(group, resource, namespace, name);
        self.cacher.resource(group, resource).get(&key)
    }

    /// Every object of a resource, of one namespace unless it is empty.
    pub fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let filter = cache::Filter {
            namespace: namespace.to_owned(),
            ..cache::Filter::default()
        };
        self.cacher
            .resource(group, resource)
            .list(&filter, None, 0, 0)
            .objects
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}
