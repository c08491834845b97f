//! Operations as v2 and v3 write them.

use serde_json::{Map, Value, json};

use super::operations::{Body, Operation, PathItem, Reply};
use super::{parameters, schemas};

fn code_text(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

fn common(o: &Operation) -> Map<String, Value> {
    let mut own = Map::new();
    own.insert("operationId".into(), o.id.clone().into());
    own.insert("description".into(), o.summary.clone().into());
    own.insert("tags".into(), json!([o.tag]));
    if let Some(action) = o.action {
        own.insert("x-kubernetes-action".into(), action.into());
    }
    if let Some(kind) = &o.kind {
        own.insert("x-kubernetes-group-version-kind".into(), schemas::gvk(kind));
    }
    own
}

/// A path item of v3.
pub(super) fn v3_item(item: &PathItem) -> Value {
    let mut own: Map<String, Value> = item
        .operations
        .iter()
        .map(|o| (o.method.to_owned(), v3_operation(o)))
        .collect();
    if !item.parameters.is_empty() {
        own.insert(
            "parameters".into(),
            item.parameters.iter().map(v3_parameter).collect(),
        );
    }
    own.into()
}

fn v3_parameter(p: &super::operations::Parameter) -> Value {
    let mut own = json!({"name": p.name, "in": p.place, "description": parameters::describe(p.name),
                         "schema": {"type": p.kind, "uniqueItems": true}});
    if p.place == "path" {
        own["required"] = true.into();
    }
    own
}

fn v3_operation(o: &Operation) -> Value {
    let mut own = common(o);
    if !o.parameters.is_empty() {
        own.insert(
            "parameters".into(),
            o.parameters.iter().map(v3_parameter).collect(),
        );
    }
    let reference =
        |name: String| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    if let Some(definition) = o.body.definition() {
        let types = if o.custom && o.body != Body::Patch {
            vec!["*/*"]
        } else {
            o.consumes()
        };
        let content: Map<String, Value> = types
            .into_iter()
            .map(|t| (t.to_owned(), reference(definition.clone())))
            .collect();
        let mut body = json!({"content": content});
        if o.body != Body::DeleteOptions {
            body["required"] = true.into();
        }
        own.insert("requestBody".into(), body);
    }
    let schema = o
        .reply
        .definition()
        .map_or_else(|| json!({"schema": {"type": "string"}}), reference);
    let mut responses = Map::new();
    for code in o.codes {
        let content: Map<String, Value> = o
            .produces()
            .into_iter()
            .map(|t| (t.to_owned(), schema.clone()))
            .collect();
        responses.insert(
            code.to_string(),
            json!({"description": code_text(*code), "content": content}),
        );
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    own.insert("responses".into(), responses.into());
    own.into()
}

/// A path item of v2.
pub(super) fn v2_item(item: &PathItem) -> Value {
    let mut own: Map<String, Value> = item
        .operations
        .iter()
        .map(|o| (o.method.to_owned(), v2_operation(o)))
        .collect();
    if !item.parameters.is_empty() {
        own.insert(
            "parameters".into(),
            item.parameters.iter().map(v2_parameter).collect(),
        );
    }
    own.into()
}

fn v2_parameter(p: &super::operations::Parameter) -> Value {
    match parameters::shared_key(p) {
        Some(key) => json!({"$ref": format!("#/parameters/{key}")}),
        None => parameters::v2(p),
    }
}

fn v2_operation(o: &Operation) -> Value {
    let mut own = common(o);
    own.insert("schemes".into(), json!(["https"]));
    if !matches!(o.reply, Reply::Text | Reply::KeySet) {
        own.insert("consumes".into(), o.consumes().into());
    }
    own.insert("produces".into(), o.produces().into());
    let body = match parameters::shared_body(&o.body) {
        Some(key) => Some(json!({"$ref": format!("#/parameters/{key}")})),
        None => parameters::v2_body(&o.body),
    };
    let all: Vec<Value> = body
        .into_iter()
        .chain(o.parameters.iter().map(v2_parameter))
        .collect();
    if !all.is_empty() {
        own.insert("parameters".into(), all.into());
    }
    let schema = match (&o.reply, o.reply.definition()) {
        (Reply::Any | Reply::Log | Reply::Text | Reply::KeySet, _) | (_, None) => {
            json!({"type": "string"})
        }
        (_, Some(name)) => json!({"$ref": format!("#/definitions/{name}")}),
    };
    let mut responses = Map::new();
    for code in o.codes {
        responses.insert(
            code.to_string(),
            json!({"description": code_text(*code), "schema": schema}),
        );
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    own.insert("responses".into(), responses.into());
    own.into()
}
