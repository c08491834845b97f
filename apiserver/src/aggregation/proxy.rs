//! Requests on their way to an aggregated server.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty, Limited};

use super::{Announced, Entry};
use crate::authn::UserInfo;
use crate::registry::Registry;
use crate::response::{self, ApiError, ApiResponse, BoxError, RequestBody};
use crate::subresources::Target;

/// Documents larger than this are not read.
const MAX_DOCUMENT: usize = 32 << 20;
const ASKING: Duration = Duration::from_secs(5);

/// Carries a client's request, whose user was found to be allowed it.
pub(crate) async fn carry(
    registry: &Registry,
    entry: &Entry,
    user: &UserInfo,
    mut parts: Parts,
    body: RequestBody,
) -> Result<ApiResponse, ApiError> {
    if !entry.available {
        return Ok(response::text(503, "service unavailable\n"));
    }
    let uri = parts.uri.clone();
    set_user(&mut parts.headers, user);
    let target = target(&entry.announced);
    let answer = registry.nodes()?.carry(&target, uri, parts, body).await;
    Ok(answer.unwrap_or_else(|error| {
        tracing::debug!(%error, service = entry.announced.name, "an aggregated server was not reached");
        response::text(503, format!("error trying to reach service: {error}"))
    }))
}

fn target(announced: &Announced) -> Target {
    Target::Aggregated {
        place: announced.place.clone(),
        authorities: announced.authorities.clone(),
        insecure: announced.insecure,
    }
}

/// Says who the user is, in the headers that the front-proxy certificate vouches for. What the
/// client itself put there goes.
fn set_user(headers: &mut HeaderMap, user: &UserInfo) {
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-") || **name == AUTHORIZATION)
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("x-remote-extra-{}", escape(key)), value);
        }
    }
}

/// Header names cannot hold every letter of a key.
fn escape(key: &str) -> String {
    key.bytes()
        .map(|b| {
            let plain = b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
            if plain {
                char::from(b.to_ascii_lowercase()).to_string()
            } else {
                format!("%{b:02x}")
            }
        })
        .collect()
}

/// A document of the aggregated server, asked for by this server itself: its code and bytes.
pub(crate) async fn fetch(
    registry: &Registry,
    announced: &Announced,
    path: &str,
) -> Result<(u16, Vec<u8>), String> {
    let body = Empty::new().map_err(|never| -> BoxError { match never {} });
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(ACCEPT, "application/json")
        .body(body.boxed_unsync())
        .map_err(|e| e.to_string())?;
    let (mut parts, body) = request.into_parts();
    let user = UserInfo::new("system:kube-aggregator", ["system:masters"]);
    set_user(&mut parts.headers, &user);
    let uri = parts.uri.clone();
    let asked = async {
        let connector = registry.nodes().map_err(|e| e.to_string())?;
        let answer = connector.carry(&target(announced), uri, parts, body).await;
        let answer = answer.map_err(|e| e.to_string())?;
        let code = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), MAX_DOCUMENT)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        Ok((code, bytes.to_bytes().to_vec()))
    };
    tokio::time::timeout(ASKING, asked)
        .await
        .map_err(|_| "context deadline exceeded".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scope", "all"),
            ("authorization", "Bearer secret"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = UserInfo::new("eve", ["a", "b"]);
        user.extra
            .insert("example.com/Scope".into(), vec!["x".into()]);
        set_user(&mut headers, &user);
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .map(|v| v.to_str().unwrap_or("").to_owned())
                .collect()
        };
        assert_eq!(all("x-remote-user"), ["eve"]);
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert!(all("x-remote-extra-scope").is_empty());
        assert_eq!(all("x-remote-extra-example.com%2fscope"), ["x"]);
        assert!(headers.get(AUTHORIZATION).is_none());
    }
}
