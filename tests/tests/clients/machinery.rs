//! What conformance asks of the API's machinery, below kubectl.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context, ensure};
use cluster_tests::api::{Answer, Api};
use cluster_tests::cluster::{SOON, names, wait_for};
use serde_json::{Value, json};

use crate::Suite;

fn api(suite: &Suite) -> anyhow::Result<Api> {
    Api::of(&suite.kubeconfig())
}

fn namespace(api: &Api, name: &str) -> anyhow::Result<String> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let made = api.json("POST", "/api/v1/namespaces", &object)?;
    ensure!(made.code == 201, "{made:?}");
    Ok(format!("/api/v1/namespaces/{name}"))
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn accepting(api: &Api, path: &str, accept: &str) -> anyhow::Result<Answer> {
    api.with_header("GET", path, &format!("Accept: {accept}"))
}

pub(crate) fn what_cannot_be_a_table_is_refused(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let pods = accepting(&api, "/api/v1/namespaces/default/pods", table)?;
    ensure!(pods.code == 200 && pods.body["kind"] == "Table", "{pods:?}");
    let described = pods.body["columnDefinitions"][0]["name"] == "Name";
    ensure!(described, "{pods:?}");
    // A version of tables that nobody speaks, and no other form to fall back to.
    let unknown = accepting(
        &api,
        "/api/v1/namespaces/default/pods",
        "application/json;as=Table;v=v9;g=meta.k8s.io",
    )?;
    ensure!(unknown.is_status(406, "NotAcceptable"), "{unknown:?}");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let refused = api.json_with_header(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        &review,
        &format!("Accept: {table}"),
    )?;
    ensure!(refused.is_status(406, "NotAcceptable"), "{refused:?}");
    Ok(())
}

pub(crate) fn duplicate_and_unknown_fields_are_told_by_place(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let path = format!(
        "{}/configmaps?fieldValidation=Strict",
        namespace(&api, "strict-fields")?
    );
    let refused = |path: &str, body: &str, words: &[&str]| -> anyhow::Result<()> {
        let answer = api.send("POST", path, "application/json", body.as_bytes())?;
        ensure!(answer.is_status(400, "BadRequest"), "{body}: {answer:?}");
        let message = answer.body["message"].as_str().unwrap_or_default();
        for word in words {
            ensure!(message.contains(word), "{body}: no {word:?} in {message}");
        }
        Ok(())
    };
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","name":"b"},"data":{"k":"1","k":"2"}}"#;
    refused(
        &path,
        twice,
        &[
            "duplicate field \"metadata.name\"",
            "duplicate field \"data.k\"",
        ],
    )?;
    let meta = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","unknownMeta":1}}"#;
    refused(&path, meta, &["unknown field \"metadata.unknownMeta\""])?;
    let widgets =
        "/apis/clients.example.com/v1/namespaces/strict-fields/widgets?fieldValidation=Strict";
    let custom = r#"{"apiVersion":"clients.example.com/v1","kind":"Widget","metadata":{"name":"a","unknownMeta":1},"spec":{"colour":"red","colour":"red","other":1,"free":{"any":1}}}"#;
    refused(
        widgets,
        custom,
        &[
            "duplicate field \"spec.colour\"",
            "unknown field \"spec.other\"",
            "unknown field \"metadata.unknownMeta\"",
        ],
    )?;
    let deployment = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"replicas":1,"replicas":2,"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","imagePullPolicy":"Always","imagePullPolicy":"Never","nothing":1}]}}}}"#;
    refused(
        "/apis/apps/v1/namespaces/strict-fields/deployments?fieldValidation=Strict",
        deployment,
        &[
            "unknown field \"spec.template.spec.containers[0].nothing\"",
            "duplicate field \"spec.replicas\"",
            "duplicate field \"spec.template.spec.containers[0].imagePullPolicy\"",
        ],
    )
}

/// The events of a watch that ends by itself.
fn watch(api: &Api, path: &str, from: &str) -> anyhow::Result<Vec<(String, String, String)>> {
    let answer = api.get(&format!(
        "{path}?watch=1&timeoutSeconds=3&resourceVersion={from}"
    ))?;
    // One event is read as one value, several as text.
    let text = match &answer.body {
        Value::String(text) => text.clone(),
        one => one.to_string(),
    };
    let events = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    events
        .map(|event| {
            let event = event?;
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let meta = &event["object"]["metadata"];
            Ok((
                text(&event["type"]),
                text(&meta["name"]),
                text(&meta["resourceVersion"]),
            ))
        })
        .collect()
}

pub(crate) fn concurrent_watchers_see_one_order(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let maps = format!("{}/configmaps", namespace(&api, "one-order")?);
    let list = api.get(&maps)?;
    let from = list.body["metadata"]["resourceVersion"]
        .as_str()
        .context("no revision")?
        .to_owned();
    let seen = thread::scope(|scope| {
        let watchers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| watch(&api, &maps, &from)))
            .collect();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (api, maps) = (&api, &maps);
                scope.spawn(move || -> anyhow::Result<()> {
                    for number in 0..5 {
                        let name = format!("m{writer}-{number}");
                        ensure!(api.json("POST", maps, &map(&name))?.code == 201);
                        let path = format!("{maps}/{name}");
                        let change = json!({"data": {"a": "b"}}).to_string();
                        ensure!(
                            api.send(
                                "PATCH",
                                &path,
                                "application/merge-patch+json",
                                change.as_bytes()
                            )?
                            .code
                                == 200
                        );
                        ensure!(api.json("DELETE", &path, &json!({}))?.code == 200);
                    }
                    Ok(())
                })
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("panic"))??;
        }
        watchers
            .into_iter()
            .map(|w| w.join().map_err(|_| anyhow::anyhow!("panic"))?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    // They may end at different events, and agree about all that they saw.
    let whole = watch(&api, &maps, &from)?;
    let revisions: Vec<u64> = whole
        .iter()
        .filter_map(|(_, _, rv)| rv.parse().ok())
        .collect();
    ensure!(revisions.is_sorted() && revisions.len() >= 45, "{whole:?}");
    for events in &seen {
        ensure!(
            whole.starts_with(events),
            "{events:?}\nis no beginning of\n{whole:?}"
        );
    }
    // From any of them it goes on with the next.
    let (_, _, middle) = &whole[20];
    ensure!(watch(&api, &maps, middle)? == whole[21..]);
    Ok(())
}

pub(crate) fn a_namespace_loses_its_pods_first(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let path = namespace(&api, "ordered")?;
    wait_for("the ServiceAccount", SOON, || {
        Ok(api.get(&format!("{path}/serviceaccounts/default"))?.code == 200)
    })?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "sample"}]}});
    ensure!(api.json("POST", &format!("{path}/pods"), &pod)?.code == 201);
    ensure!(
        api.json("POST", &format!("{path}/configmaps"), &map("later"))?
            .code
            == 201
    );
    ensure!(api.json("DELETE", &path, &json!({}))?.code == 200);
    wait_for("the pod to be told", SOON, || {
        Ok(
            api.get(&format!("{path}/pods/held"))?.body["metadata"]["deletionTimestamp"]
                .is_string(),
        )
    })?;
    wait_for("the namespace to say what remains", SOON, || {
        Ok(api.get(&path)?.body["status"]["conditions"]
            .to_string()
            .contains("example.com/hold"))
    })?;
    ensure!(api.get(&path)?.body["status"]["phase"] == "Terminating");
    ensure!(
        api.get(&format!("{path}/configmaps/later"))?.code == 200,
        "gone before the pod"
    );
    let refused = api.json("POST", &format!("{path}/configmaps"), &map("new"))?;
    ensure!(refused.is_status(403, "Forbidden"), "{refused:?}");
    let release = json!({"metadata": {"finalizers": null}}).to_string();
    let released = api.send(
        "PATCH",
        &format!("{path}/pods/held"),
        "application/merge-patch+json",
        release.as_bytes(),
    )?;
    ensure!(released.code == 200, "{released:?}");
    wait_for("the namespace to be gone", SOON, || {
        Ok(api.get(&path)?.code == 404)
    })
}

pub(crate) fn discovery_agrees_with_itself(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    for version in ["v2", "v2beta1"] {
        let accept =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let whole = accepting(&api, "/apis", &accept)?;
        ensure!(
            whole.body["kind"] == "APIGroupDiscoveryList",
            "{version}: {whole:?}"
        );
        let legacy = api.get("/apis")?;
        let groups: Vec<&Value> = whole.body["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|g| &g["metadata"]["name"])
            .collect();
        let old: Vec<&Value> = legacy.body["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|g| &g["name"])
            .collect();
        ensure!(groups == old && groups.len() > 20, "{groups:?} and {old:?}");
        for group in legacy.body["groups"].as_array().into_iter().flatten() {
            let preferred = &group["preferredVersion"]["version"];
            let versions = group["versions"].as_array().context("no versions")?;
            ensure!(
                versions.iter().any(|v| v["version"] == *preferred),
                "{group}"
            );
        }
        for item in whole.body["items"].as_array().into_iter().flatten() {
            let group = item["metadata"]["name"].as_str().unwrap_or_default();
            for own in item["versions"].as_array().into_iter().flatten() {
                let own_version = own["version"].as_str().unwrap_or_default();
                let list = api.get(&format!("/apis/{group}/{own_version}"))?;
                let plain: BTreeSet<&str> = own["resources"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|r| r["resource"].as_str())
                    .collect();
                let listed: BTreeSet<&str> = list.body["resources"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|r| r["name"].as_str())
                    .filter(|n| !n.contains('/'))
                    .collect();
                ensure!(
                    plain == listed,
                    "{group}/{own_version}: {plain:?} and {listed:?}"
                );
            }
        }
    }
    let version = api.get("/version")?.body;
    for part in ["major", "minor"] {
        let text = version[part].as_str().unwrap_or_default();
        ensure!(text.parse::<u32>().is_ok(), "{version}");
    }
    Ok(())
}

pub(crate) fn chunks_agree_while_others_write(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let maps = format!("{}/configmaps", namespace(&api, "chunks")?);
    // The one that every namespace is given comes in its own time.
    wait_for("the authority's map", SOON, || {
        Ok(api.get(&format!("{maps}/kube-root-ca.crt"))?.code == 200)
    })?;
    for number in 0..40 {
        ensure!(
            api.json("POST", &maps, &map(&format!("m{number:02}")))?
                .code
                == 201
        );
    }
    let whole = api.get(&maps)?;
    let (mut token, mut found, mut revision) = (String::new(), Vec::new(), None);
    loop {
        let page = api.get(&format!("{maps}?limit=7&continue={token}"))?;
        ensure!(page.code == 200, "{page:?}");
        let meta = &page.body["metadata"];
        let first = revision.get_or_insert_with(|| meta["resourceVersion"].clone());
        ensure!(
            meta["resourceVersion"] == *first,
            "another revision: {meta}"
        );
        found.extend(names(&page.body));
        let rest = names(&whole.body).len() - found.len();
        match meta["continue"].as_str().filter(|t| !t.is_empty()) {
            None => break ensure!(meta["remainingItemCount"].is_null(), "{meta}"),
            Some(next) => {
                ensure!(meta["remainingItemCount"] == rest, "{rest} remain: {meta}");
                token = next.to_owned();
            }
        }
        // What is written between the pages is not in them.
        let name = format!("a{}", found.len());
        ensure!(api.json("POST", &maps, &map(&name))?.code == 201);
        ensure!(api.json("DELETE", &format!("{maps}/m39"), &json!({}))?.code < 500);
    }
    ensure!(found == names(&whole.body), "{found:?}");
    let selected = api.get(&format!("{maps}?limit=7&labelSelector=none"))?;
    ensure!(
        selected.body["metadata"]["remainingItemCount"].is_null(),
        "{selected:?}"
    );
    Ok(())
}
