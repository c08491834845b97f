//! `/openapi/v2` and `/openapi/v3`: built when asked for, kept compressed until the set of kinds
//! changes.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderValue, IF_NONE_MATCH,
    VARY,
};
use parking_lot::Mutex;
use schema::openapi::{Documents, V2_PROTOBUF, encode_v2};
use schema::resources::ResourceTable;
use serde_json::Value;

use crate::registry::Registry;
use crate::request::Query;
use crate::response::{self, ApiError, ApiResponse, Body};

/// Compressed documents of one resource table.
#[derive(Default)]
pub struct OpenApiCache {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    table: Arc<ResourceTable>,
    documents: HashMap<String, (String, Bytes)>,
}

impl OpenApiCache {
    /// The document of this name, built unless it is kept: its hash and its compressed bytes.
    fn get(
        &self,
        registry: &Registry,
        name: &str,
        build: impl FnOnce(&Documents<'_>) -> Option<(String, Vec<u8>)>,
    ) -> Option<(String, Bytes)> {
        let table = registry.catalog.table();
        if let Some(kept) = self.kept.lock().as_ref()
            && Arc::ptr_eq(&kept.table, &table)
            && let Some(found) = kept.documents.get(name)
        {
            return Some(found.clone());
        }
        let all = registry.catalog.all();
        let custom: Vec<_> = all.iter().filter_map(|r| r.published_schema()).collect();
        let documents = Documents {
            table: &table,
            custom: &custom,
        };
        let (hash, bytes) = build(&documents)?;
        let made = (hash, Bytes::from(compress(&bytes)));
        let mut kept = self.kept.lock();
        if !kept.as_ref().is_some_and(|k| Arc::ptr_eq(&k.table, &table)) {
            *kept = Some(Kept {
                table,
                documents: HashMap::new(),
            });
        }
        if let Some(kept) = kept.as_mut() {
            kept.documents.insert(name.to_owned(), made.clone());
        }
        Some(made)
    }
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    // Writing into memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn decompress(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut plain = Vec::new();
    let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain);
    plain
}

fn json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// `/openapi/v3` and everything below it.
pub(crate) fn v3(
    registry: &Registry,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<ApiResponse>, ApiError> {
    let found = registry
        .openapi
        .get(registry, &format!("v3/{path}"), |documents| {
            let document = if path.is_empty() {
                documents.v3_index()
            } else {
                documents.v3(path)?
            };
            Some((
                if path.is_empty() {
                    String::new()
                } else {
                    documents.hash(path)
                },
                json(&document),
            ))
        });
    let Some((hash, bytes)) = found else {
        return Ok(None);
    };
    let mut answer = send(headers, "application/json", &hash, bytes);
    // Whoever names the current hash may keep the document for good.
    if !hash.is_empty() && query.get("hash") == Some(&hash) {
        answer.headers_mut().insert(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000"),
        );
    }
    Ok(Some(answer))
}

/// `/openapi/v2`
pub(crate) fn v2(
    registry: &Registry,
    headers: &HeaderMap,
) -> Result<Option<ApiResponse>, ApiError> {
    let accept = headers
        .get(ACCEPT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or_default();
    let protobuf = accept.contains("proto-openapi");
    let name = if protobuf { "v2.pb" } else { "v2" };
    let found = registry.openapi.get(registry, name, |documents| {
        let document = documents.v2();
        let bytes = if protobuf {
            encode_v2(&document)
        } else {
            json(&document)
        };
        Some((documents.hash(""), bytes))
    });
    let content_type = if protobuf {
        V2_PROTOBUF
    } else {
        "application/json"
    };
    Ok(found.map(|(hash, bytes)| send(headers, content_type, &hash, bytes)))
}

fn send(
    headers: &HeaderMap,
    content_type: &'static str,
    hash: &str,
    compressed: Bytes,
) -> ApiResponse {
    let tag = format!("\"{hash}\"");
    if !hash.is_empty()
        && headers
            .get(IF_NONE_MATCH)
            .is_some_and(|t| t.as_bytes() == tag.as_bytes())
    {
        return response::with_type(304, content_type, Body::empty());
    }
    let gzip = headers
        .get(ACCEPT_ENCODING)
        .and_then(|e| e.to_str().ok())
        .is_some_and(|e| e.contains("gzip"));
    let body = if gzip {
        compressed
    } else {
        Bytes::from(decompress(&compressed))
    };
    let mut answer = response::with_type(200, content_type, Body::from(body));
    let own = answer.headers_mut();
    if gzip {
        own.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    own.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if !hash.is_empty()
        && let Ok(tag) = HeaderValue::from_str(&tag)
    {
        own.insert(ETAG, tag);
    }
    answer
}
