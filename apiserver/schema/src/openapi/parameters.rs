//! Parameters of operations: which there are, and the keys under which v2 shares them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::operations::{Body, Parameter};

const TABLE: &str = include_str!("../../data/parameters.txt");

/// (place, name, context) -> key
static SHARED: LazyLock<BTreeMap<(&str, &str, &str), &str>> = LazyLock::new(|| {
    let mut all = BTreeMap::new();
    for line in TABLE.lines() {
        if let [key, place, name, context] = line.split(' ').collect::<Vec<_>>()[..] {
            all.insert(
                (place, name, if context == "-" { "" } else { context }),
                key,
            );
        }
    }
    all
});

const fn query(name: &'static str, kind: &'static str) -> Parameter {
    Parameter {
        name,
        place: "query",
        kind,
        context: "",
    }
}

const fn path(name: &'static str) -> Parameter {
    Parameter {
        name,
        place: "path",
        kind: "string",
        context: "",
    }
}

pub(super) const PRETTY: Parameter = query("pretty", "string");
pub(super) const NAMESPACE: Parameter = path("namespace");
pub(super) const NAME: Parameter = path("name");
pub(super) const PATH: Parameter = path("path");

/// Reading lists and watching.
pub(super) const LIST: [Parameter; 11] = [
    query("allowWatchBookmarks", "boolean"),
    query("continue", "string"),
    query("fieldSelector", "string"),
    query("labelSelector", "string"),
    query("limit", "integer"),
    query("resourceVersion", "string"),
    query("resourceVersionMatch", "string"),
    query("sendInitialEvents", "boolean"),
    query("shardSelector", "string"),
    query("timeoutSeconds", "integer"),
    query("watch", "boolean"),
];

/// Writing.
pub(super) const WRITE: [Parameter; 3] = [
    query("dryRun", "string"),
    query("fieldManager", "string"),
    query("fieldValidation", "string"),
];

/// Patching; its field manager is required for apply.
pub(super) const PATCH: [Parameter; 4] = [
    query("dryRun", "string"),
    Parameter {
        context: "patch",
        ..query("fieldManager", "string")
    },
    query("fieldValidation", "string"),
    query("force", "boolean"),
];

/// Deleting.
pub(super) const DELETE: [Parameter; 5] = [
    query("dryRun", "string"),
    query("gracePeriodSeconds", "integer"),
    query(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
    ),
    query("orphanDependents", "boolean"),
    query("propagationPolicy", "string"),
];

/// Deleting a collection: choosing and deleting.
pub(super) fn delete_collection() -> Vec<Parameter> {
    let choose = LIST
        .iter()
        .filter(|p| !matches!(p.name, "allowWatchBookmarks" | "watch"));
    choose.chain(&DELETE).copied().collect()
}

/// Options of a pod's, node's or service's connections.
pub(super) fn connection(resource: &str, subresource: &str) -> Vec<Parameter> {
    let own = |context: &'static str, all: &[(&'static str, &'static str)]| -> Vec<Parameter> {
        all.iter()
            .map(|(name, kind)| Parameter {
                context,
                ..query(name, kind)
            })
            .collect()
    };
    let streams = [
        ("container", "string"),
        ("stderr", "boolean"),
        ("stdin", "boolean"),
        ("stdout", "boolean"),
        ("tty", "boolean"),
    ];
    match (resource, subresource) {
        (_, "attach") => own("attach", &streams),
        (_, "exec") => {
            let mut all = own("exec", &streams);
            all.push(query("command", "string"));
            all
        }
        (_, "portforward") => vec![query("ports", "integer")],
        ("pods", "proxy") => own("proxy-pods", &[("path", "string")]),
        ("services", "proxy") => own("proxy-services", &[("path", "string")]),
        ("nodes", "proxy") => own("proxy-nodes", &[("path", "string")]),
        (_, "log") => {
            let mut all = own("log", &[("container", "string")]);
            all.extend(own(
                "",
                &[
                    ("follow", "boolean"),
                    ("insecureSkipTLSVerifyBackend", "boolean"),
                    ("limitBytes", "integer"),
                    ("previous", "boolean"),
                    ("sinceSeconds", "integer"),
                    ("stream", "string"),
                    ("tailLines", "integer"),
                    ("timestamps", "boolean"),
                ],
            ));
            all
        }
        _ => Vec::new(),
    }
}

/// What a parameter is for.
pub(super) fn describe(name: &str) -> &'static str {
    match name {
        "allowWatchBookmarks" => "Ask for BOOKMARK events, which carry only a resource version.",
        "command" => "Command and arguments to run; not run in a shell.",
        "container" => "Container of the pod; the only one if there is one.",
        "continue" => "The token of the previous page's answer.",
        "dryRun" => "With All, everything is done but storing.",
        "fieldManager" => "Name of the actor that makes the changes.",
        "fieldSelector" => "Restricts the answer by fields.",
        "fieldValidation" => {
            "What to do about unknown and duplicate fields: Ignore, Warn or Strict."
        }
        "follow" => "Keep sending what is logged.",
        "force" => "Take over fields that other managers own (apply only).",
        "gracePeriodSeconds" => "Seconds before the object is deleted; zero means now.",
        "ignoreStoreReadErrorWithClusterBreakingPotential" => {
            "Delete also an object that cannot be read any more."
        }
        "insecureSkipTLSVerifyBackend" => "Do not verify the certificate of the kubelet.",
        "labelSelector" => "Restricts the answer by labels.",
        "limit" => "Most items in one answer; the rest is behind its continue token.",
        "limitBytes" => "Most bytes of log to send.",
        "name" => "Name of the object.",
        "namespace" => "Namespace of the object.",
        "orphanDependents" => "Whether dependents are left behind; use propagationPolicy instead.",
        "path" => "Path of the URL to use for the request.",
        "ports" => "Ports to forward.",
        "pretty" => "If true, the output is indented.",
        "previous" => "The log of the container's previous run.",
        "propagationPolicy" => "What happens to dependents: Orphan, Background or Foreground.",
        "resourceVersion" => "Which state the answer may be of; see resourceVersionMatch.",
        "resourceVersionMatch" => "How resourceVersion is meant: Exact or NotOlderThan.",
        "sendInitialEvents" => "A watch starts with the objects there are, ended by a bookmark.",
        "shardSelector" => "Restricts the answer to a part of the objects.",
        "sinceSeconds" => "Only what was logged in the last seconds.",
        "stderr" => "Whether standard error is sent.",
        "stdin" => "Whether standard input is read.",
        "stdout" => "Whether standard output is sent.",
        "stream" => "Which output is sent: All, Stdout or Stderr.",
        "tailLines" => "Number of lines from the end of the log.",
        "timeoutSeconds" => "Seconds after which the answer ends.",
        "timestamps" => "Each line starts with its time.",
        "tty" => "Whether there is a terminal.",
        "watch" => "Send changes as they happen instead of a list.",
        _ => "",
    }
}

/// Key of a parameter that v2 shares.
pub(super) fn shared_key(p: &Parameter) -> Option<&'static str> {
    SHARED.get(&(p.place, p.name, p.context)).copied()
}

/// Key of a body that v2 shares.
pub(super) fn shared_body(body: &Body) -> Option<&'static str> {
    let name = match body {
        Body::DeleteOptions => "DeleteOptions",
        Body::Patch => "Patch",
        _ => return None,
    };
    SHARED.get(&("body", name, "")).copied()
}

/// A parameter as v2 writes it.
pub(super) fn v2(p: &Parameter) -> Value {
    let mut own = json!({"name": p.name, "in": p.place, "type": p.kind, "uniqueItems": true,
                         "description": describe(p.name)});
    if p.place == "path" {
        own["required"] = true.into();
    }
    own
}

/// A body as v2 writes it.
pub(super) fn v2_body(body: &Body) -> Option<Value> {
    let definition = body.definition()?;
    let mut own = json!({"name": "body", "in": "body", "schema": {"$ref": format!("#/definitions/{definition}")}});
    if *body != Body::DeleteOptions {
        own["required"] = true.into();
    }
    Some(own)
}

/// `parameters` of the v2 document.
pub(super) fn shared() -> Map<String, Value> {
    let mut all = vec![PRETTY, NAMESPACE, PATH];
    all.extend(LIST.iter().chain(&WRITE).chain(&PATCH).chain(&DELETE));
    for (resource, subresource) in [
        ("pods", "attach"),
        ("pods", "exec"),
        ("pods", "log"),
        ("pods", "portforward"),
        ("pods", "proxy"),
        ("services", "proxy"),
        ("nodes", "proxy"),
    ] {
        all.extend(connection(resource, subresource));
    }
    let mut out: Map<String, Value> = all
        .iter()
        .filter_map(|p| shared_key(p).map(|key| (key.to_owned(), v2(p))))
        .collect();
    for body in [Body::DeleteOptions, Body::Patch] {
        if let (Some(key), Some(own)) = (shared_body(&body), v2_body(&body)) {
            out.insert(key.into(), own);
        }
    }
    out
}
