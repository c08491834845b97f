//! Columns of custom resources (`additionalPrinterColumns`).

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::path::JsonPath;
pub use super::path::PathError;
use super::text::since;

/// The columns of one version of a custom resource.
#[derive(Clone, Debug)]
pub struct CustomColumns(Vec<(Column, JsonPath)>);

impl CustomColumns {
    /// From a version's `additionalPrinterColumns`; without any there is the age.
    pub fn new(declared: &Value) -> Result<Self, PathError> {
        let own = declared.as_array().filter(|l| !l.is_empty());
        let Some(own) = own else {
            return Ok(Self(vec![(
                age(),
                JsonPath::parse(".metadata.creationTimestamp")?,
            )]));
        };
        let one = |c: &Value| {
            let text = |name: &str| c[name].as_str().unwrap_or_default().to_owned();
            let column = Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: match text("description") {
                    own if own.is_empty() => format!(
                        "Custom resource definition column (in JSONPath format): {}",
                        text("jsonPath")
                    ),
                    own => own,
                },
                priority: c["priority"]
                    .as_i64()
                    .and_then(|p| i32::try_from(p).ok())
                    .unwrap_or(0),
            };
            Ok((column, JsonPath::parse(&text("jsonPath"))?))
        };
        own.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// The name, then the declared columns.
    pub fn columns(&self) -> Vec<Column> {
        let name = Column {
            name: "Name".into(),
            kind: "string".into(),
            format: "name".into(),
            description: super::metadata_text("name"),
            priority: 0,
        };
        std::iter::once(name)
            .chain(self.0.iter().map(|(c, _)| c.clone()))
            .collect()
    }

    /// The cells of an object; `null` where there is no value of the column's type.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .into();
        let cell = |(column, path): &(Column, JsonPath)| {
            path.find(object)
                .first()
                .map_or(Value::Null, |v| cell(&column.kind, v, now))
        };
        std::iter::once(name)
            .chain(self.0.iter().map(cell))
            .collect()
    }
}

fn age() -> Column {
    Column {
        name: "Age".into(),
        kind: "date".into(),
        format: String::new(),
        description: super::metadata_text("creationTimestamp"),
        priority: 0,
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::Null) => "<nil>".into(),
        ("string", own) => own.to_string().into(),
        ("integer", Value::Number(n)) => n
            .as_i64()
            .or_else(|| n.as_f64().map(|f| f as i64))
            .map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) => value.clone(),
        ("date", Value::String(_)) => since(value, now)
            .unwrap_or_else(|| "<invalid>".into())
            .into(),
        _ => Value::Null,
    }
}
