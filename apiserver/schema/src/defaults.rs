//! What the API promises for absent fields.

use serde_json::Value;

use crate::types::Gvk;

/// Sets the defaults of an object of a built-in kind.
pub fn apply(_object: &mut Value, _kind: &Gvk) {}
