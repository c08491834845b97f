//! Who may approve, sign and attest: rights on signers, beyond those on the objects.

use base64::Engine;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Attributes, Operation};
use crate::authz::Attributes as Question;
use crate::response::ApiError;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(super) async fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    let resource = &a.call.resource;
    if resource.group != GROUP {
        return Ok(());
    }
    let sub = a.call.info.subresource.as_str();
    match (resource.plural.as_ref(), a.operation, sub) {
        (REQUESTS, Operation::Create, "") => subject(a),
        (REQUESTS, Operation::Update, "approval") => approval(a).await,
        (REQUESTS, Operation::Update, "status") => signing(a).await,
        ("clustertrustbundles", Operation::Create | Operation::Update, "") => attest(a).await,
        _ => Ok(()),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Nobody becomes an administrator by a certificate for clients.
fn subject(a: &Attributes<'_>) -> Result<(), ApiError> {
    let Some(request) = a.object.as_deref() else {
        return Ok(());
    };
    if request["spec"]["signerName"] != CLIENT || !names_masters(text(&request["spec"]["request"]))
    {
        return Ok(());
    }
    Err(a.forbidden(&format!(
        "use of {CLIENT} signer with {MASTERS} group is not allowed"
    )))
}

/// Whether the encoded request is for a subject in the administrators' group.
fn names_masters(encoded: &str) -> bool {
    let pem = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap_or_default();
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(&pem) else {
        return false;
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&block.contents) else {
        return false;
    };
    let subject = &request.certification_request_info.subject;
    subject
        .iter_organization()
        .any(|o| o.as_str().is_ok_and(|name| name == MASTERS))
}

async fn approval(a: &Attributes<'_>) -> Result<(), ApiError> {
    let signer = text(&a.old.unwrap_or(&Value::Null)["spec"]["signerName"]).to_owned();
    if may(a, "approve", &signer).await {
        return Ok(());
    }
    Err(a.forbidden(&format!(
        "user not permitted to approve requests with signerName {signer:?}"
    )))
}

async fn signing(a: &Attributes<'_>) -> Result<(), ApiError> {
    let (Some(new), Some(old)) = (a.object.as_deref(), a.old) else {
        return Ok(());
    };
    let same = |field: &str| new["status"][field] == old["status"][field];
    if same("certificate") && same("conditions") {
        return Ok(());
    }
    let signer = text(&old["spec"]["signerName"]).to_owned();
    if may(a, "sign", &signer).await {
        return Ok(());
    }
    Err(a.forbidden(&format!(
        "user not permitted to sign requests with signerName {signer:?}"
    )))
}

async fn attest(a: &Attributes<'_>) -> Result<(), ApiError> {
    let Some(bundle) = a.object.as_deref() else {
        return Ok(());
    };
    let signer = text(&bundle["spec"]["signerName"]).to_owned();
    let unchanged = a.old.is_some_and(|old| old["spec"] == bundle["spec"]);
    if signer.is_empty() || unchanged || may(a, "attest", &signer).await {
        return Ok(());
    }
    Err(a.forbidden(&format!(
        "user not permitted to attest for signerName {signer:?}"
    )))
}

/// A right on the signer itself, or on all of its domain.
async fn may(a: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = Question::resource(verb, GROUP, "signers", "", &name);
        let authorizer = &a.call.registry.authorizer;
        if authorizer
            .authorize(&a.call.user, &asked)
            .await
            .is_allowed()
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn administrators_are_recognized_in_a_request() {
        for (organization, expect) in [(MASTERS, true), ("developers", false)] {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
            let key = KeyPair::generate().unwrap();
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            assert_eq!(names_masters(&STANDARD.encode(pem)), expect);
        }
        assert!(!names_masters("garbage"));
    }
}
