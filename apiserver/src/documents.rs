//! Everything that is not a resource: discovery, OpenAPI, version, health.

use http::request::Parts;

use crate::registry::Registry;
use crate::request::{Query, RequestInfo};
use crate::response::{self, ApiError, ApiResponse};

/// Answers a path outside of the resources.
pub fn answer(
    _registry: &Registry,
    _parts: &Parts,
    info: &RequestInfo,
    _query: &Query,
) -> Result<ApiResponse, ApiError> {
    match info.path.as_str() {
        "/healthz" | "/livez" | "/readyz" => Ok(response::text(200, "ok")),
        _ => Ok(response::text(404, "404 page not found\n")),
    }
}
