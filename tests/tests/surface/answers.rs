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

/// What of an answer is the same each time.
pub(crate) fn lasting(answer: &Answer) -> (u16, Option<Value>) {
    let mut value = answer.json();
    if let Some(value) = &mut value {
        forget(value);
    }
    (answer.code, value)
}

/// What the server makes anew for each answer.
const FRESH: [&str; 15] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
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

fn forget(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let generated = map.get("generateName").is_some_and(|n| n != "");
            map.retain(|key, _| {
                !FRESH.contains(&key.as_str())
                    && key != "controller-uid"
                    && !(generated && key == "name")
            });
            map.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        Value::String(text) => *text = without_chance(text),
        _ => {}
    }
}

/// Names with a random end, revisions and times in a text.
fn without_chance(text: &str) -> String {
    let mut result = String::new();
    for (number, word) in text.split("kube-api-access-").enumerate() {
        if number > 0 {
            result.push_str("kube-api-access-");
        }
        let skipped = if number > 0 { 5 } else { 0 };
        result.extend(word.chars().skip(skipped));
    }
    result
        .split_inclusive([' ', '"'])
        .filter(|word| !is_chance(word.trim_end_matches([' ', '"', ',', '.'])))
        .collect()
}

fn is_chance(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    // A revision, a time, a UUID.
    digits >= 4
}
