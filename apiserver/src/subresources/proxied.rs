//! Paths behind `proxy`: sent on as the client spelled them, and put back into redirects and pages.

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use http_body_util::{BodyExt, Limited};

use super::links;
use crate::response::{self, ApiError, ApiResponse, Body};

/// Pages that are longer are not passed on.
const MAX_PAGE: usize = 32 << 20;

/// A path in two halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxied {
    /// Up to and including `/proxy`.
    prefix: String,
    /// What follows, with its slash; empty when nothing does.
    rest: String,
}

impl Proxied {
    /// Splits `/api/v1/namespaces/NS/RESOURCE/NAME/proxy/...`, and the same without a namespace.
    pub(super) fn of(path: &str, namespaced: bool) -> Option<Self> {
        let before = if namespaced { 8 } else { 6 };
        let slashes = path.match_indices('/').map(|(at, _)| at);
        let end = slashes.clone().nth(before - 1).unwrap_or(path.len());
        let (prefix, rest) = path.split_at(end);
        (prefix.ends_with("/proxy") && slashes.count() >= before - 1).then(|| Proxied {
            prefix: prefix.to_owned(),
            rest: rest.to_owned(),
        })
    }

    /// Pages link relative to a path that ends in a slash: clients are sent there first.
    pub(super) fn redirect(&self, parts: &Parts) -> Option<ApiResponse> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if !self.rest.is_empty() || !reads || parts.headers.contains_key(UPGRADE) {
            return None;
        }
        let query = parts.uri.query().map(|q| format!("?{q}"));
        let place = format!("{}/{}", self.prefix, query.unwrap_or_default());
        let mut answer = response::with_type(301, "text/plain", Body::empty());
        let headers = answer.headers_mut();
        headers.remove(http::header::CONTENT_TYPE);
        headers.insert(LOCATION, HeaderValue::from_str(&place).ok()?);
        Some(answer)
    }

    /// The path and query for the other side.
    pub(super) fn path(&self, query: Option<&str>) -> String {
        let path = if self.rest.is_empty() {
            "/"
        } else {
            &self.rest
        };
        match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// A page whose links lead through the proxy; other answers stay as they are.
    pub(super) async fn relink(&self, response: ApiResponse) -> Result<ApiResponse, ApiError> {
        let headers = response.headers();
        let kind = headers.get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next());
        let is_page = kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"));
        if !is_page || headers.contains_key(CONTENT_ENCODING) {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_PAGE)
            .collect()
            .await
            .map_err(|error| ApiError::unavailable(format!("the page was not read: {error}")))?
            .to_bytes();
        let Ok(page) = std::str::from_utf8(&body) else {
            return Ok(ApiResponse::from_parts(parts, body.into()));
        };
        let page = links::rewrite(page, &self.prefix);
        parts.headers.insert(CONTENT_LENGTH, page.len().into());
        Ok(ApiResponse::from_parts(parts, page.into()))
    }

    /// A redirect within the other side becomes one within the proxy.
    pub(super) fn rewrite(&self, response: &mut ApiResponse) {
        let Some(place) = response.headers().get(LOCATION) else {
            return;
        };
        let parsed = place.to_str().ok().and_then(|t| t.parse::<Uri>().ok());
        let Some(inner) = parsed.filter(|uri| uri.host().is_none()) else {
            return;
        };
        let path = inner.path_and_query().map_or("/", |p| p.as_str());
        if let Ok(place) = HeaderValue::from_str(&format!("{}{path}", self.prefix)) {
            response.headers_mut().insert(LOCATION, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, namespaced: bool, expect: Option<(&str, &str)>) {
        let found = Proxied::of(path, namespaced);
        let found = found.as_ref().map(|p| (p.prefix.as_str(), p.rest.as_str()));
        assert_eq!(found, expect, "{path}");
    }

    #[test]
    fn paths_keep_their_slashes_and_escapes() {
        let pod = "/api/v1/namespaces/n/pods/p/proxy";
        check(pod, true, Some((pod, "")));
        check(&format!("{pod}/"), true, Some((pod, "/")));
        check(&format!("{pod}/a%2Fb//c/"), true, Some((pod, "/a%2Fb//c/")));
        let node = "/api/v1/nodes/n:10250/proxy";
        check(&format!("{node}/logs/"), false, Some((node, "/logs/")));
        check("/api/v1/nodes/n", false, None);
        let found = Proxied::of(&format!("{pod}/a/"), true).expect("a proxied path");
        assert_eq!(found.path(Some("x=%20")), "/a/?x=%20");
    }

    #[test]
    fn a_read_of_the_bare_path_is_redirected() {
        let parts = |method: Method, uri: &str| {
            let request = http::Request::builder().method(method).uri(uri);
            request.body(()).expect("a request").into_parts().0
        };
        let pod = "/api/v1/namespaces/n/pods/p/proxy";
        let proxied = Proxied::of(pod, true).expect("a proxied path");
        let answer = proxied
            .redirect(&parts(Method::GET, &format!("{pod}?a=b")))
            .expect("a redirect");
        assert_eq!(answer.status(), 301);
        assert_eq!(answer.headers()[LOCATION], format!("{pod}/?a=b"));
        assert!(proxied.redirect(&parts(Method::POST, pod)).is_none());
        let mut moved = response::text(302, "");
        moved
            .headers_mut()
            .insert(LOCATION, HeaderValue::from_static("/login?x"));
        proxied.rewrite(&mut moved);
        assert_eq!(moved.headers()[LOCATION], format!("{pod}/login?x"));
    }
}
