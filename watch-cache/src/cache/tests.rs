use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::WatchCaches;

/// Answers lists and watches with what the test scripted, and hangs where the script ends.
#[derive(Default)]
struct Script {
    lists: Mutex<VecDeque<Value>>,
    watches: Mutex<VecDeque<Vec<Value>>>,
    seen: Mutex<Vec<String>>,
}

impl Script {
    fn client(self: &Arc<Self>) -> Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move {
                Ok::<_, std::convert::Infallible>(script.answer(request.uri().to_string()).await)
            }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, uri: String) -> Response<Body> {
        self.seen.lock().expect("no panic").push(uri.clone());
        if !uri.contains("watch=") {
            let list = self.lists.lock().expect("no panic").pop_front();
            return match list {
                Some(list) => Response::new(Body::from(list.to_string().into_bytes())),
                None => std::future::pending().await,
            };
        }
        let events = self.watches.lock().expect("no panic").pop_front();
        match events {
            Some(events) => {
                let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
                Response::new(Body::from(lines.into_bytes()))
            }
            None => std::future::pending().await,
        }
    }
}

fn pod(name: &str, uid: &str, revision: &str, owner: Option<&str>) -> Value {
    let owners: Vec<Value> = owner
        .iter()
        .map(|uid| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid,
                   "controller": true})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "namespace": "ns", "name": name, "uid": uid, "resourceVersion": revision,
        "ownerReferences": owners,
        "managedFields": [{"manager": "m", "operation": "Update"}]}})
}

fn list(revision: &str, items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "PodList",
           "metadata": {"resourceVersion": revision}, "items": items})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

/// Tells each change as a line, until the script has nothing more.
async fn lines(script: &Arc<Script>, expect: &[&str]) -> WatchCache<Pod> {
    let caches = WatchCaches::new(script.client());
    let cache = caches.of::<Pod>();
    let mut changes = cache.subscribe();
    let mut got = Vec::new();
    while let Ok(Ok(change)) = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await {
        let line = match &change {
            Change::Applied { old: None, new } => format!("+{}", uid(new)),
            Change::Applied {
                old: Some(old),
                new,
            } => format!("{}>{}", uid(old), uid(new)),
            Change::Deleted { old } => format!("-{}", uid(old)),
        };
        got.push(line);
        if got.len() == expect.len() {
            break;
        }
    }
    assert_eq!(got, expect);
    cache
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

#[tokio::test]
async fn a_watch_follows_the_list_and_every_change_is_told_once() {
    let script = Arc::new(Script::default());
    script
        .lists
        .lock()
        .unwrap()
        .push_back(list("10", vec![pod("a", "u1", "5", None)]));
    script.watches.lock().unwrap().push_back(vec![
        event("ADDED", pod("b", "u2", "11", Some("rs"))),
        event("MODIFIED", pod("a", "u1", "12", None)),
        event("DELETED", pod("b", "u2", "13", Some("rs"))),
    ]);
    let cache = lines(&script, &["+u1", "+u2", "u1>u1", "-u2"]).await;
    assert!(cache.is_synced());
    assert_eq!(cache.revision(), 13, "the deletion's revision counts");
    assert_eq!(cache.len(), 1);
    let held = cache.get("ns", "a").expect("still there");
    assert_eq!(held.metadata.managed_fields, None);
}

#[tokio::test]
async fn a_list_after_an_expired_watch_tells_only_the_differences() {
    let script = Arc::new(Script::default());
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
        "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
    script.lists.lock().unwrap().extend([
        list(
            "10",
            vec![pod("a", "u1", "5", None), pod("b", "u2", "6", None)],
        ),
        list(
            "20",
            vec![pod("a", "u1", "5", None), pod("c", "u3", "15", None)],
        ),
    ]);
    script.watches.lock().unwrap().push_back(vec![gone]);
    lines(&script, &["+u1", "+u2", "-u2", "+u3"]).await;
}

#[tokio::test]
async fn an_object_made_anew_under_its_name_is_a_deletion_first() {
    let script = Arc::new(Script::default());
    script
        .lists
        .lock()
        .unwrap()
        .push_back(list("10", vec![pod("a", "u1", "5", None)]));
    let again = vec![event("MODIFIED", pod("a", "u9", "12", None))];
    script.watches.lock().unwrap().push_back(again);
    lines(&script, &["+u1", "-u1", "+u9"]).await;
}

#[tokio::test]
async fn the_controller_index_follows_adoption_and_release() {
    let script = Arc::new(Script::default());
    let items = vec![pod("a", "u1", "5", None), pod("b", "u2", "6", Some("rs"))];
    script.lists.lock().unwrap().push_back(list("10", items));
    script.watches.lock().unwrap().push_back(vec![
        event("MODIFIED", pod("a", "u1", "11", Some("rs"))),
        event("MODIFIED", pod("b", "u2", "12", None)),
    ]);
    let cache = lines(&script, &["+u1", "+u2", "u1>u1", "u2>u2"]).await;
    let index = cache.by_controller();
    let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| uid(pod)).collect::<Vec<_>>();
    assert_eq!(names(index.controlled_by("rs")), ["u1"]);
    assert_eq!(names(index.uncontrolled("ns")), ["u2"]);
    assert_eq!(names(index.claimable("ns", "rs")), ["u1", "u2"]);
    assert!(index.uncontrolled("other").is_empty());
}

#[tokio::test]
async fn two_askers_share_one_watch() {
    let script = Arc::new(Script::default());
    script.lists.lock().unwrap().push_back(list("10", vec![]));
    let caches = WatchCaches::new(script.client());
    let (first, second) = (caches.of::<Pod>(), caches.of::<Pod>());
    first.synced().await;
    second.synced().await;
    let lists = script
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|uri| !uri.contains("watch="))
        .count();
    assert_eq!(lists, 1);
}
