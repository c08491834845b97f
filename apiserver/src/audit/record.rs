//! The events of one request.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::policy::{Level, Omitted};
use super::{Annotations, Auditor};
use crate::authn::SharedUser;
use crate::request::RequestInfo;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What is known of a request before it is answered.
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) verb: String,
    /// Who authenticated, and whom he acts as.
    pub(crate) user: SharedUser,
    pub(crate) impersonated: Option<SharedUser>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) user_agent: String,
    pub(crate) info: RequestInfo,
}

/// See the module's documentation.
pub(crate) struct Record {
    auditor: Arc<Auditor>,
    request: Request,
    level: Level,
    omitted: Omitted,
    received: jiff::Timestamp,
    pub(crate) annotations: Arc<Annotations>,
    sent: Option<Value>,
}

/// Times have microseconds in the log.
fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Record {
    pub(super) fn new(
        auditor: Arc<Auditor>,
        request: Request,
        level: Level,
        omitted: Omitted,
    ) -> Self {
        Record {
            auditor,
            request,
            level,
            omitted,
            received: jiff::Timestamp::now(),
            annotations: Arc::default(),
            sent: None,
        }
    }

    /// Whether the bodies of request and answer are recorded.
    pub(crate) fn wants_bodies(&self) -> (bool, bool) {
        (
            self.level >= Level::Request,
            self.level == Level::RequestResponse,
        )
    }

    /// What was sent. What cannot be read is left out.
    pub(crate) fn sent(&mut self, body: &Bytes) {
        self.sent = self.object(body);
    }

    fn object(&self, body: &Bytes) -> Option<Value> {
        if body.is_empty() {
            return None;
        }
        let mut object: Value = match serde_json::from_slice(body) {
            Ok(object) => object,
            Err(_) => schema::protobuf::decode(body)
                .ok()
                .or_else(|| serde_saphyr::from_str(std::str::from_utf8(body).ok()?).ok())?,
        };
        if self.omitted.managed_fields {
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            for item in items.into_iter().flatten() {
                forget_managers(item);
            }
            forget_managers(&mut object);
        }
        Some(object)
    }

    /// Records a stage; `answer` is the code and, where it is recorded, the body.
    pub(crate) fn stage(&self, stage: Stage, answer: Option<(u16, Option<&Bytes>)>) {
        if self.omitted.stages.contains(&stage) {
            return;
        }
        let mut event = self.event(stage);
        if let Some((code, body)) = answer {
            let object = body.and_then(|body| self.object(body));
            event["responseStatus"] = status(code, object.as_ref());
            if let Some(object) = object.filter(|_| self.level == Level::RequestResponse) {
                event["responseObject"] = object;
            }
        }
        self.auditor.write(&event);
    }

    fn event(&self, stage: Stage) -> Value {
        let request = &self.request;
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": format!("{:?}", self.level),
            "auditID": request.id,
            "stage": stage,
            "requestURI": request.uri,
            "verb": request.verb,
            "user": serde_json::to_value(&*request.user).unwrap_or_default(),
            "sourceIPs": request.source.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            "requestReceivedTimestamp": time(self.received),
            "stageTimestamp": time(jiff::Timestamp::now()),
        });
        if let Some(user) = &request.impersonated {
            event["impersonatedUser"] = serde_json::to_value(&**user).unwrap_or_default();
        }
        if !request.user_agent.is_empty() {
            event["userAgent"] = request.user_agent.as_str().into();
        }
        if let Some(reference) = self.reference() {
            event["objectRef"] = reference;
        }
        if let Some(sent) = self.sent.as_ref().filter(|_| self.level >= Level::Request) {
            event["requestObject"] = sent.clone();
        }
        let annotations = self.annotations.all();
        if !annotations.is_empty() {
            event["annotations"] = json!(annotations);
        }
        event
    }

    fn reference(&self) -> Option<Value> {
        let info = &self.request.info;
        if !info.is_resource {
            return None;
        }
        let mut reference = json!({});
        for (field, value) in [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ] {
            if !value.is_empty() {
                reference[field] = value.as_str().into();
            }
        }
        Some(reference)
    }
}

fn status(code: u16, object: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code});
    if let Some(told) = object.filter(|o| o["kind"] == "Status") {
        for field in ["status", "message", "reason", "details"] {
            if !told[field].is_null() {
                status[field] = told[field].clone();
            }
        }
    }
    status
}

fn forget_managers(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}
