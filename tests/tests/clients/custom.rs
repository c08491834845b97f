//! Custom resources: what is published of them, and what clients make of that.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::api::Api;
use cluster_tests::cluster::{SOON, wait_for};
use cluster_tests::objects::objects;
use serde_json::{Value, json};

use crate::Suite;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The definition among the samples, for all cases.
pub(crate) fn install_widgets(suite: &Suite) -> anyhow::Result<()> {
    let all = objects("default")?;
    let definition = all
        .into_iter()
        .find(|o| o["kind"] == "CustomResourceDefinition");
    install(
        &Api::of(&suite.kubeconfig())?,
        &definition.context("no definition among the samples")?,
    )
}

/// Makes a definition and waits until its kind is served.
fn install(api: &Api, definition: &Value) -> anyhow::Result<()> {
    let made = api.json("POST", DEFINITIONS, definition)?;
    ensure!(made.code == 201, "{made:?}");
    let name = definition["metadata"]["name"].as_str().context("a name")?;
    wait_for("the definition", SOON, || {
        let conditions =
            api.get(&format!("{DEFINITIONS}/{name}"))?.body["status"]["conditions"].clone();
        let established = |c: &&Value| c["type"] == "Established" && c["status"] == "True";
        Ok(conditions
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| established(&c)))
    })
}

/// A definition of one kind with these versions, each with a schema.
fn definition(group: &str, versions: &[(&str, Value)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(number, (name, schema))| {
            json!({"name": name, "served": true, "storage": number == 0, "schema": {"openAPIV3Schema": schema}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "versions": versions,
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        },
    })
}

fn thing(group: &str, version: &str, spec: Value) -> String {
    json!({"apiVersion": format!("{group}/{version}"), "kind": "Thing", "metadata": {"name": "one"}, "spec": spec}).to_string()
}

pub(crate) fn published_schemas_are_explained_and_validated(suite: &Suite) -> anyhow::Result<()> {
    let api = Api::of(&suite.kubeconfig())?;
    let strict = json!({"type": "object", "properties": {"spec": {
        "type": "object", "description": "What it shall be.", "required": ["bars"],
        "properties": {"bars": {"type": "array", "description": "List of Bars.", "items": {
            "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}}}}}});
    let keeps = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let nested = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"known": {"type": "integer"}}}}});
    install(&api, &definition("strict.example.com", &[("v1", strict)]))?;
    install(&api, &definition("keeps.example.com", &[("v1", keeps)]))?;
    install(&api, &definition("nested.example.com", &[("v1", nested)]))?;
    suite.with_each("published", |kubectl| {
        let feed = |manifest: String| {
            let outcome =
                kubectl.with(&["create", "--dry-run=server", "-f", "-"], Some(&manifest))?;
            anyhow::Ok(outcome)
        };
        // The published schema reaches kubectl, which the old release validates with.
        wait_for("the schema", SOON, || {
            let said = kubectl.ok("explain things.spec --api-version=strict.example.com/v1")?;
            Ok(said.contains("What it shall be."))
        })?;
        kubectl.says(
            "explain things.spec.bars --api-version=strict.example.com/v1",
            "List of Bars",
        )?;
        kubectl.fails(
            "explain things.spec.none --api-version=strict.example.com/v1",
            "does not exist",
        )?;
        feed(thing(
            "strict.example.com",
            "v1",
            json!({"bars": [{"name": "a", "age": 1}]}),
        ))?
        .success()?;
        let unknown = feed(thing(
            "strict.example.com",
            "v1",
            json!({"bars": [], "more": 1}),
        ))?
        .failure()?;
        ensure!(unknown.contains("more"), "{unknown}");
        let lacking = feed(thing(
            "strict.example.com",
            "v1",
            json!({"bars": [{"age": 1}]}),
        ))?
        .failure()?;
        ensure!(lacking.contains("name"), "{lacking}");
        let wrong = feed(thing(
            "strict.example.com",
            "v1",
            json!({"bars": [{"name": "a", "age": "old"}]}),
        ))?
        .failure()?;
        ensure!(wrong.contains("age"), "{wrong}");
        feed(thing(
            "keeps.example.com",
            "v1",
            json!({"anything": {"goes": [1]}}),
        ))?
        .success()?;
        feed(thing(
            "nested.example.com",
            "v1",
            json!({"known": 1, "unknown": true}),
        ))?
        .success()?;
        feed(thing("nested.example.com", "v1", json!({"known": "x"})))?.failure()?;
        kubectl.ok("explain things --api-version=keeps.example.com/v1")?;
        Ok(())
    })
}

pub(crate) fn versions_come_and_go_in_what_is_published(suite: &Suite) -> anyhow::Result<()> {
    let api = Api::of(&suite.kubeconfig())?;
    let group = "versions.example.com";
    let schema = |field: &str| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {field: {"type": "string"}}}}});
    install(
        &api,
        &definition(group, &[("v2", schema("two")), ("v1", schema("one"))]),
    )?;
    let published = |version: &str, field: &str| -> anyhow::Result<bool> {
        let document = api.get(&format!("/openapi/v3/apis/{group}/{version}"))?;
        let both = api.get("/openapi/v2")?;
        let name = format!("com.example.versions.{version}.Thing");
        let in_v3 =
            &document.body["components"]["schemas"][&name]["properties"]["spec"]["properties"];
        let in_v2 = &both.body["definitions"][&name]["properties"]["spec"]["properties"];
        Ok(in_v3[field].is_object() && in_v2[field].is_object())
    };
    let listed = |version: &str| -> anyhow::Result<bool> {
        let path = format!("/apis/{group}/{version}");
        let group = api.get(&format!("/apis/{group}"))?.body.to_string();
        Ok(group.contains(&format!("\"{version}\"")) && api.get(&path)?.code == 200)
    };
    wait_for("both versions", SOON, || {
        Ok(published("v1", "one")? && published("v2", "two")?)
    })?;
    // An object is the same in every version.
    let things = format!("/apis/{group}/v1/namespaces/default/things");
    let object: Value = serde_json::from_str(&thing(group, "v1", json!({"one": "a"})))?;
    let made = api.json("POST", &things, &object)?;
    ensure!(made.code == 201, "{made:?}");
    let other = api.get(&format!("/apis/{group}/v2/namespaces/default/things/one"))?;
    ensure!(
        other.body["apiVersion"] == format!("{group}/v2"),
        "{other:?}"
    );
    // One is renamed, then no longer served.
    let path = format!("{DEFINITIONS}/things.{group}");
    let rename = json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v3"}]);
    let renamed = api.send(
        "PATCH",
        &path,
        "application/json-patch+json",
        rename.to_string().as_bytes(),
    )?;
    ensure!(renamed.code == 200, "{renamed:?}");
    wait_for("the new name", SOON, || {
        Ok(listed("v3")? && !listed("v1")? && published("v3", "one")?)
    })?;
    let hide = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    let hidden = api.send(
        "PATCH",
        &path,
        "application/json-patch+json",
        hide.to_string().as_bytes(),
    )?;
    ensure!(hidden.code == 200, "{hidden:?}");
    wait_for("it to be hidden", SOON, || {
        Ok(!listed("v3")? && !published("v3", "one")? && published("v2", "two")?)
    })?;
    ensure!(
        api.get(&format!("/apis/{group}/v3/namespaces/default/things"))?
            .code
            == 404
    );
    ensure!(api.json("DELETE", &path, &json!({}))?.code == 200);
    wait_for("it to be gone", Duration::from_secs(30), || {
        Ok(api.get(&format!("/apis/{group}"))?.code == 404 && !published("v2", "two")?)
    })
}
