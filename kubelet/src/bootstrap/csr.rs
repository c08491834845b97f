use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::{JoinError, NodeNames};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How often a request is looked at that waits for its signature.
const LOOK: Duration = Duration::from_millis(100);

/// A certificate to ask for, with the key that stays here.
pub(super) struct Request {
    pub(super) key_pem: String,
    pem: String,
    signer: &'static str,
    usage: &'static str,
}

fn request(
    node: &str,
    names: Vec<SanType>,
    signer: &'static str,
    usage: &'static str,
) -> Result<Request, JoinError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    params.subject_alt_names = names;
    let pem = params.serialize_request(&key)?.pem()?;
    Ok(Request {
        key_pem: key.serialize_pem(),
        pem,
        signer,
        usage,
    })
}

/// The certificate with which the node speaks to the API.
pub(super) fn client_request(node: &str) -> Result<Request, JoinError> {
    request(node, Vec::new(), CLIENT_SIGNER, "client auth")
}

/// The certificate with which the kubelet's server answers.
pub(super) fn serving_request(node: &NodeNames) -> Result<Request, JoinError> {
    request(
        &node.name,
        serving_names(node)?,
        SERVING_SIGNER,
        "server auth",
    )
}

fn serving_names(node: &NodeNames) -> Result<Vec<SanType>, JoinError> {
    let mut names = vec![SanType::DnsName(node.name.as_str().try_into()?)];
    names.extend(node.ips.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// What the kubelet's server shows until the cluster has signed a certificate: chain and key.
pub(super) fn self_signed(node: &NodeNames) -> Result<(String, String), JoinError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = serving_names(node)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn failure(what: &'static str, error: kube::Error) -> JoinError {
    match error {
        kube::Error::Api(status) if status.code == 401 => JoinError::TokenRefused,
        kube::Error::Api(status) if status.code == 403 => JoinError::Forbidden {
            what,
            message: status.message.clone(),
        },
        source => JoinError::Api { what, source },
    }
}

/// Asks for a certificate and waits until it is signed. Answers the chain, PEM.
pub(super) async fn obtain(
    client: &Client,
    request: &Request,
    patience: Duration,
) -> Result<String, JoinError> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.pem.clone().into_bytes()),
            signer_name: request.signer.to_owned(),
            usages: Some(vec![
                "digital signature".to_owned(),
                request.usage.to_owned(),
            ]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created = api.create(&PostParams::default(), &object).await;
    let name = created
        .map_err(|error| failure("a certificate request", error))?
        .name_any();
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let found = api
            .get(&name)
            .await
            .map_err(|error| failure("its certificate request", error))?;
        let status = found.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|bytes| !bytes.0.is_empty()) {
            return Ok(String::from_utf8_lossy(&certificate.0).into_owned());
        }
        let bad = status
            .conditions
            .iter()
            .flatten()
            .find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
        if let Some(bad) = bad {
            let message = bad.message.clone().unwrap_or_default();
            return Err(JoinError::Denied { name, message });
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(JoinError::NotSigned {
        name,
        seconds: patience.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;

    #[test]
    fn requests_name_the_node() {
        let node = NodeNames {
            name: "n1".into(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            state_dir: "/x".into(),
        };
        for request in [
            client_request("n1").unwrap(),
            serving_request(&node).unwrap(),
        ] {
            let (_, pem) = x509_parser::pem::parse_x509_pem(request.pem.as_bytes()).unwrap();
            let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
            let subject = csr.certification_request_info.subject.to_string();
            assert!(
                subject.contains("CN=system:node:n1") && subject.contains("O=system:nodes"),
                "{subject}"
            );
        }
    }
}
