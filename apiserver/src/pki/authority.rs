//! Certificate authorities and what they sign.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{read, write_private, write_public};
use super::{PkiError, ServingNames};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const AUTHORITY_DAYS: u64 = 3650;
const LEAF_DAYS: u64 = 365;
const RENEW_DAYS: i32 = 90;
/// Certificates are valid from a little before they are made, for clocks that lag.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A certificate with its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// What to sign.
#[derive(Debug, Clone)]
pub struct Leaf {
    common_name: String,
    organization: Option<String>,
    names: ServingNames,
    purpose: Purpose,
}

impl Leaf {
    /// A client: the common name is its user, the organization its group.
    pub fn client(common_name: &str, organization: Option<&str>) -> Leaf {
        Leaf {
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            names: ServingNames::default(),
            purpose: Purpose::Client,
        }
    }

    pub fn server(common_name: &str, names: &ServingNames) -> Leaf {
        Leaf {
            common_name: common_name.to_owned(),
            organization: None,
            names: names.clone(),
            purpose: Purpose::Server,
        }
    }

    /// Whether the certificate has every name.
    fn is_covered_by(&self, certificate: &X509Certificate<'_>) -> bool {
        let extension = certificate.subject_alternative_name().ok().flatten();
        let have = extension
            .map(|e| e.value.general_names.as_slice())
            .unwrap_or_default();
        let has_dns = |wanted: &String| {
            have.iter()
                .any(|name| matches!(name, GeneralName::DNSName(dns) if dns == wanted))
        };
        let has_address = |wanted: &IpAddr| {
            let octets = match wanted {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            have.iter()
                .any(|name| matches!(name, GeneralName::IPAddress(a) if *a == octets))
        };
        self.names.dns.iter().all(has_dns) && self.names.addresses.iter().all(has_address)
    }

    fn parameters(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        if let Some(organization) = &self.organization {
            name.push(DnType::OrganizationName, organization.as_str());
        }
        name.push(DnType::CommonName, self.common_name.as_str());
        parameters.distinguished_name = name;
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        parameters.extended_key_usages = vec![match self.purpose {
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        for dns in &self.names.dns {
            parameters
                .subject_alt_names
                .push(SanType::DnsName(dns.as_str().try_into()?));
        }
        for address in &self.names.addresses {
            parameters
                .subject_alt_names
                .push(SanType::IpAddress(*address));
        }
        parameters.use_authority_key_identifier_extension = true;
        Ok(parameters)
    }
}

/// A certificate authority of this cluster.
pub struct Authority {
    certificate_pem: String,
    certificate_der: Vec<u8>,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl Authority {
    /// Reads `NAME.crt` and `NAME.key`, or makes them.
    pub(super) fn open(
        directory: &Path,
        name: &str,
        common_name: &str,
    ) -> Result<Authority, PkiError> {
        let certificate = directory.join(format!("{name}.crt"));
        let key = directory.join(format!("{name}.key"));
        if let (Some(certificate_pem), Some(key_pem)) = (read(&certificate)?, read(&key)?) {
            return Authority::load(&certificate, certificate_pem, key_pem);
        }
        if certificate.exists() {
            let reason = "the file is missing".to_owned();
            return Err(PkiError::Unreadable { path: key, reason });
        }
        let pair = new_key()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, common_name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        set_validity(&mut parameters, AUTHORITY_DAYS);
        let signed = parameters
            .self_signed(&pair)
            .map_err(|error| sign_fault(common_name, &error))?;
        // The key goes first: a certificate without its key would hinder the next start.
        write_private(&key, pair.serialize_pem().as_bytes())?;
        write_public(&certificate, signed.pem().as_bytes())?;
        Authority::load(&certificate, signed.pem(), pair.serialize_pem())
    }

    fn load(path: &Path, certificate_pem: String, key_pem: String) -> Result<Authority, PkiError> {
        let unreadable = |reason: String| PkiError::Unreadable {
            path: path.to_path_buf(),
            reason,
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|error| unreadable(error.to_string()))?;
        let der = first_der(&certificate_pem).ok_or_else(|| unreadable("no certificate".into()))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::KeyMismatch {
                certificate: path.to_path_buf(),
            });
        }
        check_clock(path, &parsed)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|error| unreadable(error.to_string()))?;
        let path = path.to_path_buf();
        Ok(Authority {
            certificate_der: der,
            certificate_pem,
            key_pem,
            issuer,
            path,
        })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// For the controller that signs certificate requests.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// `sha256:HEX` of the public key, as `--ca-cert-hash` wants it.
    pub fn public_key_hash(&self) -> String {
        // It was parsed when it was loaded.
        let key = X509Certificate::from_der(&self.certificate_der)
            .map(|(_, parsed)| parsed.public_key().raw.to_vec())
            .unwrap_or_default();
        format!("sha256:{}", hex::encode(Sha256::digest(key)))
    }

    /// Signs a new certificate with a new key.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, PkiError> {
        let fault = |error: &rcgen::Error| sign_fault(&leaf.common_name, error);
        let key = new_key()?;
        let mut parameters = leaf.parameters().map_err(|error| fault(&error))?;
        set_validity(&mut parameters, LEAF_DAYS);
        let signed = parameters
            .signed_by(&key, &self.issuer)
            .map_err(|error| fault(&error))?;
        Ok(Issued {
            certificate_pem: signed.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Reads `NAME.crt` and `NAME.key`; issues them when they are missing, about to expire,
    /// of another authority, or lack a name.
    pub(super) fn open_leaf(
        &self,
        directory: &Path,
        name: &str,
        leaf: &Leaf,
    ) -> Result<Issued, PkiError> {
        let certificate = directory.join(format!("{name}.crt"));
        let key = directory.join(format!("{name}.key"));
        if let (Some(certificate_pem), Some(key_pem)) = (read(&certificate)?, read(&key)?) {
            let issued = Issued {
                certificate_pem,
                key_pem,
            };
            if self.is_current(leaf, &issued) {
                return Ok(issued);
            }
            tracing::info!(path = %certificate.display(), "issuing the certificate anew");
        }
        let issued = self.issue(leaf)?;
        write_private(&key, issued.key_pem.as_bytes())?;
        write_public(&certificate, issued.certificate_pem.as_bytes())?;
        Ok(issued)
    }

    fn is_current(&self, leaf: &Leaf, issued: &Issued) -> bool {
        let Some(der) = first_der(&issued.certificate_pem) else {
            return false;
        };
        let (Ok((_, parsed)), Ok((_, authority))) = (
            X509Certificate::from_der(&der),
            X509Certificate::from_der(&self.certificate_der),
        ) else {
            return false;
        };
        let Ok(key) = KeyPair::from_pem(&issued.key_pem) else {
            return false;
        };
        let now = Timestamp::now();
        let soon = now + DAY * RENEW_DAYS;
        parsed.validity().not_after.timestamp() > soon.as_second()
            && parsed.validity().not_before.timestamp() <= now.as_second()
            && parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && parsed
                .verify_signature(Some(authority.public_key()))
                .is_ok()
            && leaf.is_covered_by(&parsed)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| sign_fault("a new key", &error))
}

fn sign_fault(what: &str, error: &rcgen::Error) -> PkiError {
    PkiError::Sign {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

fn first_der(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(pem.contents)
}

fn check_clock(path: &Path, certificate: &X509Certificate<'_>) -> Result<(), PkiError> {
    let now = Timestamp::now().as_second();
    let text = |seconds: i64| {
        Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
    };
    let validity = certificate.validity();
    let (from, until) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    let certificate = path.to_path_buf();
    if now < from {
        return Err(PkiError::NotYetValid {
            certificate,
            from: text(from),
            now: text(now),
        });
    }
    if now > until {
        return Err(PkiError::Expired {
            certificate,
            at: text(until),
            now: text(now),
        });
    }
    Ok(())
}

fn set_validity(parameters: &mut CertificateParams, days: u64) {
    let from = (Timestamp::now() - BACKDATE).as_second().unsigned_abs();
    // rcgen's own time type is reached through its constructor for dates.
    let start = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(from);
    parameters.not_before = start;
    parameters.not_after = start + Duration::from_secs(86_400 * days);
    // Positive, and never with a leading zero byte.
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = 0x40 | (serial[0] & 0x3f);
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
}
