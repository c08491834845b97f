//! Admission: what changes or refuses a write after it was decoded and before it is stored.
//!
//! Each built-in plugin is a file with pure decisions over the object and what the caches say.
//! They run in upstream's order; mutation first, validation of the result later.

mod default_class;
mod limit_ranger;
mod namespace_lifecycle;
mod node_taint;
mod priority;
mod runtime_class;
mod service_account;
mod storage_protection;
mod tolerations;

use serde_json::Value;

use crate::registry::{Call, meta};
use crate::response::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What a plugin may look at, and change.
pub struct Attributes<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// The object as it would be stored; none for deletions.
    pub object: Option<&'a mut Value>,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// Of the object; empty for collections and names that are still to be generated.
    pub name: String,
}

impl Attributes<'_> {
    /// Whether it is about objects of this resource themselves.
    pub fn is_for(&self, group: &str, resource: &str) -> bool {
        let r = &self.call.resource;
        r.group == group && r.plural == resource && self.call.info.subresource.is_empty()
    }

    pub fn is_create_of(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is_for(group, resource)
    }

    /// The name for messages: the object's, or the request's.
    pub fn object_name(&self) -> String {
        match &self.object {
            Some(object) if !meta::name(object).is_empty() => meta::name(object).to_owned(),
            _ => self.name.clone(),
        }
    }

    /// 403 in the usual words.
    pub fn forbidden(&self, why: &str) -> ApiError {
        let resource = &self.call.resource;
        ApiError::forbidden(&resource.group, &resource.plural, &self.object_name(), why)
    }
}

/// The built-in plugins.
#[derive(Default)]
pub struct Admission {}

impl Admission {
    /// Changes the object.
    pub async fn mutate(&self, a: &mut Attributes<'_>) -> Result<(), ApiError> {
        namespace_lifecycle::admit(a).await?;
        limit_ranger::mutate(a);
        service_account::mutate(a).await?;
        node_taint::mutate(a);
        priority::mutate(a)?;
        tolerations::mutate(a);
        storage_protection::mutate(a);
        runtime_class::mutate(a)?;
        default_class::mutate(a)?;
        Ok(())
    }

    /// Refuses the object.
    pub async fn validate(&self, a: &Attributes<'_>) -> Result<(), ApiError> {
        if a.operation == Operation::Delete {
            namespace_lifecycle::validate_delete(a)?;
        }
        limit_ranger::validate(a)?;
        priority::validate(a)?;
        Ok(())
    }
}
