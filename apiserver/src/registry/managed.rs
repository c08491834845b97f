//! Managed fields: who set what.

use schema::types::Gvk;
use serde_json::Value;

use super::call::Call;
use super::options::WriteOptions;
use crate::response::ApiError;

/// Records the change from `old` to `new` for the manager of this request.
pub fn track_update(_call: &Call, _old: Option<&Value>, _new: &mut Value, _manager: &str) {}

/// Drops what must not be stored.
pub fn finish(_value: &mut Value) {}

/// Refuses an applied object that cannot be applied at all.
pub fn check_applied(gvk: &Gvk, applied: &Value) -> Result<(), ApiError> {
    if applied["kind"] != gvk.kind.as_ref() || applied["apiVersion"] != gvk.api_version() {
        return Err(ApiError::bad_request("invalid object type: /, Kind="));
    }
    Ok(())
}

/// The object with what is applied merged in.
pub fn apply(
    _call: &Call,
    old: Option<&Value>,
    applied: &Value,
    _options: &WriteOptions,
) -> Result<Value, ApiError> {
    let mut merged = old.cloned().unwrap_or_else(|| applied.clone());
    super::patch::merge(&mut merged, applied);
    Ok(merged)
}
