//! Finds out who makes a request: certificate, then token, then nobody.

use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::bootstrap_token;
use super::service_account::ServiceAccountTokens;
use super::static_tokens::StaticTokens;
use super::x509::Peer;
use super::{SharedUser, UserInfo, group};
use crate::registry::Cacher;
use crate::response::ApiError;
use crate::subresources::token::{IssuedToken, TokenAuthority, TokenSpec};

/// The paths that anybody may read.
const ANONYMOUS_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// See the module's documentation.
pub struct Authenticator {
    pub tokens: Arc<ServiceAccountTokens>,
    pub static_tokens: StaticTokens,
    pub cacher: Arc<Cacher>,
}

/// The request has no user that may be here; the client is told "Unauthorized" alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unauthenticated(pub String);

impl Authenticator {
    /// The user of a request.
    pub fn authenticate(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        path: &str,
    ) -> Result<SharedUser, Unauthenticated> {
        match peer {
            Peer::User(user) => return Ok(user.clone()),
            Peer::FrontProxy => return remote_user(headers).map(shared),
            Peer::Invalid(reason) if bearer(headers).is_none() => {
                return Err(Unauthenticated(reason.clone()));
            }
            Peer::Invalid(_) | Peer::NoCertificate => {}
        }
        if let Some(token) = bearer(headers) {
            return self.token_user(token, &[]).map(|(user, _)| shared(user));
        }
        if ANONYMOUS_PATHS.contains(&path) {
            return Ok(Arc::new(UserInfo::anonymous()));
        }
        Err(Unauthenticated("no credentials".to_owned()))
    }

    /// The user of a token for one of the audiences (empty: this server), and which of them
    /// it is for.
    pub fn token_user(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), Unauthenticated> {
        if self.tokens.is_ours(token) {
            return self
                .tokens
                .authenticate(token, audiences, &self.cacher)
                .map_err(|error| Unauthenticated(error.to_string()));
        }
        let found = bootstrap_token::authenticate(token, &self.cacher)
            .or_else(|| self.static_tokens.authenticate(token))
            .ok_or_else(|| Unauthenticated("the token is unknown or has expired".to_owned()))?;
        let own = self.tokens.api_audiences();
        let wanted = if audiences.is_empty() { own } else { audiences };
        let matching: Vec<String> = wanted.iter().filter(|a| own.contains(a)).cloned().collect();
        if matching.is_empty() {
            return Err(Unauthenticated(
                "the token is for other audiences".to_owned(),
            ));
        }
        Ok((found, matching))
    }
}

#[async_trait]
impl TokenAuthority for Authenticator {
    fn issue(&self, spec: &TokenSpec) -> Result<IssuedToken, ApiError> {
        let now = jiff::Timestamp::now().as_second();
        self.tokens.make(spec, now).map_err(ApiError::internal)
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        let (mut user, audiences) = self
            .token_user(token, audiences)
            .map_err(|error| error.to_string())?;
        authenticated(&mut user);
        Ok((user, audiences))
    }
}

/// Everybody who was recognised is in this group.
fn shared(mut user: UserInfo) -> SharedUser {
    authenticated(&mut user);
    Arc::new(user)
}

pub(super) fn authenticated(user: &mut UserInfo) {
    if !user.is_in(group::AUTHENTICATED) && !user.is_in(group::UNAUTHENTICATED) {
        user.groups.push(group::AUTHENTICATED.to_owned());
    }
}

/// The token of `Authorization: Bearer`, or of a WebSocket's subprotocol.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whose request the front proxy says it is.
fn remote_user(headers: &HeaderMap) -> Result<UserInfo, Unauthenticated> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let name = text("x-remote-user").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Unauthenticated("the proxy names no user".to_owned()))?;
    let groups = headers
        .get_all("x-remote-group")
        .iter()
        .filter_map(|group| group.to_str().ok());
    let mut user = UserInfo::new(name, groups);
    text("x-remote-uid")
        .unwrap_or_default()
        .clone_into(&mut user.uid);
    for (header, value) in headers {
        let key = header.as_str().strip_prefix("x-remote-extra-");
        if let (Some(key), Ok(value)) = (key, value.to_str()) {
            user.extra
                .entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    Ok(user)
}
