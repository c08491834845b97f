//! Service account tokens, bootstrap tokens, static tokens.

use serde_json::{Value, json};

use super::fixture::{Answer, Caller, Server};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn who(caller: &Caller) -> Answer {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    caller.post(REVIEWS, review).await
}

async fn account(admin: &Caller, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let made = admin.post(ACCOUNTS, body).await;
    assert_eq!(made.code, 201, "{made:?}");
}

async fn token(admin: &Caller, name: &str, spec: Value) -> String {
    let body =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let made = admin.post(&format!("{ACCOUNTS}/{name}/token"), body).await;
    assert_eq!(made.code, 201, "{made:?}");
    made.body["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_its_service_account_as_long_as_that_lives() {
    let server = Server::start().await;
    let admin = server.admin();
    account(&admin, "robot").await;
    let text = token(&admin, "robot", json!({})).await;
    let robot = server.token(&text);
    let answer = who(&robot).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    let info = &answer.body["status"]["userInfo"];
    assert_eq!(info["username"], "system:serviceaccount:default:robot");
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ];
    assert_eq!(info["groups"], json!(groups));
    assert_eq!(robot.get("/api/v1/secrets").await.code, 403);

    let forged = format!("{}x", text);
    assert_eq!(who(&server.token(&forged)).await.code, 401);
    let other = token(&admin, "robot", json!({"audiences": ["vault"]})).await;
    assert_eq!(who(&server.token(&other)).await.code, 401);
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": other, "audiences": ["vault"]},
    });
    let reviewed = admin
        .post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        .await;
    assert_eq!(
        reviewed.body["status"]["authenticated"], true,
        "{reviewed:?}"
    );
    assert_eq!(reviewed.body["status"]["audiences"], json!(["vault"]));

    assert_eq!(admin.delete(&format!("{ACCOUNTS}/robot")).await.code, 200);
    robot.until("/version", 401).await;
    // One of the same name is another one.
    account(&admin, "robot").await;
    assert_eq!(who(&robot).await.code, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_dies_with_its_secret() {
    let server = Server::start().await;
    let admin = server.admin();
    account(&admin, "robot").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    assert_eq!(admin.post(secrets, secret).await.code, 201);
    let bound = json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}});
    let robot = server.token(&token(&admin, "robot", bound).await);
    assert_eq!(who(&robot).await.code, 201);
    assert_eq!(admin.delete(&format!("{secrets}/s")).await.code, 200);
    robot.until("/version", 401).await;

    let bound =
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "gone"}}});
    let refused = admin.post(&format!("{ACCOUNTS}/robot/token"), bound).await;
    assert_eq!(
        (refused.code, refused.message()),
        (404, "pods \"gone\" not found")
    );
    let short = json!({"spec": {"expirationSeconds": 5}});
    assert_eq!(
        admin
            .post(&format!("{ACCOUNTS}/robot/token"), short)
            .await
            .code,
        422
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_may_ask_for_a_certificate_and_no_more() {
    let server = Server::start().await;
    let joiner = server.token(&server.running.join.token);
    let answer = who(&joiner).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    let groups = &answer.body["status"]["userInfo"]["groups"];
    assert_eq!(
        groups,
        &json!(["system:bootstrappers", "system:authenticated"])
    );
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    assert_eq!(joiner.get(requests).await.code, 200);
    assert_eq!(joiner.get("/api/v1/secrets").await.code, 403);

    let id = server
        .running
        .join
        .token
        .split('.')
        .next()
        .unwrap()
        .to_owned();
    let secret = format!("/api/v1/namespaces/kube-system/secrets/bootstrap-token-{id}");
    let admin = server.admin();
    let mut found = admin.get(&secret).await.body;
    use base64::Engine;
    let past = base64::engine::general_purpose::STANDARD.encode("2020-01-01T00:00:00Z");
    found["data"]["expiration"] = past.into();
    let put = admin.send(http::Method::PUT, &secret, Some(found)).await;
    assert_eq!(put.code, 200, "{put:?}");
    joiner.until(requests, 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_tokens_and_the_issuer_s_documents_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens.csv");
    std::fs::write(&file, "secret-token,dora,7,\"system:masters\"\n").unwrap();
    let server = Server::start_with(directory, |config| {
        config.authentication.token_file = Some(file)
    })
    .await;
    let dora = server.token("secret-token");
    assert_eq!(dora.get("/api/v1/secrets").await.code, 200);
    assert_eq!(
        server
            .token("secret-toke")
            .get("/api/v1/secrets")
            .await
            .code,
        401
    );
    let document = dora.get("/.well-known/openid-configuration").await;
    assert_eq!(
        document.body["issuer"],
        "https://kubernetes.default.svc.cluster.local"
    );
    let keys = dora.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.body["keys"][0]["alg"], "ES256");
}
