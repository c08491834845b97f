//! CertificateSigningRequests: approve what nodes may have, sign what is approved, clean up.
//!
//! [`request`] reads and judges a request, [`sign`] makes the certificate, [`cleaner`] says
//! when a request is of no more use. Whether a requester may have a node's client
//! certificate is asked of the API server's authorization, as upstream does.

mod cleaner;
mod request;
mod sign;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use watch_cache::WatchCache;

use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate, act};
use request::{NodeNames, Parsed, Verdict};
pub(crate) use sign::Authority;

type Csr = CertificateSigningRequest;

pub(crate) fn start_approver(context: &Context) {
    let requests = context.caches.of::<Csr>();
    let nodes = context.caches.of::<Node>();
    let pending = requests.clone();
    context
        .controller("certificatesigningrequest-approving-controller")
        .watch(&requests, |change| [change.key().name])
        // A serving certificate waits until its node has told its addresses.
        .watch(&nodes, move |change| {
            let user = format!("system:node:{}", change.key().name);
            let all = pending.list();
            let waiting = all.iter().filter(|request| {
                request.spec.username.as_deref() == Some(&user) && !is_decided(request)
            });
            waiting
                .map(|request| request.name_any())
                .collect::<Vec<_>>()
        })
        .run(
            context.config.workers,
            Approver {
                context: context.clone(),
                requests,
                nodes,
            },
        );
}

pub(crate) fn start_signer(context: &Context) {
    let Some(signer) = &context.config.signer else {
        return;
    };
    let Ok(authority) = Authority::new(signer) else {
        return;
    };
    let requests = context.caches.of::<Csr>();
    context
        .controller("certificatesigningrequest-signing-controller")
        .watch(&requests, |change| [change.key().name])
        .run(
            context.config.workers,
            Signer {
                context: context.clone(),
                requests,
                authority: Arc::new(authority),
            },
        );
}

pub(crate) fn start_cleaner(context: &Context) {
    let requests = context.caches.of::<Csr>();
    context
        .controller("certificatesigningrequest-cleaner-controller")
        .watch(&requests, |change| [change.key().name])
        .run(
            1,
            Cleaner {
                context: context.clone(),
                requests,
            },
        );
}

fn has(request: &Csr, kind: &str) -> bool {
    let status = request.status.as_ref();
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

fn is_decided(request: &Csr) -> bool {
    has(request, "Approved") || has(request, "Denied")
}

fn issued(request: &Csr) -> Option<&ByteString> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(certificate)
}

fn add_condition(request: &Csr, kind: &str, reason: &str, message: String) -> Csr {
    let mut request = request.clone();
    let now = Some(Time(Timestamp::now()));
    let conditions = request
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    });
    request
}

struct Approver {
    context: Context,
    requests: WatchCache<Csr>,
    nodes: WatchCache<Node>,
}

impl Reconciler for Approver {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get("", name) else {
            return Ok(Outcome::Done);
        };
        if is_decided(&request) || issued(&request).is_some() {
            return Ok(Outcome::Done);
        }
        let Some(parsed) = Parsed::of(&request) else {
            return Ok(Outcome::Done);
        };
        let message = match request::judge(&request, &parsed, &self.names(&request)) {
            Verdict::NotOurs => return Ok(Outcome::Done),
            Verdict::Approve(message) => message,
            Verdict::Ask {
                subresource,
                message,
            } => {
                if !self.is_allowed(&request, subresource).await? {
                    return Ok(Outcome::Done);
                }
                message
            }
        };
        let approved = add_condition(&request, "Approved", "AutoApproved", message.to_owned());
        self.context
            .cluster_api::<Csr>()
            .replace_subresource("approval", name, &PostParams::default(), &approved)
            .await
            .during("approving CertificateSigningRequest", name)
            .unless_gone()?;
        Ok(Outcome::Done)
    }
}

impl Approver {
    /// What the requesting node is called, by its own Node object.
    fn names(&self, request: &Csr) -> NodeNames {
        let user = request.spec.username.as_deref().unwrap_or_default();
        let Some(name) = user.strip_prefix("system:node:") else {
            return NodeNames::default();
        };
        let mut names = NodeNames {
            dns: [name.to_owned()].into(),
            ..NodeNames::default()
        };
        let Some(node) = self.nodes.get("", name) else {
            return names;
        };
        let status = node.status.as_ref();
        for address in status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten())
        {
            match address.address.parse::<IpAddr>() {
                Ok(ip) => drop(names.ips.insert(ip)),
                Err(_) => drop(names.dns.insert(address.address.clone())),
            }
        }
        names
    }

    async fn is_allowed(&self, request: &Csr, subresource: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = act::create(&self.context.cluster_api(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

struct Signer {
    context: Context,
    requests: WatchCache<Csr>,
    authority: Arc<Authority>,
}

impl Reconciler for Signer {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get("", name) else {
            return Ok(Outcome::Done);
        };
        let undone = issued(&request).is_none() && !has(&request, "Failed");
        if !has(&request, "Approved") || has(&request, "Denied") || !undone {
            return Ok(Outcome::Done);
        }
        if !request::is_known_signer(&request.spec.signer_name) {
            return Ok(Outcome::Done);
        }
        let checked = match Parsed::of(&request) {
            Some(parsed) => request::check(&request.spec, &parsed),
            None => Err("the request is not a PEM encoded PKCS#10 request".to_owned()),
        };
        let updated = match checked {
            Err(fault) => add_condition(&request, "Failed", "SignerValidationFailure", fault),
            Ok(()) => {
                let pem = self
                    .authority
                    .sign(&request.spec, Timestamp::now())
                    .map_err(|error| Error::Sign {
                        object: name.clone(),
                        reason: error.to_string(),
                    })?;
                let mut request = request.as_ref().clone();
                let status = request.status.get_or_insert_default();
                status.certificate = Some(ByteString(pem.into_bytes()));
                request
            }
        };
        act::replace_status(&self.context.cluster_api(), &updated)
            .await
            .unless_gone()?;
        Ok(Outcome::Done)
    }
}

struct Cleaner {
    context: Context,
    requests: WatchCache<Csr>,
}

impl Reconciler for Cleaner {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get("", name) else {
            return Ok(Outcome::Done);
        };
        match cleaner::remaining(&request, Timestamp::now()) {
            Some(left) if !left.is_zero() => Ok(Outcome::After(left)),
            None => Ok(Outcome::Done),
            Some(_) => {
                let api = self.context.cluster_api::<Csr>();
                act::delete(&api, request.as_ref(), DeleteParams::default()).await?;
                Ok(Outcome::Done)
            }
        }
    }
}
