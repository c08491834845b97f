//! Admission policies: expressions that refuse, warn about and change writes.

use http::Method;
use serde_json::{Value, json};

use super::fixture::{Answer, Caller, Server};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}},
    })
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn rules(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{
        "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
    }]})
}

async fn try_policy(admin: &Caller, kind: &str, name: &str, spec: Value) -> Answer {
    let path = format!("{GROUP}/{}admissionpolicies", kind.to_lowercase());
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicy"),
        "metadata": {"name": name}, "spec": spec,
    });
    admin.post(&path, body).await
}

/// Creates a policy and its binding, which has the policy's name.
async fn policy(admin: &Caller, kind: &str, name: &str, spec: Value, mut binding: Value) {
    let made = try_policy(admin, kind, name, spec).await;
    assert_eq!(made.code, 201, "{made:?}");
    binding["policyName"] = name.into();
    let path = format!("{GROUP}/{}admissionpolicybindings", kind.to_lowercase());
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicyBinding"),
        "metadata": {"name": name}, "spec": binding,
    });
    let made = admin.post(&path, body).await;
    assert_eq!(made.code, 201, "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validating_policy_denies_and_warns_with_its_message() {
    let server = Server::start().await;
    let admin = server.admin();
    policy(
        &admin,
        "Validating",
        "replicas",
        json!({
            "matchConstraints": rules("apps", "deployments"),
            "variables": [
                {"name": "replicas", "expression": "object.spec.replicas"},
                {"name": "isOdd", "expression": "variables.replicas % 2 == 1"},
            ],
            "validations": [
                {"expression": "variables.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(variables.replicas)"},
                {"expression": "variables.isOdd", "message": "replicas have to be odd", "reason": "Forbidden"},
            ],
        }),
        json!({"validationActions": ["Deny"]}),
    )
    .await;
    let refused = admin.post(DEPLOYMENTS, deployment("one", 1)).await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (422, &json!("Invalid")),
        "{refused:?}"
    );
    assert_eq!(
        refused.message(),
        "deployments.apps \"one\" is forbidden: ValidatingAdmissionPolicy 'replicas' with binding 'replicas' denied request: wants replicas > 1, got 1"
    );
    let refused = admin.post(DEPLOYMENTS, deployment("two", 2)).await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (403, &json!("Forbidden")),
        "{refused:?}"
    );
    assert!(
        refused
            .message()
            .ends_with("denied request: replicas have to be odd")
    );
    assert_eq!(
        admin.post(DEPLOYMENTS, deployment("three", 3)).await.code,
        201
    );
    let scaled = admin
        .send(
            Method::PUT,
            &format!("{DEPLOYMENTS}/three"),
            Some(deployment("three", 4)),
        )
        .await;
    assert_eq!(scaled.code, 403, "{scaled:?}");

    let path = format!("{GROUP}/validatingadmissionpolicybindings/replicas");
    let binding = admin.get(&path).await.body;
    let mut warns = binding.clone();
    warns["spec"]["validationActions"] = json!(["Warn", "Audit"]);
    assert_eq!(admin.send(Method::PUT, &path, Some(warns)).await.code, 200);
    let made = admin.post(DEPLOYMENTS, deployment("one", 1)).await;
    assert_eq!(made.code, 201);
    assert_eq!(
        made.headers["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'replicas' with binding 'replicas': wants replicas > 1, got 1\""
    );
    assert_eq!(admin.delete(&path).await.code, 200);
    let made = admin.post(DEPLOYMENTS, deployment("eight", 8)).await;
    assert!(made.headers.get("warning").is_none(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_conditions_and_failures_are_heeded() {
    let server = Server::start().await;
    let admin = server.admin();
    policy(
        &admin,
        "Validating",
        "bounded",
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": rules("", "secrets"),
            "matchConditions": [
                {"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"},
                {"name": "by-people", "expression": "request.userInfo.username != 'robot' && namespaceObject.metadata.name == 'default'"},
            ],
            "validations": [
                {"expression": "size(object.data) <= int(params.data.most)"},
                {"expression": "authorizer.group('').resource('pods').namespace('default').check('delete').allowed()", "message": "only for those who may delete pods"},
                {"expression": "authorizer.requestResource.check('update').allowed()"},
            ],
        }),
        json!({"validationActions": ["Deny"], "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str, count: usize| {
        let data: serde_json::Map<String, Value> = (0..count)
            .map(|i| (format!("k{i}"), "eA==".into()))
            .collect();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    };
    let refused = admin.post(secrets, secret("a", 1)).await;
    assert!(
        refused.message().ends_with("denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{refused:?}"
    );
    assert_eq!(
        admin
            .post(MAPS, map("limits", json!({"most": "2"})))
            .await
            .code,
        201
    );
    assert_eq!(admin.post(secrets, secret("exempt-a", 9)).await.code, 201);
    assert_eq!(admin.post(secrets, secret("a", 2)).await.code, 201);
    let refused = admin.post(secrets, secret("b", 3)).await;
    assert!(
        refused.message().ends_with(
            "denied request: failed expression: size(object.data) <= int(params.data.most)"
        ),
        "{refused:?}"
    );
    let limits = format!("{MAPS}/limits");
    assert_eq!(
        admin
            .send(Method::PUT, &limits, Some(map("limits", json!({}))))
            .await
            .code,
        200
    );
    let refused = admin.post(secrets, secret("c", 1)).await;
    assert!(
        refused.message().contains("expression 'size(object.data) <= int(params.data.most)' resulted in error: no such key: "),
        "{refused:?}"
    );
    assert_eq!(
        admin
            .send(
                Method::PUT,
                &limits,
                Some(map("limits", json!({"most": "9"})))
            )
            .await
            .code,
        200
    );

    // Somebody who may create secrets and nothing else.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "secrets"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]});
    assert_eq!(
        admin
            .post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
            .await
            .code,
        201
    );
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "secrets"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    assert_eq!(
        admin
            .post(
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                binding
            )
            .await
            .code,
        201
    );
    let jane = server.user("jane", None);
    let mut refused = jane.post(secrets, secret("d", 1)).await;
    for _ in 0..100 {
        if refused.code != 403 || refused.message().contains("denied request") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = jane.post(secrets, secret("d", 1)).await;
    }
    assert!(
        refused
            .message()
            .ends_with("only for those who may delete pods"),
        "{refused:?}"
    );
    assert_eq!(admin.post(secrets, secret("d", 1)).await.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_with_broken_expressions_are_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    for (kind, spec, expect) in [
        (
            "Validating",
            json!({"matchConstraints": rules("", "pods"), "validations": [{"expression": "objekt.x == 1"}]}),
            "spec.validations[0].expression: Invalid value: \"objekt.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'objekt'",
        ),
        (
            "Validating",
            json!({"matchConstraints": rules("", "pods"), "validations": [{"expression": "params.x == 1"}]}),
            "undeclared reference to 'params'",
        ),
        (
            "Validating",
            json!({"matchConstraints": rules("", "pods"), "validations": [{"expression": "true"}],
                "variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]}),
            "spec.variables[0].expression",
        ),
        (
            "Mutating",
            json!({"matchConstraints": rules("", "pods"), "reinvocationPolicy": "Never", "failurePolicy": "Fail",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op:"}}]}),
            "spec.mutations[0].jsonPatch.expression",
        ),
    ] {
        let refused = try_policy(&admin, kind, "broken", spec).await;
        assert_eq!(refused.code, 422, "{refused:?}");
        assert!(refused.message().contains(expect), "{expect} / {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutating_policy_applies_configurations_and_patches() {
    let server = Server::start().await;
    let admin = server.admin();
    policy(
        &admin,
        "Mutating",
        "replicas",
        json!({
            "matchConstraints": rules("apps", "deployments"),
            "matchConditions": [{"name": "few", "expression": "object.spec.replicas < 3"}],
            "variables": [{"name": "more", "expression": "object.spec.replicas + 2"}],
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                    "Object{metadata: Object.metadata{labels: {'touched': 'yes'}}, spec: Object.spec{replicas: variables.more, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 'y'}]}}}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression":
                    "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/a'), value: string(object.spec.replicas)}]"}},
            ],
        }),
        json!({}),
    )
    .await;
    let made = admin.post(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(made.body["spec"]["replicas"], 3);
    assert_eq!(made.body["metadata"]["labels"]["touched"], "yes");
    assert_eq!(made.body["metadata"]["annotations"]["example.com/a"], "3");
    let containers = made.body["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    let names: Vec<_> = containers
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "side"]);
    assert_eq!(containers[1]["terminationMessagePolicy"], "File");
    let made = admin.post(DEPLOYMENTS, deployment("e", 5)).await;
    assert_eq!(made.body["spec"]["replicas"], 5);

    policy(
        &admin,
        "Mutating",
        "broken",
        json!({
            "matchConstraints": rules("", "configmaps"), "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/data/none'}]"}}],
        }),
        json!({}),
    )
    .await;
    let refused = admin.post(MAPS, map("a", json!({}))).await;
    assert_eq!(refused.code, 422, "{refused:?}");
    assert!(
        refused.message().contains("MutatingAdmissionPolicy 'broken' with binding 'broken' denied request: expression '[JSONPatch{op: 'remove', path: '/data/none'}]' resulted in error"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_parameters_has_to_be_allowed_to_read_them() {
    let server = Server::start().await;
    let admin = server.admin();
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "policies"}, "rules": [{"apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(admin.post(roles, role).await.code, 201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "policies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(admin.post(bindings, binding).await.code, 201);
    let bob = server.user("bob", None);
    bob.until(&format!("{GROUP}/validatingadmissionpolicies"), 200)
        .await;
    let spec = json!({"matchConstraints": rules("", "configmaps"),
        "paramKind": {"apiVersion": "v1", "kind": "Secret"}, "validations": [{"expression": "true"}]});
    let refused = try_policy(&bob, "Validating", "p", spec.clone()).await;
    assert_eq!(refused.code, 422, "{refused:?}");
    let told = refused.message();
    assert!(
        told.starts_with(
            "ValidatingAdmissionPolicy.admissionregistration.k8s.io \"p\" is invalid: \
             spec.paramKind: Forbidden: user &{bob  [system:authenticated] map["
        ) && told.ends_with(
            "]} must have \"get\" permission on all objects of the referenced paramKind \
             (kind=Secret, apiVersion=v1)"
        ),
        "{told}"
    );
    assert_eq!(try_policy(&admin, "Validating", "p", spec).await.code, 201);
    let bind = |name: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": "p", "validationActions": ["Deny"],
                "paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}}})
    };
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    let refused = bob.post(&path, bind("b")).await;
    assert_eq!(refused.code, 422, "{refused:?}");
    assert_eq!(
        refused.body["details"]["causes"][0]["field"],
        "spec.paramRef"
    );
    assert_eq!(admin.post(&path, bind("b")).await.code, 201);
    // What stays is not asked about again.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let changed = bob.patch(&format!("{path}/b"), &label).await;
    assert_eq!(changed.code, 200, "{changed:?}");
}
