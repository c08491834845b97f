//! What every request passes before it is answered: a place among the others, and the audit log.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};

use crate::ApiServer;
use crate::audit::{self, Auditor, Record, Stage};
use crate::authn::SharedUser;
use crate::flowcontrol::{FlowControl, Place, Rejected, Seats};
use crate::request::{Query, RequestInfo};
use crate::response::{self, ApiError, ApiResponse, Body, RequestBody};
use crate::service::read_body;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Objects that a list may show for each seat that it takes.
const LIST_SEAT: usize = 100;
const MAX_SEATS: u32 = 10;

/// Who asks, from where, and as whom.
pub(super) struct Asker {
    pub(super) id: String,
    pub(super) source: Option<IpAddr>,
    /// Who authenticated.
    pub(super) real: SharedUser,
    /// Whom he acts as; mostly himself.
    pub(super) user: SharedUser,
}

/// What guards the API.
pub(super) struct Limits {
    pub(super) flow: FlowControl,
    pub(super) auditor: Option<Arc<Auditor>>,
}

impl Limits {
    /// Answers a request when it is its turn, and records it.
    pub(super) async fn answer(
        &self,
        api: &ApiServer,
        asker: &Asker,
        parts: Parts,
        body: RequestBody,
        lasting: bool,
    ) -> ApiResponse {
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let record = self.record(asker, &parts, &info);
        let (annotations, wants) = match &record {
            Some(record) => (record.annotations.clone(), record.wants_bodies()),
            None => (Arc::default(), (false, false)),
        };
        let mut observed = Observed {
            record,
            wants,
            complete: false,
        };
        let answer = async {
            let body = match observed.request(&parts.method, lasting, body).await {
                Ok(body) => body,
                Err(error) => {
                    observed.stage(Stage::ResponseComplete, Some((error.code(), None)));
                    return response::error(&error, response::Accepted::default());
                }
            };
            observed.stage(Stage::RequestReceived, None);
            let answered = self.in_turn(api, &asker.user, &info, parts, body, lasting);
            observed.response(answered.await, lasting).await
        };
        audit::within(annotations, answer).await
    }

    fn record(&self, asker: &Asker, parts: &Parts, info: &RequestInfo) -> Option<Record> {
        let agent = parts.headers.get(USER_AGENT).and_then(|a| a.to_str().ok());
        let changed = !Arc::ptr_eq(&asker.real, &asker.user);
        self.auditor.as_ref()?.begin(audit::Request {
            id: asker.id.clone(),
            uri: parts.uri.to_string(),
            verb: info.verb.to_owned(),
            user: asker.real.clone(),
            impersonated: changed.then(|| asker.user.clone()),
            source: asker.source,
            user_agent: agent.unwrap_or_default().to_owned(),
            info: info.clone(),
        })
    }

    async fn in_turn(
        &self,
        api: &ApiServer,
        user: &SharedUser,
        info: &RequestInfo,
        parts: Parts,
        body: RequestBody,
        lasting: bool,
    ) -> ApiResponse {
        let watch = info.verb == "watch";
        if lasting && !watch {
            // Sessions last as long as people want; they take nobody's place.
            return api.handle(Request::from_parts(parts, body)).await;
        }
        let width = width(api, info);
        let (place, entered) = self.flow.enter(user, info, width).await;
        let seats: Seats = match entered {
            Ok(seats) => seats,
            Err(rejected) => return placed(too_many(rejected), &place),
        };
        let answer = api.handle(Request::from_parts(parts, body)).await;
        // A watch needed its seat to begin; what follows costs little.
        drop(seats);
        placed(answer, &place)
    }
}

/// Seats of a request: lists of much take more.
fn width(api: &ApiServer, info: &RequestInfo) -> u32 {
    if info.verb != "list" {
        return 1;
    }
    let catalog = &api.registry().catalog;
    let Some(resource) = catalog.get(&info.group, &info.version, &info.resource) else {
        return 1;
    };
    let seats = resource.cache.len().div_ceil(LIST_SEAT);
    u32::try_from(seats)
        .unwrap_or(MAX_SEATS)
        .clamp(1, MAX_SEATS)
}

fn too_many(rejected: Rejected) -> ApiResponse {
    tracing::debug!(%rejected, "a request was turned away");
    let mut answer = response::text(429, "Too many requests, please try again later.\n");
    let headers = answer.headers_mut();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    answer
}

fn placed(mut answer: ApiResponse, place: &Place) -> ApiResponse {
    for (name, value) in [(SCHEMA, &place.schema), (LEVEL, &place.level)] {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// A request with its record, if there is one.
struct Observed {
    record: Option<Record>,
    /// Whether bodies of request and answer are recorded.
    wants: (bool, bool),
    /// Its end is recorded.
    complete: bool,
}

/// A request that is given up, because it takes too long or nobody waits for it any more, ends too.
impl Drop for Observed {
    fn drop(&mut self) {
        if !self.complete {
            self.stage(Stage::ResponseComplete, Some((504, None)));
        }
    }
}

impl Observed {
    fn stage(&mut self, stage: Stage, answer: Option<(u16, Option<&Bytes>)>) {
        self.complete |= stage == Stage::ResponseComplete;
        if let Some(record) = &self.record {
            record.stage(stage, answer);
        }
    }

    /// Reads the body for the record, and gives it on.
    async fn request(
        &mut self,
        method: &Method,
        lasting: bool,
        body: RequestBody,
    ) -> Result<RequestBody, ApiError> {
        let Some(record) = self.record.as_mut().filter(|_| self.wants.0) else {
            return Ok(body);
        };
        if lasting || *method == Method::GET {
            return Ok(body);
        }
        let bytes = read_body(body).await?;
        record.sent(&bytes);
        Ok(Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync())
    }

    async fn response(&mut self, answer: ApiResponse, lasting: bool) -> ApiResponse {
        if self.record.is_none() {
            return answer;
        }
        let code = answer.status().as_u16();
        if lasting && code < 400 {
            self.stage(Stage::ResponseStarted, Some((code, None)));
            return self.until_end(answer, code);
        }
        if !self.wants.1 && code < 400 {
            self.stage(Stage::ResponseComplete, Some((code, None)));
            return answer;
        }
        // An error's message is always recorded.
        let (parts, body) = answer.into_parts();
        let Ok(whole) = body.collect().await else {
            self.stage(Stage::ResponseComplete, Some((code, None)));
            return ApiResponse::from_parts(parts, Body::empty());
        };
        let bytes = whole.to_bytes();
        let plain = !parts.headers.contains_key(http::header::CONTENT_ENCODING);
        self.stage(
            Stage::ResponseComplete,
            Some((code, plain.then_some(&bytes))),
        );
        ApiResponse::from_parts(parts, Body::from(bytes))
    }

    /// A stream is complete when nobody reads it any more.
    fn until_end(&mut self, answer: ApiResponse, code: u16) -> ApiResponse {
        let Some(record) = self.record.take() else {
            return answer;
        };
        let (parts, body) = answer.into_parts();
        if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
            record.stage(Stage::ResponseComplete, Some((code, None)));
            return ApiResponse::from_parts(parts, body);
        }
        let end = End { record, code };
        let body = body
            .map_frame(move |frame| {
                let _ = &end;
                frame
            })
            .boxed_unsync();
        ApiResponse::from_parts(parts, Body::Foreign(body))
    }
}

/// Records the end of a stream when it is dropped.
struct End {
    record: Record,
    code: u16,
}

impl Drop for End {
    fn drop(&mut self) {
        self.record
            .stage(Stage::ResponseComplete, Some((self.code, None)));
    }
}
