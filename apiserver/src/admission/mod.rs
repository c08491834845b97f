//! Admission: what changes or refuses a write after it was decoded and before it is stored.

use serde_json::Value;

use crate::registry::Call;
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

/// The built-in plugins, in upstream's order.
#[derive(Default)]
pub struct Admission {}

impl Admission {
    /// Changes the object.
    pub async fn mutate(&self, _attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    /// Refuses the object.
    pub async fn validate(&self, _attributes: &Attributes<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}
