//! Values of a schema: such as it wants, and such as it does not.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::operations::Schemas;

/// Deeper objects stay empty.
const DEPTH: usize = 6;

/// Makes values of the schemas of one document.
pub(crate) struct Maker<'a> {
    pub(crate) schemas: &'a Schemas,
    pub(crate) random: &'a mut StdRng,
}

impl Maker<'_> {
    /// The schema behind references, and the name of the last one.
    fn resolve<'s>(schemas: &'s Schemas, schema: &'s Value) -> (&'s Value, &'s str) {
        let (mut schema, mut name) = (schema, "");
        for _ in 0..8 {
            let reference = schema["$ref"]
                .as_str()
                .or_else(|| schema["allOf"][0]["$ref"].as_str());
            let Some(found) = reference.and_then(|r| r.rsplit('/').next()) else {
                break;
            };
            let Some(next) = schemas.get(found) else {
                break;
            };
            (schema, name) = (next, found);
        }
        (schema, name)
    }

    /// A value that the schema allows; more than the schema says it knows by the field's name.
    pub(crate) fn value(&mut self, schema: &Value, field: &str, depth: usize) -> Value {
        let schemas = self.schemas.clone();
        let (own, name) = Self::resolve(&schemas, schema);
        if let Some(value) = self.well_known(name) {
            return value;
        }
        let kind = own["type"].as_str().unwrap_or("");
        match kind {
            "string" => self.text(own, field),
            "integer" => json!(self.one(&[0, 1, 2, 3, 10, 80, 100, 3600])),
            "number" => json!(self.one(&[0.0, 0.5, 1.0])),
            "boolean" => json!(self.random.random_bool(0.5)),
            "array" => {
                let count = self.random.random_range(0..3);
                (0..count)
                    .map(|_| self.value(&own["items"], field, depth + 1))
                    .collect()
            }
            _ if own["properties"].is_object() => self.object(own, depth),
            _ if own["additionalProperties"].is_object() => {
                let mut map = Map::new();
                for _ in 0..self.random.random_range(0..3) {
                    let value = self.value(&own["additionalProperties"], field, depth + 1);
                    map.insert(self.name(), value);
                }
                Value::Object(map)
            }
            _ => json!({"any": self.name()}),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut map = Map::new();
        for (field, own) in schema["properties"].as_object().into_iter().flatten() {
            let chance = if depth >= DEPTH { 0.0 } else { 0.25 };
            if required.contains(&field.as_str()) || self.random.random_bool(chance) {
                map.insert(field.clone(), self.value(own, field, depth + 1));
            }
        }
        Value::Object(map)
    }

    fn well_known(&mut self, schema: &str) -> Option<Value> {
        let last = schema.rsplit('.').next().unwrap_or_default();
        Some(match last {
            "Quantity" => json!(self.one(&["1", "100m", "1Gi", "1e3", "0", "1.5", "5T"])),
            "IntOrString" => match self.random.random_range(0..3) {
                0 => json!("25%"),
                1 => json!("http"),
                _ => json!(1),
            },
            "Time" => json!("2026-01-02T03:04:05Z"),
            "MicroTime" => json!("2026-01-02T03:04:05.000006Z"),
            "FieldsV1" => json!({"f:metadata": {"f:labels": {".": {}}}}),
            "RawExtension" | "JSON" => json!({"any": ["thing", 1]}),
            _ => return None,
        })
    }

    fn text(&mut self, schema: &Value, field: &str) -> Value {
        if let Some(allowed) = schema["enum"].as_array()
            && let Some(one) = allowed.choose(self.random)
        {
            return one.clone();
        }
        let text = match (schema["format"].as_str().unwrap_or(""), field) {
            ("byte", _) => self.one(&["", "AAEC", "c2VjcmV0"]),
            ("date-time", _) => "2026-01-02T03:04:05Z",
            (_, "namespace") => crate::operations::NAMESPACE,
            (_, "apiVersion") => "v1",
            (_, "kind") => self.one(&["Pod", "Deployment", "ConfigMap"]),
            (_, "ip" | "podIP" | "hostIP" | "clusterIP") => self.one(&["10.0.0.9", "fd00::9"]),
            (_, "cidr" | "podCIDR") => self.one(&["10.0.0.0/24", "fd00::/64"]),
            (_, "expression" | "rule") => self.one(&["true", "self.a == 1", "size(object) > 0"]),
            (_, "path" | "mountPath" | "subPath") => self.one(&["/a", "a/b", "/", ""]),
            _ => return json!(self.name()),
        };
        json!(text)
    }

    fn name(&mut self) -> String {
        self.one(&[
            "sample",
            "a",
            "b-1",
            "app",
            "http",
            "example.com/x",
            "10%",
            "",
        ])
        .to_owned()
    }

    fn one<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.random.random_range(0..values.len())]
    }

    /// Sets one field somewhere in the object: to what the schema allows, or to nonsense.
    pub(crate) fn change(&mut self, object: &mut Value, schema: &Value, nonsense: bool) {
        let schemas = self.schemas.clone();
        let (own, name) = Self::resolve(&schemas, schema);
        let known = !matches!(
            name.rsplit('.').next(),
            Some("Quantity" | "Time" | "MicroTime")
        );
        let deeper = known && self.random.random_bool(0.85);
        match object {
            Value::Object(map) if deeper => {
                let fields = own["properties"].as_object();
                let field = match fields.filter(|f| !f.is_empty()) {
                    Some(fields) => fields.keys().nth(self.random.random_range(0..fields.len())),
                    None => map.keys().next(),
                };
                let Some(field) = field.cloned() else {
                    *object = self.replacement(own, "", nonsense);
                    return;
                };
                let below = match &own["properties"][&field] {
                    Value::Null => &own["additionalProperties"],
                    schema => schema,
                };
                // The names of the object itself are right more often than not.
                if ["kind", "apiVersion"].contains(&field.as_str()) && self.random.random_bool(0.8)
                {
                    return;
                }
                match map.get_mut(&field) {
                    Some(value) => self.change(value, below, nonsense),
                    None => {
                        let value = self.replacement(below, &field, nonsense);
                        map.insert(field, value);
                    }
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.random.random_range(0..items.len());
                if self.random.random_bool(0.1) {
                    let twin = items[at].clone();
                    items.push(twin);
                } else {
                    self.change(&mut items[at], &own["items"], nonsense);
                }
            }
            _ => *object = self.replacement(own, name, nonsense),
        }
    }

    fn replacement(&mut self, schema: &Value, field: &str, nonsense: bool) -> Value {
        if nonsense {
            self.nonsense()
        } else {
            self.value(schema, field, 2)
        }
    }

    /// What hardly any field takes.
    pub(crate) fn nonsense(&mut self) -> Value {
        match self.random.random_range(0..20) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1),
            3 => json!(i64::MIN),
            4 => json!(u64::MAX),
            5 => json!(1e300),
            6 => json!(0.1),
            7 => json!(""),
            8 => json!("x".repeat(70_000)),
            9 => json!("\u{0}\u{202e}\u{fffd}\u{1f980}"),
            10 => json!({}),
            11 => json!([]),
            12 => json!([null, 1, "a", {}, []]),
            13 => json!({"": {"": null}, "~1/..": "%2e%2e"}),
            14 => (0..60).fold(json!(1), |inner, _| json!([inner])),
            15 => (0..60).fold(json!(1), |inner, _| json!({"a": inner})),
            16 => json!("999999999999999999999999999999Ei"),
            17 => json!("2026-13-45T99:99:99Z"),
            18 => json!("-"),
            _ => json!("{{.}} ${A} $(A) ' \" \\ \n"),
        }
    }
}
