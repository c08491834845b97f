//! API groups that other servers in the cluster serve, announced by `APIService` objects.
//!
//! [`controller`] finds out which of them answer and says so in their conditions; what they
//! publish is merged into this server's discovery and OpenAPI ([`discovery`]); their requests are
//! carried to them ([`proxy`]) with the user in `X-Remote-*` headers, for which this server's
//! front-proxy certificate vouches.

pub(crate) mod controller;
mod discovery;
mod model;
mod proxy;

use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

pub(crate) use discovery::{add_aggregated, add_groups, group_document};
pub use model::Announced;
pub(crate) use proxy::{carry, fetch};

/// What an aggregated server publishes of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Its `APIResourceList`.
    pub resources: Value,
    /// Its OpenAPI v3 document.
    pub v3: Option<Arc<Vec<u8>>>,
    /// Its OpenAPI v2 document.
    pub v2: Option<Arc<Value>>,
}

/// An announced group version and how it is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub announced: Announced,
    pub available: bool,
    /// What it published when it last answered.
    pub published: Published,
}

/// All of them, as requests see them; replaced as a whole.
#[derive(Default)]
pub struct Aggregation {
    entries: RwLock<Arc<Vec<Entry>>>,
}

impl Aggregation {
    pub fn entries(&self) -> Arc<Vec<Entry>> {
        self.entries.read().clone()
    }

    pub(crate) fn set(&self, entries: Vec<Entry>) {
        let mut current = self.entries.write();
        if **current != entries {
            *current = Arc::new(entries);
        }
    }

    /// Who serves this path, when it is another server.
    pub fn find(&self, path: &str) -> Option<Entry> {
        let entries = self.entries();
        if entries.is_empty() {
            return None;
        }
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let (group, version) = (parts.next()?, parts.next()?);
        let found = entries
            .iter()
            .find(|e| e.announced.group == group && e.announced.version == version);
        found.cloned()
    }
}
