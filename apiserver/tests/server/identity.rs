//! Who else may say who somebody is and what he may do: issuers of tokens, webhooks, files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::oidc::OidcFlags;
use apiserver::authn::{JwtKey, TokenWebhookConfig};
use apiserver::authz::{AccessWebhookConfig, Mode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::fixture::Server;
use super::https::Https;

const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn key() -> JwtKey {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    JwtKey::from_pem(&pair.serialize_pem()).unwrap()
}

/// An issuer whose keys can be changed.
async fn issuer(keys: &Arc<Mutex<Value>>) -> Https {
    let keys = keys.clone();
    Https::start(|url| {
        Box::new(move |_, path, _| match path {
            "/.well-known/openid-configuration" => (
                200,
                json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
            ),
            "/keys" => (200, keys.lock().clone()),
            _ => (404, json!({})),
        })
    })
    .await
}

fn claims(issuer: &str) -> Value {
    json!({"iss": issuer, "aud": "me", "sub": "jane", "groups": ["dev"], "exp": 32_503_680_000_u64})
}

fn changed(claims: &Value, key: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[key] = value;
    claims
}

fn write(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn whoami(server: &Server, token: &str) -> (u16, Value) {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = server.token(token).post(SELF, review).await;
    (answer.code, answer.body["status"]["userInfo"].clone())
}

#[tokio::test]
async fn tokens_of_an_issuer_are_users_and_forged_ones_are_not() {
    let own = key();
    let keys = Arc::new(Mutex::new(json!({"keys": [own.jwk()]})));
    let issuer = issuer(&keys).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = write(&directory, "issuer.pem", &issuer.authority);
    let flags = OidcFlags {
        issuer_url: issuer.url.clone(),
        client_id: "me".into(),
        username_claim: "sub".into(),
        username_prefix: "oidc:".into(),
        groups_claim: "groups".into(),
        groups_prefix: "oidc:".into(),
        signing_algorithms: vec!["ES256".into()],
        ca_file: Some(ca),
        ..OidcFlags::default()
    };
    let server = Server::start_with(directory, |c| c.authentication.oidc = Some(flags)).await;
    let good = claims(&issuer.url);

    let (code, user) = whoami(&server, &own.sign(&good).unwrap()).await;
    assert_eq!((code, &user["username"]), (201, &json!("oidc:jane")));
    assert_eq!(user["groups"], json!(["oidc:dev", "system:authenticated"]));

    let unsigned = |header: Value| {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        format!("{}.{}.", part(&header), part(&good))
    };
    for token in [
        key().sign(&good).unwrap(),
        own.sign(&changed(&good, "aud", json!("others"))).unwrap(),
        own.sign(&changed(&good, "exp", json!(1))).unwrap(),
        own.sign(&changed(&good, "nbf", json!(32_503_680_000_u64)))
            .unwrap(),
        own.sign(&changed(&good, "exp", json!(null))).unwrap(),
        own.sign(&changed(&good, "sub", json!(7))).unwrap(),
        own.sign(&changed(&good, "iss", json!("https://other.example")))
            .unwrap(),
        unsigned(json!({"alg": "none"})),
        unsigned(json!({"alg": "HS256"})),
        unsigned(json!({"alg": "RS256"})),
    ] {
        assert_eq!(whoami(&server, &token).await.0, 401, "{token}");
    }

    // A key that comes later is fetched when a token names it.
    let next = key();
    *keys.lock() = json!({"keys": [next.jwk()]});
    let token = next.sign(&good).unwrap();
    let mut code = 0;
    for _ in 0..200 {
        code = whoami(&server, &token).await.0;
        if code == 201 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(code, 201);
    // And one that is gone no longer counts.
    assert_eq!(whoami(&server, &own.sign(&good).unwrap()).await.0, 401);
}

#[tokio::test]
async fn a_configuration_maps_claims_and_closes_the_door_to_strangers() {
    let own = key();
    let keys = Arc::new(Mutex::new(json!({"keys": [own.jwk()]})));
    let issuer = issuer(&keys).await;
    let directory = tempfile::tempdir().unwrap();
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer.url, "audiences": ["me", "you"], "audienceMatchPolicy": "MatchAny",
                "certificateAuthority": issuer.authority},
            "claimMappings": {
                "username": {"expression": "'c:' + claims.sub"},
                "groups": {"expression": "claims.groups.map(g, 'c:' + g)"}},
            "userValidationRules": [{"expression": "user.username != 'c:mallory'"}]}],
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
    });
    let file = write(
        &directory,
        "authentication.yaml",
        &configuration.to_string(),
    );
    let server = Server::start_with(directory, |c| c.authentication.file = Some(file)).await;
    let good = claims(&issuer.url);
    let (code, user) = whoami(&server, &own.sign(&good).unwrap()).await;
    assert_eq!((code, &user["username"]), (201, &json!("c:jane")));
    assert_eq!(user["groups"][0], "c:dev");
    let mallory = changed(&good, "sub", json!("mallory"));
    assert_eq!(whoami(&server, &own.sign(&mallory).unwrap()).await.0, 401);
    let nobody = server.nobody();
    assert_eq!(nobody.get("/livez").await.code, 200);
    assert_eq!(nobody.get("/version").await.code, 401);
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_asked_once() {
    let hook = Https::start(|_| {
        Box::new(|_, path, review| match (path, review["spec"]["token"].as_str()) {
            ("/who", Some("good")) => (
                200,
                json!({"status": {"authenticated": true, "user": {"username": "jane", "groups": ["dev"]}}}),
            ),
            ("/who", Some("elsewhere")) => (302, json!({"redirect": "https://169.254.169.254/"})),
            ("/who", Some("garbage")) => (200, json!("no review")),
            ("/who", Some(_)) => (200, json!({"status": {"authenticated": false}})),
            _ => (404, json!({})),
        })
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = write(&directory, "who.kubeconfig", &hook.kubeconfig("/who"));
    let webhook = TokenWebhookConfig {
        kubeconfig,
        cache: Duration::from_secs(120),
    };
    let server = Server::start_with(directory, |c| c.authentication.webhook = Some(webhook)).await;
    for _ in 0..2 {
        let (code, user) = whoami(&server, "good").await;
        assert_eq!((code, &user["username"]), (201, &json!("jane")));
        assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    }
    assert_eq!(hook.asked("/who").len(), 1);
    for token in ["bad", "elsewhere", "garbage"] {
        assert_eq!(whoami(&server, token).await.0, 401, "{token}");
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": "good"}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = server.admin().post(path, review).await;
    assert_eq!(answer.body["status"]["user"]["username"], "jane");
}

#[tokio::test]
async fn a_webhook_decides_what_users_may_do_and_its_silence_allows_nothing() {
    let hook = Https::start(|_| {
        Box::new(|_, _, review| {
            let spec = &review["spec"];
            let verb = spec["resourceAttributes"]["verb"].as_str();
            match (spec["user"].as_str(), verb) {
                (Some("jane"), Some("list")) => (200, json!({"status": {"allowed": true}})),
                (Some("jane"), Some("create")) => (
                    200,
                    json!({"status": {"allowed": false, "denied": true, "reason": "never"}}),
                ),
                (Some("broken"), _) => (500, json!({})),
                _ => (200, json!({"status": {"allowed": false}})),
            }
        })
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = write(&directory, "may.kubeconfig", &hook.kubeconfig("/may"));
    let webhook = AccessWebhookConfig {
        kubeconfig,
        cache_allowed: Duration::from_secs(300),
        cache_denied: Duration::from_secs(300),
    };
    let server = Server::start_with(directory, |c| {
        c.authorization.modes = vec![Mode::Webhook, Mode::Node, Mode::Rbac];
        c.authorization.webhook = Some(webhook);
    })
    .await;
    let jane = server.user("jane", None);
    assert_eq!(jane.get(MAPS).await.code, 200);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let refused = jane.post(MAPS, map.clone()).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().ends_with(": never"), "{refused:?}");
    assert_eq!(server.user("broken", None).get(MAPS).await.code, 403);
    // Members of system:masters are asked for by nobody.
    assert_eq!(server.admin().post(MAPS, map).await.code, 201);
    let admins = hook
        .asked("/may")
        .iter()
        .filter(|r| r["spec"]["user"] == "admin")
        .count();
    assert_eq!(admins, 0);
}

#[tokio::test]
async fn a_file_of_policies_allows_what_stands_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let policy = |spec: Value| {
        json!({"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": spec})
            .to_string()
    };
    let text = policy(
        json!({"user": "alice", "namespace": "default", "resource": "configmaps",
        "apiGroup": "", "readonly": true}),
    );
    let file = write(&directory, "policy.jsonl", &text);
    let server = Server::start_with(directory, |c| {
        c.authorization.modes = vec![Mode::Node, Mode::Rbac, Mode::Abac];
        c.authorization.policy_file = Some(file);
    })
    .await;
    let alice = server.user("alice", None);
    assert_eq!(alice.get(MAPS).await.code, 200);
    assert_eq!(
        alice.get("/api/v1/namespaces/other/configmaps").await.code,
        403
    );
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(alice.post(MAPS, map).await.code, 403);
    assert_eq!(server.user("bob", None).get(MAPS).await.code, 403);
}
