//! Subresources: those that read and write the object itself go through the generic pipeline,
//! the others each have a file.

pub(crate) mod binding;
mod eviction;
mod links;
mod node;
mod proxied;
pub(crate) mod scale;
pub mod token;

use std::sync::Arc;

use http::request::Parts;
use serde_json::{Value, json};

pub use node::{NodeConnector, Target};

use crate::admission::Operation;
use crate::registry::Call;
use crate::registry::options::WriteOptions;
use crate::response::{self, ApiError, ApiResponse, RequestBody};
use crate::service::read_body;

/// Answers a request to a subresource whose verb was found to be allowed.
pub(crate) async fn answer(
    call: Arc<Call>,
    parts: Parts,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    let name = call.info.subresource.clone();
    match (call.resource.plural.as_ref(), name.as_str()) {
        (_, "status" | "approval" | "ephemeralcontainers" | "resize" | "finalize") => {
            own_object(&call, body).await
        }
        (_, "scale") => scale::answer(&call, body).await,
        ("pods", "binding") => binding::bind(&call, read_body(body).await?).await,
        ("pods", "eviction") => eviction::evict(&call, read_body(body).await?).await,
        ("serviceaccounts", "token") => token::request(&call, read_body(body).await?).await,
        ("pods", "log" | "exec" | "attach" | "portforward" | "proxy")
        | ("nodes" | "services", "proxy") => node::connect(call, parts, body).await,
        _ => Err(ApiError::no_such_resource()),
    }
}

/// A part of the object with rules of its own, written like the object.
async fn own_object(call: &Arc<Call>, body: RequestBody) -> Result<ApiResponse, ApiError> {
    match call.info.verb {
        "get" => call.get().await,
        "update" => call.update(read_body(body).await?).await,
        "patch" => call.patch(read_body(body).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
    .map(|response| call.with_warnings(response))
}

/// Admission of an object that is posted to a subresource and never stored.
async fn admit(
    call: &Call,
    mut object: Value,
    name: String,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let admission = &call.registry.admission;
    let mut attributes = call.attributes(Operation::Create, Some(&mut object), None, options);
    attributes.name = name;
    admission.mutate(&mut attributes).await?;
    admission.validate(&attributes).await?;
    Ok(object)
}

/// What a verb answers that leaves no object behind.
fn created_status(call: &Call) -> ApiResponse {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    });
    response::value(201, &status, call.accepted)
}
