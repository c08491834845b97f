//! JSON patch (RFC 6902), with upstream's refusals.

use bytes::Bytes;
use json_patch::PatchOperation;
use serde_json::Value;

use super::{decode_error, go_kind};
use crate::response::ApiError;

/// Upstream's bound on the number of operations.
const MAX_OPERATIONS: usize = 10_000;

/// One operation, checked only when it is applied.
pub type Operation = Value;

pub fn decode(body: &Bytes) -> Result<Vec<Operation>, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| decode_error(&e))?;
    let Value::Array(operations) = value else {
        return Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            go_kind(&value)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            ),
            None,
        ));
    }
    Ok(operations)
}

pub fn apply(operations: &[Operation], object: &Value) -> Result<Value, ApiError> {
    let parsed: Result<Vec<PatchOperation>, _> = operations
        .iter()
        .map(|o| serde_json::from_value(o.clone()))
        .collect();
    let parsed = parsed.map_err(|_| ApiError::unprocessable())?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &parsed).map_err(|_| ApiError::unprocessable())?;
    Ok(patched)
}
