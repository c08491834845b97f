//! Requests that try the doors: other places behind proxies, half-made upgrades, two requests in
//! one, schemas and bodies that are meant to take time.

use std::sync::Arc;
use std::time::Duration;

use apiserver::pki::Leaf;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fixture::{Caller, Server};
use super::https::Https;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

async fn pod(admin: &Caller, name: &str, address: &str) {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let made = admin
        .post("/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    assert!(matches!(made.code, 201 | 409), "{}", made.text);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = admin.post(PODS, pod).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
    let path = format!("{PODS}/{name}/status");
    let set = admin.patch(&path, &status).await;
    assert_eq!(set.code, 200, "{}", set.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_lead_to_pods_and_nowhere_else() {
    let server = Server::start().await;
    let admin = server.admin();
    for (name, address) in [("meta", "169.254.169.254"), ("local", "127.0.0.1")] {
        pod(&admin, name, address).await;
        let answer = admin.get(&format!("{PODS}/{name}:80/proxy/latest/")).await;
        assert_eq!(answer.code, 400, "{address}: {}", answer.text);
        assert!(
            answer.message().contains("address not allowed"),
            "{answer:?}"
        );
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "stringData": {"k": "much-too-secret"}});
    let made = admin
        .post("/api/v1/namespaces/default/secrets", secret)
        .await;
    assert_eq!(made.code, 201);
    for path in [
        format!("{PODS}/local/proxy/../../../secrets/s"),
        format!("{PODS}/local/proxy/%2e%2e/%2e%2e/%2e%2e/secrets/s"),
        format!("{PODS}/..%2fsecrets%2fs"),
        "/api/v1/namespaces/default/pods/../secrets/s".to_owned(),
        "/api/v1/namespaces//default/secrets/s/".to_owned(),
    ] {
        let answer = admin.get(&path).await;
        assert!((400..500).contains(&answer.code), "{path}: {}", answer.code);
        assert!(!answer.text.contains("much-too-secret"), "{path}");
    }
}

/// What the server answers to these bytes before it closes the connection.
async fn raw(server: &Server, text: &str) -> String {
    let leaf = Leaf::client("admin", Some("system:masters"));
    let issued = server.running.pki.authority.issue(&leaf).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let ca = server.running.pki.authority.certificate_der().to_vec();
    roots.add(CertificateDer::from(ca)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let stream = TcpStream::connect(server.running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // How the connection ends does not matter, only that it does.
    let ended = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(ended.is_ok(), "the connection stays open after {text:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_requests_in_one_are_refused() {
    let server = Server::start().await;
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"smuggled"}}"#;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let inner = "GET /api/v1/secrets HTTP/1.1\r\nhost: x\r\n\r\n";
    for text in [
        format!("{head}content-length: 4\r\ncontent-length: 200\r\n\r\n{body}"),
        format!("{head}content-length: -1\r\n\r\n{body}"),
        format!("{head}transfer-encoding: chunked\r\n\r\nZZ\r\n{inner}"),
        format!("{head}transfer-encoding: chunked, identity\r\ncontent-length: 3\r\n\r\n{inner}"),
        format!("GET {MAPS} HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\nconnection: close\r\n\r\n"),
        "GET /api\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(),
    ] {
        let answer = raw(&server, &text).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{text:?}: {answer}"
        );
        assert!(!answer.contains("SecretList"), "{text:?}: {answer}");
    }
    let made = server.admin().get(&format!("{MAPS}/smuggled")).await;
    assert_eq!(made.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_that_are_not_whole_are_bad_requests() {
    let server = Server::start().await;
    pod(&server.admin(), "p", "192.0.2.7").await;
    let path = format!("{PODS}/p/exec?command=sh&stdout=true");
    for headers in [
        "",
        "upgrade: websocket\r\n",
        "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
        "upgrade: websocket\r\nsec-websocket-key: short\r\nsec-websocket-version: 1\r\n",
        "upgrade: smoke-signals\r\n",
    ] {
        let text =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        let answer = raw(&server, &text).await;
        let code: u16 = answer[9..12].parse().unwrap();
        assert!((400..500).contains(&code), "{headers:?}: {answer}");
    }
}

fn definition(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "traps.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "traps", "singular": "trap", "kind": "Trap", "listKind": "TrapList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema}}}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_and_rules_that_explode_end_in_time() {
    let server = Server::start().await;
    let admin = server.admin();
    // Rules that could cost too much are refused before there is an object.
    let costly = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}},
        "x-kubernetes-validations": [{"rule": "self.a.all(x, self.a.all(y, x.contains(y)))"}]});
    let refused = admin.post(DEFINITIONS, definition(costly)).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(
        refused
            .message()
            .contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{}",
        refused.message()
    );
    let recursive = json!({"$ref": "#/properties/spec"});
    assert_eq!(
        admin.post(DEFINITIONS, definition(recursive)).await.code,
        422
    );
    // A pattern that takes a backtracking engine for ever.
    let schema =
        json!({"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}});
    let made = admin.post(DEFINITIONS, definition(schema)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let traps = "/apis/example.com/v1/namespaces/default/traps";
    admin.until(traps, 200).await;
    let text = format!("{}b", "a".repeat(100_000));
    let trap = json!({"apiVersion": "example.com/v1", "kind": "Trap", "metadata": {"name": "t"},
        "spec": {"text": text}});
    assert_eq!(admin.post(traps, trap).await.code, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_of_very_many_keys_is_kept_or_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    let data: serde_json::Map<String, Value> =
        (0..20_000).map(|i| (format!("k{i}"), json!(""))).collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wide"}, "data": data});
    let answer = admin.post(MAPS, map).await;
    assert_eq!(
        answer.code,
        201,
        "{}",
        &answer.text[..answer.text.len().min(300)]
    );
    let more = "x".repeat((1 << 20) + 1);
    let patch = json!({"data": {"more": more}});
    let answer = admin.patch(&format!("{MAPS}/wide"), &patch).await;
    assert_eq!(answer.code, 422);
    assert!(
        answer.message().contains("Too long"),
        "{}",
        answer.message()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_followed_to_another_place() {
    let server = Server::start().await;
    let admin = server.admin();
    let elsewhere = Https::start(|_| Box::new(|_, _, _| (200, json!({"allowed": true})))).await;
    let target = elsewhere.url.clone();
    let away = Https::start(move |_| {
        Box::new(move |_, _, _| {
            (
                307,
                json!({"redirect": format!("{target}/latest/meta-data")}),
            )
        })
    })
    .await;
    use base64::Engine;
    let bundle = [away.authority.as_str(), elsewhere.authority.as_str()].concat();
    let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "away"},
        "webhooks": [{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("{}/x", away.url), "caBundle": bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"]}]}]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(admin.post(path, hook).await.code, 201);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let refused = admin.post(MAPS, map).await;
    assert_eq!(refused.code, 500, "{refused:?}");
    assert!(refused.message().contains("status code 307"), "{refused:?}");
    assert_eq!(away.asked("/x").len(), 1);
    assert!(elsewhere.asked("/latest/meta-data").is_empty());
}
