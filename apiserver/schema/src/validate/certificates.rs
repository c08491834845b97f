//! Certificate signing requests, and the names of signers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::field::{Errors, Node, quote, same};
use super::{Change, config, names};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

/// CertificateSigningRequest
pub(super) fn request(e: &mut Errors, change: &Change<'_>) {
    let (new, spec) = (&change.new, change.new.get("spec"));
    let request = spec.get("request");
    if let Some(why) = unreadable(&config::decoded(&request)) {
        e.bad(&request, why);
    }
    usages(e, &spec.get("usages"), change);
    let signer = spec.get("signerName");
    if signer.text() == "kubernetes.io/legacy-unknown" && change.old.is_none() {
        let why = "the legacy signerName is not allowed via this API version";
        e.bad(&signer, why);
    } else {
        signer_name(e, &signer);
    }
    let expiration = spec.get("expirationSeconds");
    if expiration.is_set() && expiration.int() < 600 {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        e.bad(&expiration, why);
    }
    conditions(e, &new.get("status.conditions"));
    certificate(e, new);
    if let Some(old) = &change.old {
        update(e, change, old);
    }
}

/// What keeps a request from being read; what is inside of it is for the signer to judge.
fn unreadable(request: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(request);
    let (begin, end) = (
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----END CERTIFICATE REQUEST-----",
    );
    let body = text
        .split_once(begin)
        .and_then(|(_, rest)| rest.split_once(end));
    let Some((body, _)) = body else {
        return Some("PEM block type must be CERTIFICATE REQUEST");
    };
    let compact: String = body.split_whitespace().collect();
    match STANDARD.decode(compact) {
        Ok(der) if der.first() == Some(&0x30) => None,
        Ok(_) => Some("asn1: structure error: tags don't match"),
        Err(_) => Some("PEM block type must be CERTIFICATE REQUEST"),
    }
}

fn usages(e: &mut Errors, usages: &Node<'_>, change: &Change<'_>) {
    if usages.is_empty() {
        e.required(usages, "");
    }
    if change.old.is_some() {
        return;
    }
    for usage in usages.items() {
        e.one_of(&usage, &USAGES);
    }
    let mut known = BTreeSet::new();
    for usage in usages.items() {
        if !known.insert(usage.text()) {
            e.duplicate(&usage, usage.text());
        }
    }
}

fn conditions(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for condition in list.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        e.need(&kind);
        let allowed: &[&str] = if FINAL.contains(&kind.text()) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        e.one_of_required(&status, allowed);
        let other = match kind.text() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if known.contains(other) {
            e.bad(
                &kind,
                "Approved and Denied conditions are mutually exclusive",
            );
        }
        if !known.insert(kind.text()) {
            e.duplicate(&kind, kind.text());
        }
    }
}

fn certificate(e: &mut Errors, request: &Node<'_>) {
    let certificate = request.get("status.certificate");
    if certificate.is_empty() {
        return;
    }
    let bytes = config::decoded(&certificate);
    if !String::from_utf8_lossy(&bytes).contains("-----BEGIN CERTIFICATE-----") {
        let why = "must contain at least one CERTIFICATE PEM block";
        e.invalid(&certificate, "<certificate data>", why);
    }
}

fn update(e: &mut Errors, change: &Change<'_>, old: &Node<'_>) {
    let of = |request: &Node<'_>, kind: &str| -> Vec<serde_json::Value> {
        let list = request.get("status.conditions");
        let own = list.items().filter(|c| c.get("type").text() == kind);
        own.map(|c| c.value.clone()).collect()
    };
    let at = change.new.get("status.conditions");
    for kind in FINAL {
        if of(&change.new, kind).len() < of(old, kind).len() {
            let why = format!("updates may not remove a condition of type {}", quote(kind));
            e.forbidden(&at, why);
        }
    }
    if change.subresource != "approval" {
        for kind in ["Approved", "Denied"] {
            let (new, old) = (of(&change.new, kind), of(old, kind));
            if new.len() > old.len() {
                let why = format!("updates may not add a condition of type {}", quote(kind));
                e.forbidden(&at, why);
            } else if new.len() == old.len() && new != old {
                let why = format!("updates may not modify a condition of type {}", quote(kind));
                e.forbidden(&at, why);
            }
        }
    }
    let (new, old) = (
        change.new.get("status.certificate"),
        old.get("status.certificate"),
    );
    if !same(new.value, old.value) {
        if !change.is_status() {
            e.forbidden(&new, "updates may not set certificate content");
        } else if !old.is_empty() {
            e.forbidden(&new, "updates may not modify existing certificate content");
        }
    }
}

/// The name of a signer.
pub(super) fn signer_name(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        return e.required(node, "");
    }
    let parts: Vec<&str> = text.split('/').collect();
    let [domain, path] = parts[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return e.bad(node, why);
    };
    if domain.len() > 253 {
        e.too_long(node, 253);
    }
    let labels: Vec<&str> = domain.split('.').collect();
    segment(e, node, domain, names::label_faults);
    if labels.len() < 2 {
        let why = "should be a domain with at least two segments separated by dots";
        e.invalid(node, domain, why);
    }
    segment(e, node, path, names::subdomain_faults);
    if text.len() > 571 {
        e.too_long(node, 571);
    }
}

/// Only the first part that is wrong is told.
fn segment(e: &mut Errors, node: &Node<'_>, segment: &str, rule: fn(&str) -> Vec<String>) {
    for label in segment.split('.') {
        let faults = rule(label);
        if !faults.is_empty() {
            for fault in faults {
                let why = format!("validating label {}: {fault}", quote(label));
                e.invalid(node, segment, why);
            }
            return;
        }
    }
}
