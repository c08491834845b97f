//! The Table representation: columns of every kind and the cells of an object.
//!
//! Columns of built-in kinds are data (`data/columns.txt`), their cells are functions of the
//! object, a file for each family of kinds. Custom resources say their columns as JSON paths.

mod admin;
mod core;
mod custom;
mod duration;
mod networking;
mod path;
mod pod;
mod storage;
mod text;
mod workloads;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::resources::convert;
use crate::types::Gvk;

pub use custom::{CustomColumns, PathError};
pub use duration::human_duration;
pub use path::JsonPath;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `boolean`, `date`, ...
    pub kind: String,
    /// `name` for the object's name.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// Above 0 it is shown in wide output only.
    pub priority: i32,
}

/// Whether a row carries its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Not at all.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// As it is.
    Object,
}

/// Whether a table carries its columns; later events of a watch do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    /// With columns.
    #[default]
    Shown,
    /// Without.
    Hidden,
}

/// Makes the rows of one kind.
#[derive(Clone, Debug)]
pub enum Printer {
    /// A built-in kind.
    Builtin(Gvk),
    /// A custom kind.
    Custom(CustomColumns),
}

type Cells = Vec<Value>;

impl Printer {
    /// The columns.
    pub fn columns(&self) -> Vec<Column> {
        match self {
            Self::Builtin(kind) => builtin_columns(kind),
            Self::Custom(own) => own.columns(),
        }
    }

    /// The cells of an object, in the order of the columns.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Self::Builtin(kind) => builtin_cells(kind, object, now),
            Self::Custom(own) => own.cells(object, now),
        }
    }

    /// A whole table; `metadata` is the list's (or the object's, of which the resource
    /// version is taken).
    pub fn table(
        &self,
        objects: &[&Value],
        metadata: &Value,
        include: IncludeObject,
        headers: Headers,
        now: Timestamp,
    ) -> Value {
        let rows: Vec<Value> = objects.iter().map(|o| self.row(o, include, now)).collect();
        let columns = match headers {
            Headers::Shown => self.columns().iter().map(Column::to_value).collect(),
            Headers::Hidden => Value::Null,
        };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata(metadata),
               "columnDefinitions": columns, "rows": rows})
    }

    fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let mut row = Map::new();
        row.insert("cells".into(), self.cells(object, now).into());
        if let Self::Builtin(kind) = self
            && kind.kind == "Pod"
            && let Some(conditions) = pod::conditions(object)
        {
            row.insert("conditions".into(), conditions);
        }
        let shown = match include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                                              "metadata": object.get("metadata").cloned().unwrap_or_default()})
            }
            IncludeObject::Object => object.clone(),
        };
        row.insert("object".into(), shown);
        row.into()
    }
}

fn list_metadata(metadata: &Value) -> Value {
    let names = [
        "resourceVersion",
        "continue",
        "remainingItemCount",
        "selfLink",
    ];
    let kept = names
        .iter()
        .filter_map(|n| metadata.get(*n).map(|v| ((*n).to_owned(), v.clone())));
    Value::Object(kept.collect())
}

impl Column {
    fn to_value(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description,
               "priority": self.priority})
    }
}

const TABLE: &str = include_str!("../data/columns.txt");

/// Columns by group, version and kind. Their descriptions are still those of the file: a text, or
/// `@DEFINITION#FIELD` for the text of a field.
static COLUMNS: LazyLock<HashMap<(String, String), Vec<Column>>> = LazyLock::new(|| {
    let mut all: HashMap<(String, String), Vec<Column>> = HashMap::new();
    let mut key = (String::new(), String::new());
    for line in TABLE.lines() {
        if let Some((version, plural)) = line.strip_prefix("table ").and_then(|l| l.split_once(' '))
        {
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            let found = crate::resources::builtin().get(group, version, plural);
            key = found.map_or_else(Default::default, |r| (r.api_version(), r.kind.to_string()));
        } else if let [name, kind, format, priority, text] =
            line.split('\t').collect::<Vec<_>>()[..]
        {
            all.entry(key.clone()).or_default().push(Column {
                name: name.into(),
                kind: kind.into(),
                format: format.into(),
                description: text.replace("\\n", "\n"),
                priority: priority.parse().unwrap_or(0),
            });
        }
    }
    all
});

/// The finished columns of the kinds that were asked for: making the texts of all takes long.
static DESCRIBED: LazyLock<Mutex<HashMap<Gvk, Vec<Column>>>> = LazyLock::new(Mutex::default);

fn builtin_columns(kind: &Gvk) -> Vec<Column> {
    let mut described = DESCRIBED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(own) = described.get(kind) {
        return own.clone();
    }
    let mut own = COLUMNS
        .get(&(kind.api_version(), kind.kind.to_string()))
        .cloned()
        .unwrap_or_else(|| default_columns(kind));
    let mut references: Vec<&mut String> = own
        .iter_mut()
        .map(|c| &mut c.description)
        .filter(|d| d.starts_with('@'))
        .collect();
    crate::openapi::resolve_texts(kind, &mut references);
    described.insert(kind.clone(), own.clone());
    own
}

/// The text of a field of every object's metadata.
fn metadata_text(field: &str) -> String {
    static TEXTS: LazyLock<[(&str, String); 2]> = LazyLock::new(|| {
        ["name", "creationTimestamp"].map(|field| {
            let mut text = format!("@{field}");
            crate::openapi::resolve_texts(&Gvk::new("", "v1", "ConfigMap"), &mut [&mut text]);
            (field, text)
        })
    });
    let found = TEXTS.iter().find(|(name, _)| *name == field);
    found.map(|(_, text)| text.clone()).unwrap_or_default()
}

const CREATED: &str = "@creationTimestamp";

fn default_columns(kind: &Gvk) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, text: &str| Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: text.into(),
        priority: 0,
    };
    let mut own = vec![column("Name", "string", "name", "@name")];
    if kind.kind == "Scale" {
        own[0].format.clear();
        let field = |name: &str| format!("@io.k8s.api.autoscaling.v1.{name}");
        own.push(column(
            "Desired",
            "integer",
            "",
            &field("ScaleSpec#replicas"),
        ));
        own.push(column(
            "Available",
            "integer",
            "",
            &field("ScaleStatus#replicas"),
        ));
        own.push(column("Age", "string", "", CREATED));
    } else {
        own.push(column("Created At", "date", "", CREATED));
    }
    own
}

fn builtin_cells(kind: &Gvk, object: &Value, now: Timestamp) -> Cells {
    let storage = match (
        kind.group.as_ref(),
        kind.version.as_ref(),
        kind.kind.as_ref(),
    ) {
        ("events.k8s.io", "v1", "Event") => Some(Gvk::new("", "v1", "Event")),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => {
            Some(Gvk::new("autoscaling", "v2", "HorizontalPodAutoscaler"))
        }
        _ => None,
    };
    if let Some(storage) = storage {
        let mut own = object.clone();
        if convert(&mut own, kind, &storage).is_ok() {
            return builtin_cells(&storage, &own, now);
        }
    }
    let view = text::View { object, now };
    let name = kind.kind.as_ref();
    match kind.group.as_ref() {
        "" if name == "Pod" => Some(pod::cells(view)),
        "" => core::cells(view, name),
        "apps" | "batch" | "autoscaling" | "policy" => workloads::cells(view, name),
        "networking.k8s.io" | "discovery.k8s.io" => networking::cells(view, name),
        "storage.k8s.io" | "resource.k8s.io" => storage::cells(view, name),
        _ => admin::cells(view, name),
    }
    .unwrap_or_else(|| vec![view.name(), view.at("/metadata/creationTimestamp").clone()])
}

#[cfg(test)]
mod tests;
