//! The v2 document as protobuf (the `openapi.v2.Document` message of gnostic), which older
//! clients ask for.

use serde_json::{Map, Value};

use crate::protobuf::Writer;

type Object = Map<String, Value>;

/// Encodes a v2 document that is there as a tree.
pub fn encode(document: &Value) -> Vec<u8> {
    let entries = |name: &str| document[name].as_object().into_iter().flatten();
    let mut out = Document::new(&document["info"]);
    entries("paths").for_each(|(path, item)| out.path(path, item));
    entries("definitions").for_each(|(name, own)| out.definition(name, own));
    let tail = ["parameters", "security", "securityDefinitions"]
        .map(|name| (name, document[name].clone()));
    out.finish(&tail)
}

/// A document being written.
pub(super) struct Document {
    head: Writer,
    paths: Writer,
    definitions: Writer,
}

impl Document {
    pub(super) fn new(info: &Value) -> Self {
        let mut head = Writer::default();
        head.bytes(1, b"2.0");
        if let Some(info) = info.as_object() {
            message(&mut head, 2, |w| {
                text(w, 1, info, "title");
                text(w, 2, info, "version");
            });
        }
        Self {
            head,
            paths: Writer::default(),
            definitions: Writer::default(),
        }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        if let Some(item) = item.as_object() {
            named(&mut self.paths, 2, path, |w| path_item(w, item));
        }
    }

    pub(super) fn definition(&mut self, name: &str, own: &Value) {
        if let Some(own) = own.as_object() {
            named(&mut self.definitions, 1, name, |w| schema(w, own));
        }
    }

    /// The rest of the document by the names of v2.
    pub(super) fn finish(self, tail: &[(&str, Value)]) -> Vec<u8> {
        let mut w = self.head;
        w.bytes(8, &self.paths.out);
        w.bytes(9, &self.definitions.out);
        let part = |name: &str| {
            tail.iter()
                .find(|(n, _)| *n == name)
                .map_or(&Value::Null, |(_, v)| v)
        };
        message(&mut w, 10, |w| {
            for (name, own) in part("parameters").as_object().into_iter().flatten() {
                named(w, 1, name, |w| {
                    own.as_object().into_iter().for_each(|o| parameter(w, o))
                });
            }
        });
        for own in part("security")
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
        {
            message(&mut w, 12, |w| {
                own.keys().for_each(|name| named(w, 1, name, |_| {}))
            });
        }
        message(&mut w, 13, |w| {
            for (name, own) in part("securityDefinitions")
                .as_object()
                .into_iter()
                .flatten()
            {
                // An API key.
                let fill = |w: &mut Writer| {
                    own.as_object()
                        .into_iter()
                        .for_each(|o| security_definition(w, o))
                };
                named(w, 1, name, |w| message(w, 2, fill));
            }
        });
        w.out
    }
}

fn security_definition(w: &mut Writer, own: &Object) {
    text(w, 1, own, "type");
    text(w, 2, own, "name");
    text(w, 3, own, "in");
    text(w, 4, own, "description");
}

fn message(w: &mut Writer, number: u16, fill: impl FnOnce(&mut Writer)) {
    let mut inner = Writer::default();
    fill(&mut inner);
    w.bytes(number, &inner.out);
}

/// An entry of a map as gnostic writes it: name and value.
fn named(w: &mut Writer, number: u16, name: &str, fill: impl FnOnce(&mut Writer)) {
    message(w, number, |w| {
        w.bytes(1, name.as_bytes());
        message(w, 2, fill);
    });
}

fn object<'a>(map: &'a Object, name: &str) -> Option<&'a Object> {
    map.get(name).and_then(Value::as_object)
}

fn entries<'a>(map: &'a Object, name: &str) -> impl Iterator<Item = (&'a String, &'a Object)> {
    object(map, name)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| v.as_object().map(|o| (k, o)))
}

fn objects<'a>(map: &'a Object, name: &str) -> impl Iterator<Item = &'a Object> {
    map.get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
}

fn text(w: &mut Writer, number: u16, map: &Object, name: &str) {
    if let Some(own) = map.get(name).and_then(Value::as_str) {
        w.bytes(number, own.as_bytes());
    }
}

fn texts(w: &mut Writer, number: u16, map: &Object, name: &str) {
    for own in map
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        w.bytes(number, own.as_bytes());
    }
}

fn flag(w: &mut Writer, number: u16, map: &Object, name: &str) {
    if map.get(name) == Some(&Value::Bool(true)) {
        w.int(number, 1);
    }
}

/// Any value is YAML text; JSON is YAML.
fn any(w: &mut Writer, number: u16, value: &Value) {
    message(w, number, |w| w.bytes(2, format!("{value}\n").as_bytes()));
}

fn extensions(w: &mut Writer, number: u16, map: &Object) {
    for (name, value) in map.iter().filter(|(k, _)| k.starts_with("x-")) {
        message(w, number, |w| {
            w.bytes(1, name.as_bytes());
            any(w, 2, value);
        });
    }
}

fn path_item(w: &mut Writer, item: &Object) {
    for (number, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (6, "options"),
        (7, "head"),
        (8, "patch"),
    ] {
        if let Some(own) = object(item, method) {
            message(w, number, |w| operation(w, own));
        }
    }
    objects(item, "parameters").for_each(|p| message(w, 9, |w| parameters_item(w, p)));
}

fn operation(w: &mut Writer, own: &Object) {
    texts(w, 1, own, "tags");
    text(w, 3, own, "description");
    text(w, 5, own, "operationId");
    texts(w, 6, own, "produces");
    texts(w, 7, own, "consumes");
    objects(own, "parameters").for_each(|p| message(w, 8, |w| parameters_item(w, p)));
    message(w, 9, |w| {
        for (code, reply) in entries(own, "responses") {
            named(w, 1, code, |w| message(w, 1, |w| response(w, reply)));
        }
    });
    texts(w, 10, own, "schemes");
    extensions(w, 13, own);
}

fn response(w: &mut Writer, own: &Object) {
    text(w, 1, own, "description");
    if let Some(inner) = object(own, "schema") {
        message(w, 2, |w| message(w, 1, |w| schema(w, inner)));
    }
}

fn parameters_item(w: &mut Writer, own: &Object) {
    if own.contains_key("$ref") {
        message(w, 2, |w| text(w, 1, own, "$ref"));
    } else {
        message(w, 1, |w| parameter(w, own));
    }
}

fn parameter(w: &mut Writer, own: &Object) {
    let place = own.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        message(w, 1, |w| {
            text(w, 1, own, "description");
            text(w, 2, own, "name");
            text(w, 3, own, "in");
            flag(w, 4, own, "required");
            if let Some(inner) = object(own, "schema") {
                message(w, 5, |w| schema(w, inner));
            }
        });
        return;
    }
    // Query parameters have one more field than path parameters before the type.
    let (variant, kind, unique) = if place == "path" {
        (4, 5, 19)
    } else {
        (3, 6, 20)
    };
    message(w, 2, |w| {
        message(w, variant, |w| {
            flag(w, 1, own, "required");
            text(w, 2, own, "in");
            text(w, 3, own, "description");
            text(w, 4, own, "name");
            text(w, kind, own, "type");
            flag(w, unique, own, "uniqueItems");
        });
    });
}

fn schema(w: &mut Writer, own: &Object) {
    text(w, 1, own, "$ref");
    text(w, 2, own, "format");
    text(w, 3, own, "title");
    text(w, 4, own, "description");
    for (number, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(n) = own.get(name).and_then(Value::as_f64) {
            w.double(number, n);
        }
    }
    for (number, name) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        if let Some(n) = own.get(name).and_then(Value::as_i64) {
            w.int(number, n);
        }
    }
    flag(w, 8, own, "exclusiveMaximum");
    flag(w, 10, own, "exclusiveMinimum");
    text(w, 13, own, "pattern");
    flag(w, 16, own, "uniqueItems");
    texts(w, 19, own, "required");
    for value in own
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        any(w, 20, value);
    }
    match own.get("additionalProperties") {
        Some(Value::Object(inner)) => message(w, 21, |w| message(w, 1, |w| schema(w, inner))),
        Some(Value::Bool(allowed)) => message(w, 21, |w| w.int(2, i64::from(*allowed))),
        _ => {}
    }
    if own.contains_key("type") {
        message(w, 22, |w| text(w, 1, own, "type"));
    }
    if let Some(inner) = object(own, "items") {
        message(w, 23, |w| message(w, 1, |w| schema(w, inner)));
    }
    if object(own, "properties").is_some() {
        message(w, 25, |w| {
            for (name, inner) in entries(own, "properties") {
                named(w, 1, name, |w| schema(w, inner));
            }
        });
    }
    extensions(w, 31, own);
}
