//! A small API server to aggregate: `flunders` of `wardle.example.com/v1alpha1`, kept in memory.
//! It trusts whoever reaches it to have looked at the front proxy's certificate.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::http::Request;

const GROUP: &str = "/apis/wardle.example.com";
const VERSION: &str = "wardle.example.com/v1alpha1";

/// By namespace and name; the number is the last resource version.
static STORE: Mutex<(u64, Objects)> = Mutex::new((0, Objects::new()));

/// By namespace and name.
type Objects = BTreeMap<(String, String), Value>;

/// Whether the path is this API's.
pub(crate) fn owns(path: &str) -> bool {
    path == "/apis" || path.starts_with(GROUP)
}

pub(crate) fn answer(request: &Request) -> (u16, String) {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let (status, body) = match parts.as_slice() {
        ["apis"] => (200, groups()),
        ["apis", _] => (200, group()),
        ["apis", _, "v1alpha1"] => (200, resources()),
        ["apis", _, "v1alpha1", "flunders"] => (200, list(None)),
        ["apis", _, "v1alpha1", "namespaces", namespace, "flunders"] => {
            collection(request, namespace)
        }
        [
            "apis",
            _,
            "v1alpha1",
            "namespaces",
            namespace,
            "flunders",
            name,
        ] => object(request, namespace, name),
        _ => not_found(&request.path),
    };
    (status, body.to_string())
}

fn group() -> Value {
    let version = json!({ "groupVersion": VERSION, "version": "v1alpha1" });
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": "wardle.example.com",
        "versions": [version],
        "preferredVersion": version,
    })
}

fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group()] })
}

fn resources() -> Value {
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": VERSION,
        "resources": [{
            "name": "flunders",
            "singularName": "flunder",
            "namespaced": true,
            "kind": "Flunder",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update"],
        }],
    })
}

fn list(namespace: Option<&str>) -> Value {
    let Ok(store) = STORE.lock() else {
        return json!({});
    };
    let items: Vec<&Value> = store
        .1
        .iter()
        .filter(|((place, _), _)| namespace.is_none_or(|namespace| namespace == place))
        .map(|(_, object)| object)
        .collect();
    json!({
        "kind": "FlunderList",
        "apiVersion": VERSION,
        "metadata": { "resourceVersion": store.0.to_string() },
        "items": items,
    })
}

fn not_found(what: &str) -> (u16, Value) {
    status(404, "NotFound", &format!("{what} not found"))
}

fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let result = if code < 400 { "Success" } else { "Failure" };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": result,
        "message": message, "reason": reason, "code": code,
    });
    (code, body)
}

fn collection(request: &Request, namespace: &str) -> (u16, Value) {
    match request.method.as_str() {
        "GET" => (200, list(Some(namespace))),
        "POST" => store(request, namespace, None),
        "DELETE" => {
            if let Ok(mut store) = STORE.lock() {
                store.1.retain(|(place, _), _| place != namespace);
            }
            status(200, "", "")
        }
        _ => status(405, "MethodNotAllowed", "no such verb"),
    }
}

fn object(request: &Request, namespace: &str, name: &str) -> (u16, Value) {
    let key = (namespace.to_owned(), name.to_owned());
    match request.method.as_str() {
        "GET" => {
            let found = STORE.lock().ok().and_then(|s| s.1.get(&key).cloned());
            found.map_or_else(|| not_found(name), |object| (200, object))
        }
        "PUT" => store(request, namespace, Some(name)),
        "DELETE" => {
            let removed = STORE.lock().ok().and_then(|mut s| s.1.remove(&key));
            removed.map_or_else(|| not_found(name), |_| status(200, "", ""))
        }
        _ => status(405, "MethodNotAllowed", "no such verb"),
    }
}

/// Creates, or replaces what has that name. Tells who asked, as the front proxy says it.
fn store(request: &Request, namespace: &str, replaced: Option<&str>) -> (u16, Value) {
    let Ok(mut object) = serde_json::from_slice::<Value>(&request.body) else {
        return status(400, "BadRequest", "the body is no JSON");
    };
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if name.is_empty() || replaced.is_some_and(|replaced| replaced != name) {
        return status(422, "Invalid", "metadata.name is missing or another one");
    }
    let user = request.headers.get("x-remote-user").cloned();
    let Ok(mut store) = STORE.lock() else {
        return status(500, "InternalError", "the store is broken");
    };
    let key = (namespace.to_owned(), name.clone());
    match (replaced, store.1.contains_key(&key)) {
        (None, true) => return status(409, "AlreadyExists", &format!("{name} already exists")),
        (Some(_), false) => return not_found(&name),
        _ => {}
    }
    store.0 += 1;
    object["apiVersion"] = json!(VERSION);
    object["kind"] = json!("Flunder");
    object["metadata"]["namespace"] = json!(namespace);
    object["metadata"]["resourceVersion"] = json!(store.0.to_string());
    object["metadata"]["uid"] = json!(format!("{namespace}-{name}-{}", store.0));
    object["metadata"]["annotations"]["asked-by"] = json!(user);
    store.1.insert(key, object.clone());
    (if replaced.is_some() { 200 } else { 201 }, object)
}
