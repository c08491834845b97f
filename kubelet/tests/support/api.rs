//! As much of an API server as a kubelet talks to, in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Resource path without namespace, namespace, name.
type Key = (String, String, String);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<(u64, String, String, Value)>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    version: Arc<watch::Sender<u64>>,
}

struct Target {
    resource: String,
    namespace: String,
    name: String,
    sub: String,
    query: BTreeMap<String, String>,
}

fn target(uri: &http::Uri) -> Target {
    let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let base = if parts[0] == "api" { 2 } else { 3 };
    let mut resource = parts[..base].join("/");
    let mut rest = parts.split_off(base);
    let mut namespace = String::new();
    if rest.len() > 2 && rest[0] == "namespaces" {
        namespace = rest[1].to_owned();
        rest.drain(..2);
    }
    resource = format!("{resource}/{}", rest[0]);
    let get = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    let query = form(uri.query().unwrap_or_default());
    Target {
        resource,
        namespace,
        name: get(1),
        sub: get(2),
        query,
    }
}

fn form(query: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        text.replace("%3D", "=")
            .replace("%2C", ",")
            .replace("%2F", "/")
    };
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decode(value)))
        .collect()
}

fn reply(status: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .expect("valid")
}

fn failure(code: StatusCode, reason: &str) -> Answer {
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
        "reason": reason, "code": code.as_u16(), "metadata": {}}),
    )
}

fn kind_of(resource: &str) -> (&'static str, String) {
    let (version, plural) = resource.rsplit_once('/').expect("a plural");
    let version = version
        .trim_start_matches("apis/")
        .trim_start_matches("api/")
        .to_owned();
    let kind = match plural {
        "pods" => "Pod",
        "nodes" => "Node",
        "events" => "Event",
        "leases" => "Lease",
        "services" => "Service",
        "configmaps" => "ConfigMap",
        "secrets" => "Secret",
        "runtimeclasses" => "RuntimeClass",
        _ => "Unknown",
    };
    (kind, version)
}

fn selected(object: &Value, selector: &str) -> bool {
    selector
        .split(',')
        .filter_map(|part| part.split_once('='))
        .all(|(path, wanted)| {
            let found = path.split('.').fold(object, |value, key| &value[key]);
            found.as_str().unwrap_or_default() == wanted
        })
}

impl Api {
    pub(crate) fn new() -> Self {
        // Version 1 is what an empty list has.
        let state = State {
            version: 1,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            version: Arc::new(watch::Sender::new(1)),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Stores an object as a client would.
    pub(crate) fn put(&self, resource: &str, object: Value) -> Value {
        let mut state = self.state.lock();
        self.store(&mut state, resource, object, "ADDED")
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state
            .lock()
            .objects
            .get(&(resource.into(), namespace.into(), name.into()))
            .cloned()
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, resource: &str, namespace: &str, name: &str, patch: &Value) {
        let mut state = self.state.lock();
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = state
            .objects
            .get(&key)
            .cloned()
            .expect("the object is there");
        merge(&mut object, patch);
        self.store(&mut state, resource, object, "MODIFIED");
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        let of_resource = state
            .objects
            .iter()
            .filter(|((known, _, _), _)| known == resource);
        of_resource.map(|(_, object)| object.clone()).collect()
    }

    /// Deletes gracefully, as `kubectl delete` does.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str, grace: Option<i64>) {
        let mut state = self.state.lock();
        self.remove(
            &mut state,
            &(resource.into(), namespace.into(), name.into()),
            grace,
        );
    }

    fn store(&self, state: &mut State, resource: &str, mut object: Value, event: &str) -> Value {
        state.version += 1;
        let version = state.version;
        let (kind, api_version) = kind_of(resource);
        object["kind"] = json!(kind);
        object["apiVersion"] = json!(api_version);
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        metadata
            .entry("uid")
            .or_insert_with(|| json!(uuid::Uuid::new_v4().to_string()));
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| json!(Timestamp::now().strftime("%FT%TZ").to_string()));
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let key = (resource.to_owned(), text("namespace"), text("name"));
        state.objects.insert(key, object.clone());
        state.history.push((
            version,
            resource.to_owned(),
            event.to_owned(),
            object.clone(),
        ));
        self.version.send_replace(version);
        object
    }

    fn remove(&self, state: &mut State, key: &Key, grace: Option<i64>) -> Option<Value> {
        let mut object = state.objects.get(key)?.clone();
        let graceful = key.0 == "api/v1/pods" && grace != Some(0);
        if graceful {
            let grace = grace
                .or(object["spec"]["terminationGracePeriodSeconds"].as_i64())
                .unwrap_or(30);
            let at = Timestamp::now() + SignedDuration::from_secs(grace);
            object["metadata"]["deletionTimestamp"] = json!(at.strftime("%FT%TZ").to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            return Some(self.store(state, &key.0, object, "MODIFIED"));
        }
        state.objects.remove(key);
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state
            .history
            .push((version, key.0.clone(), "DELETED".into(), object.clone()));
        self.version.send_replace(version);
        Some(object)
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Answer {
        let target = target(request.uri());
        let method = request.method().clone();
        let kind = request
            .headers()
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match method {
            Method::GET if target.query.contains_key("watch") => self.watch(target),
            Method::GET if target.name.is_empty() => self.answer_list(&target),
            Method::GET => match self.get(&target.resource, &target.namespace, &target.name) {
                Some(object) => reply(StatusCode::OK, &object),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::POST => self.create(&target, body),
            Method::PATCH => self.answer_patch(&target, &body, kind.contains("strategic")),
            Method::DELETE => {
                let grace = body["gracePeriodSeconds"].as_i64();
                let key = (target.resource, target.namespace, target.name);
                match self.remove(&mut self.state.lock(), &key, grace) {
                    Some(object) => reply(StatusCode::OK, &object),
                    None => failure(StatusCode::NOT_FOUND, "NotFound"),
                }
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn create(&self, target: &Target, mut body: Value) -> Answer {
        if target.sub == "token" {
            let expires = Timestamp::now() + SignedDuration::from_hours(1);
            body["status"] = json!({"token": "a-token", "expirationTimestamp": expires.strftime("%FT%TZ").to_string()});
            return reply(StatusCode::CREATED, &body);
        }
        if target.resource.ends_with("tokenreviews") {
            let good = body["spec"]["token"] == "good";
            body["status"] = json!({"authenticated": good, "user": {"username": "somebody"}});
            return reply(StatusCode::CREATED, &body);
        }
        if target.resource.ends_with("subjectaccessreviews") {
            body["status"] =
                json!({"allowed": body["spec"]["resourceAttributes"]["subresource"] != "proxy"});
            return reply(StatusCode::CREATED, &body);
        }
        if !target.namespace.is_empty() {
            body["metadata"]["namespace"] = json!(target.namespace);
        }
        reply(StatusCode::CREATED, &self.put(&target.resource, body))
    }

    fn answer_patch(&self, target: &Target, patch: &Value, strategic: bool) -> Answer {
        let mut state = self.state.lock();
        let key = (
            target.resource.clone(),
            target.namespace.clone(),
            target.name.clone(),
        );
        let Some(mut object) = state.objects.get(&key).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let uid = &patch["metadata"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        let before = object.clone();
        if strategic {
            merge_strategic(&mut object, patch)
        } else {
            merge(&mut object, patch)
        }
        if object == before {
            return reply(StatusCode::OK, &object);
        }
        reply(
            StatusCode::OK,
            &self.store(&mut state, &target.resource, object, "MODIFIED"),
        )
    }

    fn answer_list(&self, target: &Target) -> Answer {
        let state = self.state.lock();
        let selector = target
            .query
            .get("fieldSelector")
            .cloned()
            .unwrap_or_default();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((resource, namespace, _), _)| {
                *resource == target.resource
                    && (target.namespace.is_empty() || *namespace == target.namespace)
            })
            .map(|(_, object)| object)
            .filter(|object| selected(object, &selector))
            .collect();
        let (kind, version) = kind_of(&target.resource);
        reply(
            StatusCode::OK,
            &json!({"kind": format!("{kind}List"), "apiVersion": version,
            "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, target: Target) -> Answer {
        let (sender, receiver) = mpsc::channel::<Bytes>(64);
        let (state, mut versions) = (self.state.clone(), self.version.subscribe());
        tokio::spawn(async move {
            let mut seen: u64 = target
                .query
                .get("resourceVersion")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let selector = target
                .query
                .get("fieldSelector")
                .cloned()
                .unwrap_or_default();
            loop {
                let fresh: Vec<_> = state
                    .lock()
                    .history
                    .iter()
                    .filter(|entry| entry.0 > seen)
                    .cloned()
                    .collect();
                for (version, resource, event, object) in fresh {
                    seen = version;
                    let own = target.namespace.is_empty()
                        || object["metadata"]["namespace"] == target.namespace.as_str();
                    if resource != target.resource || !own || !selected(&object, &selector) {
                        continue;
                    }
                    let line = format!("{}\n", json!({"type": event, "object": object}));
                    if sender.send(line.into()).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    changed = versions.changed() => if changed.is_err() { return },
                }
            }
        });
        let frames =
            ReceiverStream::new(receiver).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// Lists of objects with a `type` or an `ip` are merged by it; other lists are replaced.
fn merge_strategic(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    let fresh = if value.is_array() {
                        json!([])
                    } else {
                        Value::Null
                    };
                    merge_strategic(target.entry(key).or_insert(fresh), value);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) => merge_list(target, patch),
        (target, patch) => *target = patch.clone(),
    }
}

fn merge_list(target: &mut Vec<Value>, patch: &[Value]) {
    let id = ["type", "ip"]
        .into_iter()
        .find(|id| patch.iter().any(|item| item.get(id).is_some()));
    let replaces = patch.iter().any(|item| item["$patch"] == "replace");
    let Some(id) = id.filter(|_| !replaces) else {
        *target = patch
            .iter()
            .filter(|item| item.get("$patch").is_none())
            .cloned()
            .collect();
        return;
    };
    for item in patch {
        let known = target.iter_mut().find(|old| old[id] == item[id]);
        match known {
            _ if item["$patch"] == "delete" => target.retain(|old| old[id] != item[id]),
            Some(known) => merge_strategic(known, item),
            None => target.push(item.clone()),
        }
    }
}
