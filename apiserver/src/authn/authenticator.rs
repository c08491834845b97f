//! Finds out who makes a request: certificate, then token, then nobody.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use super::bootstrap_token;
use super::oidc::{AuthenticationFile, Oidc, OidcConfigError, OidcFlags};
use super::service_account::ServiceAccountTokens;
use super::static_tokens::StaticTokens;
use super::webhook::{TokenWebhook, TokenWebhookConfig};
use super::x509::Peer;
use super::{SharedUser, UserInfo, group};
use crate::registry::Cacher;
use crate::remote::RemoteError;
use crate::response::ApiError;
use crate::subresources::token::{IssuedToken, TokenAuthority, TokenSpec};

const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// See the module's documentation.
pub struct Authenticator {
    pub tokens: Arc<ServiceAccountTokens>,
    pub static_tokens: StaticTokens,
    pub cacher: Arc<Cacher>,
    pub anonymity: Anonymity,
    pub external: External,
}

/// Whether requests without credentials have a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymity {
    Everywhere,
    /// For these paths alone.
    Paths(Vec<String>),
    Nowhere,
}

impl Anonymity {
    fn allows(&self, path: &str) -> bool {
        match self {
            Anonymity::Everywhere => true,
            Anonymity::Paths(paths) => paths.iter().any(|own| own == path),
            Anonymity::Nowhere => false,
        }
    }
}

/// What a configuration says of authentication beyond this server's own credentials.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationConfig {
    /// CSV file of static tokens: `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
    /// An AuthenticationConfiguration.
    pub file: Option<PathBuf>,
    /// One issuer, by flags.
    pub oidc: Option<OidcFlags>,
    pub webhook: Option<TokenWebhookConfig>,
    /// Requests without credentials have no user.
    pub refuse_anonymous: bool,
}

/// Those who know tokens that this server does not.
#[derive(Default)]
pub struct External {
    oidc: Oidc,
    webhook: Option<TokenWebhook>,
}

impl External {
    /// Reads the configuration; nobody is asked yet. Also tells who may be anonymous.
    pub async fn open(
        config: &AuthenticationConfig,
        own_issuer: &str,
    ) -> Result<(Self, Anonymity), AuthenticationConfigError> {
        let file = match (&config.file, &config.oidc) {
            (Some(path), _) => AuthenticationFile::read(path)?,
            (None, Some(flags)) => flags.file()?,
            (None, None) => AuthenticationFile::default(),
        };
        let anonymity = match &file.anonymous {
            _ if config.refuse_anonymous => Anonymity::Nowhere,
            Some(anonymous) if !anonymous.enabled => Anonymity::Nowhere,
            Some(anonymous) if !anonymous.conditions.is_empty() => {
                let paths = anonymous.conditions.iter().map(|c| c.path.clone());
                Anonymity::Paths(paths.collect())
            }
            _ => Anonymity::Everywhere,
        };
        let webhook = match &config.webhook {
            Some(webhook) => Some(TokenWebhook::open(webhook).await?),
            None => None,
        };
        let oidc = Oidc::new(&file, own_issuer)?;
        Ok((External { oidc, webhook }, anonymity))
    }

    async fn user(&self, token: &str, audiences: &[String]) -> Result<UserInfo, Unauthenticated> {
        let refused = |why: &dyn std::fmt::Display| Unauthenticated(why.to_string());
        if let Some(outcome) = self.oidc.authenticate(token).await {
            return outcome.map_err(|error| refused(&error));
        }
        if let Some(webhook) = &self.webhook {
            let answer = webhook.authenticate(token, audiences).await;
            if let Some(user) = answer.map_err(|error| refused(&error))? {
                return Ok(user);
            }
        }
        Err(refused(&UNKNOWN))
    }
}

const UNKNOWN: &str = "the token is unknown or has expired";

/// Why a configuration of authentication cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationConfigError {
    #[error(transparent)]
    Oidc(#[from] OidcConfigError),
    #[error("the token webhook: {0}")]
    Webhook(#[from] RemoteError),
}

/// The request has no user that may be here; the client is told "Unauthorized" alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unauthenticated(pub String);

impl Authenticator {
    /// The user of a request.
    pub async fn authenticate(
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
            let found = self.any_token_user(&token, &[]).await;
            return found.map(|(user, _)| shared(user));
        }
        if !self.anonymity.allows(path) {
            return Err(Unauthenticated("the request has no credentials".into()));
        }
        // What anybody may see is the authorizer's to say.
        Ok(Arc::new(UserInfo::anonymous()))
    }

    /// As [`Authenticator::token_user`], of tokens that others know as well.
    pub async fn any_token_user(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), Unauthenticated> {
        let own = self.token_user(token, audiences);
        let foreign = matches!(&own, Err(error) if error.0 == UNKNOWN);
        if !foreign {
            return own;
        }
        let matching = self.matching_audiences(audiences)?;
        let user = self
            .external
            .user(token, self.tokens.api_audiences())
            .await?;
        Ok((user, matching))
    }

    /// Which of the audiences (empty: this server) are this server's.
    fn matching_audiences(&self, audiences: &[String]) -> Result<Vec<String>, Unauthenticated> {
        let own = self.tokens.api_audiences();
        let wanted = if audiences.is_empty() { own } else { audiences };
        let matching: Vec<String> = wanted.iter().filter(|a| own.contains(a)).cloned().collect();
        if matching.is_empty() {
            let why = "the token is for other audiences".to_owned();
            return Err(Unauthenticated(why));
        }
        Ok(matching)
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
            .ok_or_else(|| Unauthenticated(UNKNOWN.to_owned()))?;
        Ok((found, self.matching_audiences(audiences)?))
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
            .any_token_user(token, audiences)
            .await
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

/// The token of `Authorization: Bearer`, or of a WebSocket's subprotocol, which is where
/// browsers can put one.
fn bearer(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
        return usable.then_some(Cow::Borrowed(token));
    }
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols
        .split(',')
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_TOKEN))?;
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(decoded).ok().map(Cow::Owned)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_headers() {
        let check = |name: http::HeaderName, value: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            assert_eq!(bearer(&headers).as_deref(), expected, "{value}");
        };
        check(AUTHORIZATION, "Bearer abc", Some("abc"));
        check(AUTHORIZATION, "bearer  abc", Some("abc"));
        check(AUTHORIZATION, "Basic abc", None);
        check(AUTHORIZATION, "Bearer ", None);
        let value = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        check(SEC_WEBSOCKET_PROTOCOL, value, Some("abc"));
        check(SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io", None);
    }
}
