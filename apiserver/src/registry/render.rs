//! Objects and lists in the representation that the client asked for.
//!
//! Plain JSON of the stored version is the stored bytes; everything else is made from a tree.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use jiff::Timestamp;
use schema::table::{Headers, IncludeObject};
use serde_json::{Value, json};

use super::cache::LateFilter;
use super::call::Call;
use super::kinds;
use super::object::Object;
use crate::response::{self, Accepted, ApiError, ApiResponse, Body, Media, Shape};

/// Lists are sent in pieces of about this size.
const PIECE: usize = 128 << 10;

/// What stands in a list's metadata.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    pub revision: u64,
    pub continue_token: String,
    pub remaining: usize,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            meta["continue"] = self.continue_token.as_str().into();
            if self.remaining > 0 {
                meta["remainingItemCount"] = self.remaining.into();
            }
        }
        meta
    }
}

impl Call {
    /// Whether stored bytes can be answered as they are.
    pub fn is_plain(&self) -> bool {
        let a = self.accepted;
        a.media == Media::Json
            && a.shape == Shape::Object
            && !a.pretty
            && self.resource.is_stored_version()
    }

    /// Whether the metadata of stored bytes can be answered as it is.
    pub fn is_plain_metadata(&self) -> bool {
        let a = self.accepted;
        a.media == Media::Json
            && matches!(a.shape, Shape::PartialMetadata | Shape::PartialMetadataList)
            && !a.pretty
            && self.resource.is_stored_version()
    }

    /// One object.
    pub async fn object_response(
        &self,
        code: u16,
        object: &Object,
    ) -> Result<ApiResponse, ApiError> {
        if self.is_plain() {
            return Ok(response::json_line(code, &object.bytes));
        }
        if self.is_plain_metadata() && self.accepted.shape == Shape::PartialMetadata {
            return Ok(response::json_line(code, &plain_metadata(object)));
        }
        let value = self.present(object).await?;
        self.value_response(code, value)
    }

    /// One object that is already in the request's version.
    pub fn value_response(&self, code: u16, value: Value) -> Result<ApiResponse, ApiError> {
        let shaped = match self.accepted.shape {
            Shape::Object => value,
            Shape::Table => self.table(&[value], None, true)?,
            Shape::PartialMetadata => partial(&value),
            Shape::PartialMetadataList => {
                return Err(ApiError::new(
                    406,
                    "NotAcceptable",
                    format!(
                        "you requested PartialObjectMetadataList, but the requested object is not a list ({})",
                        kinds::go_type(&self.resource)
                    ),
                    None,
                ));
            }
        };
        Ok(response::value(code, &shaped, self.accepted))
    }

    /// A tree of the stored object in the request's version.
    pub async fn present(&self, object: &Object) -> Result<Value, ApiError> {
        let value = object.value();
        if self.resource.is_stored_version() {
            return Ok(value);
        }
        let mut converted = kinds::convert(&self.registry, &self.resource, vec![value]).await?;
        Ok(converted.pop().unwrap_or_default())
    }

    /// A list of objects; `late` selects among them once they are in the request's version.
    pub async fn list_response(
        &self,
        objects: Vec<Arc<Object>>,
        meta: ListMeta,
        late: Option<&LateFilter>,
    ) -> Result<ApiResponse, ApiError> {
        if self.is_plain() && late.is_none() {
            return Ok(self.plain_list(objects, &meta));
        }
        let values: Vec<Value> = objects.iter().map(|o| o.value()).collect();
        let mut values = if self.resource.is_stored_version() {
            values
        } else {
            kinds::convert(&self.registry, &self.resource, values).await?
        };
        if let Some(late) = late {
            values.retain(|value| late.matches(value));
        }
        let list = match self.accepted.shape {
            Shape::Object => {
                let mut items = values;
                if !self.resource.is_custom() && self.accepted.media != Media::Protobuf {
                    for item in items.iter_mut().filter_map(Value::as_object_mut) {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                }
                json!({
                    "kind": self.resource.list_kind,
                    "apiVersion": self.resource.api_version(),
                    "metadata": meta.to_value(),
                    "items": items,
                })
            }
            Shape::Table => self.table(&values, Some(&meta), true)?,
            Shape::PartialMetadataList | Shape::PartialMetadata => {
                let items: Vec<Value> = values.iter().map(partial).collect();
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": meta.to_value(),
                    "items": if items.is_empty() { Value::Null } else { items.into() },
                })
            }
        };
        if self.accepted.shape == Shape::PartialMetadata {
            return Err(ApiError::new(
                406,
                "NotAcceptable",
                format!(
                    "you requested PartialObjectMetadata, but the requested object is a list ({}List)",
                    kinds::go_type(&self.resource)
                ),
                None,
            ));
        }
        Ok(response::value(200, &list, self.accepted))
    }

    /// The concatenation of shared bytes; built-in items go without kind and apiVersion.
    fn plain_list(&self, objects: Vec<Arc<Object>>, meta: &ListMeta) -> ApiResponse {
        let mut head = BytesMut::with_capacity(256);
        head.put_slice(b"{\"kind\":");
        head.put_slice(
            Value::from(self.resource.list_kind.as_ref())
                .to_string()
                .as_bytes(),
        );
        head.put_slice(b",\"apiVersion\":");
        head.put_slice(
            Value::from(self.resource.api_version())
                .to_string()
                .as_bytes(),
        );
        head.put_slice(b",\"metadata\":");
        head.put_slice(meta.to_value().to_string().as_bytes());
        head.put_slice(b",\"items\":[");
        let whole = self.resource.is_custom();
        let size: usize = objects.iter().map(|o| o.bytes.len() + 1).sum();
        let mut pieces = Pieces {
            objects,
            at: 0,
            head,
            whole,
        };
        if size <= PIECE {
            let mut all = BytesMut::with_capacity(size + 512);
            while let Some(piece) = pieces.next_piece() {
                all.put_slice(&piece);
            }
            return response::json(200, all.freeze());
        }
        let stream = stream::unfold(pieces, |mut pieces| async move {
            pieces.next_piece().map(|piece| (Ok(piece), pieces))
        });
        response::with_type(200, "application/json", Body::stream(stream))
    }

    /// A Table of objects. `columns`: whether to describe the columns (only the first event of a
    /// watch does).
    pub fn table(
        &self,
        values: &[Value],
        meta: Option<&ListMeta>,
        columns: bool,
    ) -> Result<Value, ApiError> {
        let include = self.query.get("includeObject").unwrap_or("Metadata");
        if !matches!(include, "" | "Metadata" | "Object" | "None") {
            return Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {include:?}: must be 'Metadata', 'Object', 'None', or empty"
            )));
        }
        let include = match include {
            "None" => IncludeObject::None,
            "Object" => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        };
        let headers = if columns {
            Headers::Shown
        } else {
            Headers::Hidden
        };
        let metadata = match (meta, values) {
            (Some(meta), _) => meta.to_value(),
            (None, [one]) => one["metadata"].clone(),
            _ => json!({}),
        };
        let objects: Vec<&Value> = values.iter().collect();
        let printer = kinds::printer(&self.resource);
        Ok(printer.table(&objects, &metadata, include, headers, Timestamp::now()))
    }
}

/// The metadata alone.
pub(super) fn partial(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": value["metadata"],
    })
}

/// As [`partial`], of the stored bytes.
pub(super) fn plain_metadata(object: &Object) -> Vec<u8> {
    const HEAD: &[u8] =
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":";
    let metadata = object.metadata();
    let mut bytes = Vec::with_capacity(HEAD.len() + metadata.len() + 1);
    bytes.extend_from_slice(HEAD);
    bytes.extend_from_slice(metadata);
    bytes.push(b'}');
    bytes
}

/// A list being written.
struct Pieces {
    objects: Vec<Arc<Object>>,
    at: usize,
    /// What is to be written before the next object.
    head: BytesMut,
    whole: bool,
}

impl Pieces {
    fn next_piece(&mut self) -> Option<Bytes> {
        if self.at > self.objects.len() {
            return None;
        }
        let mut piece = std::mem::take(&mut self.head);
        piece.reserve(PIECE.min(self.objects.len() * 512 + 64));
        while let Some(object) = self.objects.get(self.at) {
            if piece.len() >= PIECE {
                return Some(piece.freeze());
            }
            if self.at > 0 {
                piece.put_u8(b',');
            }
            if self.whole {
                piece.put_slice(&object.bytes);
            } else {
                piece.put_u8(b'{');
                piece.put_slice(object.body());
            }
            self.at += 1;
        }
        piece.put_slice(b"]}\n");
        self.at += 1;
        Some(piece.freeze())
    }
}

/// One event of a watch in JSON.
pub(super) fn put_event(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// A Status as the object of an ERROR event.
pub(super) fn error_event(error: &ApiError, accepted: Accepted) -> Bytes {
    let mut out = BytesMut::new();
    match accepted.media {
        Media::Protobuf => {
            if let Some(bytes) = kinds::watch_event_protobuf("ERROR", &error.to_value()) {
                out.put_slice(&bytes);
            }
        }
        Media::Cbor => out.put_slice(&schema::cbor::encode_watch_event(
            "ERROR",
            &error.to_value(),
        )),
        _ => put_event(&mut out, "ERROR", error.to_value().to_string().as_bytes()),
    }
    out.freeze()
}
