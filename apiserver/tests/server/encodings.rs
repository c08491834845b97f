//! Representations that a client chooses.

use http::Method;
use schema::cbor;
use serde_json::{Value, json};

use super::fixture::{Answer, Caller, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CBOR: &str = "application/cbor";

async fn bytes(caller: &Caller, path: &str) -> (String, Vec<u8>) {
    let answer = caller.with("accept", CBOR).get(path).await;
    assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    (kind_of(&answer), answer.bytes)
}

fn kind_of(answer: &Answer) -> String {
    let kind = &answer.headers["content-type"];
    kind.to_str().unwrap().to_owned()
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"a": "1"}, "binaryData": {"b": "c2VjcmV0"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_and_go_in_cbor() {
    let server = Server::start().await;
    let admin = server.admin();
    let made = admin
        .send_bytes(Method::POST, MAPS, CBOR, cbor::encode(&map("c")))
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["binaryData"]["b"], "c2VjcmV0");
    // Upstream's clients send strings as byte strings, and bytes as bytes that become base64:
    // {'apiVersion': 'v1', 'kind': 'ConfigMap', 'metadata': {'name': 'd'}, 'binaryData': {'b': 22('hi')}}
    let sent = [
        b"\xd9\xd9\xf7\xa4\x4aapiVersion\x42v1\x44kind\x49ConfigMap".as_slice(),
        b"\x48metadata\xa1\x44name\x41d\x4abinaryData\xa1\x41b\xd6\x42hi",
    ]
    .concat();
    let made = admin.send_bytes(Method::POST, MAPS, CBOR, sent).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["binaryData"]["b"], "aGk=");

    for path in [
        format!("{MAPS}/c"),
        MAPS.to_owned(),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
        "/api/v1/namespaces".to_owned(),
    ] {
        let (kind, body) = bytes(&admin, &path).await;
        assert_eq!(kind, CBOR);
        assert!(body.starts_with(&[0xd9, 0xd9, 0xf7]), "{path}");
        let json = admin.get(&path).await.body;
        assert_eq!(cbor::decode(&body).unwrap(), json, "{path}");
    }
    let missing = admin.with("accept", CBOR).get(&format!("{MAPS}/no")).await;
    assert_eq!(missing.code, 404);
    assert_eq!(cbor::decode(&missing.bytes).unwrap()["reason"], "NotFound");

    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"},
        "data": {"a": "2"}});
    let path = format!("{MAPS}/c?fieldManager=m&force=true");
    let kind = "application/apply-patch+cbor";
    let answer = admin
        .send_bytes(Method::PATCH, &path, kind, cbor::encode(&applied))
        .await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(answer.body["data"]["a"], "2");

    let broken = admin
        .send_bytes(Method::POST, MAPS, CBOR, b"\xa2\x41a\x01".to_vec())
        .await;
    assert_eq!(broken.code, 400, "{}", broken.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_in_cbor_are_sequences() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(admin.post(MAPS, map("a")).await.code, 201);
    assert_eq!(admin.post(MAPS, map("b")).await.code, 201);
    let path = format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=1");
    let answer = admin.with("accept", CBOR).get(&path).await;
    assert_eq!(kind_of(&answer), "application/cbor-seq");
    let first = cbor::encode_watch_event("ADDED", &admin.get(&format!("{MAPS}/a")).await.body);
    assert!(answer.bytes.starts_with(&first), "{}", answer.text);
    let second = cbor::decode(&answer.bytes[first.len()..]).unwrap();
    assert_eq!(second["type"], "ADDED");
    assert_eq!(second["object"]["metadata"]["name"], "b");
}
