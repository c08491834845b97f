//! Subresources: `status` and `scale` in the generic pipeline, the others each in a file.

use std::sync::Arc;

use http::Method;

use crate::registry::Call;
use crate::response::{ApiError, ApiResponse, RequestBody};
use crate::service::read_body;

/// Answers a request to a subresource whose verb was found to be allowed.
pub async fn answer(
    call: Arc<Call>,
    _method: &Method,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    match (call.info.subresource.as_str(), call.info.verb) {
        ("status", "get") => call.get().await,
        ("status", "update") => call.update(read_body(body).await?).await,
        ("status", "patch") => call.patch(read_body(body).await?).await,
        _ => Err(ApiError::no_such_resource()),
    }
}
