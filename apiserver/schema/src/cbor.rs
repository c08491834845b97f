//! Trees as CBOR (RFC 8949), in the form that Kubernetes gives it.
//!
//! Upstream writes Go's strings as byte strings and `[]byte` as byte strings that are tagged to
//! become base64 in JSON; readers take text strings for both. What is written here are text
//! strings, with a Go `[]byte` as its base64, as in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ciborium::Value as Item;
use serde_json::{Map, Number, Value};

/// The tag that says that CBOR follows; readers do not need it.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];
/// Deeper than any object that the other encodings let in.
const MAX_DEPTH: usize = 128;

const DATE_TIME: u64 = 0;
const TO_BASE64_URL: u64 = 21;
const TO_BASE64: u64 = 22;
const TO_BASE16: u64 = 23;
const SELF: u64 = 55799;

/// Why bytes are no object in CBOR. None of them is worth a second try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// Not CBOR, or not all of it.
    #[error("cbor: {0}")]
    Syntax(String),
    /// More follows the one item.
    #[error("cbor: {0} bytes of extraneous data")]
    Trailing(usize),
    /// What no JSON has.
    #[error("cbor: {0}")]
    Unsupported(&'static str),
    /// A key stands twice in a map.
    #[error("cbor: found duplicate map key {0:?}")]
    Duplicate(String),
}

/// A tree as one item.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    put(&mut out, value);
    out
}

/// One event of a watch: an item of a CBOR sequence (RFC 8742).
pub fn encode_watch_event(kind: &str, object: &Value) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    // A map of two entries.
    out.push(0xa2);
    for (key, value) in [("type", &Value::from(kind)), ("object", object)] {
        put(&mut out, &Value::from(key));
        put(&mut out, value);
    }
    out
}

fn put(out: &mut Vec<u8>, value: &Value) {
    // Writing into memory does not fail, and a tree has nothing that CBOR has not.
    let _ = ciborium::into_writer(value, out);
}

/// One item as a tree.
///
/// # Errors
///
/// When the bytes are not exactly one item, or hold what JSON does not have.
pub fn decode(bytes: &[u8]) -> Result<Value, CborError> {
    let mut rest = bytes;
    let item: Item = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
        .map_err(|e| CborError::Syntax(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CborError::Trailing(rest.len()));
    }
    tree(item)
}

fn tree(item: Item) -> Result<Value, CborError> {
    Ok(match item {
        Item::Null => Value::Null,
        Item::Bool(flag) => flag.into(),
        Item::Integer(number) => integer(number.into())?,
        Item::Float(number) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or(CborError::Unsupported("a number that is not finite"))?,
        Item::Text(text) => text.into(),
        Item::Bytes(bytes) => text(bytes)?.into(),
        Item::Array(items) => items.into_iter().map(tree).collect::<Result<_, _>>()?,
        Item::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Item::Text(key) => key,
                    Item::Bytes(key) => text(key)?,
                    _ => return Err(CborError::Unsupported("a map key that is not a string")),
                };
                if map.contains_key(&key) {
                    return Err(CborError::Duplicate(key));
                }
                map.insert(key, tree(value)?);
            }
            map.into()
        }
        Item::Tag(tag, inner) => tagged(tag, *inner)?,
        _ => return Err(CborError::Unsupported("a simple value without a meaning")),
    })
}

fn tagged(tag: u64, inner: Item) -> Result<Value, CborError> {
    match (tag, inner) {
        (SELF, inner) => tree(inner),
        (DATE_TIME, inner @ (Item::Text(_) | Item::Bytes(_))) => tree(inner),
        (TO_BASE64, Item::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (TO_BASE64_URL, Item::Bytes(bytes)) => Ok(URL_SAFE.encode(bytes).into()),
        (TO_BASE16, Item::Bytes(bytes)) => Ok(hex::encode(bytes).into()),
        _ => Err(CborError::Unsupported("a tag that objects do not have")),
    }
}

fn integer(number: i128) -> Result<Value, CborError> {
    let signed = i64::try_from(number).map(Value::from);
    signed
        .or_else(|_| u64::try_from(number).map(Value::from))
        .map_err(|_| CborError::Unsupported("a number of more than 64 bits"))
}

fn text(bytes: Vec<u8>) -> Result<String, CborError> {
    String::from_utf8(bytes).map_err(|_| CborError::Unsupported("a string that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for value in [
            json!(null),
            json!({"a": [1, -1, 1.5, true, null, "x"], "": {}}),
            json!(u64::MAX),
            json!(i64::MIN),
        ] {
            assert_eq!(decode(&encode(&value)), Ok(value));
        }
    }

    #[test]
    fn strings_come_as_bytes_or_text_and_bytes_as_base64() {
        let check = |bytes: &[u8], expect: Result<Value, CborError>| {
            assert_eq!(decode(bytes), expect, "{bytes:02x?}");
        };
        // {'a': 'b'} with byte strings.
        check(b"\xa1\x41a\x41b", Ok(json!({"a": "b"})));
        check(b"\xd9\xd9\xf7\xa1\x61a\x61b", Ok(json!({"a": "b"})));
        check(b"\xd6\x42hi", Ok(json!("aGk=")));
        check(b"\xd7\x42hi", Ok(json!("6869")));
        check(
            b"\x41\xff",
            Err(CborError::Unsupported("a string that is not UTF-8")),
        );
        check(
            b"\xa2\x61a\x01\x61a\x02",
            Err(CborError::Duplicate("a".into())),
        );
        check(b"\xf6\xf6", Err(CborError::Trailing(1)));
        check(
            b"\xa1\x01\x01",
            Err(CborError::Unsupported("a map key that is not a string")),
        );
        check(
            b"\xf9\x7e\x00",
            Err(CborError::Unsupported("a number that is not finite")),
        );
    }

    #[test]
    fn depth_and_lengths_that_lie_are_refused() {
        let deep = [[0x81].repeat(10_000), vec![0xf6]].concat();
        assert!(matches!(decode(&deep), Err(CborError::Syntax(_))));
        // An array, a map, a text and bytes of 2^64 - 1 items.
        for first in [0x9b, 0xbb, 0x7b, 0x5b] {
            let bytes = [vec![first], vec![0xff; 8]].concat();
            assert!(
                matches!(decode(&bytes), Err(CborError::Syntax(_))),
                "{first:x}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
