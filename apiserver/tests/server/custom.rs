//! Custom resources: versions, conversion, selectable fields, rules, published schemas.

use serde_json::{Value, json};

use super::backend::{self, Asked};
use super::fixture::{Caller, Server};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn version(name: &str, storage: bool, spec: Value, selectable: &[&str]) -> Value {
    let fields: Vec<Value> = selectable.iter().map(|p| json!({"jsonPath": p})).collect();
    json!({"name": name, "served": true, "storage": storage, "selectableFields": fields,
        "schema": {"openAPIV3Schema": {"type": "object", "description": "A host", "properties": {
            "spec": {"type": "object", "properties": spec}}}}})
}

fn definition(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "hosts", "singular": "host", "kind": "Host", "listKind": "HostList"}}})
}

async fn establish(admin: &Caller, definition: Value) {
    let created = admin.post(DEFINITIONS, definition).await;
    assert_eq!(created.code, 201, "{}", created.text);
    admin
        .until("/apis/example.com/v1/namespaces/default/hosts", 200)
        .await;
}

/// v1 has `hostPort`, v2 has `host` and `port`.
fn convert(asked: Asked) -> (u16, Value) {
    let request = &asked.body["request"];
    let wanted = request["desiredAPIVersion"].clone();
    let objects = request["objects"].as_array().unwrap();
    let converted: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut new = object.clone();
            new["apiVersion"] = wanted.clone();
            new["spec"] = if wanted == "example.com/v2" {
                let joined = object["spec"]["hostPort"].as_str().unwrap();
                let (host, port) = joined.split_once(':').unwrap();
                json!({"host": host, "port": port})
            } else {
                let text = |key: &str| object["spec"][key].as_str().unwrap().to_owned();
                json!({"hostPort": format!("{}:{}", text("host"), text("port"))})
            };
            new
        })
        .collect();
    (
        200,
        json!({"kind": "ConversionReview", "apiVersion": asked.body["apiVersion"],
            "response": {"uid": request["uid"], "convertedObjects": converted, "result": {"status": "Success"}}}),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_converts_and_selectors_see_the_converted_fields() {
    let server = Server::start().await;
    let admin = server.admin();
    let authority = &server.running.pki.authority;
    let local = [127, 0, 0, 1].into();
    let hook = backend::serve(authority, local, &[], convert).await;
    let bundle = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem())
    };
    let text = json!({"type": "string"});
    let mut own = definition(json!([
        version("v1", true, json!({"hostPort": text}), &[".spec.hostPort"]),
        version(
            "v2",
            false,
            json!({"host": text, "port": text}),
            &[".spec.host", ".spec.port"]
        ),
    ]));
    own["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{hook}/convert"), "caBundle": bundle}}});
    establish(&admin, own).await;

    let v1 = "/apis/example.com/v1/namespaces/default/hosts";
    let v2 = "/apis/example.com/v2/namespaces/default/hosts";
    for (name, host) in [("a", "one:80"), ("b", "two:80")] {
        let object = json!({"apiVersion": "example.com/v1", "kind": "Host",
            "metadata": {"name": name}, "spec": {"hostPort": host}});
        assert_eq!(admin.post(v1, object).await.code, 201);
    }
    let object = json!({"apiVersion": "example.com/v2", "kind": "Host",
        "metadata": {"name": "c"}, "spec": {"host": "one", "port": "81", "pruned": 1}});
    let made = admin.post(v2, object).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"], json!({"host": "one", "port": "81"}));
    assert_eq!(
        admin.get(&format!("{v1}/c")).await.body["spec"],
        json!({"hostPort": "one:81"})
    );
    let names = |body: &Value| -> Vec<String> {
        let items = body["items"].as_array().unwrap().iter();
        items
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = admin
        .get(&format!("{v2}?fieldSelector=spec.host%3Done"))
        .await;
    assert_eq!(names(&list.body), ["a", "c"], "{}", list.text);
    let list = admin
        .get(&format!(
            "{v2}?fieldSelector=spec.host%3Done,spec.port%3D81"
        ))
        .await;
    assert_eq!(names(&list.body), ["c"]);
    let list = admin
        .get(&format!("{v1}?fieldSelector=spec.hostPort%3Dtwo:80"))
        .await;
    assert_eq!(names(&list.body), ["b"]);
    let refused = admin
        .get(&format!("{v1}?fieldSelector=spec.host%3Done"))
        .await;
    assert_eq!(refused.code, 400);
    let watched = admin
        .get(&format!(
            "{v2}?watch=true&timeoutSeconds=1&fieldSelector=spec.host%3Dtwo"
        ))
        .await;
    assert!(watched.text.contains("\"ADDED\"") && watched.text.contains("\"two\""));
    assert!(!watched.text.contains("\"one\""), "{}", watched.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_stored_before_get_the_defaults_of_their_version() {
    let server = Server::start().await;
    let admin = server.admin();
    let text = json!({"type": "string"});
    establish(
        &admin,
        definition(json!([version("v1", true, json!({"a": text}), &[])])),
    )
    .await;
    let hosts = "/apis/example.com/v1/namespaces/default/hosts";
    let object = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "x"}, "spec": {"a": "1"}});
    assert_eq!(admin.post(hosts, object).await.code, 201);
    let path = format!("{DEFINITIONS}/hosts.example.com");
    let mut changed = admin.get(&path).await.body;
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    changed.pointer_mut(schema).unwrap()["b"] = json!({"type": "string", "default": "two"});
    let put = admin.send(http::Method::PUT, &path, Some(changed)).await;
    assert_eq!(put.code, 200, "{}", put.text);
    let own = format!("{hosts}/x");
    let read = admin
        .until_body(&own, |body| body["spec"]["b"] == "two")
        .await;
    assert_eq!(read.body["spec"], json!({"a": "1", "b": "two"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_schemas_carry_the_texts_that_explain_shows() {
    let server = Server::start().await;
    let admin = server.admin();
    let text = json!({"type": "string", "description": "Name of it"});
    establish(
        &admin,
        definition(json!([version("v1", true, json!({"a": text}), &[])])),
    )
    .await;
    let document = admin
        .until_body("/openapi/v3/apis/example.com/v1", |body| body.is_object())
        .await;
    let own = &document.body["components"]["schemas"]["com.example.v1.Host"];
    assert_eq!(own["description"], "A host");
    let described = |field: &str| own["properties"][field]["description"].as_str().unwrap();
    assert!(described("apiVersion").starts_with("APIVersion defines"));
    assert!(described("metadata").starts_with("Standard object's metadata"));
    assert_eq!(
        own["properties"]["spec"]["properties"]["a"]["description"],
        "Name of it"
    );
}
