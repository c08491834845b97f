//! What a request asks for, and whether its requester may have it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// The parts of a PKCS#10 request that decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
    /// It has names of other kinds: mail addresses, URIs.
    pub other_names: bool,
}

impl Parsed {
    pub(crate) fn of(request: &CertificateSigningRequest) -> Option<Self> {
        let (_, pem) = parse_x509_pem(&request.spec.request.0).ok()?;
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &csr.certification_request_info.subject;
        let mut parsed = Self {
            common_name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
            organizations: subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok().map(str::to_owned))
                .collect(),
            ..Self::default()
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    parsed.add(name);
                }
            }
        }
        Some(parsed)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => drop(self.dns.insert((*name).to_owned())),
            GeneralName::IPAddress(bytes) => match ip(bytes) {
                Some(ip) => drop(self.ips.insert(ip)),
                None => self.other_names = true,
            },
            _ => self.other_names = true,
        }
    }

    fn has_names(&self) -> bool {
        !self.dns.is_empty() || !self.ips.is_empty() || self.other_names
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// What a node may call itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeNames {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A person decides, or another controller.
    NotOurs,
    Approve(&'static str),
    /// Approve if the requester may create this subresource of requests.
    Ask {
        subresource: &'static str,
        message: &'static str,
    },
}

/// Whether the request is one that is approved without a person.
pub(crate) fn judge(
    request: &CertificateSigningRequest,
    parsed: &Parsed,
    names: &NodeNames,
) -> Verdict {
    let spec = &request.spec;
    if check(spec, parsed).is_err() {
        return Verdict::NotOurs;
    }
    let user = spec.username.as_deref().unwrap_or_default();
    let own = user == parsed.common_name;
    let groups = spec.groups.as_deref().unwrap_or_default();
    let member = |group: &str| groups.iter().any(|name| name == group);
    match spec.signer_name.as_str() {
        NODE_CLIENT if own => Verdict::Ask {
            subresource: "selfnodeclient",
            message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
        },
        NODE_CLIENT if member("system:bootstrappers") && user.starts_with("system:bootstrap:") => {
            Verdict::Approve("Auto approving kubelet client certificate of a bootstrap token.")
        }
        NODE_CLIENT => Verdict::Ask {
            subresource: "nodeclient",
            message: "Auto approving kubelet client certificate after SubjectAccessReview.",
        },
        NODE_SERVING
            if own
                && member("system:nodes")
                && parsed.dns.is_subset(&names.dns)
                && parsed.ips.is_subset(&names.ips) =>
        {
            Verdict::Approve("Auto approving kubelet serving certificate for the node's own names.")
        }
        _ => Verdict::NotOurs,
    }
}

pub(crate) fn is_known_signer(name: &str) -> bool {
    [CLIENT, NODE_CLIENT, NODE_SERVING, LEGACY].contains(&name)
}

/// Whether the signer's rules allow the request, whoever made it. The error is for people.
pub(crate) fn check(spec: &CertificateSigningRequestSpec, parsed: &Parsed) -> Result<(), String> {
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    match spec.signer_name.as_str() {
        NODE_CLIENT => {
            require(
                !parsed.has_names(),
                "subject alternative names are not allowed",
            )?;
            node_subject(parsed)?;
            usages_are(&usages, "client auth")
        }
        NODE_SERVING => {
            let named = !parsed.dns.is_empty() || !parsed.ips.is_empty();
            require(named, "a DNS or IP subject alternative name is required")?;
            require(
                !parsed.other_names,
                "mail and URI alternative names are not allowed",
            )?;
            node_subject(parsed)?;
            usages_are(&usages, "server auth")
        }
        CLIENT => require(
            usages.contains("client auth"),
            "usages must contain client auth",
        )
        .and_then(|()| {
            let client = ["client auth", "digital signature", "key encipherment"];
            let only = usages.iter().all(|usage| client.contains(usage));
            require(only, "usages other than those of clients are not allowed")
        }),
        _ => Ok(()),
    }
}

fn require(holds: bool, fault: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(fault.to_owned()) }
}

fn node_subject(parsed: &Parsed) -> Result<(), String> {
    require(
        parsed.organizations == ["system:nodes"],
        "subject organization is not system:nodes",
    )?;
    let name = parsed
        .common_name
        .strip_prefix("system:node:")
        .unwrap_or_default();
    require(
        !name.is_empty(),
        "subject common name does not begin with system:node:",
    )
}

fn usages_are(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let required: BTreeSet<&str> = ["digital signature", purpose].into();
    let mut allowed = required.clone();
    allowed.insert("key encipherment");
    let right = usages.is_superset(&required) && usages.is_subset(&allowed);
    require(right, "usages are not those of this signer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        signer: &str,
        user: &str,
        groups: &[&str],
        usages: &[&str],
    ) -> CertificateSigningRequest {
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
        let mut request = CertificateSigningRequest::default();
        request.spec.signer_name = signer.to_owned();
        request.spec.username = Some(user.to_owned());
        request.spec.groups = list(groups);
        request.spec.usages = list(usages);
        request
    }

    fn node(dns: &[&str], ips: &[&str]) -> Parsed {
        Parsed {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ips: ips
                .iter()
                .map(|ip| ip.parse().expect("an address"))
                .collect(),
            other_names: false,
        }
    }

    const USAGES: [&str; 2] = ["digital signature", "client auth"];
    const SERVING: [&str; 2] = ["digital signature", "server auth"];

    #[test]
    fn a_bootstrap_token_gets_a_client_certificate_for_a_node() {
        let groups = ["system:bootstrappers", "system:authenticated"];
        let ask = request(NODE_CLIENT, "system:bootstrap:abcdef", &groups, &USAGES);
        let names = NodeNames::default();
        assert!(matches!(
            judge(&ask, &node(&[], &[]), &names),
            Verdict::Approve(_)
        ));
        assert_eq!(judge(&ask, &node(&["n1"], &[]), &names), Verdict::NotOurs);
        let mut person = node(&[], &[]);
        person.common_name = "jane".to_owned();
        assert_eq!(judge(&ask, &person, &names), Verdict::NotOurs);
        let mut admins = node(&[], &[]);
        admins.organizations = vec!["system:masters".to_owned()];
        assert_eq!(judge(&ask, &admins, &names), Verdict::NotOurs);
    }

    #[test]
    fn others_are_asked_for_by_access_review() {
        let names = NodeNames::default();
        let own = request(NODE_CLIENT, "system:node:n1", &["system:nodes"], &USAGES);
        let verdict = judge(&own, &node(&[], &[]), &names);
        assert!(matches!(
            verdict,
            Verdict::Ask {
                subresource: "selfnodeclient",
                ..
            }
        ));
        let other = request(NODE_CLIENT, "system:node:n2", &["system:nodes"], &USAGES);
        let verdict = judge(&other, &node(&[], &[]), &names);
        assert!(matches!(
            verdict,
            Verdict::Ask {
                subresource: "nodeclient",
                ..
            }
        ));
    }

    #[test]
    fn a_serving_certificate_names_only_the_node_itself() {
        let names = NodeNames {
            dns: ["n1".to_owned()].into(),
            ips: ["10.0.0.1".parse().expect("an address")].into(),
        };
        let ask = request(NODE_SERVING, "system:node:n1", &["system:nodes"], &SERVING);
        let approve = |parsed: &Parsed| matches!(judge(&ask, parsed, &names), Verdict::Approve(_));
        assert!(approve(&node(&["n1"], &["10.0.0.1"])));
        assert!(!approve(&node(&["n1"], &["10.0.0.2"])));
        assert!(!approve(&node(&["kubernetes"], &[])));
        assert!(!approve(&node(&[], &[])));
        let other = request(NODE_SERVING, "system:node:n2", &["system:nodes"], &SERVING);
        assert_eq!(judge(&other, &node(&["n1"], &[]), &names), Verdict::NotOurs);
        let outsider = request(NODE_SERVING, "system:node:n1", &[], &SERVING);
        assert_eq!(
            judge(&outsider, &node(&["n1"], &[]), &names),
            Verdict::NotOurs
        );
    }

    #[test]
    fn a_plain_client_request_waits_for_a_person_and_may_not_ask_for_server_auth() {
        let ask = request(CLIENT, "jane", &[], &["client auth"]);
        assert_eq!(
            judge(&ask, &node(&[], &[]), &NodeNames::default()),
            Verdict::NotOurs
        );
        assert!(check(&ask.spec, &node(&[], &[])).is_ok());
        let server = request(CLIENT, "jane", &[], &["client auth", "server auth"]);
        assert!(check(&server.spec, &node(&[], &[])).is_err());
    }
}
