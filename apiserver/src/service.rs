//! The API as a service: from a request with a user to a response.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;

use crate::audit;
use crate::authn::{SharedUser, UserInfo};
use crate::authz::forbidden;
use crate::metrics::{Inflight, Target};
use crate::registry::{Call, Registry, Resource};
use crate::request::{Query, RequestInfo};
use crate::response::{
    self, Accepted, ApiError, ApiResponse, Body, BoxError, RequestBody, negotiate,
};

/// The largest body that is read.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// The API server without its listener. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    registry: Arc<Registry>,
}

impl ApiServer {
    pub fn new(registry: Arc<Registry>) -> Self {
        ApiServer { registry }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Answers a request. The user stands in its extensions as [`SharedUser`]; without one it is
    /// anonymous.
    pub async fn handle(&self, request: Request<RequestBody>) -> ApiResponse {
        let (parts, body) = request.into_parts();
        let accepted = negotiate::accepted(&parts.headers, negotiate::BUILT_IN).unwrap_or_default();
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        let known = self.resource(&info).is_some();
        let target = Target::of(&info, &parts.method, known);
        let inflight = Inflight::begin(&parts.method);
        let response = match self.route(parts, body, query, info).await {
            Ok(response) => response,
            Err(error) => response::error(
                &error,
                Accepted {
                    pretty: false,
                    ..accepted
                },
            ),
        };
        inflight.answered(target, response.status());
        response
    }

    fn resource(&self, info: &RequestInfo) -> Option<Arc<Resource>> {
        let catalog = &self.registry.catalog;
        catalog.get(&info.group, &info.version, &info.resource)
    }

    async fn route(
        &self,
        parts: Parts,
        body: RequestBody,
        query: Query,
        info: RequestInfo,
    ) -> Result<ApiResponse, ApiError> {
        let user = parts
            .extensions
            .get::<SharedUser>()
            .cloned()
            .unwrap_or_else(|| Arc::new(UserInfo::anonymous()));
        self.authorize(&user, &info, &query).await?;
        if let Some(entry) = self.registry.aggregation.find(&info.path) {
            return crate::aggregation::carry(&self.registry, &entry, &user, parts, body).await;
        }
        if !info.is_resource {
            return crate::documents::answer(&self.registry, &parts, &info, &query);
        }
        let Some(resource) = self.resource(&info) else {
            return self.unknown_resource(&info);
        };
        let headers = parts.headers.clone();
        let call = Call::new(self.registry.clone(), resource, info, query, headers, user)?;
        let call = Arc::new(call);
        match self.dispatch(call.clone(), parts, body).await {
            Ok(response) => Ok(response),
            // Whoever is refused hears the warnings as well.
            Err(error) => {
                let accepted = Accepted {
                    pretty: false,
                    ..negotiate::accepted(&call.headers, negotiate::BUILT_IN).unwrap_or_default()
                };
                Ok(call.with_warnings(response::error(&error, accepted)))
            }
        }
    }

    async fn authorize(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<(), ApiError> {
        let attributes = info.attributes(query);
        let decision = self.registry.authorizer.authorize(user, &attributes).await;
        let allowed = decision.is_allowed();
        let word = if allowed { "allow" } else { "forbid" };
        audit::annotate("authorization.k8s.io/decision", word);
        audit::annotate("authorization.k8s.io/reason", decision.reason());
        if allowed {
            return Ok(());
        }
        Err(forbidden(user, &attributes, &decision))
    }

    fn unknown_resource(&self, info: &RequestInfo) -> Result<ApiResponse, ApiError> {
        if self.registry.catalog.has_group(&info.group) {
            return Err(ApiError::no_such_resource());
        }
        Ok(response::text(404, "404 page not found\n"))
    }

    async fn dispatch(
        &self,
        call: Arc<Call>,
        parts: Parts,
        body: RequestBody,
    ) -> Result<ApiResponse, ApiError> {
        check_route(&call.resource, &call.info, &parts.method)?;
        if !call.info.subresource.is_empty() {
            return crate::subresources::answer(call, parts, body).await;
        }
        if !call.resource.allows("get") {
            return crate::reviews::answer(&call, body).await;
        }
        let response = match call.info.verb {
            "get" => response::compress(call.get().await?, &call.headers),
            "list" => response::compress(call.list().await?, &call.headers),
            "watch" => return call.watch().await,
            "create" => call.create(read_body(body).await?).await?,
            "update" => call.update(read_body(body).await?).await?,
            "patch" => call.patch(read_body(body).await?).await?,
            "delete" => call.delete(read_body(body).await?).await?,
            "deletecollection" => call.delete_collection(read_body(body).await?).await?,
            _ => return Err(ApiError::method_not_allowed()),
        };
        Ok(call.with_warnings(response))
    }

    /// A client whose requests are made by `user` and go nowhere near a network.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        let service = UserService {
            api: self.clone(),
            user: Arc::new(user),
        };
        kube::Client::new(service, "default")
    }
}

/// Whether the path with this method exists at all.
fn check_route(resource: &Resource, info: &RequestInfo, method: &Method) -> Result<(), ApiError> {
    if matches!(*method, Method::HEAD | Method::OPTIONS) && info.subresource != "proxy" {
        return Err(ApiError::method_not_allowed());
    }
    if !info.subresource.is_empty() {
        let sub = resource
            .subresource(&info.subresource)
            .ok_or_else(ApiError::no_such_resource)?;
        let verb = if info.verb == "watch" {
            "get"
        } else {
            info.verb
        };
        let allowed = sub.verbs.iter().any(|v| v == verb) || info.subresource == "proxy";
        return if allowed {
            Ok(())
        } else {
            Err(ApiError::method_not_allowed())
        };
    }
    let named =
        !info.name.is_empty() && !matches!(info.verb, "list" | "watch" | "deletecollection");
    let fits = match info.verb {
        "create" => !named,
        "update" | "patch" | "delete" => named,
        _ => true,
    };
    // Objects of a namespaced resource are reached through their namespace only.
    if named && resource.namespaced() && info.namespace.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    let placed = !resource.namespaced()
        || !info.namespace.is_empty()
        || matches!(info.verb, "list" | "watch");
    if !fits || !placed || !resource.allows(info.verb) {
        return Err(ApiError::method_not_allowed());
    }
    Ok(())
}

/// Reads a body up to [`MAX_BODY`].
pub async fn read_body(mut body: RequestBody) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("the body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + more.len() + data.len() > MAX_BODY {
            drain(body).await;
            return Err(ApiError::too_large());
        }
        if first.is_empty() {
            first = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.freeze())
}

/// Reads on for a while: a client that is still sending does not read the refusal.
async fn drain(mut body: RequestBody) {
    const MOST: usize = 8 * MAX_BODY;
    const LONGEST: Duration = Duration::from_secs(5);
    let mut read = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MOST {
                return;
            }
        }
    };
    // A client that is slower is refused by the end of its connection.
    let _ = tokio::time::timeout(LONGEST, reading).await;
}

/// The service behind [`ApiServer::client`].
#[derive(Clone)]
struct UserService {
    api: ApiServer,
    user: SharedUser,
}

impl tower_service::Service<Request<kube::client::Body>> for UserService {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut request =
                request.map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync());
            let name = &service.user.name;
            let agent = name.strip_prefix("system:").unwrap_or(name);
            if let Ok(agent) = HeaderValue::from_str(agent) {
                let headers = request.headers_mut();
                headers.entry(http::header::USER_AGENT).or_insert(agent);
            }
            request.extensions_mut().insert(service.user.clone());
            Ok(service.api.handle(request).await)
        })
    }
}
