//! Responses: bodies, Status objects, and the representation that a client asked for.

mod body;
mod gzip;
pub mod negotiate;
mod status;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::Value;

pub use body::{Body, BoxError, RequestBody};
pub use gzip::compress;
pub use negotiate::{Accepted, Media, Shape};
pub use status::{ApiError, Cause, Details, qualified};

pub type ApiResponse = Response<Body>;

/// A response with JSON bytes as they are.
pub fn json(code: u16, bytes: impl Into<Bytes>) -> ApiResponse {
    with_type(code, "application/json", Body::from(bytes.into()))
}

/// A response with one JSON object, whose line is ended as upstream's encoder ends it.
pub fn json_line(code: u16, object: &[u8]) -> ApiResponse {
    let mut line = Vec::with_capacity(object.len() + 1);
    line.extend_from_slice(object);
    line.push(b'\n');
    json(code, line)
}

/// A response of any type.
pub fn with_type(code: u16, content_type: &'static str, body: Body) -> ApiResponse {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text, as health checks and unknown paths answer.
pub fn text(code: u16, text: impl Into<Bytes>) -> ApiResponse {
    with_type(code, "text/plain; charset=utf-8", Body::from(text.into()))
}

/// A tree in the media type that the client accepts.
pub fn value(code: u16, value: &Value, accepted: Accepted) -> ApiResponse {
    match accepted.media {
        Media::Json => {
            let encoded = if accepted.pretty {
                serde_json::to_vec_pretty(value)
            } else {
                serde_json::to_vec(value)
            };
            let mut line = encoded.unwrap_or_default();
            line.push(b'\n');
            json(code, line)
        }
        Media::Yaml => with_type(code, "application/yaml", Body::from(yaml(value))),
        Media::Protobuf => protobuf(code, value),
        Media::Cbor => with_type(
            code,
            accepted.media.name(),
            Body::from(schema::cbor::encode(value)),
        ),
    }
}

/// Protobuf of a kind that has it; JSON otherwise.
fn protobuf(code: u16, value: &Value) -> ApiResponse {
    match crate::registry::kinds::to_protobuf(value) {
        Some(bytes) => with_type(code, Media::Protobuf.name(), Body::from(bytes)),
        None => json(code, serde_json::to_vec(value).unwrap_or_default()),
    }
}

/// YAML with keys in order.
pub fn yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The Status of an error.
pub fn error(error: &ApiError, accepted: Accepted) -> ApiResponse {
    let mut response = value(
        error.code(),
        &error.to_value(),
        Accepted {
            shape: Shape::Object,
            ..accepted
        },
    );
    if let Some(seconds) = error.retry_after() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning: 299 - "..."` headers.
pub fn add_warnings(response: &mut ApiResponse, warnings: &[String]) {
    for warning in warnings {
        let escaped: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' => vec!['\\', '"'],
                '\\' => vec!['\\', '\\'],
                c => vec![c],
            })
            .collect();
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response.headers_mut().append(http::header::WARNING, header);
        }
    }
}
