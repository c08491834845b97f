//! What the server says it serves: every operation of its OpenAPI v3 documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use cluster_tests::objects::{kind_of, objects};
use serde_json::Value;

use crate::answers::Answer;
use crate::connection::Connection;
use crate::requests::Request;

/// Where the namespaced requests go.
pub(crate) const NAMESPACE: &str = "surface";

/// The named schemas of one document.
pub(crate) type Schemas = Arc<BTreeMap<String, Value>>;

/// A method on a path.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// As in the document, with `{name}` and its like.
    pub(crate) path: String,
    pub(crate) method: String,
    /// `x-kubernetes-action`: `list`, `post`, `connect` and so on; empty for documents.
    pub(crate) action: String,
    pub(crate) kind: String,
    /// Of the query.
    pub(crate) parameters: Vec<String>,
    pub(crate) body: Option<Value>,
    pub(crate) schemas: Schemas,
    /// A valid object of the kind, when this suite has one.
    pub(crate) sample: Option<Value>,
}

impl Operation {
    pub(crate) fn writes(&self) -> bool {
        !matches!(
            self.action.as_str(),
            "" | "get" | "list" | "watch" | "watchlist"
        )
    }

    pub(crate) fn watches(&self) -> bool {
        self.action.starts_with("watch")
    }
}

/// Reads the documents of every group.
pub(crate) fn discover(connection: &Connection) -> anyhow::Result<Vec<Operation>> {
    let get = |path: &str| -> anyhow::Result<Value> {
        let answer: Answer = connection.send(&Request::get(path))?;
        anyhow::ensure!(answer.code == 200, "{path}: {answer:?}");
        answer.json().with_context(|| format!("{path}: no JSON"))
    };
    let samples = samples()?;
    let index = get("/openapi/v3")?;
    let mut operations = Vec::new();
    for (_, document) in entries(&index["paths"]) {
        let url = document["serverRelativeURL"]
            .as_str()
            .context("a document without a URL")?;
        add_document(&get(url)?, &samples, &mut operations);
    }
    Ok(operations)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The samples by API version and kind.
fn samples() -> anyhow::Result<BTreeMap<(String, String), Value>> {
    let all = objects(NAMESPACE)?;
    Ok(all.into_iter().map(|o| (kind_of(&o), o)).collect())
}

fn add_document(
    document: &Value,
    samples: &BTreeMap<(String, String), Value>,
    operations: &mut Vec<Operation>,
) {
    let schemas: BTreeMap<String, Value> = entries(&document["components"]["schemas"])
        .map(|(name, schema)| (name.clone(), schema.clone()))
        .collect();
    let schemas: Schemas = Arc::new(schemas);
    for (path, item) in entries(&document["paths"]) {
        let shared = query_parameters(&item["parameters"]);
        for (method, operation) in entries(item).filter(|(_, o)| o["operationId"].is_string()) {
            let body = &operation["requestBody"]["content"];
            let body = entries(body).next().map(|(_, b)| b["schema"].clone());
            let kind = &operation["x-kubernetes-group-version-kind"];
            let mut parameters = shared.clone();
            parameters.extend(query_parameters(&operation["parameters"]));
            operations.push(Operation {
                path: path.clone(),
                method: method.to_uppercase(),
                action: text(&operation["x-kubernetes-action"]),
                kind: text(&kind["kind"]),
                parameters,
                body,
                schemas: schemas.clone(),
                sample: samples.get(&identity(kind)).cloned(),
            });
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// API version and kind, of `x-kubernetes-group-version-kind`.
fn identity(kind: &Value) -> (String, String) {
    let (group, version) = (text(&kind["group"]), text(&kind["version"]));
    let version = if group.is_empty() {
        version
    } else {
        format!("{group}/{version}")
    };
    (version, text(&kind["kind"]))
}

fn query_parameters(parameters: &Value) -> Vec<String> {
    let all = parameters.as_array().into_iter().flatten();
    all.filter(|p| p["in"] == "query")
        .map(|p| text(&p["name"]))
        .collect()
}
