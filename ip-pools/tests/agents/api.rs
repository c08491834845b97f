//! An API server for the kinds that the agents use: lists, watches, versions that are compared.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) struct FakeApi {
    state: Mutex<State>,
    changes: broadcast::Sender<(String, Bytes)>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// Collection, revision, line of a watch.
    history: Vec<(String, u64, Bytes)>,
    /// By collection (`/api/v1/nodes`) and name.
    objects: BTreeMap<(String, String), Value>,
    /// How many writes were refused because of their version.
    conflicts: usize,
    /// So many writes are done and then answered by an error.
    lost_answers: usize,
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                      "code": code, "reason": reason, "message": reason});
    (code, body)
}

impl FakeApi {
    pub(crate) fn new() -> Arc<Self> {
        let (changes, _) = broadcast::channel(4096);
        Arc::new(Self {
            state: Mutex::default(),
            changes,
        })
    }

    pub(crate) fn client(self: &Arc<Self>) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    pub(crate) fn put(&self, collection: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.write(&mut self.state.lock().unwrap(), collection, &name, object);
    }

    pub(crate) fn remove(&self, collection: &str, name: &str) {
        self.delete(&mut self.state.lock().unwrap(), collection, name);
    }

    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let all = state.objects.iter();
        let of = all.filter(|((own, _), _)| own == collection);
        of.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn conflicts(&self) -> usize {
        self.state.lock().unwrap().conflicts
    }

    pub(crate) fn lose_answers(&self, count: usize) {
        self.state.lock().unwrap().lost_answers = count;
    }

    fn write(&self, state: &mut State, collection: &str, name: &str, mut object: Value) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let key = (collection.to_owned(), name.to_owned());
        let before = state.objects.insert(key, object.clone());
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.tell(state, collection, kind, &object);
        object
    }

    fn delete(&self, state: &mut State, collection: &str, name: &str) {
        let key = (collection.to_owned(), name.to_owned());
        if let Some(mut object) = state.objects.remove(&key) {
            state.revision += 1;
            object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
            self.tell(state, collection, "DELETED", &object);
        }
    }

    fn tell(&self, state: &mut State, collection: &str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let entry = (collection.to_owned(), state.revision, line.clone());
        state.history.push(entry);
        let _ = self.changes.send((collection.to_owned(), line));
    }

    fn watch(&self, collection: &str, query: &str) -> Answer {
        let since = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|text| text.parse().ok()).unwrap_or(0);
        let state = self.state.lock().unwrap();
        let past = state.history.iter();
        let past = past.filter(|(own, revision, _)| own == collection && *revision > since);
        let past: Vec<Bytes> = past.map(|(_, _, line)| line.clone()).collect();
        let (lines, wanted) = (self.changes.subscribe(), collection.to_owned());
        let later = futures::stream::unfold((lines, wanted), |(mut lines, wanted)| async {
            loop {
                let (own, line) = lines.recv().await.ok()?;
                if own == wanted {
                    return Some((line, (lines, wanted)));
                }
            }
        });
        let all = futures::stream::iter(past).chain(later);
        let frames = all.map(|line| Ok::<_, Infallible>(http_body::Frame::data(line)));
        BodyExt::boxed_unsync(StreamBody::new(frames))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let (collection, name) = split(parts.uri.path());
        if parts.method == Method::GET && query.contains("watch=") {
            return Response::new(self.watch(&collection, query));
        }
        let given: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (code, answer) = self.handle(&parts.method, &collection, name.as_deref(), given);
        let mut response = Response::new(Full::from(answer.to_string()).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }

    fn handle(
        &self,
        method: &Method,
        collection: &str,
        name: Option<&str>,
        given: Value,
    ) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        let named = name.map(str::to_owned);
        let named = named.or_else(|| given["metadata"]["name"].as_str().map(str::to_owned));
        let name_of = named.unwrap_or_default();
        let there = state
            .objects
            .get(&(collection.to_owned(), name_of.clone()))
            .cloned();
        if *method == Method::GET {
            return match (name, there) {
                (None, _) => (200, list(&state, collection)),
                (Some(_), Some(object)) => (200, object),
                (Some(_), None) => status(404, "NotFound"),
            };
        }
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let answer = match (method.as_str(), there) {
            ("POST", Some(_)) => {
                state.conflicts += 1;
                return status(409, "AlreadyExists");
            }
            ("POST", None) => (201, self.write(&mut state, collection, &name_of, given)),
            (_, None) => return status(404, "NotFound"),
            ("PUT", Some(own)) if version(&own) != version(&given) => {
                state.conflicts += 1;
                return status(409, "Conflict");
            }
            ("PUT", Some(_)) => (200, self.write(&mut state, collection, &name_of, given)),
            ("PATCH", Some(mut own)) => {
                merge(&mut own, &given);
                (200, self.write(&mut state, collection, &name_of, own))
            }
            ("DELETE", Some(own)) => {
                let wanted = &given["preconditions"]["resourceVersion"];
                if wanted.is_string() && *wanted != version(&own) {
                    state.conflicts += 1;
                    return status(409, "Conflict");
                }
                self.delete(&mut state, collection, &name_of);
                (200, own)
            }
            other => panic!("nobody expects {other:?}"),
        };
        if state.lost_answers > 0 && collection.ends_with("ipamblocks") {
            state.lost_answers -= 1;
            return status(500, "the answer is lost");
        }
        answer
    }
}

fn list(state: &State, collection: &str) -> Value {
    let all = state.objects.iter();
    let of = all.filter(|((own, _), _)| own == collection);
    let items: Vec<&Value> = of.map(|(_, object)| object).collect();
    json!({"apiVersion": "v1", "kind": "List",
           "metadata": {"resourceVersion": state.revision.to_string()}, "items": items})
}

/// The collection and the object's name, if one is named; subresources are the object.
fn split(path: &str) -> (String, Option<String>) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let prefix = if parts[0] == "api" { 2 } else { 3 };
    let namespaced = parts.get(prefix) == Some(&"namespaces") && parts.len() > prefix + 2;
    let at = if namespaced { prefix + 2 } else { prefix };
    let mut collection: Vec<&str> = parts[..prefix].to_vec();
    collection.push(parts[at]);
    let name = parts.get(at + 1).map(|name| (*name).to_owned());
    (format!("/{}", collection.join("/")), name)
}

/// A JSON merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
