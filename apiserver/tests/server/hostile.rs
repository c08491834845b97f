//! Bodies and queries that nobody sends by mistake: each gets a Status, and the server lives on.

use http::Method;
use serde_json::json;

use super::fixture::{Caller, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn check(admin: &Caller, body: Vec<u8>, code: u16, expect: &str) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
    let answer = admin
        .send_bytes(Method::POST, MAPS, "application/json", body)
        .await;
    assert_eq!(answer.code, code, "{shown}: {}", answer.text);
    assert_eq!(answer.body["kind"], "Status", "{shown}: {}", answer.text);
    assert!(
        answer.message().contains(expect),
        "{shown}: {}",
        answer.message()
    );
}

fn map(data: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"x"}},"data":{data}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_bodies_are_bad_requests() {
    let server = Server::start().await;
    let admin = server.admin();
    let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    check(&admin, map(&deep).into_bytes(), 400, "").await;
    let objects = r#"{"a":"#.repeat(100_000);
    check(&admin, map(&objects).into_bytes(), 400, "").await;
    let whole = map(r#"{"k":"v"}"#);
    check(
        &admin,
        whole.as_bytes()[..whole.len() - 5].to_vec(),
        400,
        "unexpected end of JSON input",
    )
    .await;
    check(&admin, b"\xff\xfe\x00".to_vec(), 400, "").await;
    check(&admin, Vec::new(), 400, "").await;
    check(&admin, map(r#"{"k":1e999999}"#).into_bytes(), 400, "").await;
    let large = map(&format!(r#"{{"k":"{}"}}"#, "x".repeat(4 << 20)));
    check(
        &admin,
        large.into_bytes(),
        413,
        "Request entity is too large",
    )
    .await;
    let twice = map(r#"{"k":"1","k":"2"}"#);
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer = admin
        .send_bytes(
            Method::POST,
            &strict,
            "application/json",
            twice.into_bytes(),
        )
        .await;
    assert_eq!(answer.code, 400, "{}", answer.text);
    assert!(answer.message().contains("duplicate field \"data.k\""));
    assert_eq!(admin.get(MAPS).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_protobuf_and_yaml_are_bad_requests() {
    let server = Server::start().await;
    let admin = server.admin();
    for body in [
        b"k8s\0".to_vec(),
        b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec(),
        [b"k8s\0".as_slice(), &[0xff; 64]].concat(),
        b"not protobuf".to_vec(),
    ] {
        let answer = admin
            .send_bytes(
                Method::POST,
                MAPS,
                "application/vnd.kubernetes.protobuf",
                body,
            )
            .await;
        assert_eq!(answer.code, 400, "{}", answer.text);
    }
    // Aliases of aliases: a few lines that stand for billions.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}, ", i - 1).repeat(9);
        bomb.push_str(&format!(
            "a{i}: &a{i} [{}]\n",
            before.trim_end_matches(", ")
        ));
    }
    let answer = admin
        .send_bytes(Method::POST, MAPS, "application/yaml", bomb.into_bytes())
        .await;
    assert_eq!(answer.code, 400, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_selectors_are_answered() {
    let server = Server::start().await;
    let admin = server.admin();
    let values: Vec<String> = (0..2000).map(|i| format!("v{i}")).collect();
    let selector = format!("{MAPS}?labelSelector=a+in+({})", values.join(","));
    assert_eq!(admin.get(&selector).await.code, 200);
    let terms: Vec<String> = (0..1500).map(|i| format!("k{i}!=x")).collect();
    let selector = format!("{MAPS}?labelSelector={}", terms.join(","));
    assert_eq!(admin.get(&selector).await.code, 200);
    let nested = format!("{MAPS}?labelSelector={}", "(".repeat(5000));
    assert_eq!(admin.get(&nested).await.code, 400);
    let field = format!("{MAPS}?fieldSelector=metadata.name%3D{}", "y".repeat(5000));
    assert_eq!(admin.get(&field).await.code, 200);
    for query in [
        "limit=-1",
        "resourceVersion=x",
        "continue=%25%25",
        "timeoutSeconds=x",
    ] {
        let answer = admin.get(&format!("{MAPS}?{query}")).await;
        assert!(
            answer.code == 400 || answer.code == 200,
            "{query}: {}",
            answer.text
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_that_explode_are_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"a": "b"}});
    assert_eq!(admin.post(MAPS, object).await.code, 201);
    let own = format!("{MAPS}/p");
    // Copies that double what is there with each step.
    let mut operations = vec![json!({"op": "add", "path": "/data/x0", "value": "y".repeat(1000)})];
    for _ in 0..40 {
        operations.push(json!({"op": "copy", "from": "/data", "path": "/data/z"}));
    }
    let body = serde_json::to_vec(&operations).unwrap();
    let answer = admin
        .send_bytes(Method::PATCH, &own, "application/json-patch+json", body)
        .await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
    let many: Vec<_> = (0..20_000)
        .map(|i| json!({"op": "test", "path": format!("/data/{i}"), "value": "x"}))
        .collect();
    let body = serde_json::to_vec(&many).unwrap();
    let answer = admin
        .send_bytes(Method::PATCH, &own, "application/json-patch+json", body)
        .await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
    assert_eq!(admin.get(&own).await.body["data"], json!({"a": "b"}));
}
