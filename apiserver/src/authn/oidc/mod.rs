//! Tokens of OpenID Connect issuers.
//!
//! A token says in its `iss` claim who made it; the issuer with that URL verifies it with keys that
//! it fetches ([`issuer`]), and its claims become a user as the configuration says ([`claims`]).
//!
//! **Invariant:** nothing that a token says chooses how it is verified: the algorithms are the
//! configuration's, all of them asymmetric.

mod claims;
pub mod config;
mod issuer;

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::UserInfo;
pub use config::{AuthenticationFile, OidcFlags};
use issuer::Issuer;

/// Why a configuration of authentication cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcConfigError {
    #[error("{path}: {why}", path = .path.display())]
    File {
        path: std::path::PathBuf,
        why: String,
    },
    #[error("the token issuer {url:?}: {why}")]
    Issuer { url: String, why: String },
}

/// Why a token is not accepted; the client hears "Unauthorized" alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    #[error("the issuer's keys: {0}")]
    Keys(String),
    #[error("the token: {0}")]
    Token(String),
    #[error("the claims: {0}")]
    Claims(String),
}

/// All issuers.
#[derive(Default)]
pub(super) struct Oidc(Vec<Issuer>);

impl Oidc {
    pub(super) fn new(
        file: &AuthenticationFile,
        own_issuer: &str,
    ) -> Result<Self, OidcConfigError> {
        let mut issuers: Vec<Issuer> = Vec::new();
        for jwt in &file.jwt {
            let wrong = |why: &str| OidcConfigError::Issuer {
                url: jwt.issuer.url.clone(),
                why: why.to_owned(),
            };
            if jwt.issuer.url == own_issuer {
                return Err(wrong("it is this server's own, for service accounts"));
            }
            if issuers.iter().any(|i| i.url() == jwt.issuer.url) {
                return Err(wrong("it is there twice"));
            }
            issuers.push(Issuer::new(jwt).map_err(|why| wrong(&why))?);
        }
        Ok(Oidc(issuers))
    }

    /// `None` when no issuer here made the token.
    pub(super) async fn authenticate(&self, token: &str) -> Option<Result<UserInfo, OidcError>> {
        let said = claimed_issuer(token)?;
        let issuer = self.0.iter().find(|issuer| issuer.url() == said)?;
        Some(issuer.authenticate(token).await)
    }
}

/// Who a token says made it, which is believed only as far as to know whose keys to try.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

fn read_file(path: &Path) -> Result<String, OidcConfigError> {
    std::fs::read_to_string(path).map_err(|error| OidcConfigError::File {
        path: path.to_path_buf(),
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
