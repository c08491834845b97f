//! From one version of a custom kind to another: by name alone, or by a webhook.
//!
//! What is read from the store gets the defaults of the version that it was stored in, loses what
//! that version does not know, and is then converted.

use std::collections::BTreeMap;
use std::time::Duration;

use schema::types::{Gvk, StructRef, custom_root};
use schema::{check, defaults};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::outbound::{CallError, Hook, Outbound};
use crate::registry::resource::split_api_version;
use crate::response::ApiError;

/// How long a conversion may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// All versions of a custom kind, served or not.
pub struct Versions {
    shapes: BTreeMap<String, StructRef>,
    webhook: Option<Webhook>,
}

struct Webhook {
    hook: Result<Hook, CallError>,
    /// The version of `ConversionReview` to send.
    review: Option<&'static str>,
}

impl Versions {
    pub(super) fn of(definition: &Value) -> Self {
        let spec = &definition["spec"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let shape = |version: &Value| {
            let gvk = Gvk::new(
                text(&spec["group"]),
                text(&version["name"]),
                text(&spec["names"]["kind"]),
            );
            let schema = &version["schema"]["openAPIV3Schema"];
            let given = Some(schema).filter(|s| s.is_object());
            (text(&version["name"]), custom_root(&gvk, given))
        };
        let versions = spec["versions"].as_array().into_iter().flatten();
        let conversion = &spec["conversion"];
        Versions {
            shapes: versions.map(shape).collect(),
            webhook: (conversion["strategy"] == "Webhook").then(|| Webhook::of(conversion)),
        }
    }

    /// What objects of a version look like.
    pub fn shape(&self, version: &str) -> Option<&StructRef> {
        self.shapes.get(version)
    }

    /// Whether objects change on the way.
    pub fn calls_webhook(&self) -> bool {
        self.webhook.is_some()
    }

    /// Stored objects in another version.
    pub async fn read(
        &self,
        outbound: &Outbound,
        mut values: Vec<Value>,
        wanted: &Gvk,
    ) -> Result<Vec<Value>, ApiError> {
        for value in &mut values {
            let version = version_of(value).to_owned();
            if let Some(shape) = self.shape(&version) {
                prune(value, shape);
                defaults::apply_custom(value, shape);
            }
        }
        self.convert(outbound, values, wanted).await
    }

    /// Objects of any version in the wanted one; the order stays.
    pub async fn convert(
        &self,
        outbound: &Outbound,
        mut values: Vec<Value>,
        wanted: &Gvk,
    ) -> Result<Vec<Value>, ApiError> {
        let api_version = wanted.api_version();
        let others: Vec<usize> = (0..values.len())
            .filter(|i| values[*i]["apiVersion"] != api_version.as_str())
            .collect();
        if others.is_empty() {
            return Ok(values);
        }
        match &self.webhook {
            None => {
                for i in &others {
                    values[*i]["apiVersion"] = api_version.as_str().into();
                }
            }
            Some(webhook) => {
                let sent: Vec<Value> = others.iter().map(|i| values[*i].take()).collect();
                let from = sent[0]["apiVersion"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let converted = webhook.convert(outbound, sent, &api_version).await;
                let converted = converted.map_err(|why| {
                    let message = format!(
                        "conversion webhook for {from}, Kind={} failed: {why}",
                        wanted.kind
                    );
                    ApiError::new(500, "", message, None)
                })?;
                for (i, value) in others.iter().zip(converted) {
                    values[*i] = value;
                }
            }
        }
        if let Some(shape) = self.shape(&wanted.version) {
            for i in others {
                prune(&mut values[i], shape);
            }
        }
        Ok(values)
    }
}

fn version_of(value: &Value) -> &str {
    split_api_version(value["apiVersion"].as_str().unwrap_or_default()).1
}

/// Drops what the shape does not know. What does not fit it at all stays: it was let in once.
fn prune(value: &mut Value, shape: &StructRef) {
    if let Ok(decoded) = check::decode_value(value.clone(), shape) {
        *value = decoded.value;
    }
}

impl Webhook {
    fn of(conversion: &Value) -> Self {
        let webhook = &conversion["webhook"];
        let known = |v: &Value| match v.as_str()? {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        };
        let versions = webhook["conversionReviewVersions"].as_array();
        Webhook {
            hook: Hook::of(&webhook["clientConfig"]),
            review: versions.into_iter().flatten().find_map(known),
        }
    }

    async fn convert(
        &self,
        outbound: &Outbound,
        sent: Vec<Value>,
        wanted: &str,
    ) -> Result<Vec<Value>, String> {
        let hook = self.hook.as_ref().map_err(ToString::to_string)?;
        let review = self
            .review
            .ok_or("the webhook understands no version of ConversionReview that is known here")?;
        let uid = Uuid::new_v4().to_string();
        let api_version = format!("apiextensions.k8s.io/{review}");
        let question = json!({
            "kind": "ConversionReview",
            "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent},
        });
        let answer = outbound
            .post(hook, &question, TIMEOUT)
            .await
            .map_err(|e| e.to_string())?;
        check_envelope(&answer, &api_version, &uid)?;
        let converted = answer["response"]["convertedObjects"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if converted.len() != sent.len() {
            return Err(format!(
                "webhook returned {} objects, expected {}",
                converted.len(),
                sent.len()
            ));
        }
        let pairs = sent.iter().zip(converted).enumerate();
        pairs
            .map(|(i, (original, new))| accept(i, original, new, wanted))
            .collect()
    }
}

/// Whether the answer is one to this question, and a good one.
fn check_envelope(answer: &Value, api_version: &str, uid: &str) -> Result<(), String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if answer["kind"] != "ConversionReview" || answer["apiVersion"] != api_version {
        return Err(format!(
            "invalid webhook response: expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
            text(&answer["apiVersion"]),
            text(&answer["kind"])
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    if api_version.ends_with("/v1") && response["uid"] != uid {
        return Err(format!(
            "expected response.uid={uid:?}, got {:?}",
            text(&response["uid"])
        ));
    }
    let result = &response["result"];
    if result["status"] == "Success" {
        return Ok(());
    }
    let message = text(&result["message"]);
    let reason = text(&result["reason"]);
    Err(match (message.as_str(), reason.as_str()) {
        ("", "") => format!(
            "response.result.status was '{}', not 'Success'",
            text(&result["status"])
        ),
        ("", reason) => reason.to_owned(),
        (message, _) => message.to_owned(),
    })
}

/// A converted object with the metadata that a conversion cannot change.
fn accept(at: usize, original: &Value, mut new: Value, wanted: &str) -> Result<Value, String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if new["apiVersion"] != wanted {
        return Err(format!(
            "invalid converted object at index {at}: invalid groupVersion (expected {wanted}, received {})",
            text(&new["apiVersion"])
        ));
    }
    if new["kind"] != original["kind"] {
        return Err(format!(
            "invalid converted object at index {at}: invalid kind (expected {}, received {})",
            text(&original["kind"]),
            text(&new["kind"])
        ));
    }
    if !new["metadata"].is_object() {
        return Err(format!(
            "invalid metadata in object at index {at}: invalid type for field \"metadata\""
        ));
    }
    for field in ["name", "namespace", "uid"] {
        if new["metadata"][field] != original["metadata"][field] {
            return Err(format!(
                "invalid metadata in object at index {at}: must have the same {field}: {} != {}",
                text(&new["metadata"][field]),
                text(&original["metadata"][field])
            ));
        }
    }
    let mut metadata = original["metadata"].clone();
    if let Some(kept) = metadata.as_object_mut() {
        for field in ["labels", "annotations"] {
            match new["metadata"].get(field) {
                Some(value) if !value.is_null() => kept.insert(field.into(), value.clone()),
                _ => kept.remove(field),
            };
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_changes_no_identity() {
        let old = json!({"apiVersion": "e/v1", "kind": "Foo",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "3", "labels": {"x": "y"}}});
        let new = json!({"apiVersion": "e/v2", "kind": "Foo",
            "metadata": {"name": "a", "uid": "u", "annotations": {"k": "v"}}, "spec": 1});
        let made = accept(0, &old, new.clone(), "e/v2").expect("a good answer");
        assert_eq!(
            made["metadata"],
            json!({"name": "a", "uid": "u", "resourceVersion": "3", "annotations": {"k": "v"}})
        );
        let mut renamed = new.clone();
        renamed["metadata"]["name"] = "b".into();
        assert!(accept(0, &old, renamed, "e/v2").is_err());
        assert!(accept(0, &old, new, "e/v3").is_err());
    }

    #[test]
    fn an_answer_is_judged_before_its_objects() {
        let version = "apiextensions.k8s.io/v1";
        let answer = |response: Value| json!({"kind": "ConversionReview", "apiVersion": version, "response": response});
        let check = |response: Value, expect: Result<(), &str>| {
            let got = check_envelope(&answer(response), version, "u");
            assert_eq!(
                got.as_ref().map_err(String::as_str),
                expect.as_ref().map_err(|e| *e)
            );
        };
        check(json!({"uid": "u", "result": {"status": "Success"}}), Ok(()));
        check(
            json!({"uid": "u", "result": {"status": "Failed", "message": "no"}}),
            Err("no"),
        );
        check(
            json!({"uid": "w", "result": {"status": "Success"}}),
            Err("expected response.uid=\"u\", got \"w\""),
        );
    }
}
