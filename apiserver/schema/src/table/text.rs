//! An object beside the clock, and the texts that many kinds share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::duration::human_duration;

const NULL: Value = Value::Null;

/// What a cell is made of.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    /// The value at a JSON pointer, `null` if there is none.
    pub(super) fn at(&self, pointer: &str) -> &'a Value {
        self.object.pointer(pointer).unwrap_or(&NULL)
    }

    pub(super) fn text(&self, pointer: &str) -> &'a str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub(super) fn text_or(&self, pointer: &str, absent: &str) -> Value {
        let own = self.text(pointer);
        if own.is_empty() {
            absent.into()
        } else {
            own.into()
        }
    }

    pub(super) fn number(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or(0)
    }

    pub(super) fn flag(&self, pointer: &str) -> bool {
        self.at(pointer).as_bool().unwrap_or(false)
    }

    pub(super) fn list(&self, pointer: &str) -> &'a [Value] {
        self.at(pointer).as_array().map_or(&[], Vec::as_slice)
    }

    pub(super) fn count(&self, pointer: &str) -> Value {
        match self.at(pointer) {
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            _ => 0,
        }
        .into()
    }

    pub(super) fn name(&self) -> Value {
        self.text("/metadata/name").into()
    }

    pub(super) fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp").into()
    }

    pub(super) fn terminating(&self) -> bool {
        !self.at("/metadata/deletionTimestamp").is_null()
    }

    /// Time since the timestamp at a pointer.
    pub(super) fn since(&self, pointer: &str) -> String {
        since(self.at(pointer), self.now).unwrap_or_else(|| "<unknown>".into())
    }
}

pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    // Whole seconds towards zero, as a Go duration is cut.
    ((to.as_nanosecond() - from.as_nanosecond()) / 1_000_000_000) as i64
}

/// Time since a timestamp, if it is one.
pub(super) fn since(value: &Value, now: Timestamp) -> Option<String> {
    let at: Timestamp = value.as_str()?.parse().ok()?;
    Some(human_duration(seconds_between(at, now)))
}

/// `a=b,c=d`
pub(super) fn labels(value: &Value) -> String {
    let own: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or_none(own.join(","))
}

pub(super) fn or_none(text: String) -> String {
    if text.is_empty() {
        "<none>".into()
    } else {
        text
    }
}

/// A label selector as its text form: `a=b,c in (d,e),!f`.
pub(super) fn selector(value: &Value) -> String {
    let texts = |v: &Value| {
        let mut all: Vec<String> = v
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        all.sort();
        all.join(",")
    };
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, v) in value["matchLabels"].as_object().into_iter().flatten() {
        parts
            .entry(key.clone())
            .or_default()
            .push(format!("{key}={}", v.as_str().unwrap_or_default()));
    }
    for r in value["matchExpressions"].as_array().into_iter().flatten() {
        let key = r["key"].as_str().unwrap_or_default();
        let text = match r["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", texts(&r["values"])),
            "NotIn" => format!("{key} notin ({})", texts(&r["values"])),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".into(),
        };
        parts.entry(key.to_owned()).or_default().push(text);
    }
    or_none(parts.into_values().flatten().collect::<Vec<_>>().join(","))
}

/// Names and images of a pod template's containers.
pub(super) fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let own = spec["containers"].as_array().into_iter().flatten();
        own.map(|c| c[field].as_str().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(",")
            .into()
    })
}

/// At most `max` texts, and how many more there are.
pub(super) fn with_more(list: &[String], max: usize, separator: &str, empty: &str) -> String {
    if list.is_empty() {
        return empty.into();
    }
    let shown = list[..list.len().min(max)].join(separator);
    if list.len() > max {
        format!("{shown} + {} more...", list.len() - max)
    } else {
        shown
    }
}

/// A number or a text.
pub(super) fn int_or_string(value: &Value, absent: &str) -> Value {
    match value {
        Value::String(s) => s.as_str().into(),
        Value::Number(n) => n.to_string().into(),
        _ => absent.into(),
    }
}

/// The condition of a type.
pub(super) fn condition<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.as_array()?.iter().find(|c| c["type"] == kind)
}

/// Whether the condition of a type is `True`.
pub(super) fn is_true(conditions: &Value, kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|c| c["status"] == "True")
}
