//! Custom resources: what a definition says about one kind in one version.
//!
//! [`CustomKind`] is made from a definition when its names are accepted and hangs on the
//! [`Resource`](super::resource::Resource) that the catalog gets for it; from there on the generic
//! pipeline asks it what it asks the `schema` crate about built-in kinds. [`controller`] follows
//! the definitions.

pub(crate) mod controller;
pub(crate) mod conversion;
pub(crate) mod definition;
mod naming;
mod rules;
mod validation;

use std::borrow::Cow;
use std::sync::Arc;

use schema::openapi::CustomSchema;
use schema::table::CustomColumns;
use serde_json::Value;

use self::conversion::Versions;
use self::rules::Rules;
use super::cache::Cacher;
use super::fields::{Field, Source};
use super::resource::Resource;
use super::strategy::strategy_for;
use crate::response::{ApiError, Cause};

/// See the module's documentation.
pub struct CustomKind {
    /// Name of the definition: `PLURAL.GROUP`.
    pub definition: String,
    /// The structural schema; null without one.
    pub schema: Value,
    rules: Option<Rules>,
    pub columns: CustomColumns,
    /// Where its replicas are.
    pub scale: ScalePaths,
    /// What field selectors may name besides the object's name and namespace.
    pub selectable: Vec<Field>,
    /// Stored objects can be answered as they are: they are all of this version and nothing is
    /// filled in on reading.
    pub plain: bool,
    /// What users of this version are warned of.
    pub deprecated: Option<String>,
    /// The definition is being deleted.
    pub terminating: bool,
    /// All versions of the kind, and how objects get from one to another.
    pub versions: Arc<Versions>,
}

/// Where a custom resource keeps its replicas, as JSON pointers.
#[derive(Debug, Default)]
pub struct ScalePaths {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

/// What field selectors may name in a version.
fn selectable(version: &Value) -> Vec<Field> {
    let paths = version["selectableFields"].as_array().into_iter().flatten();
    paths
        .filter_map(|f| f["jsonPath"].as_str())
        .map(|path| Field {
            label: Cow::Owned(path.trim_start_matches('.').to_owned()),
            source: Source::Pointer(pointer(path)),
        })
        .collect()
}

/// `.a.b` as the JSON pointer `/a/b`.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

impl CustomKind {
    fn of(definition: &Value, version: &Value, versions: Arc<Versions>) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let schema = version["schema"]["openAPIV3Schema"].clone();
        let scale = &version["subresources"]["scale"];
        let stored = &definition["status"]["storedVersions"];
        let name = &version["name"];
        let only = stored
            .as_array()
            .is_some_and(|s| s.iter().all(|v| v == name));
        CustomKind {
            definition: text(&definition["metadata"]["name"]),
            rules: Rules::compile(&schema),
            columns: columns(&version["additionalPrinterColumns"]),
            scale: ScalePaths {
                spec: pointer(&text(&scale["specReplicasPath"])),
                status: pointer(&text(&scale["statusReplicasPath"])),
                selector: scale["labelSelectorPath"].as_str().map(pointer),
            },
            selectable: selectable(version),
            // An older definition may have let fields in that this one prunes.
            plain: only
                && version["storage"] == true
                && !has_defaults(&schema)
                && definition["metadata"]["generation"].as_i64() <= Some(1),
            terminating: definition["metadata"]["deletionTimestamp"].is_string(),
            versions,
            deprecated: (version["deprecated"] == true).then(|| deprecation(definition, version)),
            schema,
        }
    }

    /// The field of a selector under its own name, or a refusal.
    pub fn known_label(&self, label: &str) -> Result<Cow<'static, str>, ApiError> {
        let known = matches!(label, "metadata.name" | "metadata.namespace")
            || self.selectable.iter().any(|f| f.label == label);
        if known {
            return Ok(Cow::Owned(label.to_owned()));
        }
        Err(ApiError::bad_request(format!(
            "field label not supported: {label}"
        )))
    }

    /// What is wrong with an object: first its shape, then, if that is right, its rules.
    pub fn validate(&self, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
        let before = causes.len();
        validation::check(&self.schema, new, old, causes);
        let Some(rules) = &self.rules else {
            return;
        };
        if causes[before..].iter().any(validation::blocks_rules) {
            causes.push(Cause::new(
                "FieldValueInvalid",
                "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
                "<nil>",
            ));
            return;
        }
        rules.check(&self.schema, new, old, causes);
    }
}

/// The definition's own words, or those that name the version to use instead.
fn deprecation(definition: &Value, version: &Value) -> String {
    if let Some(own) = version["deprecationWarning"].as_str() {
        return own.to_owned();
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let spec = &definition["spec"];
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let mut better: Vec<String> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["served"] == true && v["deprecated"] != true)
        .map(|v| text(&v["name"]))
        .collect();
    better.sort_by(|a, b| schema::resources::compare_versions(a, b));
    let own = format!("{group}/{} {kind} is deprecated", text(&version["name"]));
    match better.first() {
        Some(better) => format!("{own}; use {group}/{better} {kind}"),
        None => own,
    }
}

fn columns(declared: &Value) -> CustomColumns {
    CustomColumns::new(declared)
        .or_else(|_| CustomColumns::new(&Value::Null))
        .unwrap_or_else(|_| unreachable!("the default column is well-formed"))
}

/// Whether the key stands anywhere in the schema, values of defaults and examples aside.
fn mentions(schema: &Value, key: &str) -> bool {
    match schema {
        Value::Object(map) => map.iter().any(|(k, v)| {
            k == key || (!matches!(k.as_str(), "default" | "example" | "enum") && mentions(v, key))
        }),
        Value::Array(items) => items.iter().any(|v| mentions(v, key)),
        _ => false,
    }
}

fn has_defaults(schema: &Value) -> bool {
    mentions(schema, "default")
}

/// The resources that a definition stands for, one for each served version.
pub fn resources(definition: &Value, cacher: &Cacher) -> Vec<Resource> {
    let versions = definition["spec"]["versions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut fields: Vec<Field> = Vec::new();
    for field in versions.iter().flat_map(selectable) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    let all = Arc::new(Versions::of(definition));
    let own = schema::resources::custom(definition).into_iter();
    own.filter_map(|row| {
        let version = versions
            .iter()
            .find(|v| v["name"] == row.version.as_ref())?;
        let custom = CustomKind::of(definition, version, all.clone());
        let shape = all.shape(&row.version)?.clone();
        let cache = cacher.resource(&row.group, &row.plural);
        cache.set_fields(fields.clone().into());
        Some(Resource {
            definition: row,
            shape,
            cache,
            strategy: strategy_for("", "", true),
            custom: Some(Arc::new(custom)),
        })
    })
    .collect()
}

impl Resource {
    /// What OpenAPI publishes of a custom kind.
    pub fn published_schema(&self) -> Option<CustomSchema> {
        let custom = self.custom.as_ref()?;
        Some(CustomSchema {
            kind: self.gvk(),
            plural: self.plural.to_string(),
            list_kind: self.list_kind.to_string(),
            schema: custom.schema.clone(),
        })
    }
}
