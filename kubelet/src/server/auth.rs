use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long an answer of the API server is taken to hold.
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
const AUTHENTICATED: Duration = Duration::from_secs(120);
/// Answers that are remembered.
const REMEMBERED: usize = 4096;

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

/// What a connection says of its client: the certificate's user, if it showed one.
#[derive(Debug, Clone)]
pub(super) struct Peer(Option<User>);

impl Peer {
    /// The certificates were verified in the handshake.
    pub(super) fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let read = |der: &CertificateDer<'_>| -> Option<User> {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            let subject = certificate.subject();
            let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
            let groups = subject
                .iter_organization()
                .filter_map(|group| group.as_str().ok());
            Some(User {
                name,
                groups: groups.map(str::to_owned).collect(),
            })
        };
        Self(chain.and_then(<[_]>::first).and_then(read))
    }
}

type Question = (User, String, String);

/// Whom a token belongs to, if anybody, and the moment that decides how long it is believed.
type Verdict = (Option<User>, Instant);

/// Asks the API server, and remembers its answers for a while.
pub(super) struct Gate {
    client: Client,
    node_name: String,
    tokens: Mutex<BTreeMap<[u8; 32], Verdict>>,
    decisions: Mutex<BTreeMap<Question, (bool, Instant)>>,
}

impl Gate {
    pub(super) fn new(client: Client, node_name: String) -> Self {
        Self {
            client,
            node_name,
            tokens: Mutex::default(),
            decisions: Mutex::default(),
        }
    }

    async fn authenticate(&self, peer: Option<User>, token: Option<String>) -> Option<User> {
        if peer.is_some() {
            return peer;
        }
        let token = token?;
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((user, until)) = self.tokens.lock().get(&key)
            && Instant::now() < *until
        {
            return user.clone();
        }
        let user = self.review(token).await?;
        let until = Instant::now()
            + if user.is_some() {
                AUTHENTICATED
            } else {
                DENIED
            };
        let mut tokens = self.tokens.lock();
        if tokens.len() >= REMEMBERED {
            tokens.clear();
        }
        tokens.insert(key, (user.clone(), until));
        user
    }

    /// `None` when the API server did not answer, which must not be remembered.
    async fn review(&self, token: String) -> Option<Option<User>> {
        let api = Api::<TokenReview>::all(self.client.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token,
                audiences: None,
            },
            ..TokenReview::default()
        };
        let status = api
            .create(&PostParams::default(), &review)
            .await
            .ok()?
            .status?;
        if status.authenticated != Some(true) {
            return Some(None);
        }
        let user = status.user.unwrap_or_default();
        let groups = user.groups.unwrap_or_default();
        Some(Some(User {
            name: user.username.unwrap_or_default(),
            groups,
        }))
    }

    async fn authorize(&self, user: &User, verb: &str, subresource: &str) -> bool {
        // The administrators' group needs no question, as everywhere.
        if user.groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        let question = (user.clone(), verb.to_owned(), subresource.to_owned());
        if let Some((allowed, until)) = self.decisions.lock().get(&question)
            && Instant::now() < *until
        {
            return *allowed;
        }
        let Some(allowed) = self.ask(user, verb, subresource).await else {
            return false;
        };
        let until = Instant::now() + if allowed { ALLOWED } else { DENIED };
        let mut decisions = self.decisions.lock();
        if decisions.len() >= REMEMBERED {
            decisions.clear();
        }
        decisions.insert(question, (allowed, until));
        allowed
    }

    async fn ask(&self, user: &User, verb: &str, subresource: &str) -> Option<bool> {
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(String::new()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        Some(
            api.create(&PostParams::default(), &review)
                .await
                .ok()?
                .status?
                .allowed,
        )
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources of nodes that a path stands for; the right to one of them is enough.
fn subresources(path: &str) -> Vec<&'static str> {
    let is = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let special = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/healthz", "healthz"),
        ("/configz", "configz"),
        ("/pods", "pods"),
        ("/runningpods", "pods"),
    ];
    match special.iter().find(|(prefix, _)| is(prefix)) {
        Some((_, name @ ("stats" | "metrics" | "log"))) => vec![name],
        Some((_, name)) => vec![name, "proxy"],
        None => vec!["proxy"],
    }
}

fn bearer(request: &Request) -> Option<String> {
    let value = request
        .headers()
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    Some(value.strip_prefix("Bearer ")?.trim().to_owned())
}

/// Lets a request through when its user is known and may do this.
pub(super) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.0.clone());
    let token = bearer(&request);
    let Some(user) = gate.authenticate(peer, token).await else {
        return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    };
    let verb = verb(request.method());
    let path = request.uri().path().to_owned();
    let mut allowed = false;
    let mut last = "";
    for subresource in subresources(&path) {
        last = subresource;
        if gate.authorize(&user, verb, subresource).await {
            allowed = true;
            break;
        }
    }
    if allowed {
        return next.run(request).await;
    }
    let message = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{last}])",
        user.name
    );
    (StatusCode::FORBIDDEN, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_subresources() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/exec/ns/p/c"), ["proxy"]);
        assert_eq!(subresources("/podsx"), ["proxy"]);
    }
}
