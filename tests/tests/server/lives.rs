//! Every built-in kind is created, read, listed, watched, patched, replaced and deleted, as the
//! conformance tests of each kind ask for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use cluster_tests::api::{Answer, Api};
use cluster_tests::objects::{kind_of, objects};
use cluster_tests::server::Server;
use serde_json::{Value, json};

use crate::Suite;

const NAMESPACE: &str = "lives";
const MERGE: &str = "application/merge-patch+json";

/// What the server says it serves of a kind.
struct Served {
    /// The path of the collection.
    path: String,
    verbs: Vec<String>,
    status: bool,
}

impl Served {
    fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|served| served == verb)
    }
}

fn accepted(what: &str, answer: Answer) -> anyhow::Result<Value> {
    ensure!((200..300).contains(&answer.code), "{what}: {answer:?}");
    Ok(answer.body)
}

/// The resources of a group's version, by kind.
fn discover(api: &Api, version: &str) -> anyhow::Result<BTreeMap<String, Served>> {
    let base = match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    };
    let list = accepted(&base, api.get(&base)?)?;
    let resources = list["resources"].as_array().context("no resources")?;
    let text =
        |resource: &Value, field: &str| resource[field].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = resources.iter().map(|one| text(one, "name")).collect();
    let served = resources
        .iter()
        .filter(|one| !text(one, "name").contains('/'));
    let served = served.map(|resource| {
        let plural = text(resource, "name");
        let scope = match resource["namespaced"] == true {
            true => format!("/namespaces/{NAMESPACE}"),
            false => String::new(),
        };
        let verbs = resource["verbs"].as_array().into_iter().flatten();
        let verbs = verbs.filter_map(Value::as_str).map(str::to_owned).collect();
        let status = names.contains(&format!("{plural}/status"));
        let path = format!("{base}{scope}/{plural}");
        (
            text(resource, "kind"),
            Served {
                path,
                verbs,
                status,
            },
        )
    });
    Ok(served.collect())
}

pub(crate) fn every_built_in_kind_lives_through_its_life(_: &Suite) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    // Nobody else changes anything.
    let arguments = ["--controllers=", "--no-scheduler"];
    let server = Server::start(&directory.path().join("data"), &arguments)?;
    let api = Api::of(&server.kubeconfig())?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    accepted(
        "the namespace",
        api.json("POST", "/api/v1/namespaces", &namespace)?,
    )?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    accepted("the account", api.json("POST", &accounts, &account)?)?;
    let mut versions: BTreeMap<String, BTreeMap<String, Served>> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut ended = Vec::new();
    for (number, object) in objects(NAMESPACE)?.into_iter().enumerate() {
        let (version, kind) = kind_of(&object);
        if !versions.contains_key(&version) {
            versions.insert(version.clone(), discover(&api, &version)?);
        }
        let served = versions[&version].get(&kind);
        let lived = served
            .with_context(|| format!("{version} {kind} is not served"))
            .and_then(|served| lives(&api, served, number, object));
        match lived {
            Ok(life) => ended.push((format!("{version} {kind}"), life)),
            Err(error) => failures.push(format!("{version} {kind}: {error:#}")),
        }
    }
    failures.extend(watch_all(&api, &ended)?);
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// A life that is over.
struct Life {
    /// The collection, as far as this life is in it.
    chosen: String,
    /// Of the collection before it.
    version: String,
    /// The path of the object.
    one: String,
}

/// How many watches are open at the same time: each waits for its end.
const WATCHERS: usize = 16;

/// Watches every life from its beginning; what went wrong.
fn watch_all(api: &Api, lives: &[(String, Life)]) -> anyhow::Result<Vec<String>> {
    let next = AtomicUsize::new(0);
    let watch = || {
        let mut failures = Vec::new();
        while let Some((kind, life)) = lives.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = watched(api, life) {
                failures.push(format!("{kind}: {error:#}"));
            }
        }
        failures
    };
    std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..WATCHERS).map(|_| scope.spawn(watch)).collect();
        let mut failures = Vec::new();
        for watcher in watchers {
            let found = watcher.join();
            failures.extend(found.map_err(|_| anyhow::anyhow!("a watcher panicked"))?);
        }
        Ok(failures)
    })
}

fn lives(api: &Api, served: &Served, number: usize, mut object: Value) -> anyhow::Result<Life> {
    let path = &served.path;
    // Objects of some kinds are seen under several versions: each life has a label of its own.
    let chosen = format!("{path}?labelSelector=life%3D{number}");
    object["metadata"]["labels"]["life"] = json!(number.to_string());
    let before = accepted("list", api.get(&chosen)?)?;
    ensure!(
        before["items"].as_array().is_some_and(Vec::is_empty),
        "{before}"
    );
    let made = accepted("create", api.json("POST", path, &object)?)?;
    let name = made["metadata"]["name"].as_str().context("no name")?;
    let uid = &made["metadata"]["uid"];
    let one = format!("{path}/{name}");
    let read = accepted("get", api.get(&one)?)?;
    ensure!(read["metadata"]["uid"] == *uid, "{read}");
    let listed = accepted("list", api.get(&chosen)?)?;
    let items = listed["items"].as_array().context("no items")?;
    ensure!(
        items.len() == 1 && items[0]["metadata"]["uid"] == *uid,
        "{listed}"
    );

    let change = json!({"metadata": {"labels": {"changed": "patched"}}});
    let body = change.to_string();
    let last = accepted("patch", api.send("PATCH", &one, MERGE, body.as_bytes())?)?;
    ensure!(last["metadata"]["labels"]["changed"] == "patched", "{last}");
    let replaced = replace(api, &one, |object| {
        object["metadata"]["labels"]["changed"] = json!("replaced");
    })?;
    ensure!(
        replaced["metadata"]["labels"]["changed"] == "replaced",
        "{replaced}"
    );
    let stale = api.json("PUT", &one, &last)?;
    ensure!(stale.is_status(409, "Conflict"), "stale: {stale:?}");
    if served.status {
        status(api, &one, &replaced)?;
    }
    ends(api, served, &chosen, &one)?;
    let version = before["metadata"]["resourceVersion"].as_str();
    Ok(Life {
        version: version.context("no version")?.to_owned(),
        chosen,
        one,
    })
}

/// Reads, changes and writes; again when the server itself wrote meanwhile, as it does with what
/// it says of APIServices.
fn replace(api: &Api, path: &str, change: impl Fn(&mut Value)) -> anyhow::Result<Value> {
    for _ in 0..10 {
        let mut object = accepted("get", api.get(path)?)?;
        change(&mut object);
        let answer = api.json("PUT", path, &object)?;
        if answer.code != 409 {
            return accepted("replace", answer);
        }
    }
    bail!("{path}: somebody else is always faster")
}

/// The status is read and written by itself, and takes nothing of the rest along.
fn status(api: &Api, one: &str, object: &Value) -> anyhow::Result<()> {
    let path = format!("{one}/status");
    let read = accepted("get status", api.get(&path)?)?;
    ensure!(
        read["metadata"]["uid"] == object["metadata"]["uid"],
        "{read}"
    );
    let changed = replace(api, &path, |_| {})?;
    let body = b"{\"status\":{}}";
    let patched = accepted("patch status", api.send("PATCH", &path, MERGE, body)?)?;
    for answer in [&changed, &patched] {
        ensure!(
            answer["spec"] == object["spec"],
            "the spec changed: {answer}"
        );
        let generation = &answer["metadata"]["generation"];
        ensure!(*generation == object["metadata"]["generation"], "{answer}");
    }
    Ok(())
}

fn ends(api: &Api, served: &Served, chosen: &str, one: &str) -> anyhow::Result<()> {
    let what = match served.can("deletecollection") {
        true => chosen,
        false => one,
    };
    accepted("delete", api.send("DELETE", what, "application/json", b"")?)?;
    let left = api.get(one)?;
    // Finalizers and grace periods are for those who are not here.
    let going = !left.body["metadata"]["deletionTimestamp"].is_null();
    ensure!(left.is_status(404, "NotFound") || going, "{left:?}");
    Ok(())
}

/// A watch from before tells everything in order.
fn watched(api: &Api, life: &Life) -> anyhow::Result<()> {
    let Life {
        chosen,
        version,
        one,
    } = life;
    let path = format!("{chosen}&watch=true&timeoutSeconds=1&resourceVersion={version}");
    let answer = api.get(&path)?;
    let text = match &answer.body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let events = text.lines().map(serde_json::from_str::<Value>);
    let events: Vec<Value> = events.collect::<Result<_, _>>().context("not events")?;
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    let [first, middle @ .., end] = types.as_slice() else {
        bail!("too few events of {one}: {types:?}");
    };
    let gone = api.get(one)?.code == 404;
    let wanted = if gone { "DELETED" } else { "MODIFIED" };
    ensure!(
        *first == "ADDED" && *end == wanted && middle.iter().all(|kind| *kind == "MODIFIED"),
        "{types:?}"
    );
    Ok(())
}
