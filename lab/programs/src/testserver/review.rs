//! Webhooks: admission and conversion reviews, by the paths that people know from the Kubernetes
//! test images.

use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// What a review ends with.
#[derive(Debug, PartialEq)]
enum Verdict {
    Allow,
    /// With a JSON patch.
    Change(Value),
    Deny(String),
}

/// Answers a review that was posted to one of the known paths.
pub(crate) fn answer(path: &str, body: &[u8]) -> Option<(u16, String)> {
    let Ok(review) = serde_json::from_slice::<Value>(body) else {
        return None;
    };
    if path == "/crdconvert" {
        return Some((200, convert(&review).to_string()));
    }
    let verdict = judge(path, &review["request"])?;
    let mut response = json!({ "uid": review["request"]["uid"], "allowed": true });
    match verdict {
        Verdict::Allow => {}
        Verdict::Change(patch) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(base64(patch.to_string().as_bytes()));
        }
        Verdict::Deny(message) => {
            response["allowed"] = json!(false);
            response["status"] = json!({ "message": message });
        }
    }
    let answer = json!({
        "apiVersion": review["apiVersion"],
        "kind": review["kind"],
        "response": response,
    });
    Some((200, answer.to_string()))
}

fn judge(path: &str, request: &Value) -> Option<Verdict> {
    let object = &request["object"];
    let old = &request["oldObject"];
    Some(match path {
        "/always-deny" => Verdict::Deny("this webhook denies all requests".to_owned()),
        "/always-allow-delay-5s" => {
            thread::sleep(Duration::from_secs(5));
            Verdict::Allow
        }
        "/configmaps" | "/custom-resource" => match disallowed(object) || disallowed(old) {
            true => Verdict::Deny("the object contains unwanted key and value".to_owned()),
            false => Verdict::Allow,
        },
        "/mutating-configmaps" | "/mutating-custom-resource" => stages(object),
        "/pods" => pod(object),
        "/mutating-pods" => Verdict::Change(json!([{
            "op": "add",
            "path": "/spec/initContainers",
            "value": [{
                "image": object["spec"]["containers"][0]["image"],
                "name": "webhook-added-init-container",
                "resources": {},
            }],
        }])),
        "/pods/attach" => match request["name"].as_str() {
            Some(name) if name.starts_with("to-be-attached-pod") => {
                Verdict::Deny("attaching to pod 'to-be-attached-pod' is not allowed".to_owned())
            }
            _ => Verdict::Allow,
        },
        "/crd" => match object["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow" {
            true => Verdict::Deny("the crd contains unwanted label".to_owned()),
            false => Verdict::Allow,
        },
        "/add-label" => add_label(object),
        _ => return None,
    })
}

fn disallowed(object: &Value) -> bool {
    object["data"]["webhook-e2e-test"] == "webhook-disallow"
}

/// One stage for each call, so that the second webhook shows that it saw the first one's change.
fn stages(object: &Value) -> Verdict {
    let data = &object["data"];
    let add = |stage: &str| {
        let path = format!("/data/{stage}");
        Verdict::Change(json!([{ "op": "add", "path": path, "value": "yes" }]))
    };
    if data["mutation-stage-1"] == "yes" {
        add("mutation-stage-2")
    } else if data["mutation-start"] == "yes" {
        add("mutation-stage-1")
    } else {
        Verdict::Allow
    }
}

fn pod(object: &Value) -> Verdict {
    let mut reasons = Vec::new();
    let containers = object["spec"]["containers"].as_array();
    let bad = |c: &Value| {
        c["name"]
            .as_str()
            .is_some_and(|name| name.contains("webhook-disallow"))
    };
    if containers.into_iter().flatten().any(bad) {
        reasons.push("the pod contains unwanted container name");
    }
    if object["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow" {
        reasons.push("the pod contains unwanted label");
    }
    match reasons.is_empty() {
        true => Verdict::Allow,
        false => Verdict::Deny(reasons.join("; ")),
    }
}

fn add_label(object: &Value) -> Verdict {
    let patch = match &object["metadata"]["labels"] {
        Value::Object(_) => json!([{
            "op": "add", "path": "/metadata/labels/added-label", "value": "yes",
        }]),
        _ => json!([{
            "op": "add", "path": "/metadata/labels", "value": { "added-label": "yes" },
        }]),
    };
    Verdict::Change(patch)
}

/// `hostPort: "H:P"` of v1 is `host: H, port: P` of v2.
fn convert(review: &Value) -> Value {
    let wanted = &review["request"]["desiredAPIVersion"];
    let objects = review["request"]["objects"].as_array();
    let to_v2 = wanted
        .as_str()
        .is_some_and(|version| version.ends_with("/v2"));
    let converted: Vec<Value> = objects
        .into_iter()
        .flatten()
        .map(|object| {
            let mut object = object.clone();
            object["apiVersion"] = wanted.clone();
            if let Some(fields) = object.as_object_mut() {
                convert_ports(fields, to_v2);
            }
            object
        })
        .collect();
    json!({
        "apiVersion": review["apiVersion"],
        "kind": review["kind"],
        "response": {
            "uid": review["request"]["uid"],
            "convertedObjects": converted,
            "result": { "status": "Success" },
        },
    })
}

fn convert_ports(fields: &mut Map<String, Value>, to_v2: bool) {
    if to_v2 {
        if let Some(Value::String(both)) = fields.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            fields.insert("host".to_owned(), json!(host));
            fields.insert("port".to_owned(), json!(port));
        }
    } else if let (Some(Value::String(host)), Some(Value::String(port))) =
        (fields.remove("host"), fields.remove("port"))
    {
        fields.insert("hostPort".to_owned(), json!(format!("{host}:{port}")));
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for at in 0..4 {
            if at <= chunk.len() {
                let index = ((bits >> (18 - 6 * at)) & 63) as usize;
                text.push(char::from(ALPHABET[index]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(&[255, 255, 255]), "////");
    }

    #[test]
    fn each_stage_follows_the_one_before() {
        let object = json!({ "data": { "mutation-start": "yes" } });
        let Verdict::Change(patch) = stages(&object) else {
            panic!("no change")
        };
        assert_eq!(patch[0]["path"], "/data/mutation-stage-1");
        assert_eq!(stages(&json!({ "data": {} })), Verdict::Allow);
    }

    #[test]
    fn conversion_goes_both_ways() {
        let review = |version: &str, object: Value| json!({ "request": { "uid": "u", "desiredAPIVersion": version, "objects": [object] } });
        let v1 = json!({ "apiVersion": "g/v1", "hostPort": "localhost:80" });
        let there = convert(&review("g/v2", v1.clone()));
        let v2 = there["response"]["convertedObjects"][0].clone();
        assert_eq!(
            (&v2["host"], &v2["port"]),
            (&json!("localhost"), &json!("80"))
        );
        let back = convert(&review("g/v1", v2));
        assert_eq!(back["response"]["convertedObjects"][0], v1);
    }
}
