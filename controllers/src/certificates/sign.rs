//! Makes a certificate of an approved request.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::config;

/// Clocks of nodes may be behind by this much.
const BACKDATE: Duration = Duration::from_secs(300);
/// No certificate is valid for less; shorter wishes are raised to it.
const SHORTEST: Duration = Duration::from_secs(600);

/// The certificate authority of the cluster.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_expires: Option<SystemTime>,
    validity: Duration,
}

impl Authority {
    /// Reads certificate and key, and checks that they belong together.
    pub(crate) fn new(signer: &config::Signer) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(&signer.ca_key_pem)?;
        let certificate = x509_parser::pem::parse_x509_pem(signer.ca_cert_pem.as_bytes());
        let (_, pem) = certificate.map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let parsed = pem
            .parse_x509()
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(rcgen::Error::RemoteKeyError);
        }
        let expires = u64::try_from(parsed.validity().not_after.timestamp()).ok();
        Ok(Self {
            ca_expires: expires.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            issuer: Issuer::from_ca_cert_pem(&signer.ca_cert_pem, key)?,
            validity: signer.validity,
        })
    }

    /// The certificate as PEM. Its usages are those of the API object, its names those of the
    /// request; it never is a CA and never outlives the CA.
    pub(crate) fn sign(
        &self,
        spec: &CertificateSigningRequestSpec,
        now: Timestamp,
    ) -> Result<String, rcgen::Error> {
        let text = String::from_utf8_lossy(&spec.request.0);
        let mut request = CertificateSigningRequestParams::from_pem(&text)?;
        let wish = spec
            .expiration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let wish = wish.map_or(self.validity, |s| Duration::from_secs(s).max(SHORTEST));
        let now = SystemTime::from(now);
        let mut end = now + wish.min(self.validity);
        if let Some(expires) = self.ca_expires {
            end = end.min(expires);
        }
        let params = &mut request.params;
        params.not_before = (now - BACKDATE).into();
        params.not_after = end.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(uuid::Uuid::new_v4().as_bytes().to_vec().into());
        let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
        params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages = usages
            .iter()
            .filter_map(|usage| extended_key_usage(usage))
            .collect();
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_key_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{BasicConstraints, CertificateParams, DnType};

    use super::*;
    use crate::certificates::request::{NODE_CLIENT, Parsed};

    fn authority() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a CA");
        let signer = config::Signer {
            ca_cert_pem: cert.pem(),
            ca_key_pem: key.serialize_pem(),
            validity: Duration::from_secs(365 * 24 * 3600),
        };
        Authority::new(&signer).expect("they belong together")
    }

    fn spec(expiration_seconds: Option<i32>) -> CertificateSigningRequestSpec {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:n1");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        let pem = params
            .serialize_request(&key)
            .and_then(|csr| csr.pem())
            .expect("a request");
        CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: NODE_CLIENT.to_owned(),
            usages: Some(vec![
                "client auth".to_owned(),
                "digital signature".to_owned(),
            ]),
            expiration_seconds,
            ..CertificateSigningRequestSpec::default()
        }
    }

    #[test]
    fn a_certificate_has_the_subject_of_the_request_and_the_usages_of_the_object() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (wish, seconds) in [(None, 365 * 24 * 3600), (Some(3600), 3600), (Some(1), 600)] {
            let pem = authority().sign(&spec(wish), now).expect("signed");
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
            let cert = pem.parse_x509().expect("a certificate");
            let name = cert.subject().iter_common_name().next().expect("a name");
            assert_eq!(name.as_str().expect("text"), "system:node:n1");
            assert_eq!(
                cert.validity().not_after.timestamp(),
                now.as_second() + seconds
            );
            assert!(!cert.is_ca());
            let usage = cert.extended_key_usage().expect("valid").expect("there");
            assert!(usage.value.client_auth && !usage.value.server_auth);
        }
    }

    #[test]
    fn a_request_is_read_with_its_names() {
        let mut request = k8s_openapi::api::certificates::v1::CertificateSigningRequest {
            spec: spec(None),
            ..Default::default()
        };
        let parsed = Parsed::of(&request).expect("a request");
        assert_eq!(parsed.common_name, "system:node:n1");
        assert_eq!(parsed.organizations, ["system:nodes"]);
        request.spec.request = ByteString(b"no request".to_vec());
        assert_eq!(Parsed::of(&request), None);
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let key = || KeyPair::generate().expect("a key");
        let cert = CertificateParams::default()
            .self_signed(&key())
            .expect("a certificate");
        let signer = config::Signer {
            ca_cert_pem: cert.pem(),
            ca_key_pem: key().serialize_pem(),
            validity: Duration::from_secs(1),
        };
        assert!(Authority::new(&signer).is_err());
    }
}
