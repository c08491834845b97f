//! Writes objects through the API itself, as the server's own user.

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::ApiServer;
use crate::authn::UserInfo;
use crate::registry::cache::object_key;
use crate::response::BoxError;
use std::sync::Arc;

/// The server could not write an object of its own.
#[derive(Debug, thiserror::Error)]
#[error("bootstrap: {method} {path}: {code} {message}")]
pub struct BootstrapError {
    pub method: Method,
    pub path: String,
    pub code: u16,
    pub message: String,
}

#[derive(Clone)]
pub(crate) struct Writer {
    api: ApiServer,
    user: Arc<UserInfo>,
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

fn collection(group: &str, version: &str, plural: &str, namespace: &str) -> String {
    let root = if group.is_empty() {
        "/api".to_owned()
    } else {
        format!("/apis/{group}")
    };
    if namespace.is_empty() {
        format!("{root}/{version}/{plural}")
    } else {
        format!("{root}/{version}/namespaces/{namespace}/{plural}")
    }
}

impl Writer {
    pub(crate) fn new(api: &ApiServer) -> Self {
        Writer {
            api: api.clone(),
            user: Arc::new(UserInfo::api_server()),
        }
    }

    /// The object as it is stored, by the name and namespace of `like`.
    pub(crate) fn find(&self, group: &str, plural: &str, like: &Value) -> Option<Value> {
        let cache = self.api.registry().cacher.resource(group, plural);
        let key = object_key(group, plural, text(like, "namespace"), text(like, "name"));
        cache.get(&key).map(|object| object.value())
    }

    /// Waits for the first heartbeat of a node; false when the server ends before.
    pub(crate) async fn has_nodes(&self) -> bool {
        let registry = self.api.registry();
        loop {
            let applied = registry.cacher.applied();
            let beats = registry.list("coordination.k8s.io", "leases", "kube-node-lease");
            if !beats.is_empty() {
                return true;
            }
            tokio::select! {
                () = registry.shutdown.cancelled() => return false,
                () = registry.cacher.beyond(applied) => {}
            }
        }
    }

    /// Creates the object unless it is there.
    pub(crate) async fn ensure(
        self,
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        object: Value,
    ) -> Result<(), BootstrapError> {
        if self.find(group, plural, &object).is_some() {
            return Ok(());
        }
        let path = collection(group, version, plural, text(&object, "namespace"));
        match self.send(Method::POST, path, &object).await {
            // Another server was faster.
            Err(error) if error.code == 409 => Ok(()),
            result => result,
        }
    }

    /// Creates the object, or makes those top-level members that it has be as they are here.
    pub(crate) async fn set(
        self,
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        object: Value,
    ) -> Result<(), BootstrapError> {
        let Some(mut found) = self.find(group, plural, &object) else {
            return self.ensure(group, version, plural, object).await;
        };
        let Value::Object(members) = object else {
            return Ok(());
        };
        let mut changed = false;
        for (key, value) in members {
            if matches!(key.as_str(), "metadata" | "kind" | "apiVersion")
                || covers(&found[&key], &value)
            {
                continue;
            }
            found[&key] = value;
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        self.replace(group, version, plural, found).await
    }

    pub(crate) async fn replace(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        object: Value,
    ) -> Result<(), BootstrapError> {
        let collection = collection(group, version, plural, text(&object, "namespace"));
        let path = format!("{collection}/{}", text(&object, "name"));
        self.send(Method::PUT, path, &object).await
    }

    pub(crate) async fn patch_status(
        self,
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        name: String,
        patch: Value,
    ) -> Result<(), BootstrapError> {
        let path = format!("{}/{name}/status", collection(group, version, plural, ""));
        self.send(Method::PATCH, path, &patch).await
    }

    /// Deletes the object; one that is gone is what is wanted.
    pub(crate) async fn remove(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        name: &str,
    ) -> Result<(), BootstrapError> {
        self.remove_from(group, version, plural, "", name).await
    }

    /// The same for an object of a namespace.
    pub(crate) async fn remove_from(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), BootstrapError> {
        let path = format!("{}/{name}", collection(group, version, plural, namespace));
        match self.send(Method::DELETE, path, &Value::Null).await {
            Err(error) if error.code == 404 => Ok(()),
            result => result,
        }
    }

    async fn send(&self, method: Method, path: String, body: &Value) -> Result<(), BootstrapError> {
        let failure = |code: u16, message: String| BootstrapError {
            method: method.clone(),
            path: path.clone(),
            code,
            message,
        };
        let media = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let bytes = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body).map_err(|error| failure(0, error.to_string()))?,
        };
        let body = Full::new(bytes.into()).map_err(|never| -> BoxError { match never {} });
        let request = Request::builder()
            .method(method.clone())
            .uri(&path)
            .header("content-type", media)
            .header("user-agent", "kube-apiserver")
            .extension(self.user.clone())
            .body(body.boxed_unsync())
            .map_err(|error| failure(0, error.to_string()))?;
        let response = self.api.handle(request).await;
        let code = response.status().as_u16();
        if response.status().is_success() {
            return Ok(());
        }
        let bytes = response
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes());
        let status: Value = bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Err(failure(
            code,
            status["message"].as_str().unwrap_or_default().to_owned(),
        ))
    }
}

/// Whether everything in `wanted` is in `found`, which may have more.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|have| covers(have, value))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| covers(f, w))
        }
        _ => found == wanted,
    }
}
