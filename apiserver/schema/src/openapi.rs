//! OpenAPI: v2 (JSON and protobuf) and v3, built when they are asked for.
//!
//! Paths follow from the resource table, schemas from the type table, descriptions from
//! the texts that `k8s-openapi` carries. A document is some megabytes while it is built and
//! is not kept here: a server keeps the (compressed) bytes if it wants to, under
//! [`Documents::hash`].

mod custom;
mod describe;
mod gnostic;
mod json;
mod operations;
mod parameters;
mod paths;
mod render;
mod schemas;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::resources::{ResourceTable, builtin};
use crate::types::Gvk;

pub use custom::CustomSchema;
use describe::Descriptions;
pub use gnostic::encode as encode_v2;
use operations::{PathItem, Reply};
use schemas::Dialect;

/// Media type of the v2 document in protobuf.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What the documents are made of.
#[derive(Clone, Debug)]
pub struct Documents<'a> {
    /// Every resource that is served.
    pub table: &'a ResourceTable,
    /// Schemas of the custom ones.
    pub custom: &'a [CustomSchema],
}

impl Documents<'_> {
    /// `/openapi/v3`: the documents there are, each with its hash.
    pub fn v3_index(&self) -> Value {
        let paths: Map<String, Value> = self
            .v3_paths()
            .into_iter()
            .map(|p| {
                let url = format!("/openapi/v3/{p}?hash={}", self.hash(&p));
                (p, json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    /// Paths of the v3 documents, below `/openapi/v3/`.
    pub fn v3_paths(&self) -> Vec<String> {
        let fixed = [
            ".well-known/openid-configuration",
            "api",
            "apis",
            "openid/v1/jwks",
            "version",
        ];
        let mut all: BTreeSet<String> = fixed.iter().map(|p| (*p).to_owned()).collect();
        for group in &self.table.groups {
            if !group.name.is_empty() {
                all.insert(format!("apis/{}", group.name));
            }
            for v in &group.versions {
                all.insert(v3_path(&group.name, &v.version));
            }
        }
        all.into_iter().collect()
    }

    /// Changes when the document does: with this program's version and with the
    /// definitions that the document shows.
    pub fn hash(&self, path: &str) -> String {
        let mut digest = Sha256::new();
        digest.update(env!("CARGO_PKG_VERSION"));
        digest.update(schemas::fingerprint());
        digest.update(path);
        for own in self
            .custom
            .iter()
            .filter(|c| path == "v2" || v3_path(&c.kind.group, &c.kind.version) == path)
        {
            digest.update(own.kind.api_version());
            digest.update(own.kind.kind.as_bytes());
            digest.update(own.schema.to_string());
        }
        for r in self
            .table
            .iter()
            .filter(|r| path == "v2" || v3_path(&r.group, &r.version) == path)
        {
            digest.update(r.plural.as_bytes());
            r.subresources
                .iter()
                .for_each(|s| digest.update(s.name.as_bytes()));
        }
        hex::encode_upper(&digest.finalize()[..])
    }

    /// The v3 document at a path below `/openapi/v3/`, as JSON.
    pub fn v3_json(&self, path: &str) -> Option<Vec<u8>> {
        let items = self.items_of(path)?;
        let group_version = match path.strip_prefix("apis/").and_then(|p| p.split_once('/')) {
            Some((group, version)) => Some((group, version)),
            None if path == "api/v1" => Some(("", "v1")),
            None => None,
        };
        let mut out = json::Object::new();
        out.field("openapi", &json!("3.0.0"));
        out.field("info", &info());
        out.object("paths", |w| {
            items
                .iter()
                .for_each(|i| w.field(&i.path, &render::v3_item(i)))
        });
        out.object("components", |w| {
            if items.iter().any(|i| !i.definitions().is_empty()) {
                w.object("schemas", |w| {
                    self.definitions(&items, Dialect::V3, group_version, |name, schema| {
                        w.field(name, &schema)
                    });
                });
            }
            w.field("securitySchemes", &security());
        });
        Some(out.finish())
    }

    /// `/openapi/v2`, as JSON.
    pub fn v2_json(&self) -> Vec<u8> {
        let items = self.all_items();
        let mut out = json::Object::new();
        out.field("swagger", &json!("2.0"));
        out.field("info", &info());
        out.object("paths", |w| {
            items
                .iter()
                .for_each(|i| w.field(&i.path, &render::v2_item(i)))
        });
        out.object("definitions", |w| {
            self.definitions(&items, Dialect::V2, None, |name, schema| {
                w.field(name, &schema)
            });
        });
        for (name, part) in v2_tail() {
            out.field(name, &part);
        }
        out.finish()
    }

    /// `/openapi/v2`, as the protobuf message that [`V2_PROTOBUF`] names.
    pub fn v2_protobuf(&self) -> Vec<u8> {
        let items = self.all_items();
        let mut out = gnostic::Document::new(&info());
        items
            .iter()
            .for_each(|i| out.path(&i.path, &render::v2_item(i)));
        self.definitions(&items, Dialect::V2, None, |name, schema| {
            out.definition(name, &schema)
        });
        out.finish(&v2_tail())
    }

    /// [`Self::v3_json`] as a tree, which is much larger.
    pub fn v3(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&self.v3_json(path)?).ok()
    }

    /// [`Self::v2_json`] as a tree, which is much larger.
    pub fn v2(&self) -> Value {
        serde_json::from_slice(&self.v2_json()).unwrap_or_default()
    }

    fn all_items(&self) -> Vec<PathItem> {
        self.v3_paths()
            .iter()
            .filter_map(|p| self.items_of(p))
            .flatten()
            .collect()
    }

    fn items_of(&self, path: &str) -> Option<Vec<PathItem>> {
        let words: Vec<&str> = path.split('/').collect();
        Some(match words.as_slice() {
            ["api"] => vec![paths::root(
                "/api/",
                "getCoreAPIVersions",
                "core",
                "APIVersions",
            )],
            ["apis"] => vec![paths::root(
                "/apis/",
                "getAPIVersions",
                "apis",
                "APIGroupList",
            )],
            ["version"] => vec![paths::plain(
                "/version/",
                "getCodeVersion",
                "version",
                Reply::Version,
            )],
            [".well-known", "openid-configuration"] => vec![paths::plain(
                "/.well-known/openid-configuration/",
                "getServiceAccountIssuerOpenIDConfiguration",
                "WellKnown",
                Reply::Text,
            )],
            ["openid", "v1", "jwks"] => {
                vec![paths::plain(
                    "/openid/v1/jwks/",
                    "getServiceAccountIssuerOpenIDKeyset",
                    "openid",
                    Reply::KeySet,
                )]
            }
            ["api", version] => paths::group_version(self.table, "", version)?,
            ["apis", group] => {
                self.table
                    .groups
                    .iter()
                    .find(|g| g.name == *group && !g.name.is_empty())?;
                vec![paths::group(group)]
            }
            ["apis", group, version] => paths::group_version(self.table, group, version)?,
            _ => return None,
        })
    }

    /// Hands out everything that the paths refer to, and what that refers to, one by one
    /// and sorted: a whole document as a tree would be twenty times the size of its text.
    fn definitions(
        &self,
        items: &[PathItem],
        dialect: Dialect,
        group_version: Option<(&str, &str)>,
        mut each: impl FnMut(&str, Value),
    ) {
        let roots: Vec<String> = items.iter().flat_map(PathItem::definitions).collect();
        let texts = Descriptions::of(&roots);
        let make = |name: &str| {
            let custom = self.custom.iter().find_map(|c| c.definition(name, dialect));
            custom.or_else(|| schemas::definition(name, dialect, group_version, &texts))
        };
        let (mut todo, mut names) = (roots, BTreeSet::new());
        while let Some(name) = todo.pop() {
            if !names.contains(&name)
                && let Some(schema) = make(&name)
            {
                schemas::references(&schema, &mut todo);
                names.insert(name);
            }
        }
        for name in names {
            if let Some(schema) = make(&name) {
                each(&name, schema);
            }
        }
    }
}

/// Replaces `@DEFINITION#FIELD` by the field's text, and `@FIELD` by that of the metadata. The
/// definitions are those that the kind is made of.
pub(crate) fn resolve_texts(kind: &Gvk, references: &mut [&mut String]) {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let told = references.iter().filter_map(|text| {
        let (definition, _) = text.trim_start_matches('@').split_once('#')?;
        Some(definition.to_owned())
    });
    let names = told.chain([paths::definition_name(kind)]).collect();
    let texts = Descriptions::of(&names);
    for text in references {
        let reference = text.trim_start_matches('@');
        let (definition, field) = reference.split_once('#').unwrap_or((META, reference));
        let found = texts.of_field(definition, field).unwrap_or_default();
        **text = found.to_owned();
    }
}

/// What follows paths and definitions in v2.
fn v2_tail() -> [(&'static str, Value); 3] {
    [
        ("parameters", parameters::shared().into()),
        ("security", json!([{"BearerToken": []}])),
        ("securityDefinitions", security()),
    ]
}

fn v3_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36"})
}

fn security() -> Value {
    json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
                           "description": "Bearer Token authentication"}})
}

/// The documents of a server without custom resources.
pub fn built_in() -> Documents<'static> {
    Documents {
        table: builtin(),
        custom: &[],
    }
}

#[cfg(test)]
mod tests;
