//! AdmissionReview: the question, and reading the answer.

use base64::Engine;
use serde_json::{Value, json};

use super::Invocation;
use super::error::CallError;

/// What a webhook answered.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Allowed(Allowed),
    /// With the Status, which may be null.
    Denied(Value),
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Allowed {
    /// Operations of a JSON patch, undecoded.
    pub(super) patch: Option<Vec<u8>>,
}

/// The answer and what comes with it either way.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) warnings: Vec<String>,
    pub(super) audit: Vec<(String, String)>,
}

/// The most that warnings of a webhook may be.
const MAX_WARNINGS: usize = 32;

pub(super) fn question(uid: &str, invocation: &Invocation) -> Vec<u8> {
    let mut request = invocation.request.clone();
    request["uid"] = uid.into();
    for (field, object) in [
        ("object", &invocation.object),
        ("oldObject", &invocation.old),
    ] {
        request[field] = object.clone().unwrap_or(Value::Null);
    }
    let review = json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": request,
    });
    review.to_string().into_bytes()
}

pub(super) fn read(uid: &str, body: &[u8], mutating: bool) -> Result<Reply, CallError> {
    let review: Value = serde_json::from_slice(body).map_err(|error| {
        CallError::Request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })?;
    let invalid = |why: String| Err(CallError::Response(why));
    let (version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return invalid(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return invalid("webhook response was absent".into());
    }
    let got = text(&response["uid"]);
    if got != uid {
        return invalid(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let patch = patch(response, mutating)?;
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let audit = response["auditAnnotations"]
        .as_object()
        .into_iter()
        .flatten();
    Ok(Reply {
        answer: if response["allowed"] == true {
            Answer::Allowed(Allowed { patch })
        } else {
            Answer::Denied(response["status"].clone())
        },
        warnings: warnings
            .filter_map(|w| w.as_str().map(str::to_owned))
            .take(MAX_WARNINGS)
            .collect(),
        audit: audit
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect(),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn patch(response: &Value, mutating: bool) -> Result<Option<Vec<u8>>, CallError> {
    let invalid = |why: &str| Err(CallError::Response(why.to_owned()));
    let encoded = text(&response["patch"]);
    let kind = &response["patchType"];
    if !mutating {
        return match (encoded.is_empty(), kind.is_null()) {
            (false, _) => invalid("validating webhook may not return response.patch"),
            (_, false) => invalid("validating webhook may not return response.patchType"),
            _ => Ok(None),
        };
    }
    match (encoded.is_empty(), kind.is_null()) {
        (true, true) => return Ok(None),
        (false, true) => {
            return invalid("webhook returned response.patch but not response.patchType");
        }
        (true, false) => {
            return invalid("webhook returned response.patchType but not response.patch");
        }
        (false, false) => {}
    }
    if kind != "JSONPatch" {
        return Err(CallError::PatchType(text(kind).to_owned()));
    }
    base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map(Some)
        .map_err(|error| CallError::Response(format!("response.patch is not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn an_answer_has_to_be_one_to_this_question() {
        for (body, mutating, expect) in [
            (
                b"<html>".to_vec(),
                true,
                "failed to call webhook: couldn't get version/kind",
            ),
            (
                b"{}".to_vec(),
                true,
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind=",
            ),
            (review(Value::Null), true, "webhook response was absent"),
            (
                review(json!({"uid": "other"})),
                true,
                "expected response.uid=\"u\", got \"other\"",
            ),
            (
                review(json!({"uid": "u", "patch": "W10="})),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                review(json!({"uid": "u", "patchType": "JSONPatch"})),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (
                review(json!({"uid": "u", "patch": "W10=", "patchType": "Other"})),
                true,
                "unsupported patch type \"Other\"",
            ),
            (
                review(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"})),
                false,
                "validating webhook may not return response.patch",
            ),
            (
                review(json!({"uid": "u", "patch": "%%", "patchType": "JSONPatch"})),
                true,
                "is not base64",
            ),
        ] {
            let error = read("u", &body, mutating).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} / {expect}");
        }
    }

    #[test]
    fn an_answer_carries_patch_warnings_and_annotations() {
        let body = review(json!({
            "uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch",
            "warnings": ["careful"], "auditAnnotations": {"k": "v"},
        }));
        let reply = read("u", &body, true).unwrap();
        let expect = Allowed {
            patch: Some(b"[]".to_vec()),
        };
        assert_eq!(reply.answer, Answer::Allowed(expect));
        assert_eq!(reply.warnings, ["careful"]);
        assert_eq!(reply.audit, [("k".to_owned(), "v".to_owned())]);
        let denied = review(json!({"uid": "u", "allowed": false, "status": {"message": "no"}}));
        let reply = read("u", &denied, false).unwrap();
        assert_eq!(reply.answer, Answer::Denied(json!({"message": "no"})));
    }
}
