//! Objects as upstream's internal types look in JSON.
//!
//! Upstream validates internal types and shows bad values in that form: Go's field names, every
//! field written, in the order of the type. The table says per type which fields there are and
//! what is written for absent ones: `s` text, `i` number, `b` flag, `q` quantity, `?` null,
//! `[]` null list, `{}` null map, a type's name for structs by value, `?T` and `[T]` for pointers
//! and lists of them. A leading `-` marks fields that are left out when empty; `=name` gives the
//! JSON name where it does not follow from Go's; `T...` embeds a type.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::field::{Shown, escape_html};

static TABLE: LazyLock<BTreeMap<&'static str, Vec<Field>>> = LazyLock::new(parse);

struct Field {
    go: &'static str,
    json: String,
    kind: &'static str,
    omits: bool,
}

fn parse() -> BTreeMap<&'static str, Vec<Field>> {
    let mut table = BTreeMap::new();
    let lines = include_str!("internal.txt").lines();
    for (name, fields) in lines.filter_map(|line| line.split_once(": ")) {
        table.insert(name, fields.split_whitespace().filter_map(field).collect());
    }
    table
}

fn field(text: &'static str) -> Option<Field> {
    if let Some(embedded) = text.strip_suffix("...") {
        return Some(Field {
            go: "",
            json: String::new(),
            kind: embedded,
            omits: false,
        });
    }
    let (name, kind) = text.split_once('/')?;
    let (name, omits) = match name.strip_prefix('-') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (go, json) = match name.split_once('=') {
        Some((go, json)) => (go, json.to_owned()),
        None => (name, json_name(name)),
    };
    Some(Field {
        go,
        json,
        kind,
        omits,
    })
}

/// `FSGroup` → `fsGroup`: the leading capitals, but for the one that begins the next word.
fn json_name(go: &str) -> String {
    let capitals = go.bytes().take_while(u8::is_ascii_uppercase).count();
    let lower = if capitals <= 1 || capitals == go.len() {
        capitals
    } else {
        capitals - 1
    };
    let (head, rest) = go.split_at(lower);
    format!("{}{rest}", head.to_lowercase())
}

/// How a document is laid out.
#[derive(Clone, Copy)]
enum Layout {
    Compact,
    Indented,
}

struct Writer {
    out: String,
    layout: Layout,
    depth: usize,
}

impl Writer {
    fn line(&mut self) {
        if matches!(self.layout, Layout::Indented) {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', self.depth));
        }
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        let empty = self.out.ends_with(['{', '[']);
        if !empty {
            self.line();
        }
        self.out.push(bracket);
    }

    fn next(&mut self) {
        if !self.out.ends_with(['{', '[']) {
            self.out.push(',');
        }
        self.line();
    }

    fn name(&mut self, name: &str) {
        self.next();
        self.out.push_str(&Value::from(name).to_string());
        self.out.push(':');
        if matches!(self.layout, Layout::Indented) {
            self.out.push(' ');
        }
    }

    fn any(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                self.open('{');
                for (key, value) in map {
                    self.name(key);
                    self.any(value);
                }
                self.close('}');
            }
            Value::Array(list) => {
                self.open('[');
                for item in list {
                    self.next();
                    self.any(item);
                }
                self.close(']');
            }
            leaf => self.out.push_str(&escape_html(&leaf.to_string())),
        }
    }

    fn structure(&mut self, kind: &str, value: &Value) {
        self.open('{');
        self.fields(kind, value);
        self.close('}');
    }

    fn fields(&mut self, kind: &str, value: &Value) {
        for field in TABLE.get(kind).into_iter().flatten() {
            if field.go.is_empty() {
                self.fields(field.kind, value);
                continue;
            }
            let merged = moved(kind, &field.json, value);
            let inner = merged.as_ref().unwrap_or(&value[field.json.as_str()]);
            if field.omits && is_zero(inner) {
                continue;
            }
            self.name(field.go);
            self.one(field.kind, inner);
        }
    }

    fn one(&mut self, kind: &str, value: &Value) {
        let pointer = kind.strip_prefix('?');
        match kind {
            "s" if value.is_null() => self.out.push_str("\"\""),
            "i" if value.is_null() => self.out.push('0'),
            "b" if value.is_null() => self.out.push_str("false"),
            "q" if value.is_null() => self.out.push_str("\"0\""),
            "s" | "i" | "b" | "q" | "?" | "[]" | "{}" => self.any(value),
            _ if (pointer.is_some() || kind.starts_with('[')) && value.is_null() => {
                self.out.push_str("null");
            }
            _ if kind.starts_with('[') => {
                let item = kind.trim_matches(['[', ']']);
                self.open('[');
                for value in value.as_array().into_iter().flatten() {
                    self.next();
                    self.structure(item, value);
                }
                self.close(']');
            }
            _ => self.structure(pointer.unwrap_or(kind), value),
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(flag) => !flag,
    }
}

const OF_THE_HOST: [&str; 5] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "hostUsers",
];

/// A pod's security context has fields that the published type has beside it.
fn moved(kind: &str, field: &str, value: &Value) -> Option<Value> {
    if kind != "PodSpec" || field != "securityContext" {
        return None;
    }
    let mut context = value[field].as_object().cloned().unwrap_or_default();
    for name in OF_THE_HOST {
        if let Some(inner) = value.get(name) {
            context.insert(name.into(), inner.clone());
        }
    }
    Some(Value::Object(context))
}

fn render(kind: &str, value: &Value, layout: Layout) -> String {
    let mut writer = Writer {
        out: String::new(),
        layout,
        depth: 0,
    };
    writer.one(kind, value);
    writer.out
}

/// The value as messages show it.
pub(super) fn shown(kind: &str, value: &Value) -> Shown {
    Shown(render(kind, value, Layout::Compact))
}

/// The value on many lines, for comparisons.
pub(super) fn indented(kind: &str, value: &Value) -> String {
    render(kind, value, Layout::Indented)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_follow_from_those_of_go() {
        for (go, json) in [
            ("FSGroup", "fsGroup"),
            ("OS", "os"),
            ("TTY", "tty"),
            ("SELinuxOptions", "seLinuxOptions"),
            ("HostIP", "hostIP"),
            ("Name", "name"),
        ] {
            assert_eq!(json_name(go), json);
        }
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        for fields in TABLE.values() {
            for field in fields {
                let kind = field
                    .kind
                    .trim_start_matches(['?', '['])
                    .trim_end_matches(']');
                let leaf = matches!(kind, "s" | "i" | "b" | "q" | "" | "{}");
                assert!(leaf || TABLE.contains_key(kind), "{kind}");
            }
        }
    }

    #[test]
    fn all_fields_are_written_in_the_order_of_the_type() {
        let port = json!({"port": 80, "protocol": "TCP"});
        assert_eq!(
            shown("ServicePort", &port).0,
            r#"{"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#
        );
        let owner = json!({"uid": "u", "name": "x", "kind": "Event", "apiVersion": "v1"});
        assert_eq!(
            shown("[OwnerReference]", &json!([owner])).0,
            r#"[{"apiVersion":"v1","kind":"Event","name":"x","uid":"u"}]"#
        );
    }

    #[test]
    fn documents_are_indented_by_one() {
        let claim = json!([{"name": "a"}]);
        let expect = "[\n {\n  \"Name\": \"a\",\n  \"ResourceClaimName\": null,\n  \"ResourceClaimTemplateName\": null\n }\n]";
        assert_eq!(indented("[PodResourceClaim]", &claim), expect);
    }
}
