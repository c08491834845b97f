//! One stored object as the server keeps it in memory: its bytes, and a small index.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use storage::Entry;

use super::fields::Field;

/// Separates the entries of [`Texts`]; no label or field contains it.
const SEPARATOR: char = '\0';

/// A list of short texts in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(Box<str>);

impl Texts {
    fn collect<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut all = String::new();
        for text in texts {
            all.push_str(text);
            all.push(SEPARATOR);
        }
        Texts(all.into_boxed_str())
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(SEPARATOR)
    }
}

/// An object at one revision. `bytes` is what GET answers, what LIST concatenates and what
/// watchers are sent.
#[derive(Debug)]
pub struct Object {
    pub key: Arc<str>,
    /// Canonical JSON with the resourceVersion in it: kind, apiVersion, metadata, the rest.
    pub bytes: Bytes,
    pub revision: u64,
    /// Where `"metadata"` begins; before it stand only kind and apiVersion.
    body_at: u32,
    labels: Texts,
    fields: Texts,
}

/// What every object's index is made of.
#[derive(Deserialize)]
struct Indexed {
    #[serde(default)]
    metadata: IndexedMeta,
}

#[derive(Deserialize, Default)]
struct IndexedMeta {
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

impl Object {
    /// From what the store holds. `fields` are the resource's selectable ones.
    pub fn from_entry(entry: &Entry, fields: &[Field]) -> Self {
        Self::new(entry.key.clone(), &entry.value, entry.mod_revision, fields)
    }

    /// From a stored value, which has no resourceVersion yet.
    pub fn new(key: Arc<str>, stored: &[u8], revision: u64, fields: &[Field]) -> Self {
        let (labels, fields) = if fields.is_empty() {
            let parsed = serde_json::from_slice::<Indexed>(stored).ok();
            let labels = parsed.map(|p| p.metadata.labels).unwrap_or_default();
            let labels = labels.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]);
            (Texts::collect(labels), Texts::default())
        } else {
            let value: Value = serde_json::from_slice(stored).unwrap_or_default();
            let texts: Vec<String> = fields.iter().map(|f| f.text(&value)).collect();
            (
                labels_of(&value),
                Texts::collect(texts.iter().map(String::as_str)),
            )
        };
        let (bytes, body_at) = splice_revision(stored, revision);
        Object {
            key,
            bytes,
            revision,
            body_at,
            labels,
            fields,
        }
    }

    /// Without an index: for answers.
    pub fn unindexed(key: Arc<str>, stored: &[u8], revision: u64) -> Self {
        let (bytes, body_at) = splice_revision(stored, revision);
        Object {
            key,
            bytes,
            revision,
            body_at,
            labels: Texts::default(),
            fields: Texts::default(),
        }
    }

    /// The same state under a later revision: what a watcher is told of a deletion.
    pub fn at_revision(&self, revision: u64) -> Object {
        let old = format!("\"resourceVersion\":\"{}\"", self.revision);
        let start = self.body_at as usize + METADATA.len();
        let rest = &self.bytes[start + old.len()..];
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + 4);
        bytes.put_slice(&self.bytes[..start]);
        bytes.put_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
        bytes.put_slice(rest);
        Object {
            key: self.key.clone(),
            bytes: bytes.freeze(),
            revision,
            body_at: self.body_at,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// `"metadata":{...},...}`: the object without kind and apiVersion and the opening brace.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at as usize..]
    }

    /// `{"kind":...,"apiVersion":...,`
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.body_at as usize]
    }

    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        namespace_of(&self.key)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let mut texts = self.labels.iter();
        while let (Some(k), Some(v)) = (texts.next(), texts.next()) {
            if k == key {
                return Some(v);
            }
        }
        None
    }

    /// The text of the selectable field with this position in the resource's list.
    pub fn field(&self, position: usize) -> &str {
        self.fields.iter().nth(position).unwrap_or_default()
    }

    /// The object as a tree, resourceVersion included.
    pub fn value(&self) -> Value {
        // The bytes were written by this server as JSON; anything else reads as null.
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Whether it waits for its deletion.
    pub fn is_deleting(&self) -> bool {
        #[derive(Deserialize)]
        struct Part {
            metadata: Dates,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Dates {
            deletion_timestamp: Option<IgnoredAny>,
        }
        let part: Option<Part> = self.read();
        part.is_some_and(|part| part.metadata.deletion_timestamp.is_some())
    }

    /// The JSON of the metadata, a part of `bytes`.
    pub fn metadata(&self) -> &[u8] {
        let from = &self.bytes[self.body_at as usize + METADATA.len() - 1..];
        let mut values = serde_json::Deserializer::from_slice(from).into_iter::<IgnoredAny>();
        // The first value is the metadata; what is stored is JSON.
        let _ = values.next();
        &from[..values.byte_offset()]
    }

    /// Any part of the object as a typed structure.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(&self.bytes).ok()
    }
}

/// `/registry/GROUP/RESOURCE/NAMESPACE/NAME`; four segments only for cluster-scoped objects.
pub fn namespace_of(key: &str) -> &str {
    let mut parts = key.split('/').skip(4);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some(_)) => namespace,
        _ => "",
    }
}

fn labels_of(value: &Value) -> Texts {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    Texts::collect(pairs.flat_map(|(k, v)| [k.as_str(), v.as_str().unwrap_or_default()]))
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Puts the revision into the stored bytes; also tells where the metadata begins.
pub fn splice_revision(stored: &[u8], revision: u64) -> (Bytes, u32) {
    let at = stored
        .windows(METADATA.len())
        .position(|w| w == METADATA)
        .unwrap_or_default();
    let after = (at + METADATA.len()).min(stored.len());
    let mut bytes = BytesMut::with_capacity(stored.len() + 44);
    bytes.put_slice(&stored[..after]);
    if revision == 0 {
        // What was never stored has no revision.
        bytes.put_slice(&stored[after..]);
        return (bytes.freeze(), u32::try_from(at).unwrap_or_default());
    }
    bytes.put_slice(b"\"resourceVersion\":\"");
    bytes.put_slice(revision.to_string().as_bytes());
    bytes.put_u8(b'"');
    if stored.get(after) != Some(&b'}') {
        bytes.put_u8(b',');
    }
    bytes.put_slice(&stored[after..]);
    (bytes.freeze(), u32::try_from(at).unwrap_or_default())
}

/// The canonical bytes of an object: kind, apiVersion and metadata first, without a
/// resourceVersion, so that a revision can be put in and kind and apiVersion be left out.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let Some(map) = object.as_object() else {
        out.push(b'}');
        return out;
    };
    for key in ["kind", "apiVersion"] {
        if let Some(value) = map.get(key) {
            write_pair(&mut out, key, value);
            out.push(b',');
        }
    }
    out.extend_from_slice(METADATA);
    let metadata = map.get("metadata").and_then(Value::as_object);
    let mut first = true;
    for (key, value) in metadata
        .into_iter()
        .flatten()
        .filter(|(k, _)| *k != "resourceVersion")
    {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_pair(&mut out, key, value);
    }
    out.push(b'}');
    for (key, value) in map {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            write_pair(&mut out, key, value);
        }
    }
    out.push(b'}');
    out
}

fn write_pair(out: &mut Vec<u8>, key: &str, value: &Value) {
    // Writing into memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value, revision: u64) -> Object {
        Object::new(
            "/registry/core/configmaps/ns/a".into(),
            &encode(value),
            revision,
            &[],
        )
    }

    #[test]
    fn the_revision_is_put_into_the_metadata_and_can_be_changed() {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"metadata": "{"},
            "metadata": {"name": "a", "labels": {"x": "y", "n": ""}, "resourceVersion": "3"}});
        let object = object(&value, 7);
        assert_eq!(object.value()["metadata"]["resourceVersion"], "7");
        assert_eq!(
            object.head(),
            b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\","
        );
        assert_eq!((object.namespace(), object.name()), ("ns", "a"));
        assert_eq!(
            (object.label("x"), object.label("n"), object.label("y")),
            (Some("y"), Some(""), None)
        );
        let later = object.at_revision(1234);
        assert_eq!(later.value()["metadata"]["resourceVersion"], "1234");
        assert_eq!(later.value()["data"], value["data"]);
    }

    #[test]
    fn the_metadata_is_found_whatever_its_texts_hold() {
        let metadata = json!({"name": "a", "annotations": {"x": "}{\"\\", "": "\\\""},
            "ownerReferences": [{"uid": "{"}], "resourceVersion": "7"});
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"}": "{"},
            "metadata": metadata});
        let object = object(&value, 7);
        let found: Value = serde_json::from_slice(object.metadata()).unwrap();
        assert_eq!(found, metadata);
        assert!(!object.is_deleting());
    }

    #[test]
    fn an_object_with_a_deletion_timestamp_is_deleting() {
        let metadata = json!({"name": "a", "deletionTimestamp": "2020-01-01T00:00:00Z"});
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        assert!(object(&value, 7).is_deleting());
    }

    #[test]
    fn an_object_without_metadata_still_gets_a_revision() {
        let object = object(&json!({"apiVersion": "v1", "kind": "X"}), 1);
        assert_eq!(
            object.value(),
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"resourceVersion": "1"}})
        );
    }
}
