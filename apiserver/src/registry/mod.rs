//! The generic pipeline: one path for every kind and verb.
//!
//! [`Call`] is one request; `verbs/` has its handlers. [`cache`] holds the objects, [`Catalog`]
//! the resources, [`strategy`] what differs between kinds and data cannot say, [`kinds`] what
//! the `schema` crate knows.

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
mod verbs;

use std::sync::Arc;

use serde_json::Value;
use storage::{Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use cache::Cacher;
pub use call::Call;
pub use catalog::Catalog;
pub use resource::Resource;
pub use selector::{FieldSelector, LabelSelector};
pub use verbs::{Stored, validate_object};

use crate::admission::Admission;
use crate::authz::Authorizer;
use crate::config::Config;
use crate::response::ApiError;

/// What all requests share.
pub struct Registry {
    pub config: Config,
    pub catalog: Catalog,
    pub cacher: Arc<Cacher>,
    pub admission: Admission,
    pub authorizer: Arc<dyn Authorizer>,
    pub shutdown: CancellationToken,
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
        Ok(Arc::new(Registry {
            config,
            catalog,
            cacher,
            admission: Admission::default(),
            authorizer,
            shutdown,
        }))
    }

    /// Where clients reach this server, for discovery.
    pub fn server_address(&self) -> String {
        let address = self.config.advertise_address.unwrap_or(self.config.bind_address);
        std::net::SocketAddr::new(address, self.config.secure_port).to_string()
    }

    /// Takes what an object claims of a shared range (service addresses, node ports).
    pub async fn allocate(
        &self,
        _call: &Call,
        _new: &mut Value,
        _old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Gives back what a removed object had claimed.
    pub async fn release(&self, _call: &Call, _old: &Value) {}
}
