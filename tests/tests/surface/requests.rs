//! Requests of one operation: right ones, and ones with something wrong.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::operations::{NAMESPACE, Operation};
use crate::queries;
use crate::values::Maker;

/// What governs the server itself is changed by dry runs only: the other requests are to be
/// answered by the server, not by a policy that this suite made.
const GOVERNING: [&str; 17] = [
    "APIService",
    "CustomResourceDefinition",
    "FlowSchema",
    "LimitRange",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PriorityLevelConfiguration",
    "ResourceQuota",
    "ServiceCIDR",
    "IPAddress",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "ServiceAccount",
];

/// Names that are odd in a path, as they are written there.
const ODD_NAMES: [&str; 10] = [
    "absent",
    "..",
    "%2e%2e",
    "a%2Fb",
    "A_B",
    "%00",
    "%ff",
    "a%20b",
    "-",
    "system%3Aa",
];

/// A request as it is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The answer may go on for ever.
    pub(crate) endless: bool,
    /// It changes nothing, so the answer is the same when it is sent again.
    pub(crate) harmless: bool,
}

impl Request {
    pub(crate) fn get(target: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            target: target.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn json(method: &str, target: &str, body: &Value) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_string().into_bytes(),
            ..Self::default()
        }
    }
}

/// How much of a request is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Body,
    Bytes,
    Query,
    Headers,
    Path,
}

impl Fault {
    pub(crate) fn any(random: &mut StdRng) -> Self {
        match random.random_range(0..12) {
            0..3 => Self::None,
            3..7 => Self::Body,
            7 => Self::Bytes,
            8..10 => Self::Query,
            10 => Self::Headers,
            _ => Self::Path,
        }
    }
}

/// Makes one request of an operation.
pub(crate) fn request(operation: &Operation, fault: Fault, random: &mut StdRng) -> Request {
    let dry = operation.writes()
        && (GOVERNING.contains(&operation.kind.as_str())
            || operation.action == "deletecollection"
            || random.random_bool(0.6));
    let mut query = queries::query(operation, fault == Fault::Query, random);
    if dry {
        query.retain(|(name, _)| name != "dryRun");
        query.insert(0, ("dryRun".to_owned(), "All".to_owned()));
    }
    let watches = operation.watches()
        // Anything but these two means yes, an empty value as well.
        || query.iter().any(|(n, v)| n == "watch" && v != "false" && v != "0")
        || query.iter().any(|(n, _)| n == "follow");
    let path = path(operation, fault == Fault::Path, random);
    let (kind, mut body) = body(operation, fault, random);
    if operation.method == "DELETE" && dry {
        // Where there is a body, it says everything and the query nothing.
        body = spare(&body);
    }
    let mut headers = Vec::new();
    if let Some(kind) = kind {
        headers.push(("content-type", kind.to_owned()));
    }
    if fault == Fault::Headers {
        queries::odd_headers(&mut headers, random);
    }
    Request {
        method: operation.method.clone(),
        target: queries::target(&path, &query),
        headers,
        body,
        endless: watches,
        harmless: (dry || !operation.writes()) && !watches && operation.action != "connect",
    }
}

/// The options of a deletion, as a dry run; what are none, are none.
fn spare(body: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut options)) = serde_json::from_slice(body) else {
        return b"{\"dryRun\":[\"All\"],\"kind\":1".to_vec();
    };
    options.insert("dryRun".to_owned(), json!(["All"]));
    Value::Object(options).to_string().into_bytes()
}

fn path(operation: &Operation, odd: bool, random: &mut StdRng) -> String {
    let mut name = operation
        .sample
        .as_ref()
        .and_then(|s| s["metadata"]["name"].as_str())
        .unwrap_or("sample");
    // What would leave this machine, or reach the one that a sample names, has no such name.
    if operation.action == "connect" {
        name = "absent";
    }
    let mut namespace = NAMESPACE;
    if odd {
        if let Some(odd) = ODD_NAMES.choose(random)
            && operation.action != "connect"
        {
            name = odd;
        }
        if random.random_bool(0.3) {
            namespace = "no-such-namespace";
        }
    }
    operation
        .path
        .replace("{name}", name)
        .replace("{namespace}", namespace)
        .replace("{path}", "a/b")
}

/// Content-Type and body.
fn body(
    operation: &Operation,
    fault: Fault,
    random: &mut StdRng,
) -> (Option<&'static str>, Vec<u8>) {
    let Some(schema) = &operation.body else {
        return (None, Vec::new());
    };
    let mut maker = Maker {
        schemas: &operation.schemas,
        random,
    };
    let mut object = match &operation.sample {
        Some(sample) if operation.action != "delete" => sample.clone(),
        _ => maker.value(schema, "", 0),
    };
    // For a patch, the schema of the body says nothing.
    let own = schema_of_object(operation).unwrap_or(schema);
    for _ in 0..maker.random.random_range(0..4) {
        maker.change(&mut object, own, false);
    }
    if fault == Fault::Body {
        for _ in 0..maker.random.random_range(1..3) {
            maker.change(&mut object, own, true);
        }
    }
    let (kind, value) = match operation.method.as_str() {
        "PATCH" => patch(object, fault == Fault::Body, &mut maker),
        _ => ("application/json", object),
    };
    let mut bytes = value.to_string().into_bytes();
    if fault == Fault::Bytes {
        corrupt(&mut bytes, random);
    }
    (Some(kind), bytes)
}

/// The schema of what is patched: the one that says it is of this kind.
fn schema_of_object(operation: &Operation) -> Option<&Value> {
    if operation.method != "PATCH" {
        return None;
    }
    operation.schemas.iter().find_map(|(_, schema)| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array()?;
        kinds
            .iter()
            .any(|k| k["kind"] == *operation.kind)
            .then_some(schema)
    })
}

fn patch(object: Value, nonsense: bool, maker: &mut Maker<'_>) -> (&'static str, Value) {
    match maker.random.random_range(0..4) {
        0 => ("application/merge-patch+json", part(object, maker)),
        1 => {
            let mut part = part(object, maker);
            if nonsense || maker.random.random_bool(0.3) {
                add_directive(&mut part, maker);
            }
            ("application/strategic-merge-patch+json", part)
        }
        2 => ("application/json-patch+json", operations(&object, maker)),
        _ => ("application/apply-patch+yaml", object),
    }
}

/// Some of the object's fields, and some taken away.
fn part(mut object: Value, maker: &mut Maker<'_>) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| key == "metadata" || maker.random.random_bool(0.7));
        if maker.random.random_bool(0.2) {
            map.insert("spec".to_owned(), Value::Null);
        }
    }
    object
}

fn add_directive(value: &mut Value, maker: &mut Maker<'_>) {
    match value {
        Value::Object(map) => {
            if maker.random.random_bool(0.3) {
                let directives = [
                    ("$patch", json!("delete")),
                    ("$patch", json!("replace")),
                    ("$patch", json!("nonsense")),
                    ("$patch", json!(1)),
                    ("$retainKeys", json!(["name"])),
                    ("$retainKeys", json!("name")),
                    ("$setElementOrder/containers", json!([{"name": "main"}])),
                    ("$setElementOrder/containers", json!(["main", 1])),
                    ("$deleteFromPrimitiveList/finalizers", json!(["a"])),
                    ("$deleteFromPrimitiveList/args", json!({})),
                ];
                if let Some((name, value)) = directives.choose(maker.random) {
                    map.insert((*name).to_owned(), value.clone());
                }
            }
            map.values_mut().for_each(|v| add_directive(v, maker));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| add_directive(v, maker)),
        _ => {}
    }
}

/// A JSON patch of places that the object has, and of some that it does not.
fn operations(object: &Value, maker: &mut Maker<'_>) -> Value {
    let mut pointers = vec![String::new()];
    collect_pointers(object, String::new(), &mut pointers);
    pointers.extend(
        [
            "/metadata/labels/a~1b",
            "/spec/-",
            "/-1",
            "no-slash",
            "/a~2",
        ]
        .map(String::from),
    );
    let pointer = |maker: &mut Maker<'_>| pointers.choose(maker.random).cloned();
    (0..maker.random.random_range(1..4))
        .map(|_| {
            let verbs = [
                "add", "remove", "replace", "move", "copy", "test", "nonsense",
            ];
            json!({
                "op": verbs.choose(maker.random),
                "path": pointer(maker),
                "from": pointer(maker),
                "value": maker.nonsense(),
            })
        })
        .collect()
}

fn collect_pointers(value: &Value, at: String, pointers: &mut Vec<String>) {
    if !at.is_empty() {
        pointers.push(at.clone());
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect_pointers(value, format!("{at}/{key}"), pointers);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                collect_pointers(value, format!("{at}/{number}"), pointers);
            }
        }
        _ => {}
    }
}

/// Spoils the text of a body.
fn corrupt(bytes: &mut Vec<u8>, random: &mut StdRng) {
    match random.random_range(0..8) {
        0 => bytes.truncate(bytes.len() / 2),
        1 => bytes.clear(),
        2 => {
            let at = random.random_range(0..bytes.len().max(1));
            bytes.insert(at.min(bytes.len()), 0xff);
        }
        3 => bytes.extend_from_slice(b"}{"),
        4 => *bytes = [b"{\"kind\":1e999999,".as_slice(), bytes].concat(),
        5 => {
            *bytes = [
                b"{\"metadata\":{},\"metadata\":{\"name\":\"a\",\"name\":\"b\"},",
                &bytes[1..],
            ]
            .concat()
        }
        6 => *bytes = "[".repeat(100_000).into_bytes(),
        _ => {
            for _ in 0..4 {
                let at = random.random_range(0..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.random();
                }
            }
        }
    }
}
