//! One resource in one version, built-in or custom, as the pipeline sees it.

use std::ops::Deref;
use std::sync::Arc;

use schema::resources::Resource as Definition;
use schema::types::{Gvk, StructRef};

use super::cache::{Cacher, ResourceCache, object_key};
use super::custom::CustomKind;
use super::strategy::{Strategy, strategy_for};

/// See the module's documentation. Shared by all requests for it; dereferences to the row of the
/// resource table.
pub struct Resource {
    pub definition: Definition,
    /// What its objects look like.
    pub shape: StructRef,
    /// Where they are: versions of one kind share it, and so do both kinds of events.
    pub cache: Arc<ResourceCache>,
    pub strategy: &'static Strategy,
    /// Of a custom resource.
    pub custom: Option<Arc<CustomKind>>,
}

impl Deref for Resource {
    type Target = Definition;

    fn deref(&self) -> &Definition {
        &self.definition
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.plural)
    }
}

impl Resource {
    /// A built-in resource; `None` when the table has no shape for it.
    pub fn built_in(definition: &Definition, cacher: &Cacher) -> Option<Self> {
        Some(Resource {
            shape: definition.shape()?,
            cache: cacher.resource(&definition.storage.0, &definition.plural),
            strategy: strategy_for(&definition.group, &definition.plural, false),
            custom: None,
            definition: definition.clone(),
        })
    }

    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub fn key(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.namespaced() { namespace } else { "" };
        object_key(&self.storage.0, &self.plural, namespace, name)
    }

    /// Whether stored objects are answered as they are.
    pub fn is_stored_version(&self) -> bool {
        match &self.custom {
            Some(custom) => custom.plain,
            None => self.storage.0 == self.group && self.storage.1 == self.version,
        }
    }

    /// The kind that a subresource reads and writes.
    pub fn subresource_gvk(&self, name: &str) -> Option<Gvk> {
        let sub = self.subresource(name)?;
        let (group, version) = sub
            .group_version
            .clone()
            .unwrap_or((self.group.clone(), self.version.clone()));
        Some(Gvk {
            group,
            version,
            kind: sub.kind.clone(),
        })
    }
}

/// The inverse of `apiVersion`: group and version.
pub fn split_api_version(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}
