//! A request's body: which kind it says to be, and the error if it is not what its
//! resource holds.

use serde_json::Value;

use super::{DecodeError, Decoded, decode_json, syntax};
use crate::types::{Gvk, StructRef, root};
use crate::{cbor, protobuf};

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
    /// `application/cbor`
    Cbor,
}

/// What a request's body should hold.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The bytes.
    pub body: &'a [u8],
    /// Their encoding.
    pub format: Format,
    /// The kind that the resource (or subresource) takes.
    pub expected: &'a Gvk,
    /// Its shape.
    pub shape: &'a StructRef,
    /// Whether the kind is of a custom resource definition.
    pub custom: bool,
}

/// Decodes a request's body; the error is the message of a `BadRequest` status.
///
/// `apiVersion` and `kind` may be absent from the body: the resource's are set.
pub fn decode_request(request: &Request<'_>) -> Result<Decoded, String> {
    let json;
    let mut repeated = None;
    let body = match request.format {
        Format::Json => request.body,
        Format::Protobuf => {
            let value = protobuf::decode(request.body)
                .map_err(|e| unrecognized(request, &e.to_string()))?;
            return check_kind(request, &value).and_then(|_| {
                super::decode_value(value, request.shape)
                    .map_err(|e| unhandled(request.expected, request, &e))
            });
        }
        Format::Cbor => {
            let value =
                cbor::decode(request.body).map_err(|e| unrecognized(request, &e.to_string()))?;
            json = value.to_string().into_bytes();
            &json
        }
        Format::Yaml => {
            let document = super::read_yaml(&String::from_utf8_lossy(request.body))
                .map_err(|e| unrecognized(request, &e))?;
            repeated = document.strict_error();
            json = document.value.to_string().into_bytes();
            &json
        }
    };
    let meta = type_meta(body).map_err(|e| unrecognized(request, &e))?;
    let gvk = resolve(request, &meta)?;
    let mut decoded = decode_json(body, request.shape).map_err(|e| unhandled(&gvk, request, &e))?;
    decoded.strict.splice(0..0, repeated);
    if let Some(map) = decoded.value.as_object_mut() {
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.as_ref().into());
    }
    Ok(decoded)
}

/// `apiVersion` and `kind` of a JSON text.
fn type_meta(body: &[u8]) -> Result<(String, String), String> {
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct TypeMeta {
        #[serde(default)]
        api_version: Option<String>,
        #[serde(default)]
        kind: Option<String>,
    }
    let text = String::from_utf8_lossy(body);
    let prefix = "couldn't get version/kind; json parse error: ";
    match serde_json::from_str::<Option<TypeMeta>>(&text) {
        Ok(meta) => {
            let meta = meta.unwrap_or_default();
            // A seq also reads as a struct for serde.
            if !text.trim_start().starts_with(['{', 'n']) {
                return Err(format!("{prefix}{}", go_meta_error(&text)));
            }
            Ok((
                meta.api_version.unwrap_or_default(),
                meta.kind.unwrap_or_default(),
            ))
        }
        Err(_) => match syntax::error(text.as_bytes()) {
            Some(e) => Err(format!("{prefix}{e}")),
            None => Err(format!("{prefix}{}", go_meta_error(&text))),
        },
    }
}

fn go_meta_error(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let name = |v: &Value| match v {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        _ => "object",
    };
    if let Some(map) = value.as_object() {
        for (key, field) in [("apiVersion", "apiVersion"), ("kind", "kind")] {
            if let Some(v) = map.get(key).filter(|v| !v.is_string() && !v.is_null()) {
                return format!(
                    "json: cannot unmarshal {} into Go struct field .{field} of type string",
                    name(v)
                );
            }
        }
    }
    let go = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    format!(
        "json: cannot unmarshal {} into Go value of type {go}",
        name(&value)
    )
}

/// The kind of the body, with the resource's for what it does not say.
fn resolve(request: &Request<'_>, (api_version, kind): &(String, String)) -> Result<Gvk, String> {
    if api_version.matches('/').count() > 1 {
        return Err(unrecognized(
            request,
            &format!("unexpected GroupVersion string: {api_version}"),
        ));
    }
    let expected = request.expected;
    let mut gvk = if api_version.is_empty() {
        Gvk {
            kind: "".into(),
            ..expected.clone()
        }
    } else {
        Gvk::from_api_version(api_version, "")
    };
    gvk.kind = if kind.is_empty() {
        expected.kind.clone()
    } else {
        kind.clone().into()
    };
    if gvk != *expected {
        return Err(wrong_kind(request, &gvk));
    }
    Ok(gvk)
}

fn check_kind(request: &Request<'_>, value: &Value) -> Result<(), String> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    resolve(request, &(text("apiVersion"), text("kind"))).map(|_| ())
}

fn wrong_kind(request: &Request<'_>, gvk: &Gvk) -> String {
    let expected = request.expected;
    let reason = if request.custom {
        format!(
            "no kind {:?} is registered for version {:?} in scheme \"k8s.io/apimachinery/pkg/runtime/serializer/codec_factory.go\"",
            gvk.kind,
            gvk.api_version()
        )
    } else if root(&gvk.group, &gvk.version, &gvk.kind).is_some() {
        let internal = if expected.group.is_empty() {
            "core"
        } else {
            expected.group.split('.').next().unwrap_or_default()
        };
        format!(
            "converting ({}.{}) to ({internal}.{}): unknown conversion",
            gvk.version, gvk.kind, expected.kind
        )
    } else {
        // Upstream names the Go source that made its type registry.
        format!(
            "no kind {:?} is registered for version {:?} in scheme \"k136/pkg/api/legacyscheme/scheme.go:30\"",
            gvk.kind,
            gvk.api_version()
        )
    };
    format!(
        "{} in version {:?} cannot be handled as a {}: {reason}",
        gvk.kind, gvk.version, expected.kind
    )
}

fn unhandled(gvk: &Gvk, request: &Request<'_>, error: &DecodeError) -> String {
    format!(
        "{} in version {:?} cannot be handled as a {}: {error}",
        gvk.kind, gvk.version, request.expected.kind
    )
}

fn unrecognized(request: &Request<'_>, error: &str) -> String {
    let kind = &request.expected.kind;
    format!(
        "the object provided is unrecognized (must be of type {kind}): {error} ({})",
        summary(request.body)
    )
}

/// The start of a body, as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let (head, cut) = if body.len() > MAX {
        (&body[..MAX], " ...")
    } else {
        (body, "")
    };
    if body[0] == b'{' {
        String::from_utf8_lossy(head).into_owned() + cut
    } else {
        hex::encode(head) + cut
    }
}

/// The parser's message in the form of Go's.
pub(super) fn yaml_error(message: &str) -> String {
    let number = |word: &str| {
        let rest = message.split(word).nth(1)?;
        let digits: String = rest
            .trim_start_matches([' ', ':'])
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<usize>().ok()
    };
    let line = number("line").unwrap_or(1);
    if message.contains("duplicate") {
        return format!(
            "yaml: unmarshal errors:\n  line {line}: {}",
            message.lines().next().unwrap_or_default()
        );
    }
    let what = if message.contains("unclosed") {
        "did not find expected node content"
    } else if message.contains("tab") {
        "found character that cannot start any token"
    } else if message.contains("mapping values") {
        "mapping values are not allowed in this context"
    } else {
        "could not find expected ':'"
    };
    format!("yaml: line {line}: {what}")
}
