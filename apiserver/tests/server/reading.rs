//! Lists in chunks and watches, when their history is gone.

use serde_json::{Value, json};

use super::fixture::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(body: &Value) -> Vec<String> {
    let items = body["items"].as_array().unwrap().iter();
    items
        .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continue_token_expires_with_its_history_and_offers_the_rest() {
    let server = Server::start().await;
    let admin = server.admin();
    let create = async |name: &str| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        assert_eq!(admin.post(MAPS, object).await.code, 201);
    };
    for name in ["a", "b", "c", "d"] {
        create(name).await;
    }
    let first = admin.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    create("e").await;
    let second = admin
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .body;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );

    // Nothing of this resource changes any more, and still the token ends with its history.
    let registry = server.running.api().registry();
    let newest = registry.cacher.applied();
    registry.cacher.store().compact(newest).await.unwrap();
    let gone = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(gone.code, 410, "{}", gone.text);
    assert_eq!(gone.body["reason"], "Expired");
    let rest = gone.body["metadata"]["continue"].as_str().unwrap();
    let inconsistent = admin.get(&format!("{MAPS}?continue={rest}")).await;
    assert_eq!(names(&inconsistent.body), ["c", "d", "e"]);
    let exact = format!(
        "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    assert_eq!(admin.get(&exact).await.code, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streaming_lists_end_with_the_annotated_bookmark() {
    let server = Server::start().await;
    let admin = server.admin();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(admin.post(MAPS, object).await.code, 201);
    let query = "watch=true&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true";
    let watched = admin
        .get(&format!("{MAPS}?{query}&resourceVersionMatch=NotOlderThan"))
        .await;
    let events: Vec<Value> = watched
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK"]);
    assert_eq!(
        events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let refused = admin.get(&format!("{MAPS}?{query}")).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_lists_are_compressed_for_those_who_take_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let text = "abcdefgh".repeat(30_000);
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": text}});
    assert_eq!(admin.post(MAPS, object).await.code, 201);
    let plain = admin.get(MAPS).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let packed = admin.with("accept-encoding", "gzip").get(MAPS).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.text.len() < plain.text.len() / 10);
}
