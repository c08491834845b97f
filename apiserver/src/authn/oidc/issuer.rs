//! One issuer: its keys, and the verification of its tokens.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::RwLock;
use serde_json::Value;

use super::claims::Claims;
use super::config::JwtAuthenticator;
use super::{OidcError, UserInfo};
use crate::remote::Remote;

/// Keys are not fetched more often than this, however many tokens name unknown ones.
const REFETCH: Duration = Duration::from_secs(1);

/// Asymmetric ones alone: with a symmetric one the public key would be the secret.
const ASYMMETRIC: [&str; 9] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512", "EdDSA",
];
/// For issuers of a configuration file, which names none.
const DEFAULT: [&str; 8] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512",
];

/// See the module's documentation.
pub(super) struct Issuer {
    url: String,
    discovery: Remote,
    authorities: Option<String>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    claims: Claims,
    keys: RwLock<Arc<JwkSet>>,
    /// When keys were last asked for; who holds it asks.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Issuer {
    pub(super) fn new(config: &JwtAuthenticator) -> Result<Self, String> {
        let own = &config.issuer;
        if own.audiences.is_empty() || own.audiences.iter().any(String::is_empty) {
            return Err("it needs audiences".into());
        }
        if own.audiences.len() > 1 && own.audience_match_policy != "MatchAny" {
            return Err("with several audiences, audienceMatchPolicy has to be MatchAny".into());
        }
        let authorities =
            (!own.certificate_authority.is_empty()).then(|| own.certificate_authority.clone());
        let url = if own.discovery_url.is_empty() {
            let base = own.url.trim_end_matches('/');
            format!("{base}/.well-known/openid-configuration")
        } else {
            own.discovery_url.clone()
        };
        if !own.url.starts_with("https://") {
            return Err("the URL's scheme must be https".into());
        }
        Ok(Issuer {
            url: own.url.clone(),
            discovery: Remote::at(&url, authorities.as_deref()).map_err(|e| e.to_string())?,
            authorities,
            audiences: own.audiences.clone(),
            algorithms: algorithms(&config.algorithms)?,
            claims: Claims::new(config)?,
            keys: RwLock::new(Arc::new(JwkSet { keys: Vec::new() })),
            asked: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn authenticate(&self, token: &str) -> Result<UserInfo, OidcError> {
        let wrong = |e: jsonwebtoken::errors::Error| OidcError::Token(e.to_string());
        let header = decode_header(token).map_err(wrong)?;
        if !self.algorithms.contains(&header.alg) {
            let why = format!("it is signed with {:?}, which is not accepted", header.alg);
            return Err(OidcError::Token(why));
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.url]);
        validation.set_audience(&self.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        let mut failure = OidcError::Token("no key of the issuer verifies it".into());
        for key in self.fitting(header.kid.as_deref()).await? {
            let Ok(key) = DecodingKey::from_jwk(&key) else {
                continue;
            };
            match decode::<Value>(token, &key, &validation) {
                Ok(data) => return self.claims.user(&data.claims),
                Err(error) => failure = wrong(error),
            }
        }
        Err(failure)
    }

    /// The keys that may have signed; fetched anew when the one that is named is not known.
    async fn fitting(&self, id: Option<&str>) -> Result<Vec<Jwk>, OidcError> {
        let known = self.known(id);
        if !known.is_empty() {
            return Ok(known);
        }
        let mut asked = self.asked.lock().await;
        // Whoever was waited for may have fetched them.
        let known = self.known(id);
        if !known.is_empty() || asked.is_some_and(|at| at.elapsed() < REFETCH) {
            return Ok(known);
        }
        *asked = Some(Instant::now());
        let fetched = self.fetch().await?;
        *self.keys.write() = Arc::new(fetched);
        Ok(self.known(id))
    }

    fn known(&self, id: Option<&str>) -> Vec<Jwk> {
        let keys = self.keys.read().clone();
        let named = |key: &&Jwk| id.is_none() || key.common.key_id.as_deref() == id;
        keys.keys.iter().filter(named).cloned().collect()
    }

    async fn fetch(&self) -> Result<JwkSet, OidcError> {
        let failed = |e: crate::remote::RemoteError| OidcError::Keys(e.to_string());
        let document = self.discovery.get().await.map_err(failed)?;
        if document["issuer"] != self.url.as_str() {
            let why = format!(
                "the discovery document is of the issuer {}",
                document["issuer"]
            );
            return Err(OidcError::Keys(why));
        }
        let place = document["jwks_uri"].as_str().unwrap_or_default();
        let keys = Remote::at(place, self.authorities.as_deref()).map_err(failed)?;
        let set = keys.get().await.map_err(failed)?;
        // A key of a kind that is not known here is no reason to know none.
        let all = set["keys"].as_array().into_iter().flatten();
        let readable = all.filter_map(|key| serde_json::from_value(key.clone()).ok());
        Ok(JwkSet {
            keys: readable.collect(),
        })
    }
}

fn algorithms(named: &[String]) -> Result<Vec<Algorithm>, String> {
    let read = |name: &str| {
        if !ASYMMETRIC.contains(&name) {
            return Err(format!("{name:?} is no algorithm that can be accepted"));
        }
        Algorithm::from_str(name).map_err(|e| format!("{name}: {e}"))
    };
    if named.is_empty() {
        return DEFAULT.iter().map(|name| read(name)).collect();
    }
    named.iter().map(|name| read(name)).collect()
}
