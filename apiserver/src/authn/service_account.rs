//! Service account tokens: made, and checked against the objects that they are bound to.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::jwt::{JwtError, JwtKey};
use super::x509::CREDENTIAL_ID;
use super::{UserInfo, group, user_name};
use crate::registry::cache::object_key;
use crate::registry::{Cacher, meta};
use crate::subresources::token::{IssuedToken, TokenSpec};

/// Verified tokens that are remembered, so that each costs one signature check.
const REMEMBERED: usize = 8192;
/// Issuer of tokens that Secrets hold.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// What the kubelet asks for, and gets a year instead: old clients do not read tokens again.
const KUBELET_SECONDS: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// Why a token is no good; for the log, the client hears only "Unauthorized".
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("service account token: {0}")]
    Jwt(#[from] JwtError),
    #[error("service account token: its claims are not understood")]
    Claims,
    #[error("service account token: it is of another issuer")]
    Issuer,
    #[error("service account token: it is for other audiences")]
    Audience,
    #[error("service account token: it has expired or is not valid yet")]
    Time,
    #[error("service account token: {kind} {name} is gone or another one")]
    Gone { kind: &'static str, name: String },
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
struct Bound {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    serviceaccount: Reference,
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Option<Audiences>,
    exp: Option<i64>,
    nbf: Option<i64>,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_account: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    legacy_uid: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    legacy_secret: Option<String>,
}

/// Makes and checks tokens.
pub struct ServiceAccountTokens {
    key: JwtKey,
    issuer: String,
    audiences: Vec<String>,
    remembered: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

/// Metadata of an object that a token is bound to.
#[derive(Deserialize)]
struct Living {
    metadata: LivingMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LivingMeta {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<jiff::Timestamp>,
}

impl ServiceAccountTokens {
    pub fn new(key_pem: &str, issuer: &str) -> Result<Self, JwtError> {
        Ok(ServiceAccountTokens {
            key: JwtKey::from_pem(key_pem)?,
            issuer: issuer.to_owned(),
            audiences: vec![issuer.to_owned()],
            remembered: Mutex::default(),
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences that this server itself is.
    pub fn api_audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The public keys, as OIDC relying parties read them.
    pub fn key_set(&self) -> Value {
        json!({"keys": [self.key.jwk()]})
    }

    /// Makes a token that is valid from now on.
    pub fn make(&self, spec: &TokenSpec, now: i64) -> Result<IssuedToken, JwtError> {
        let mut bound = json!({
            "namespace": spec.namespace,
            "serviceaccount": {"name": spec.account, "uid": spec.account_uid},
        });
        let mut for_pod = false;
        if let Some((kind, name, uid)) = &spec.bound_to {
            for_pod = kind == "Pod";
            bound[kind.to_ascii_lowercase()] = json!({"name": name, "uid": uid});
        }
        if let Some((name, uid)) = &spec.node {
            bound["node"] = json!({"name": name, "uid": uid});
        }
        let own = spec.audiences.is_empty() || spec.audiences == self.audiences;
        let audiences = if own {
            &self.audiences
        } else {
            &spec.audiences
        };
        let mut seconds = spec.expiration_seconds;
        if for_pod && own && seconds == KUBELET_SECONDS {
            bound["warnafter"] = json!(now + seconds);
            seconds = YEAR;
        }
        let account = format!("{}:{}", spec.namespace, spec.account);
        let claims = json!({
            "aud": audiences,
            "exp": now + seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
            "nbf": now,
            "sub": format!("{}{account}", user_name::SERVICE_ACCOUNT_PREFIX),
        });
        let expires = jiff::Timestamp::from_second(now + spec.expiration_seconds)
            .map(meta::time)
            .unwrap_or_default();
        Ok(IssuedToken {
            token: self.key.sign(&claims)?,
            expires,
            audiences: audiences.clone(),
        })
    }

    /// The token for a Secret of type `kubernetes.io/service-account-token`.
    pub fn make_legacy(
        &self,
        namespace: &str,
        account: &str,
        account_uid: &str,
        secret: &str,
    ) -> Result<String, JwtError> {
        self.key.sign(&json!({
            "iss": LEGACY_ISSUER,
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": account_uid,
            "sub": format!("{}{namespace}:{account}", user_name::SERVICE_ACCOUNT_PREFIX),
        }))
    }

    /// Whether a bearer token claims to be of here, so that no other authenticator is asked.
    pub fn is_ours(&self, token: &str) -> bool {
        let said = super::oidc::claimed_issuer(token);
        token.matches('.').count() == 2 && said.is_none_or(|issuer| issuer == self.issuer)
    }

    /// The user of a token for one of the audiences (empty: this server), and which of them
    /// it is for.
    pub fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        cacher: &Cacher,
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let claims = self.verified(token)?;
        let now = jiff::Timestamp::now().as_second();
        // Clocks of one cluster's machines differ a little.
        const LEEWAY: i64 = 5;
        if claims.exp.is_some_and(|exp| now > exp)
            || claims.nbf.is_some_and(|nbf| now + LEEWAY < nbf)
        {
            return Err(TokenError::Time);
        }
        if claims.iss == LEGACY_ISSUER {
            return self.legacy_user(&claims, audiences, cacher);
        }
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let wanted = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let matching = claims.matching_audiences(wanted);
        if matching.is_empty() {
            return Err(TokenError::Audience);
        }
        // A token without an end is not one that this server made.
        let bound = claims.bound.as_ref().filter(|_| claims.exp.is_some());
        let bound = bound.ok_or(TokenError::Claims)?;
        Ok((bound.user(&claims, cacher)?, matching))
    }

    fn verified(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.remembered.lock().get(&hash) {
            return Ok(claims.clone());
        }
        let claims: Claims =
            serde_json::from_value(self.key.verify(token)?).map_err(|_| TokenError::Claims)?;
        let claims = Arc::new(claims);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(hash, claims.clone());
        Ok(claims)
    }

    fn legacy_user(
        &self,
        claims: &Claims,
        audiences: &[String],
        cacher: &Cacher,
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let wanted = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let matching: Vec<String> = wanted
            .iter()
            .filter(|a| self.audiences.contains(a))
            .cloned()
            .collect();
        if matching.is_empty() {
            return Err(TokenError::Audience);
        }
        let (Some(namespace), Some(name), Some(uid), Some(secret)) = (
            &claims.legacy_namespace,
            &claims.legacy_account,
            &claims.legacy_uid,
            &claims.legacy_secret,
        ) else {
            return Err(TokenError::Claims);
        };
        let account = Reference {
            name: name.clone(),
            uid: uid.clone(),
        };
        check_alive(
            cacher,
            "ServiceAccount",
            "serviceaccounts",
            namespace,
            &account,
        )?;
        let secret = Reference {
            name: secret.clone(),
            uid: String::new(),
        };
        check_alive(cacher, "Secret", "secrets", namespace, &secret)?;
        Ok((account_user(namespace, name, uid), matching))
    }
}

impl Claims {
    fn matching_audiences(&self, wanted: &[String]) -> Vec<String> {
        let have = match &self.aud {
            Some(Audiences::One(one)) => std::slice::from_ref(one),
            Some(Audiences::Many(many)) => many.as_slice(),
            None => &[],
        };
        wanted
            .iter()
            .filter(|audience| have.contains(audience))
            .cloned()
            .collect()
    }
}

impl Bound {
    fn user(&self, claims: &Claims, cacher: &Cacher) -> Result<UserInfo, TokenError> {
        let (namespace, account) = (&self.namespace, &self.serviceaccount);
        let expected = format!(
            "{}{namespace}:{}",
            user_name::SERVICE_ACCOUNT_PREFIX,
            account.name
        );
        if claims.sub != expected || account.uid.is_empty() {
            return Err(TokenError::Claims);
        }
        check_alive(
            cacher,
            "ServiceAccount",
            "serviceaccounts",
            namespace,
            account,
        )?;
        let mut user = account_user(namespace, &account.name, &account.uid);
        let mut tell = |key: &str, value: &str| {
            user.extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                vec![value.to_owned()],
            );
        };
        if let Some(pod) = &self.pod {
            check_alive(cacher, "Pod", "pods", namespace, pod)?;
            tell("pod-name", &pod.name);
            tell("pod-uid", &pod.uid);
        }
        if let Some(secret) = &self.secret {
            check_alive(cacher, "Secret", "secrets", namespace, secret)?;
        }
        if let Some(node) = &self.node {
            // A pod's token names its node, but lives as long as the pod does.
            if self.pod.is_none() {
                check_alive(cacher, "Node", "nodes", "", node)?;
            }
            tell("node-name", &node.name);
            tell("node-uid", &node.uid);
        }
        if !claims.jti.is_empty() {
            user.extra.insert(
                CREDENTIAL_ID.to_owned(),
                vec![format!("JTI={}", claims.jti)],
            );
        }
        Ok(user)
    }
}

/// The user of a service account.
pub fn account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let mut user = UserInfo::new(
        format!("{}{namespace}:{name}", user_name::SERVICE_ACCOUNT_PREFIX),
        account_groups(namespace),
    );
    uid.clone_into(&mut user.uid);
    user
}

/// The groups of every service account of a namespace.
pub fn account_groups(namespace: &str) -> [String; 2] {
    let all = group::SERVICE_ACCOUNTS;
    [all.to_owned(), format!("{all}:{namespace}")]
}

/// The object has to exist, be the same one, and not have been deleted a minute ago.
fn check_alive(
    cacher: &Cacher,
    kind: &'static str,
    resource: &str,
    namespace: &str,
    reference: &Reference,
) -> Result<(), TokenError> {
    const GRACE: i64 = 60;
    let gone = || TokenError::Gone {
        kind,
        name: format!("{namespace}/{}", reference.name),
    };
    let cache = cacher.resource("", resource);
    let object = cache
        .get(&object_key("", resource, namespace, &reference.name))
        .ok_or_else(gone)?;
    let living: Living = object.read().ok_or_else(gone)?;
    let same = reference.uid.is_empty() || living.metadata.uid == reference.uid;
    let now = jiff::Timestamp::now().as_second();
    let deleted = living
        .metadata
        .deletion_timestamp
        .is_some_and(|at| at.as_second() + GRACE < now);
    if same && !deleted {
        Ok(())
    } else {
        Err(gone())
    }
}
