//! Scale: the number of replicas of anything that has some, as `autoscaling/v1` `Scale`.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use schema::table::{Headers, IncludeObject, Printer};
use schema::types::Gvk;
use serde_json::{Map, Value, json};

use crate::registry::options::WriteOptions;
use crate::registry::patch::{Patch, PatchType};
use crate::registry::verbs::Decision;
use crate::registry::{Call, kinds, managed, meta};
use crate::response::{self, ApiError, ApiResponse, Cause, RequestBody, Shape};
use crate::service::read_body;

mod ownership;

/// Where a resource keeps its replicas.
struct Paths {
    spec: String,
    status: String,
    selector: Option<String>,
}

impl Paths {
    fn of(call: &Call) -> Self {
        match &call.resource.custom {
            Some(custom) => Paths {
                spec: custom.scale.spec.clone(),
                status: custom.scale.status.clone(),
                selector: custom.scale.selector.clone(),
            },
            None => Paths {
                spec: "/spec/replicas".into(),
                status: "/status/replicas".into(),
                selector: Some("/spec/selector".into()),
            },
        }
    }
}

/// The Scale of an object, for whoever is asked about a change of it.
pub(crate) fn present(call: &Call, object: &Value) -> Value {
    scale_of(object, &Paths::of(call))
}

/// Puts what somebody made of the Scale into the object.
pub(crate) fn absorb(call: &Call, object: &mut Value, scale: &Value) {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    kinds::set_pointer(object, &Paths::of(call).spec, replicas.into());
}

pub(super) async fn answer(call: &Arc<Call>, body: RequestBody) -> Result<ApiResponse, ApiError> {
    let paths = Paths::of(call);
    match call.info.verb {
        "get" => {
            let object = call.current(&call.info.name).await?;
            let value = call.present(&object).await?;
            respond(call, &scale_of(&value, &paths))
        }
        "update" => update(call, &paths, read_body(body).await?).await,
        "patch" => patch(call, &paths, read_body(body).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn respond(call: &Call, scale: &Value) -> Result<ApiResponse, ApiError> {
    if call.accepted.shape != Shape::Table {
        return call.value_response(200, scale.clone());
    }
    let printer = Printer::Builtin(Gvk::new("autoscaling", "v1", "Scale"));
    let (include, headers) = (IncludeObject::Metadata, Headers::Shown);
    let table = printer.table(
        &[scale],
        &scale["metadata"],
        include,
        headers,
        Timestamp::now(),
    );
    Ok(response::value(200, &table, call.accepted))
}

/// The Scale of an object.
fn scale_of(object: &Value, paths: &Paths) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut status =
        json!({"replicas": object.pointer(&paths.status).and_then(Value::as_i64).unwrap_or(0)});
    let selector = paths
        .selector
        .as_ref()
        .and_then(|p| object.pointer(p))
        .map(selector_text);
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    let replicas = object
        .pointer(&paths.spec)
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if replicas != 0 {
        spec["replicas"] = replicas.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}

/// A selector object (or a plain map, or a text) as the text that it stands for.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let is_object =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if is_object {
        &selector["matchLabels"]
    } else {
        selector
    };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        parts.push((
            key.clone(),
            format!("{key}={}", value.as_str().unwrap_or_default()),
        ));
    }
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort();
    parts
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(",")
}

async fn update(call: &Call, paths: &Paths, body: Bytes) -> Result<ApiResponse, ApiError> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    let scale = call.decode(&gvk, &body, options.field_validation)?;
    call.check_name(&scale)?;
    write(call, paths, &options, false, |_| Ok(scale.clone())).await
}

async fn patch(call: &Call, paths: &Paths, body: Bytes) -> Result<ApiResponse, ApiError> {
    let patch_type = PatchType::negotiate(&call.headers, call.resource.is_custom())?;
    let options = WriteOptions::parse(&call.query, "PatchOptions", patch_type.applies())?;
    let patch = Patch::decode(patch_type, &body)?;
    let shape = schema::types::root("autoscaling", "v1", "Scale")
        .ok_or_else(|| ApiError::internal("no kind Scale"))?;
    if let Patch::Apply(applied) = &patch {
        managed::check_applied(&Gvk::new("autoscaling", "v1", "Scale"), applied)?;
        return write(call, paths, &options, true, |scale| {
            ownership::apply(call, &shape, scale, applied, &options)
        })
        .await;
    }
    write(call, paths, &options, false, |scale| {
        patch.apply_to(&shape, scale)
    })
    .await
}

/// Decides the new Scale from the current one and puts its replicas into the object.
async fn write(
    call: &Call,
    paths: &Paths,
    options: &WriteOptions,
    applies: bool,
    decide: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
) -> Result<ApiResponse, ApiError> {
    let object = call
        .change(options, |object| {
            let current = ownership::to_scale(call, object, scale_of(object, paths), &paths.spec);
            let mut scale = decide(&current)?;
            check(&scale, object)?;
            if !applies {
                ownership::track(call, &current, &mut scale, &options.field_manager)?;
            }
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            let mut new = object.clone();
            kinds::set_pointer(&mut new, &paths.spec, replicas.into());
            ownership::to_object(call, &scale, &mut new, &paths.spec);
            let version = meta::text(&scale, "resourceVersion");
            if !version.is_empty() {
                meta::of_mut(&mut new).insert("resourceVersion".into(), version.into());
            }
            Ok(Decision::Write(new))
        })
        .await?;
    let value = call.present(&object).await?;
    respond(call, &scale_of(&value, paths))
}

fn check(scale: &Value, object: &Value) -> Result<(), ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause::new(
            "FieldValueInvalid",
            format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            "spec.replicas",
        );
        return Err(ApiError::invalid(
            "autoscaling",
            "Scale",
            meta::name(object),
            vec![cause],
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_spelled_in_order() {
        let selector = json!({
            "matchLabels": {"b": "1", "a": "2"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "Exists"}],
        });
        assert_eq!(selector_text(&selector), "a=2,b=1,c in (x,y),d");
        assert_eq!(selector_text(&json!({"a": "b"})), "a=b");
    }
}
