//! What is right about an answer, whatever the request was.

use std::fmt;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::requests::Request;

/// What the server answered.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Its Content-Type.
    pub(crate) kind: String,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.body);
        let short: String = text.chars().take(1500).collect();
        write!(f, "{} {} {short}", self.code, self.kind)
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The message of a Status, or the beginning of what there is.
    pub(crate) fn message(&self) -> String {
        let message = self.json().map(|status| status["message"].clone());
        match message.as_ref().and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body)
                .chars()
                .take(200)
                .collect(),
        }
    }
}

/// Refusals that Kubernetes itself words so and sends with the code 500; clients know them.
const KNOWN: [&str; 4] = [
    "failed to create typed patch object",
    "unknown patch type: ",
    "merging lists cannot yet be specified in the patch",
    "resourceVersion should not be set on objects to be created",
];

/// Checks one answer by itself.
pub(crate) fn check(request: &Request, answer: &Answer) -> anyhow::Result<()> {
    // A revision that the server does not have yet is waited for, and then told with 504.
    let waited = answer.code == 504 && request.target.contains("resourceVersion=");
    let message = answer.message();
    let known = answer.code == 500 && KNOWN.iter().any(|k| message.starts_with(k));
    ensure!(
        answer.code < 500 || waited || known,
        "the server's own fault"
    );
    if answer.code >= 400 && request.method != "HEAD" {
        return check_refusal(answer);
    }
    if answer.kind.starts_with("application/json") && !request.endless && !answer.body.is_empty() {
        answer.json().context("success without valid JSON")?;
    }
    Ok(())
}

/// A refusal is a Status that repeats the code and says why.
fn check_refusal(answer: &Answer) -> anyhow::Result<()> {
    if !answer.kind.starts_with("application/json") {
        // Some refusals come in the encoding that was asked for, or before there is one.
        ensure!(!answer.body.is_empty(), "a refusal without a word");
        return Ok(());
    }
    let status = answer.json().context("a refusal without valid JSON")?;
    ensure!(status["kind"] == "Status", "a refusal that is no Status");
    ensure!(
        status["status"] == "Failure",
        "a refusal that is no Failure"
    );
    ensure!(status["code"] == answer.code, "the Status has another code");
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(!message.is_empty(), "a refusal without a message");
    Ok(())
}

/// What of an answer is the same each time the request is sent.
pub(crate) fn lasting(request: &Request, answer: &Answer) -> (u16, Option<Value>) {
    let mut value = answer.json();
    if let Some(value) = &mut value {
        forget(value, &wanted_prefix(request));
    }
    (answer.code, value)
}

/// What the server was asked to begin a name with; empty when it was not asked to make one.
fn wanted_prefix(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let metadata = &body["metadata"];
    let named = metadata["name"].as_str().is_some_and(|n| !n.is_empty());
    match metadata["generateName"].as_str() {
        Some(prefix) if !named => prefix.to_owned(),
        _ => String::new(),
    }
}

/// What the server makes anew for each answer.
const FRESH: [&str; 16] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "renewTime",
    "managedFields",
    "continue",
    "token",
    "expirationTimestamp",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "healthCheckNodePort",
    "rows",
    "batch.kubernetes.io/controller-uid",
];

fn forget(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(map) => {
            let generated = map.get("generateName").is_some_and(|n| n != "");
            map.retain(|key, _| {
                !FRESH.contains(&key.as_str())
                    && key != "controller-uid"
                    && !(generated && key == "name")
            });
            map.values_mut().for_each(|v| forget(v, prefix));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| forget(v, prefix)),
        Value::String(text) => *text = without_chance(text, prefix),
        _ => {}
    }
}

/// The letters of the ends that the server gives to names, and how many it takes.
const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";
const ENDS: usize = 5;

/// The text without the ends that were added to this beginning of a name.
fn without_ends(text: &str, prefix: &str) -> String {
    if prefix.is_empty() {
        return text.to_owned();
    }
    let mut parts = text.split(prefix);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result.push_str(prefix);
        let end: Vec<char> = part.chars().take(ENDS).collect();
        let made = end.len() == ENDS && end.iter().all(|c| ALPHABET.contains(*c));
        result.push_str(if made { &part[ENDS..] } else { part });
    }
    result
}

/// Names with a random end, revisions and times in a text.
fn without_chance(text: &str, prefix: &str) -> String {
    without_ends(&without_ends(text, prefix), "kube-api-access-")
        .split_inclusive([' ', '"'])
        .filter(|word| !is_chance(word.trim_end_matches([' ', '"', ',', '.'])))
        .collect()
}

fn is_chance(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    // A revision, a time, a UUID.
    digits >= 4
}
