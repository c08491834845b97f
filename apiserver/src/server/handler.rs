//! One request: its user, what it is allowed, and where it goes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::encoding::text::encode;
use serde_json::json;
use uuid::Uuid;

use super::health::Health;
use super::limits::{Asker, Limits};
use crate::ApiServer;
use crate::authn::x509::Peer;
use crate::authn::{Authenticator, SharedUser, impersonation};
use crate::authz::{Attributes, forbidden};
use crate::metrics::{self, SharedMetrics};
use crate::request::Query;
use crate::response::{
    self, Accepted, ApiError, ApiResponse, Body, BoxError, RequestBody, negotiate,
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// How long a request may take that is not a watch or a stream.
const PATIENCE: Duration = Duration::from_secs(60);
const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";
const METRICS: &str = "/metrics";

/// What all connections share.
pub(super) struct Handler {
    pub(super) api: ApiServer,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) health: Health,
    pub(super) url: String,
    pub(super) limits: Limits,
    pub(super) metrics: SharedMetrics,
}

impl Handler {
    pub(super) async fn handle(
        &self,
        peer: &Peer,
        source: Option<IpAddr>,
        request: Request<Incoming>,
    ) -> ApiResponse {
        let (parts, body) = request.into_parts();
        let id = audit_id(&parts);
        let accepted = negotiate::accepted(&parts.headers, negotiate::BUILT_IN).unwrap_or_default();
        let mut response = match self.answer(peer, source, &id, parts, body).await {
            Ok(response) => response,
            Err(error) => response::error(
                &error,
                Accepted {
                    pretty: false,
                    ..accepted
                },
            ),
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert(AUDIT_ID, value);
        }
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        response
    }

    async fn answer(
        &self,
        peer: &Peer,
        source: Option<IpAddr>,
        id: &str,
        mut parts: Parts,
        body: Incoming,
    ) -> Result<ApiResponse, ApiError> {
        let real = self
            .authenticator
            .authenticate(peer, &parts.headers, parts.uri.path())
            .await
            .map_err(|error| {
                tracing::debug!(%error, path = parts.uri.path(), "unauthenticated request");
                ApiError::unauthorized()
            })?;
        let user = self.impersonated(real.clone(), &mut parts).await?;
        if let Some(answer) = self.own_path(&user, &parts).await {
            return answer;
        }
        let lasting = may_last(&parts);
        let patience = (!lasting).then_some(PATIENCE);
        parts.extensions.insert(user.clone());
        let asker = Asker {
            id: id.to_owned(),
            source,
            real,
            user,
        };
        let body: RequestBody = body
            .map_err(|error| -> BoxError { error.into() })
            .boxed_unsync();
        let answer = self.limits.answer(&self.api, &asker, parts, body, lasting);
        match patience {
            None => Ok(answer.await),
            Some(patience) => tokio::time::timeout(patience, answer).await.map_err(|_| {
                let message = "request did not complete within the allowed duration";
                ApiError::new(504, "Timeout", message, None)
            }),
        }
    }

    /// The user that the real one asks to be, if he may.
    async fn impersonated(
        &self,
        real: SharedUser,
        parts: &mut Parts,
    ) -> Result<SharedUser, ApiError> {
        let requested = impersonation::requested(&parts.headers).map_err(ApiError::bad_request)?;
        let Some(requested) = requested else {
            return Ok(real);
        };
        for need in &requested.needs {
            self.allow(&real, need).await?;
        }
        impersonation::strip(&mut parts.headers);
        Ok(Arc::new(requested.user))
    }

    async fn allow(&self, user: &SharedUser, asked: &Attributes) -> Result<(), ApiError> {
        let decision = self.api.registry().authorizer.authorize(user, asked).await;
        if decision.is_allowed() {
            return Ok(());
        }
        Err(forbidden(user, asked, &decision))
    }

    /// Paths that belong to the listener and not to the API.
    async fn own_path(
        &self,
        user: &SharedUser,
        parts: &Parts,
    ) -> Option<Result<ApiResponse, ApiError>> {
        let path = parts.uri.path();
        if !Health::owns(path) && ![DISCOVERY, KEYS, METRICS].contains(&path) {
            return None;
        }
        let asked = Attributes {
            verb: parts.method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        if let Err(refused) = self.allow(user, &asked).await {
            return Some(Err(refused));
        }
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Some(Err(ApiError::method_not_allowed()));
        }
        Some(Ok(match path {
            DISCOVERY => self.issuer_document(),
            KEYS => keys_document(&self.authenticator),
            METRICS => self.metrics_text(),
            _ => {
                self.health
                    .answer(path, &Query::parse(parts.uri.query()))
                    .await
            }
        }))
    }

    fn metrics_text(&self) -> ApiResponse {
        let mut text = String::new();
        match encode(&mut text, &self.metrics.lock()) {
            Ok(()) => response::with_type(200, metrics::MEDIA_TYPE, Body::from(text.into_bytes())),
            Err(error) => response::text(500, error.to_string()),
        }
    }

    /// What relying parties read of the issuer of service account tokens.
    fn issuer_document(&self) -> ApiResponse {
        let document = json!({
            "issuer": self.authenticator.tokens.issuer(),
            "jwks_uri": format!("{}{KEYS}", self.url),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        cacheable(response::json(200, document.to_string()))
    }
}

fn keys_document(authenticator: &Authenticator) -> ApiResponse {
    let mut response = response::json(200, authenticator.tokens.key_set().to_string());
    let media = HeaderValue::from_static("application/jwk-set+json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, media);
    cacheable(response)
}

fn cacheable(mut response: ApiResponse) -> ApiResponse {
    let value = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(CACHE_CONTROL, value);
    response
}

/// The client's name for the request, or a new one.
fn audit_id(parts: &Parts) -> String {
    let given = parts.headers.get(AUDIT_ID).and_then(|id| id.to_str().ok());
    match given {
        Some(given) if !given.is_empty() && given.len() <= 64 => given.to_owned(),
        _ => Uuid::new_v4().to_string(),
    }
}

/// Watches, and subresources that are streams.
fn may_last(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    let watches = query.contains("watch=") || query.contains("follow=");
    let path = parts.uri.path();
    let streams = [
        "/exec",
        "/attach",
        "/portforward",
        "/log",
        "/proxy",
        "/watch/",
    ];
    watches || streams.iter().any(|part| path.contains(part))
}
