//! Certificates, impersonation, RBAC.

use apiserver::pki::{Leaf, Pki, ServingNames};
use serde_json::json;

use super::fixture::Server;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_requests_reach_health_and_version_alone() {
    let server = Server::start().await;
    let nobody = server.nobody();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/api/v1/namespaces",
        "/metrics",
        "/healthzz",
        "/readyz/etcd",
        "/openapi/v2",
    ] {
        let answer = nobody.get(path).await;
        assert_eq!(answer.code, 403, "{path}");
        assert_eq!(answer.body["reason"], "Forbidden", "{path}");
        let user = "User \"system:anonymous\" cannot";
        assert!(answer.message().contains(user), "{}", answer.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_others_are_refused() {
    let server = Server::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::open(elsewhere.path(), &ServingNames::default(), true).unwrap();
    let forged = other
        .authority
        .issue(&Leaf::client("admin", Some("system:masters")))
        .unwrap();
    let mallory = server.caller(Some((&forged.certificate_pem, &forged.key_pem)));
    assert_eq!(mallory.get("/api/v1/namespaces").await.code, 401);
    assert_eq!(mallory.get("/version").await.code, 401);
    assert_eq!(server.admin().get("/api/v1/namespaces").await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_decide_and_changes_take_effect() {
    let server = Server::start().await;
    let (admin, alice) = (server.admin(), server.user("alice", Some("devs")));
    let pods = "/api/v1/namespaces/default/configmaps";
    let refused = alice.get(pods).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "configmaps is forbidden: User \"alice\" cannot list resource \"configmaps\" in API group \
         \"\" in the namespace \"default\""
    );
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let made = admin
        .post(&format!("{RBAC}/namespaces/default/roles"), role)
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"}],
    });
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(admin.post(&bindings, binding).await.code, 201);
    alice.until(pods, 200).await;
    assert_eq!(
        alice
            .get("/api/v1/namespaces/kube-system/configmaps")
            .await
            .code,
        403
    );
    assert_eq!(admin.delete(&format!("{bindings}/readers")).await.code, 200);
    alice.until(pods, 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_what_he_does_not_have() {
    let server = Server::start().await;
    let (admin, carol) = (server.admin(), server.user("carol", None));
    let role = |name: &str, rules: serde_json::Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name}, "rules": rules,
        })
    };
    let own = json!([{
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "rolebindings"],
        "verbs": ["create", "get"],
    }]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(
        admin.post(&roles, role("maker", own.clone())).await.code,
        201
    );
    let bind = |name: &str, kind: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "carol"}],
        })
    };
    assert_eq!(
        admin
            .post(&bindings, bind("makers", "Role", "maker"))
            .await
            .code,
        201
    );
    carol.until(&format!("{roles}/maker"), 200).await;

    assert_eq!(carol.post(&roles, role("same", own)).await.code, 201);
    let more = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let refused = carol.post(&roles, role("more", more)).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"carol\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
         currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"
    );
    let refused = carol
        .post(&bindings, bind("all", "ClusterRole", "cluster-admin"))
        .await;
    assert_eq!(refused.code, 403, "{refused:?}");
    assert_eq!(
        carol
            .post(&bindings, bind("none", "Role", "nothing"))
            .await
            .code,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impersonation_needs_the_right_to_it() {
    let server = Server::start().await;
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let eve = server
        .admin()
        .with("Impersonate-User", "eve")
        .with("Impersonate-Group", "devs");
    let answer = eve.post(reviews, review.clone()).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    let info = &answer.body["status"]["userInfo"];
    assert_eq!(info["username"], "eve");
    assert_eq!(info["groups"], json!(["devs", "system:authenticated"]));
    // He is eve in everything, also in what he may not.
    assert_eq!(eve.get("/api/v1/secrets").await.code, 403);

    let alice = server.user("alice", None);
    let root = alice
        .with("Impersonate-User", "root")
        .with("Impersonate-Group", "system:masters");
    let refused = root.get("/api/v1/secrets").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "users \"root\" is forbidden: User \"alice\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
    let bad = server
        .admin()
        .with("Impersonate-Group", "x")
        .get("/api/v1/secrets")
        .await;
    assert_eq!(bad.code, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let server = Server::start().await;
    let admin = server.admin();
    let node = server.user("system:node:n1", Some("system:nodes"));
    let secret =
        |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["used", "other"] {
        assert_eq!(admin.post(secrets, secret(name)).await.code, 201);
    }
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(admin.post(accounts, account).await.code, 201);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n1",
            "containers": [{
                "name": "c", "image": "i",
                "envFrom": [{"secretRef": {"name": "used"}}],
            }],
        },
    });
    let made = admin.post("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(node.until(&format!("{secrets}/used"), 200).await.code, 200);
    let refused = node.get(&format!("{secrets}/other")).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused
            .message()
            .contains("no relationship found between node 'n1'"),
        "{refused:?}"
    );
    assert_eq!(node.get(secrets).await.code, 403);
    let other = server.user("system:node:n2", Some("system:nodes"));
    assert_eq!(other.get(&format!("{secrets}/used")).await.code, 403);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(node.get(&format!("{leases}/n1")).await.code, 404);
    assert_eq!(node.get(&format!("{leases}/n2")).await.code, 403);
    // The group without the name, and the name without the group, are no node.
    let posing = server.user("system:node:n1", None);
    assert_eq!(posing.get(&format!("{secrets}/used")).await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_reviews_tell_what_a_user_may() {
    let server = Server::start().await;
    let ask = async |caller: &super::fixture::Caller,
                     kind: &str,
                     plural: &str,
                     spec: serde_json::Value| {
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        caller
            .post(&format!("/apis/authorization.k8s.io/v1/{plural}"), body)
            .await
    };
    let attributes = json!({"resourceAttributes": {"verb": "get", "resource": "secrets"}});
    let own = ask(
        &server.user("alice", None),
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        attributes.clone(),
    )
    .await;
    assert_eq!(
        (own.code, &own.body["status"]),
        (201, &json!({"allowed": false}))
    );
    let mut spec = attributes;
    spec["user"] = "x".into();
    spec["groups"] = json!(["system:masters"]);
    let masters = ask(
        &server.admin(),
        "SubjectAccessReview",
        "subjectaccessreviews",
        spec,
    )
    .await;
    assert_eq!(masters.body["status"]["allowed"], true, "{masters:?}");
    let rules = ask(
        &server.user("alice", None),
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        json!({"namespace": "default"}),
    )
    .await;
    assert_eq!(rules.code, 201, "{rules:?}");
    let listed = rules.body["status"]["resourceRules"].as_array().unwrap();
    assert!(listed.iter().any(|rule| {
        rule["resources"]
            .to_string()
            .contains("selfsubjectaccessreviews")
    }));
    let empty = ask(
        &server.admin(),
        "SubjectAccessReview",
        "subjectaccessreviews",
        json!({"user": "x"}),
    )
    .await;
    assert_eq!(empty.code, 422, "{empty:?}");
}
