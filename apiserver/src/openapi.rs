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
use sha2::{Digest, Sha256};

use crate::aggregation::Entry;
use crate::registry::Registry;
use crate::request::Query;
use crate::response::{self, ApiError, ApiResponse, Body};

/// Compressed documents of one resource table.
#[derive(Default)]
pub(crate) struct OpenApiCache {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    table: Arc<ResourceTable>,
    aggregated: Arc<Vec<Entry>>,
    documents: HashMap<String, (String, Bytes)>,
}

impl Kept {
    fn is_of(&self, table: &Arc<ResourceTable>, aggregated: &Arc<Vec<Entry>>) -> bool {
        Arc::ptr_eq(&self.table, table) && Arc::ptr_eq(&self.aggregated, aggregated)
    }
}

impl OpenApiCache {
    /// The document of this name, built unless it is kept: its hash and its compressed bytes.
    fn get(
        &self,
        registry: &Registry,
        name: &str,
        build: impl FnOnce(&Documents<'_>, &[Entry]) -> Option<(String, Vec<u8>)>,
    ) -> Option<(String, Bytes)> {
        let table = registry.catalog.table();
        let aggregated = registry.aggregation.entries();
        if let Some(kept) = self.kept.lock().as_ref()
            && kept.is_of(&table, &aggregated)
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
        let (hash, bytes) = build(&documents, &aggregated)?;
        let made = (hash, Bytes::from(compress(&bytes)));
        let mut kept = self.kept.lock();
        if !kept.as_ref().is_some_and(|k| k.is_of(&table, &aggregated)) {
            *kept = Some(Kept {
                table,
                aggregated,
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

fn hash_of(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

/// The documents of aggregated servers, with their paths below `/openapi/v3/`.
fn aggregated_v3(entries: &[Entry]) -> impl Iterator<Item = (String, &[u8])> {
    entries.iter().filter_map(|e| {
        let path = format!("apis/{}/{}", e.announced.group, e.announced.version);
        Some((path, e.published.v3.as_ref()?.as_slice()))
    })
}

fn add_to_index(index: &mut Value, entries: &[Entry]) {
    for (path, document) in aggregated_v3(entries) {
        let url = format!("/openapi/v3/{path}?hash={}", hash_of(document));
        index["paths"][path] = serde_json::json!({"serverRelativeURL": url});
    }
}

/// This server's document, and of each aggregated one the paths of its group version and the
/// definitions that are not known here.
fn merged_v2(documents: &Documents<'_>, entries: &[Entry]) -> Value {
    let mut all = documents.v2();
    for entry in entries {
        let Some(own) = &entry.published.v2 else {
            continue;
        };
        let (group, version) = (&entry.announced.group, &entry.announced.version);
        let group_path = format!("/apis/{group}/");
        let version_path = format!("/apis/{group}/{version}/");
        for (path, item) in own["paths"].as_object().into_iter().flatten() {
            if *path == group_path || path.starts_with(&version_path) {
                all["paths"][path] = item.clone();
            }
        }
        let Some(known) = all["definitions"].as_object_mut() else {
            continue;
        };
        for (name, definition) in own["definitions"].as_object().into_iter().flatten() {
            if !known.contains_key(name) {
                known.insert(name.clone(), definition.clone());
            }
        }
    }
    all
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
        .get(registry, &format!("v3/{path}"), |documents, aggregated| {
            if path.is_empty() {
                let mut index = documents.v3_index();
                add_to_index(&mut index, aggregated);
                return Some((String::new(), json(&index)));
            }
            if let Some((_, document)) = aggregated_v3(aggregated).find(|(p, _)| p == path) {
                return Some((hash_of(document), document.to_vec()));
            }
            Some((documents.hash(path), documents.v3_json(path)?))
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
    let found = registry
        .openapi
        .get(registry, name, |documents, aggregated| {
            if aggregated.iter().any(|e| e.published.v2.is_some()) {
                let document = merged_v2(documents, aggregated);
                let bytes = json(&document);
                let hash = hash_of(&bytes);
                return Some((
                    hash,
                    if protobuf {
                        encode_v2(&document)
                    } else {
                        bytes
                    },
                ));
            }
            let bytes = if protobuf {
                documents.v2_protobuf()
            } else {
                documents.v2_json()
            };
            Some((documents.hash("v2"), bytes))
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
