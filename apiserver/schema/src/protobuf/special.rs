//! Leaves that are messages of their own: times, quantities, raw JSON.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::{Raw, Reader, WireError, Writer};
use crate::check::{micro_time, time};
use crate::types::Scalar;

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// Writes the inside of a leaf's message; nothing for an absent value.
pub(super) fn write(w: &mut Writer, scalar: Scalar, value: &Value) {
    match scalar {
        Scalar::Time | Scalar::MicroTime => {
            let Some(at) = value.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else {
                return;
            };
            let nanos = at.subsec_nanosecond();
            let (seconds, nanos) = if nanos < 0 {
                (at.as_second() - 1, nanos + 1_000_000_000)
            } else {
                (at.as_second(), nanos)
            };
            w.int(1, seconds);
            w.int(
                2,
                if scalar == Scalar::Time {
                    0
                } else {
                    nanos.into()
                },
            );
        }
        Scalar::Quantity => {
            let text = match value {
                Value::String(s) => s.clone(),
                Value::Number(n) => n.to_string(),
                _ => "0".into(),
            };
            w.bytes(1, text.as_bytes());
        }
        Scalar::IntOrString => {
            let (kind, number, text) = match value {
                Value::String(s) => (1, 0, s.as_str()),
                other => (0, other.as_i64().unwrap_or(0), ""),
            };
            w.int(1, kind);
            w.int(2, number);
            w.bytes(3, text.as_bytes());
        }
        // RawExtension, FieldsV1, JSON
        _ if !value.is_null() => w.bytes(1, value.to_string().as_bytes()),
        _ => {}
    }
}

/// Reads the inside of a leaf's message; `None` where it is the zero value.
pub(super) fn read(scalar: Scalar, message: &[u8]) -> Result<Option<Value>, WireError> {
    let (mut ints, mut text, mut third) = ([0i64; 3], None, "");
    let mut reader = Reader::new(message);
    while let Some((number, raw)) = reader.next()? {
        match (number, raw) {
            (1 | 2, Raw::Varint(v)) => ints[usize::from(number)] = v as i64,
            (1, Raw::Bytes(b)) => text = Some(b),
            (3, Raw::Bytes(b)) => third = std::str::from_utf8(b).map_err(|_| WireError::Tag)?,
            _ => {}
        }
    }
    Ok(match scalar {
        Scalar::Time | Scalar::MicroTime if message.is_empty() => None,
        Scalar::Time | Scalar::MicroTime => {
            let nanos = i32::try_from(ints[2]).map_err(|_| WireError::Overflow)?;
            let at = Timestamp::new(ints[1], nanos)
                .map_err(|_| WireError::Overflow)?
                .to_string();
            let shown = if scalar == Scalar::Time {
                time(&at)
            } else {
                micro_time(&at)
            };
            Some(shown.map_err(|_| WireError::Overflow)?.into())
        }
        Scalar::Quantity => {
            let text = std::str::from_utf8(text.unwrap_or(b"0")).map_err(|_| WireError::Tag)?;
            Some(text.into())
        }
        Scalar::IntOrString if ints[1] == 1 => Some(third.into()),
        Scalar::IntOrString => Some(ints[2].into()),
        _ => text.map(raw_json),
    })
}

/// Raw bytes are JSON, or else are kept as base64.
fn raw_json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| BASE64.encode(bytes).into())
}

/// Base64 text of a `bytes` field.
pub(super) fn to_bytes(value: &Value) -> Vec<u8> {
    value
        .as_str()
        .and_then(|t| BASE64.decode(t).ok())
        .unwrap_or_default()
}

/// Base64 text for a `bytes` field.
pub(super) fn from_bytes(bytes: &[u8]) -> Value {
    BASE64.encode(bytes).into()
}
