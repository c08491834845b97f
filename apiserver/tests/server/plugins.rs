//! What is built into admission, as clients meet it.

use http::Method;
use serde_json::{Value, json};

use super::fixture::{Caller, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn pod(name: &str, requests: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "x", "resources": {"requests": requests}}]},
    })
}

async fn account(admin: &Caller) {
    let body =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin
        .post("/api/v1/namespaces/default/serviceaccounts", body)
        .await;
}

/// A quota as the controller leaves it: with a status.
async fn quota(admin: &Caller, name: &str, hard: Value, used: Value) {
    let body = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": hard}});
    let made = admin.post(QUOTAS, body).await;
    assert_eq!(made.code, 201, "{made:?}");
    let mut counted = made.body;
    counted["status"] = json!({"hard": hard, "used": used});
    let path = format!("{QUOTAS}/{name}/status");
    let counted = admin.send(Method::PUT, &path, Some(counted)).await;
    assert_eq!(counted.code, 200, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_never_exceeded_however_many_ask_at_once() {
    let server = Server::start().await;
    let admin = server.admin();
    quota(
        &admin,
        "maps",
        json!({"configmaps": "10", "count/configmaps": "100"}),
        json!({"configmaps": "2", "count/configmaps": "2"}),
    )
    .await;
    let calls = (0..30).map(|i| {
        let admin = admin.clone();
        async move { admin.post(MAPS, map(&format!("m{i}"))).await }
    });
    let answers = futures::future::join_all(calls).await;
    let made = answers.iter().filter(|a| a.code == 201).count();
    assert_eq!(made, 8);
    let refused = answers.iter().find(|a| a.code != 201).unwrap();
    assert_eq!(refused.code, 403);
    assert!(
        refused.message().ends_with("is forbidden: exceeded quota: maps, requested: configmaps=1, used: configmaps=10, limited: configmaps=10"),
        "{refused:?}"
    );
    let status = admin.get(&format!("{QUOTAS}/maps")).await.body["status"].clone();
    assert_eq!(
        status["used"],
        json!({"configmaps": "10", "count/configmaps": "10"})
    );
    // A dry run is refused like the real thing, and takes nothing.
    assert_eq!(
        admin
            .post(&format!("{MAPS}?dryRun=All"), map("dry"))
            .await
            .code,
        403
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_measured_by_what_they_request() {
    let server = Server::start().await;
    let admin = server.admin();
    account(&admin).await;
    let hard =
        json!({"pods": "5", "cpu": "1", "memory": "500Mi", "requests.example.com/dongle": "3"});
    let none = json!({"pods": "0", "cpu": "0", "memory": "0", "requests.example.com/dongle": "0"});
    quota(&admin, "compute", hard, none).await;
    let made = admin
        .post(PODS, pod("a", json!({"cpu": "500m", "memory": "252Mi"})))
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let used = admin.get(&format!("{QUOTAS}/compute")).await.body["status"]["used"].clone();
    assert_eq!(
        (&used["cpu"], &used["memory"], &used["pods"]),
        (&json!("500m"), &json!("252Mi"), &json!("1"))
    );
    let refused = admin
        .post(PODS, pod("b", json!({"cpu": "600m", "memory": "100Mi"})))
        .await;
    assert!(
        refused.message().contains(
            "exceeded quota: compute, requested: cpu=600m, used: cpu=500m, limited: cpu=1"
        ),
        "{refused:?}"
    );
    let refused = admin.post(PODS, pod("b", json!({}))).await;
    assert!(
        refused
            .message()
            .contains("failed quota: compute: must specify cpu for: a; memory for: a"),
        "{refused:?}"
    );
    // A quota for best-effort pods alone does not mind.
    let body = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "scoped"}, "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}});
    assert_eq!(admin.post(QUOTAS, body).await.code, 201);
    let made = admin
        .post(PODS, pod("b", json!({"cpu": "100m", "memory": "100Mi"})))
        .await;
    assert_eq!(made.code, 201, "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_says_how_secure_its_pods_are() {
    let server = Server::start().await;
    let admin = server.admin();
    let namespace = |labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "safe", "labels": labels}});
    let refused = admin
        .post(
            "/api/v1/namespaces",
            namespace(json!({"pod-security.kubernetes.io/enforce": "strict"})),
        )
        .await;
    assert_eq!(refused.code, 422, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("must be one of privileged, baseline, restricted"),
        "{refused:?}"
    );
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"});
    assert_eq!(
        admin
            .post("/api/v1/namespaces", namespace(labels))
            .await
            .code,
        201
    );
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin
        .post("/api/v1/namespaces/safe/serviceaccounts", account)
        .await;
    let pods = "/api/v1/namespaces/safe/pods";
    let mut host = pod("host", json!({}));
    host["spec"]["hostNetwork"] = true.into();
    let refused = admin.post(pods, host).await;
    assert_eq!(
        refused.message(),
        "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let made = admin.post(pods, pod("plain", json!({}))).await;
    assert_eq!(made.code, 201, "{made:?}");
    let warning = made.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains(
            "would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false"
        ),
        "{warning}"
    );
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"hostPID": true, "containers": [{"name": "a", "image": "x"}]}}},
    });
    let made = admin
        .post("/apis/apps/v1/namespaces/safe/deployments", deployment)
        .await;
    assert!(
        made.headers["warning"]
            .to_str()
            .unwrap()
            .contains("host namespaces (hostPID=true)"),
        "{made:?}"
    );
    let stricter = namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let changed = admin
        .send(Method::PUT, "/api/v1/namespaces/safe", Some(stricter))
        .await;
    let warnings: Vec<_> = changed
        .headers
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap())
        .collect();
    assert_eq!(warnings.len(), 2, "{changed:?}");
    assert!(
        warnings[1].contains("plain: allowPrivilegeEscalation != false, unrestricted capabilities"),
        "{warnings:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_changes_itself_and_its_own_pods_only() {
    let server = Server::start().await;
    let admin = server.admin();
    let node = server.user("system:node:n1", Some("system:nodes"));
    let body = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let refused = node.post("/api/v1/nodes", body("n2", json!({}))).await;
    assert!(
        refused
            .message()
            .ends_with("node \"n1\" is not allowed to modify node \"n2\""),
        "{refused:?}"
    );
    let role = "node-role.kubernetes.io/control-plane";
    let refused = node
        .post("/api/v1/nodes", body("n1", json!({role: ""})))
        .await;
    assert!(
        refused.message().ends_with(
            "is not allowed to set the following labels: node-role.kubernetes.io/control-plane"
        ),
        "{refused:?}"
    );
    let made = node
        .post(
            "/api/v1/nodes",
            body("n1", json!({"kubernetes.io/hostname": "n1"})),
        )
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let labelled = json!({"metadata": {"labels": {role: ""}}});
    let refused = node.patch("/api/v1/nodes/n1", &labelled).await;
    assert!(
        refused
            .message()
            .contains("is not allowed to modify labels"),
        "{refused:?}"
    );

    account(&admin).await;
    for (name, on) in [("own", "n1"), ("other", "n2")] {
        let mut body = pod(name, json!({}));
        body["spec"]["nodeName"] = on.into();
        let made = admin.post(PODS, body).await;
        assert_eq!(made.code, 201, "{made:?}");
    }
    let refused = node.post(PODS, pod("new", json!({}))).await;
    assert!(
        refused
            .message()
            .contains("node \"n1\" can only create mirror pods"),
        "{refused:?}"
    );
    let status = json!({"status": {"phase": "Running"}});
    for (name, code) in [("own", 200), ("other", 403)] {
        let path = format!("{PODS}/{name}/status");
        let answer = node.patch(&path, &status).await;
        assert_eq!(answer.code, code, "{answer:?}");
    }
    let refused = node.delete(&format!("{PODS}/other")).await;
    assert_eq!(refused.code, 403, "{refused:?}");
}
