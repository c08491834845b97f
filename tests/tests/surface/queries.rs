//! Queries and headers, right and odd.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::operations::Operation;

/// Values that a parameter takes, the first ones right.
fn values(name: &str) -> &'static [&'static str] {
    match name {
        "dryRun" => &["All", "", "Some"],
        "fieldManager" => &[
            "surface",
            "",
            "a\u{7}b",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ],
        "fieldValidation" => &["Strict", "Warn", "Ignore", "", "Maybe"],
        "force" => &["true", "false", "", "maybe"],
        "pretty" => &["true", "false", "maybe"],
        "limit" => &["1", "2", "500", "0", "-1", "x", "99999999999999999999"],
        "continue" => &[
            "",
            "x",
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0",
            "e30",
            "\u{ff}",
        ],
        "labelSelector" => &[
            "app=sample",
            "app in (a,b),!c",
            "a==b,c!=d",
            "a notin (b",
            "=",
            "a,,b",
            "a=b=c",
            "x in ()",
            "(",
            "a>1,b<x",
        ],
        "fieldSelector" => &[
            "metadata.name=sample",
            "metadata.namespace!=x",
            "spec.nodeName=",
            "no.such=1",
            "=",
            "a,b",
            "metadata.name==a,metadata.name!=b",
            "\\=a",
        ],
        "resourceVersion" => &["0", "", "1", "-1", "x", "1.0"],
        "resourceVersionMatch" => &["NotOlderThan", "Exact", "", "Maybe"],
        "sendInitialEvents" | "allowWatchBookmarks" | "watch" => &["true", "false", "", "maybe"],
        "timeoutSeconds" => &["1", "0", "-1", "x", "9999999999999"],
        "gracePeriodSeconds" => &["0", "1", "-1", "x", "9223372036854775807"],
        "propagationPolicy" => &["Background", "Foreground", "Orphan", "", "Maybe"],
        "orphanDependents" => &["true", "false", "maybe"],
        "tailLines" | "sinceSeconds" | "limitBytes" => &["1", "0", "-1", "x"],
        "sinceTime" => &["2026-01-01T00:00:00Z", "yesterday"],
        "container" | "command" | "path" | "ports" => &["main", "", "..", "x y"],
        "stdin" | "stdout" | "stderr" | "tty" | "follow" | "previous" | "timestamps" => {
            &["true", "false", "maybe"]
        }
        _ => &["true", "x", ""],
    }
}

/// Some parameters that the operation has; when odd, also values that are wrong and parameters
/// that nobody has.
pub(crate) fn query(
    operation: &Operation,
    odd: bool,
    random: &mut StdRng,
) -> Vec<(String, String)> {
    let mut query = Vec::new();
    let chance = if odd { 0.35 } else { 0.1 };
    for name in &operation.parameters {
        if !random.random_bool(chance) {
            continue;
        }
        let values = values(name);
        let right = if odd { values.len() } else { 1 };
        if let Some(value) = values[..right].choose(random) {
            query.push((name.clone(), (*value).to_owned()));
        }
    }
    if operation.method == "PATCH" && (!odd || random.random_bool(0.7)) {
        query.retain(|(name, _)| name != "fieldManager");
        query.push(("fieldManager".to_owned(), "surface".to_owned()));
        if random.random_bool(0.5) {
            query.push(("force".to_owned(), "true".to_owned()));
        }
    }
    if odd {
        query.push(("noSuchParameter".to_owned(), "1".to_owned()));
        if let Some(twice) = query.first().cloned() {
            query.push(twice);
        }
    }
    query
}

/// Path and query as they are sent.
pub(crate) fn target(path: &str, query: &[(String, String)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)))
        .collect();
    if pairs.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", pairs.join("&"))
    }
}

fn escaped(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Encodings that do not fit the body, or that nobody speaks.
pub(crate) fn odd_headers(headers: &mut Vec<(&'static str, String)>, random: &mut StdRng) {
    const KINDS: [&str; 12] = [
        "application/json",
        "application/yaml",
        "application/cbor",
        "application/vnd.kubernetes.protobuf",
        "application/vnd.kubernetes.protobuf;stream=watch",
        "application/json-patch+json",
        "application/apply-patch+cbor",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "text/plain",
        "nonsense",
        "*/*;q=2,,;",
    ];
    if let Some(kind) = KINDS.choose(random)
        && random.random_bool(0.6)
    {
        headers.retain(|(name, _)| *name != "content-type");
        headers.push(("content-type", (*kind).to_owned()));
    }
    if let Some(kind) = KINDS.choose(random) {
        headers.push(("accept", (*kind).to_owned()));
    }
    if random.random_bool(0.1) {
        headers.push(("accept-encoding", "gzip".to_owned()));
    }
}
