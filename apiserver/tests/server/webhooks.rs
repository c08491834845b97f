//! Webhooks as their authors run them: HTTPS servers that answer AdmissionReviews.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::{Caller, Server};

pub(crate) const MUTATING: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub(crate) const VALIDATING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

/// A webhook server; each path answers in its own way.
pub(crate) struct Hooks {
    port: u16,
    authority: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<usize>>,
}

impl Hooks {
    pub(crate) async fn start(answers: Vec<(&'static str, Box<Answer>)>) -> Hooks {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = Hooks {
            port: listener.local_addr().unwrap().port(),
            authority: STANDARD.encode(key.cert.pem()),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let answers: Arc<BTreeMap<_, _>> = Arc::new(answers.into_iter().collect());
        let (asked, connections) = (hooks.asked.clone(), hooks.connections.clone());
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock() += 1;
                let (acceptor, answers, asked) = (acceptor.clone(), answers.clone(), asked.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service =
                        service_fn(move |request| answer(request, answers.clone(), asked.clone()));
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        hooks
    }

    /// The `clientConfig` of a path.
    pub(crate) fn at(&self, path: &str) -> Value {
        json!({"url": format!("https://localhost:{}{path}", self.port), "caBundle": self.authority})
    }

    pub(crate) fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock();
        let here = asked.iter().filter(|(p, _)| p == path);
        here.map(|(_, review)| review["request"].clone()).collect()
    }
}

async fn answer(
    request: http::Request<Incoming>,
    answers: Arc<BTreeMap<&'static str, Box<Answer>>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
    use http_body_util::BodyExt;
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    asked.lock().push((path.clone(), review.clone()));
    if path == "/hang" {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let bytes = match path.as_str() {
        "/garbage" => b"<html>not a review</html>".to_vec(),
        "/huge" => vec![b'x'; 8 * 1024 * 1024],
        path => {
            let mut response = answers
                .get(path)
                .map_or(json!({"allowed": true}), |answer| {
                    answer(&review["request"])
                });
            if response["uid"].is_null() {
                response["uid"] = review["request"]["uid"].clone();
            }
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
                .to_string()
                .into_bytes()
        }
    };
    Ok(http::Response::new(http_body_util::Full::new(bytes.into())))
}

fn patch(operations: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

fn rule(resources: &[&str], operations: &[&str]) -> Value {
    json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": operations, "resources": resources})
}

fn hook(name: &str, client: &Value, rules: Value) -> Value {
    json!({
        "name": name, "clientConfig": client, "rules": [rules],
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    })
}

fn with(mut hook: Value, field: &str, value: Value) -> Value {
    hook[field] = value;
    hook
}

async fn configure(admin: &Caller, path: &str, name: &str, hooks: Vec<Value>) {
    let kind = if path == MUTATING {
        "MutatingWebhookConfiguration"
    } else {
        "ValidatingWebhookConfiguration"
    };
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "webhooks": hooks,
    });
    let answer = admin.post(path, body).await;
    assert_eq!(answer.code, 201, "{answer:?}");
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "x"}]},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_webhooks_run_in_order_and_their_result_has_defaults() {
    let hooks = Hooks::start(vec![
        (
            "/one",
            Box::new(|_| patch(&json!([{"op": "add", "path": "/data/one", "value": "1"}]))),
        ),
        (
            "/two",
            Box::new(|request| {
                assert_eq!(request["object"]["data"]["one"], "1");
                patch(&json!([{"op": "add", "path": "/data/two", "value": "2"}]))
            }),
        ),
        (
            "/init",
            Box::new(|_| {
                patch(
                    &json!([{"op": "add", "path": "/spec/initContainers", "value": [
                        {"name": "init", "image": "y", "unknownField": 1},
                    ]}]),
                )
            }),
        ),
    ])
    .await;
    let server = Server::start().await;
    let admin = server.admin();
    let maps = || rule(&["configmaps"], &["CREATE"]);
    let both = vec![
        hook("one.example.com", &hooks.at("/one"), maps()),
        hook("two.example.com", &hooks.at("/two"), maps()),
        hook(
            "init.example.com",
            &hooks.at("/init"),
            rule(&["pods"], &["CREATE"]),
        ),
    ];
    configure(&admin, MUTATING, "both", both).await;
    let made = admin.post(MAPS, map("a", json!({"zero": "0"}))).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(
        made.body["data"],
        json!({"zero": "0", "one": "1", "two": "2"})
    );
    let request = &hooks.asked("/one")[0];
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(request["resource"]["resource"], "configmaps");
    assert_eq!(
        (&request["name"], &request["namespace"]),
        (&json!("a"), &json!("default"))
    );
    assert_eq!(
        (&request["operation"], &request["oldObject"]),
        (&json!("CREATE"), &Value::Null)
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["options"]["kind"], "CreateOptions");

    admin
        .until("/api/v1/namespaces/default/serviceaccounts/default", 404)
        .await;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin
        .post("/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    let made = admin
        .post("/api/v1/namespaces/default/pods", pod("p"))
        .await;
    let init = &made.body["spec"]["initContainers"][0];
    assert_eq!(init["terminationMessagePolicy"], "File", "{made:?}");
    assert!(init["unknownField"].is_null(), "{init}");
    // What is built in ran once more, for what the webhook added.
    let mounts = init["volumeMounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1, "{init}");
    assert_eq!(made.body["spec"]["volumes"].as_array().unwrap().len(), 1);

    // Without the configuration nothing is changed; the next write knows.
    assert_eq!(admin.delete(&format!("{MUTATING}/both")).await.code, 200);
    let made = admin.post(MAPS, map("b", json!({"zero": "0"}))).await;
    assert_eq!(made.body["data"], json!({"zero": "0"}));
    // One connection served all.
    assert!(
        *hooks.connections.lock() <= 2,
        "{}",
        hooks.connections.lock()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validating_webhook_refuses_in_its_own_words() {
    let hooks = Hooks::start(vec![
        ("/deny", Box::new(|request| match request["operation"].as_str() {
            Some("CREATE") if request["object"]["data"]["bad"].is_string() => json!({
                "allowed": false, "warnings": ["bad things are bad"],
                "status": {"message": "the config map contains bad data", "reason": "BadData", "code": 403},
            }),
            Some("DELETE") => json!({"allowed": false, "status": {"message": format!("{} stays", request["oldObject"]["metadata"]["name"])}}),
            Some("UPDATE") if request["oldObject"]["data"] != request["object"]["data"] => json!({"allowed": false}),
            _ => json!({"allowed": true, "warnings": ["looked at"]}),
        })),
        ("/connect", Box::new(|request| {
            assert_eq!(request["object"]["kind"], "PodAttachOptions");
            json!({"allowed": false, "status": {"message": format!("attaching to pod '{}' is not allowed", request["name"].as_str().unwrap())}})
        })),
    ])
    .await;
    let server = Server::start().await;
    let admin = server.admin();
    let maps = rule(&["configmaps"], &["CREATE", "UPDATE", "DELETE"]);
    let all = vec![
        hook("deny.example.com", &hooks.at("/deny"), maps),
        hook(
            "attach.example.com",
            &hooks.at("/connect"),
            rule(&["pods/attach"], &["CONNECT"]),
        ),
    ];
    configure(&admin, VALIDATING, "deny", all).await;
    let refused = admin.post(MAPS, map("a", json!({"bad": "1"}))).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "admission webhook \"deny.example.com\" denied the request: the config map contains bad data"
    );
    assert_eq!(refused.body["reason"], "BadData");
    assert_eq!(refused.headers["warning"], "299 - \"bad things are bad\"");
    let made = admin.post(MAPS, map("a", json!({}))).await;
    assert_eq!(
        (made.code, &made.headers["warning"]),
        (201, &"299 - \"looked at\"".parse().unwrap())
    );
    let path = format!("{MAPS}/a");
    let refused = admin
        .send(Method::PUT, &path, Some(map("a", json!({"x": "y"}))))
        .await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message(),
        "admission webhook \"deny.example.com\" denied the request without explanation"
    );
    let refused = admin.delete(&path).await;
    assert!(
        refused
            .message()
            .ends_with("denied the request: \"a\" stays"),
        "{refused:?}"
    );
    assert_eq!(admin.delete(MAPS).await.code, 400);
    let refused = admin.get("/api/v1/namespaces/default/pods/p/attach").await;
    assert!(
        refused
            .message()
            .contains("attaching to pod 'p' is not allowed"),
        "{refused:?}"
    );
    // A dry run asks too.
    let refused = admin
        .post(&format!("{MAPS}?dryRun=All"), map("c", json!({"bad": "1"})))
        .await;
    assert_eq!(refused.code, 403);
    assert_eq!(hooks.asked("/deny").last().unwrap()["dryRun"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_refuses_or_lets_through() {
    let hooks = Hooks::start(vec![
        (
            "/other",
            Box::new(|_| json!({"allowed": true, "uid": "another"})),
        ),
        (
            "/patch",
            Box::new(|_| patch(&json!([{"op": "remove", "path": "/data/nothing"}]))),
        ),
        (
            "/broken",
            Box::new(|_| patch(&json!([{"op": "add", "path": "/data", "value": "text"}]))),
        ),
    ])
    .await;
    let server = Server::start().await;
    let admin = server.admin();
    let maps = || rule(&["configmaps"], &["*"]);
    let nobody = json!({"url": "https://127.0.0.1:1/x", "caBundle": hooks.at("/")["caBundle"]});
    let stranger = json!({"url": hooks.at("/x")["url"]});
    let absent = json!({"service": {"namespace": "default", "name": "none", "path": "/x"}, "caBundle": hooks.at("/")["caBundle"]});
    for (client, timeout, expect) in [
        (nobody, 10, "connect: connection refused"),
        (
            stranger,
            10,
            "x509: certificate signed by unknown authority",
        ),
        (absent, 10, "service \"none\" not found"),
        (
            hooks.at("/hang"),
            1,
            "/hang?timeout=1s\": context deadline exceeded",
        ),
        (
            hooks.at("/garbage"),
            10,
            "failed to call webhook: couldn't get version/kind; json parse error",
        ),
        (hooks.at("/huge"), 10, "length limit exceeded"),
        (
            hooks.at("/other"),
            10,
            "received invalid webhook response: expected response.uid=",
        ),
    ] {
        let deny = with(
            hook("h.example.com", &client, maps()),
            "timeoutSeconds",
            timeout.into(),
        );
        configure(&admin, VALIDATING, "h", vec![deny.clone()]).await;
        let refused = admin.post(MAPS, map("a", json!({}))).await;
        assert_eq!(refused.code, 500, "{refused:?}");
        let start = "Internal error occurred: failed calling webhook \"h.example.com\": ";
        assert!(refused.message().starts_with(start), "{refused:?}");
        assert!(refused.message().contains(expect), "{expect} / {refused:?}");
        admin.delete(&format!("{VALIDATING}/h")).await;

        let ignored = with(deny, "failurePolicy", "Ignore".into());
        configure(&admin, MUTATING, "i", vec![ignored]).await;
        let made = admin
            .post(&format!("{MAPS}?dryRun=All"), map("a", json!({})))
            .await;
        assert_eq!(made.code, 201, "{made:?}");
        admin.delete(&format!("{MUTATING}/i")).await;
    }
    for path in ["/patch", "/broken"] {
        let broken = hook("h.example.com", &hooks.at(path), maps());
        configure(&admin, MUTATING, "h", vec![broken]).await;
        let refused = admin.post(MAPS, map("a", json!({}))).await;
        assert_eq!(
            (refused.code, refused.body["reason"].as_str()),
            (500, Some("InternalError")),
            "{refused:?}"
        );
        admin.delete(&format!("{MUTATING}/h")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_and_conditions_say_what_is_asked_about() {
    let hooks = Hooks::start(vec![("/deny", Box::new(|_| json!({"allowed": false})))]).await;
    let server = Server::start().await;
    let admin = server.admin();
    for (name, labels) in [("exempt", json!({"skip": "yes"})), ("other", json!({}))] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        assert_eq!(admin.post("/api/v1/namespaces", body).await.code, 201);
    }
    let deny = hook(
        "deny.example.com",
        &hooks.at("/deny"),
        rule(&["configmaps"], &["CREATE"]),
    );
    let deny = with(
        deny,
        "namespaceSelector",
        json!({"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}),
    );
    let deny = with(
        deny,
        "objectSelector",
        json!({"matchLabels": {"judge": "me"}}),
    );
    let deny = with(
        deny,
        "matchConditions",
        json!([{"name": "not-me", "expression": "object.metadata.name != 'skip-me'"}]),
    );
    configure(&admin, VALIDATING, "deny", vec![deny]).await;
    let in_namespace = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    for (namespace, name, judged, code) in [
        ("exempt", "a", true, 201),
        ("other", "a", true, 400),
        ("other", "b", false, 201),
        ("other", "skip-me", true, 201),
    ] {
        let mut body = map(name, json!({}));
        if judged {
            body["metadata"]["labels"] = json!({"judge": "me"});
        }
        let answer = admin.post(&in_namespace(namespace), body).await;
        assert_eq!(answer.code, code, "{namespace}/{name} {answer:?}");
    }
    // Configurations are nobody's business but the admin's.
    let everything = hook(
        "all.example.com",
        &hooks.at("/deny"),
        rule(&["*/*"], &["*"]),
    );
    configure(&admin, VALIDATING, "all", vec![everything]).await;
    assert_eq!(
        admin
            .post(&in_namespace("exempt"), map("c", json!({})))
            .await
            .code,
        400
    );
    for name in ["all", "deny"] {
        assert_eq!(
            admin.delete(&format!("{VALIDATING}/{name}")).await.code,
            200
        );
    }
    assert_eq!(
        admin
            .post(&in_namespace("exempt"), map("c", json!({})))
            .await
            .code,
        201
    );

    let broken = hook(
        "b.example.com",
        &hooks.at("/deny"),
        rule(&["configmaps"], &["CREATE"]),
    );
    let broken = with(
        broken,
        "matchConditions",
        json!([{"name": "x", "expression": "... [] bad expression"}]),
    );
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "b"}, "webhooks": [broken],
    });
    let refused = admin.post(VALIDATING, body).await;
    assert_eq!(refused.code, 422, "{refused:?}");
    assert!(
        refused.message().contains("compilation failed"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equivalent_versions_and_subresources_match() {
    let hooks = Hooks::start(vec![
        ("/scaler", Box::new(|request| {
            assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v2", "kind": "HorizontalPodAutoscaler"}));
            assert_eq!(request["requestKind"]["version"], "v1");
            assert!(request["object"]["spec"]["metrics"].is_array());
            patch(&json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 9}]))
        })),
        ("/scale", Box::new(|request| {
            assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
            assert_eq!(request["subResource"], "scale");
            patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]))
        })),
    ])
    .await;
    let server = Server::start().await;
    let admin = server.admin();
    let v2 = json!({"apiGroups": ["autoscaling"], "apiVersions": ["v2"], "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]});
    let all = vec![
        hook("scaler.example.com", &hooks.at("/scaler"), v2),
        hook(
            "scale.example.com",
            &hooks.at("/scale"),
            rule(&["deployments/scale"], &["UPDATE"]),
        ),
    ];
    configure(&admin, MUTATING, "m", all).await;
    let scaler = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    });
    let made = admin
        .post(
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            scaler,
        )
        .await;
    assert_eq!(
        (made.code, &made.body["spec"]["maxReplicas"]),
        (201, &json!(9)),
        "{made:?}"
    );
    assert_eq!(made.body["apiVersion"], "autoscaling/v1");
    assert_eq!(made.body["spec"]["targetCPUUtilizationPercentage"], 50);

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}},
    });
    assert_eq!(admin.post(deployments, deployment).await.code, 201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": 2}});
    let scaled = admin
        .send(Method::PUT, &format!("{deployments}/d/scale"), Some(scale))
        .await;
    assert_eq!(scaled.body["spec"]["replicas"], 5, "{scaled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_asked_again_when_a_later_one_changed_the_object() {
    let count = |request: &Value| {
        request["object"]["data"]["count"]
            .as_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let hooks = Hooks::start(vec![
        ("/again", Box::new(move |request| {
            patch(&json!([{"op": "replace", "path": "/data/count", "value": (count(request) + 1).to_string()}]))
        })),
        ("/late", Box::new(|_| patch(&json!([{"op": "add", "path": "/data/late", "value": "yes"}])))),
    ])
    .await;
    let server = Server::start().await;
    let admin = server.admin();
    let maps = || rule(&["configmaps"], &["CREATE"]);
    let again = with(
        hook("a.example.com", &hooks.at("/again"), maps()),
        "reinvocationPolicy",
        "IfNeeded".into(),
    );
    configure(
        &admin,
        MUTATING,
        "m",
        vec![again, hook("b.example.com", &hooks.at("/late"), maps())],
    )
    .await;
    let made = admin.post(MAPS, map("a", json!({"count": "0"}))).await;
    assert_eq!(
        made.body["data"],
        json!({"count": "2", "late": "yes"}),
        "{made:?}"
    );
    assert_eq!(
        (hooks.asked("/again").len(), hooks.asked("/late").len()),
        (2, 1)
    );

    let unsafe_hook = with(
        hook("s.example.com", &hooks.at("/late"), maps()),
        "sideEffects",
        "Some".into(),
    );
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "s"}, "webhooks": [unsafe_hook]});
    if admin.post(MUTATING, body).await.code == 201 {
        let refused = admin
            .post(
                &format!("{MAPS}?dryRun=All"),
                map("b", json!({"count": "0"})),
            )
            .await;
        assert_eq!(
            refused.message(),
            "admission webhook \"s.example.com\" does not support dry run"
        );
    }
}
