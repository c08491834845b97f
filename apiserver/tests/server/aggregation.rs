//! API groups that another server serves.

use serde_json::json;

use super::backend::{self, Asked};
use super::fixture::Server;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

fn sample(asked: Asked) -> (u16, serde_json::Value) {
    let header = |name: &str| {
        let values = asked.headers.get_all(name).iter();
        values
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    match asked.path.as_str() {
        "/apis/wardle.example.com/v1" => (
            200,
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1",
                "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true,
                               "kind": "Flunder", "verbs": ["get", "list"]}]}),
        ),
        "/openapi/v3/apis/wardle.example.com/v1" => (
            200,
            json!({"openapi": "3.0.0", "info": {}, "paths": {}, "components": {"schemas": {"wardle.Flunder": {}}}}),
        ),
        "/openapi/v2" => (
            200,
            json!({"swagger": "2.0", "paths": {"/apis/wardle.example.com/v1/flunders": {}, "/other": {}},
                   "definitions": {"wardle.Flunder": {"type": "object"}}}),
        ),
        "/apis/wardle.example.com/v1/namespaces/default/flunders/a" => (
            200,
            json!({"user": header("x-remote-user"), "groups": header("x-remote-group"),
                   "authorization": header("authorization")}),
        ),
        _ => (404, json!({"kind": "Status", "code": 404})),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_server_is_asked_as_the_front_proxy() {
    let server = Server::start().await;
    let admin = server.admin();
    let address = backend::own_address();
    let names = ["sample-api.default.svc"];
    let bound = backend::serve(&server.running.pki.authority, address, &names, sample).await;

    let ca = {
        use base64::Engine;
        let pem = server.running.pki.authority.certificate_pem();
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let announced = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.wardle.example.com"},
        "spec": {"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000,
            "versionPriority": 200, "caBundle": ca,
            "service": {"namespace": "default", "name": "sample-api"}}});
    assert_eq!(admin.post(SERVICES, announced).await.code, 201);
    let own = format!("{SERVICES}/v1.wardle.example.com");
    let condition = |body: &serde_json::Value| body["status"]["conditions"][0]["reason"].clone();
    let told = admin
        .until_body(&own, |body| condition(body).is_string())
        .await;
    assert_eq!(condition(&told.body), "ServiceNotFound");
    let flunder = "/apis/wardle.example.com/v1/namespaces/default/flunders/a";
    assert_eq!(admin.get(flunder).await.code, 503);

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"},
        "spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
    let created = admin
        .post("/api/v1/namespaces/default/services", service)
        .await;
    assert_eq!(created.code, 201, "{}", created.text);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "sample-api-1", "labels": {"kubernetes.io/service-name": "sample-api"}},
        "ports": [{"name": "", "port": bound.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}]});
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let created = admin.post(path, slice).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let told = admin
        .until_body(&own, |body| condition(body) == "Passed")
        .await;
    assert_eq!(told.body["status"]["conditions"][0]["status"], "True");

    let answer = admin
        .with("x-remote-user", "root")
        .until(flunder, 200)
        .await;
    assert_eq!(answer.body["user"], json!(["admin"]));
    assert_eq!(
        answer.body["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert_eq!(answer.body["authorization"], json!([]));
    let refused = server.user("eve", None).get(flunder).await;
    assert_eq!(refused.code, 403, "{}", refused.text);

    let groups = admin.get("/apis").await.text;
    assert!(groups.contains("wardle.example.com/v1"), "{groups}");
    let group = admin.get("/apis/wardle.example.com").await;
    assert_eq!(group.body["preferredVersion"]["version"], "v1");
    let aggregated = admin
        .with(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        )
        .get("/apis")
        .await;
    assert!(aggregated.text.contains("\"flunders\""));
    let index = admin.get("/openapi/v3").await;
    assert!(index.body["paths"]["apis/wardle.example.com/v1"].is_object());
    let v2 = admin.get("/openapi/v2").await;
    assert!(v2.body["definitions"]["wardle.Flunder"].is_object());
    assert!(v2.body["paths"]["/other"].is_null());

    assert_eq!(admin.delete(&own).await.code, 200);
    admin.until("/apis/wardle.example.com", 404).await;
}
