//! TokenRequest: tokens for service accounts, bound to pods, nodes and secrets.

use async_trait::async_trait;
use bytes::Bytes;
use schema::types::Gvk;
use serde_json::{Value, json};

use crate::registry::options::WriteOptions;
use crate::registry::{Call, managed, meta};
use crate::response::{self, ApiError, ApiResponse, Cause};

/// What a token shall say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSpec {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    /// Empty: the server itself.
    pub audiences: Vec<String>,
    pub expiration_seconds: i64,
    /// Kind, name and uid of the object that the token dies with.
    pub bound_to: Option<(String, String, String)>,
    /// Name and uid of the node of a bound pod.
    pub node: Option<(String, String)>,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    pub token: String,
    pub expires: String,
    pub audiences: Vec<String>,
}

/// Makes and reads service account tokens; the authentication part implements it.
#[async_trait]
pub trait TokenAuthority: Send + Sync + 'static {
    fn issue(&self, spec: &TokenSpec) -> Result<IssuedToken, ApiError>;

    /// The user of a bearer token and the audiences that it is good for.
    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(crate::authn::UserInfo, Vec<String>), String>;
}

const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;
const MAX_SECONDS: i64 = 1 << 32;

/// POST of `serviceaccounts/NAME/token`.
pub(super) async fn request(call: &Call, body: Bytes) -> Result<ApiResponse, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = call.decode(&gvk, &body, options.field_validation)?;
    managed::track_creation_of(call, &gvk, &mut request, &options.field_manager);
    request = super::admit(call, request, call.info.name.clone(), &options).await?;
    let account = call.current(&call.info.name).await?.value();
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    validate(seconds)?;
    let bound = bound_object(call, &request["spec"]["boundObjectRef"]).await?;
    let audiences = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten();
    let spec = TokenSpec {
        namespace: call.namespace().into(),
        account: call.info.name.clone(),
        account_uid: meta::text(&account, "uid").into(),
        audiences: audiences
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect(),
        expiration_seconds: seconds,
        node: bound.as_ref().and_then(|(_, object)| node_of(call, object)),
        bound_to: bound.map(|(kind, object)| {
            (
                kind,
                meta::name(&object).to_owned(),
                meta::text(&object, "uid").to_owned(),
            )
        }),
    };
    let issued = call.registry.tokens()?.issue(&spec)?;
    request["spec"]["audiences"] = json!(issued.audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    let tracked = request["metadata"]["managedFields"].take();
    request["metadata"] = json!({
        "name": call.info.name,
        "namespace": call.namespace(),
        "uid": account["metadata"]["uid"],
        "creationTimestamp": meta::now(),
    });
    if tracked.is_array() {
        request["metadata"]["managedFields"] = tracked;
    }
    request["status"] = json!({"token": issued.token, "expirationTimestamp": issued.expires});
    Ok(response::value(201, &request, call.accepted))
}

fn validate(seconds: i64) -> Result<(), ApiError> {
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let cause = Cause::new(
        "FieldValueInvalid",
        format!("Invalid value: {seconds}: {why}"),
        "spec.expirationSeconds",
    );
    Err(ApiError::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        vec![cause],
    ))
}

async fn bound_object(call: &Call, reference: &Value) -> Result<Option<(String, Value)>, ApiError> {
    if !reference.is_object() {
        return Ok(None);
    }
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let (resource, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1" | "", "Pod") => ("pods", call.namespace()),
        ("v1" | "", "Secret") => ("secrets", call.namespace()),
        ("v1" | "", "Node") => ("nodes", ""),
        (version, kind) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to object {:?} of kind {version}, Kind={kind}",
                call.info.name,
                text("name")
            )));
        }
    };
    call.registry.cacher.consistent().await?;
    let object = call
        .registry
        .lookup("", resource, namespace, text("name"))
        .ok_or_else(|| ApiError::not_found("", resource, text("name")))?
        .value();
    let uid = text("uid");
    if !uid.is_empty() && uid != meta::text(&object, "uid") {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", resource, text("name"), &why));
    }
    if resource == "pods" {
        let account = object["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or_default();
        if account != call.info.name {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.info.name
            )));
        }
    }
    Ok(Some((text("kind").to_owned(), object)))
}

fn node_of(call: &Call, object: &Value) -> Option<(String, String)> {
    if object["kind"] != "Pod" {
        return None;
    }
    let name = object["spec"]["nodeName"]
        .as_str()
        .filter(|n| !n.is_empty())?;
    let node = call.registry.lookup("", "nodes", "", name);
    let uid = node
        .map(|n| meta::text(&n.value(), "uid").to_owned())
        .unwrap_or_default();
    Some((name.to_owned(), uid))
}
