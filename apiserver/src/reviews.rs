//! Resources that are nothing but a question: access reviews, token reviews, bindings.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::authn::UserInfo;
use crate::authz::{Attributes, Decision, SelectorRequirement};
use crate::registry::options::WriteOptions;
use crate::registry::{Call, managed, meta};
use crate::response::{self, ApiError, ApiResponse, Cause, RequestBody};
use crate::service::read_body;
use crate::subresources::binding;

/// Answers the creation of a resource that can only be created.
pub(crate) async fn answer(call: &Call, body: RequestBody) -> Result<ApiResponse, ApiError> {
    let body = read_body(body).await?;
    match call.resource.plural.as_ref() {
        "bindings" => binding::bind(call, body).await,
        "selfsubjectreviews" => self_review(call, &body),
        "tokenreviews" => token_review(call, &body).await,
        "selfsubjectrulesreviews" => rules_review(call, &body),
        "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectaccessreviews" => {
            access_review(call, &body).await
        }
        _ => Err(ApiError::no_such_resource()),
    }
}

fn decode(call: &Call, body: &Bytes) -> Result<Value, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let mut value = call.decode(&call.resource.gvk(), body, options.field_validation)?;
    meta::set_namespace(&call.resource, &mut value, call.namespace())?;
    managed::track_update(call, None, &mut value, &options.field_manager);
    Ok(value)
}

fn created(call: &Call, value: Value) -> Result<ApiResponse, ApiError> {
    Ok(call.with_warnings(response::value(201, &value, call.accepted)))
}

fn user_value(user: &UserInfo) -> Value {
    serde_json::to_value(user).unwrap_or_default()
}

/// Who am I?
fn self_review(call: &Call, body: &Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode(call, body)?;
    let metadata = meta::of_mut(&mut review);
    metadata.remove("managedFields");
    metadata.insert("creationTimestamp".into(), meta::now().into());
    review["status"] = json!({"userInfo": user_value(&call.user)});
    created(call, review)
}

/// Whose token is this?
async fn token_review(call: &Call, body: &Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode(call, body)?;
    let token = review["spec"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences: Vec<String> = review["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    review["status"] = match call.registry.tokens()?.review(&token, &audiences).await {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why}),
    };
    created(call, review)
}

/// May somebody do this?
async fn access_review(call: &Call, body: &Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode(call, body)?;
    let spec = &review["spec"];
    let is_self = call.resource.kind == "SelfSubjectAccessReview";
    check(call, spec, is_self)?;
    let attributes = question(spec)?;
    if call.resource.kind == "LocalSubjectAccessReview"
        && spec["resourceAttributes"]["namespace"]
            .as_str()
            .unwrap_or_default()
            != call.namespace()
    {
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {}",
            call.namespace()
        )));
    }
    let decision = if is_self {
        call.registry
            .authorizer
            .authorize(&call.user, &attributes)
            .await
    } else {
        call.registry
            .authorizer
            .authorize(&subject(spec), &attributes)
            .await
    };
    review["status"] = status(&decision);
    created(call, review)
}

/// What may I do in a namespace?
fn rules_review(call: &Call, body: &Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode(call, body)?;
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let rules = call.registry.authorizer.rules_of(&call.user, namespace);
    let (paths, resources): (Vec<_>, Vec<_>) = rules
        .into_iter()
        .partition(|rule| !rule.non_resource_urls.is_empty());
    review["status"] = json!({
        "incomplete": false,
        "nonResourceRules": paths,
        "resourceRules": resources,
    });
    created(call, review)
}

fn check(call: &Call, spec: &Value, is_self: bool) -> Result<(), ApiError> {
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut causes = Vec::new();
    if resource.is_object() && other.is_object() {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "Invalid value: null: cannot be specified in combination with resourceAttributes",
            "spec.nonResourceAttributes",
        ));
    }
    if !resource.is_object() && !other.is_object() {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            "spec.resourceAttributes",
        ));
    }
    let nobody = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if !is_self && nobody {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "Invalid value: \"\": at least one of user or group must be specified",
            "spec.user",
        ));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&call.resource.group, "", "", causes))
}

fn question(spec: &Value) -> Result<Attributes, ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let other = &spec["nonResourceAttributes"];
    if other.is_object() {
        return Ok(Attributes {
            verb: text(&other["verb"]),
            path: text(&other["path"]),
            ..Attributes::default()
        });
    }
    let r = &spec["resourceAttributes"];
    Ok(Attributes {
        verb: text(&r["verb"]),
        api_group: text(&r["group"]),
        api_version: match text(&r["version"]) {
            version if version.is_empty() => "*".into(),
            version => version,
        },
        namespace: text(&r["namespace"]),
        resource: text(&r["resource"]),
        subresource: text(&r["subresource"]),
        name: text(&r["name"]),
        path: String::new(),
        field_selector: requirements(&r["fieldSelector"]),
        label_selector: requirements(&r["labelSelector"]),
    })
}

fn requirements(selector: &Value) -> Vec<SelectorRequirement> {
    let all = selector["requirements"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|r| SelectorRequirement {
        key: text(&r["key"]),
        operator: text(&r["operator"]),
        values: r["values"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect(),
    })
    .collect()
}

fn subject(spec: &Value) -> UserInfo {
    let list = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    UserInfo {
        name: spec["user"].as_str().unwrap_or_default().into(),
        uid: spec["uid"].as_str().unwrap_or_default().into(),
        groups: list(&spec["groups"]),
        extra: spec["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.to_lowercase(), list(v)))
            .collect(),
    }
}

fn status(decision: &Decision) -> Value {
    let mut status = json!({"allowed": decision.is_allowed()});
    if matches!(decision, Decision::Deny { .. }) {
        status["denied"] = true.into();
    }
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    status
}
