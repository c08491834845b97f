//! Projected volumes.

use std::collections::BTreeSet;

use super::super::certificates::signer_name;
use super::super::field::{Errors, Node};
use super::super::{internal, meta, names};
use super::volume::{downward_file, key_to_path, local_path, local_path_at, mode};

const TWICE: &str = "conflicting duplicate paths";

/// `projected`
pub(super) fn projected(e: &mut Errors, volume: &Node<'_>) {
    mode(e, &volume.get("defaultMode"));
    let mut paths = BTreeSet::new();
    for source in volume.get("sources").items() {
        let mut count = 0;
        for field in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let node = source.get(field);
            if !node.is_set() {
                continue;
            }
            count += 1;
            match field {
                "secret" | "configMap" => files(e, volume, &node, &mut paths),
                "downwardAPI" => {
                    for file in node.get("items").items() {
                        downward_file(e, &Node::new(file.value, node.path.clone()));
                        let path = file.get("path").text();
                        if !path.is_empty() && !paths.insert(path) {
                            e.invalid(volume, path, TWICE);
                        }
                    }
                }
                "serviceAccountToken" => token(e, volume, &node),
                "clusterTrustBundle" => trust_bundle(e, volume, &node, &mut paths),
                _ => certificate(e, volume, &node, &mut paths),
            }
        }
        if count > 1 {
            let why = "may not specify more than 1 volume type per source";
            e.forbidden(&source, why);
        }
    }
}

fn files<'a>(e: &mut Errors, volume: &Node<'a>, node: &Node<'a>, paths: &mut BTreeSet<&'a str>) {
    let name = node.get("name");
    e.need(&name);
    for item in node.get("items").items() {
        key_to_path(e, &item);
        let path = item.get("path").text();
        if !path.is_empty() && !paths.insert(path) {
            e.invalid(volume, name.text(), TWICE);
        }
    }
}

fn token(e: &mut Errors, volume: &Node<'_>, node: &Node<'_>) {
    let seconds = node.get("expirationSeconds");
    if seconds.int() < 600 {
        let why = "may not specify a duration less than 10 minutes";
        e.invalid(&seconds, seconds.int(), why);
    }
    if seconds.int() > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        e.bad(&seconds, why);
    }
    // Upstream names the volume here.
    let (path, at) = (node.get("path"), volume.path.child("path"));
    if path.is_empty() {
        e.required(&at, "");
    } else {
        local_path_at(e, &at, path.text());
    }
}

fn trust_bundle<'a>(
    e: &mut Errors,
    volume: &Node<'a>,
    node: &Node<'a>,
    paths: &mut BTreeSet<&'a str>,
) {
    let (name, signer) = (node.get("name"), node.get("signerName"));
    let selector = node.get("labelSelector");
    match (name.is_set(), signer.is_set()) {
        (true, true) => {
            let shown = internal::shown("ClusterTrustBundleProjection", node.value);
            let why = "only one of name and signerName may be used";
            e.invalid(node, shown, why);
        }
        (true, false) => {
            if name.is_empty() {
                e.required(&name, "must be a valid object name");
            }
            let own = name.text().rsplit_once(':').map_or(name.text(), |(_, n)| n);
            for fault in names::subdomain_faults(own) {
                e.bad(
                    &name,
                    format!("not a valid clustertrustbundlename: {fault}"),
                );
            }
            if selector.is_set() {
                let shown = meta::shown_selector(&selector);
                let why = "labelSelector must be unset if name is specified";
                e.invalid(&selector, shown, why);
            }
        }
        (false, true) => {
            if signer.is_empty() {
                e.required(&signer, "must be a valid signer name");
            }
            signer_name(e, &signer);
            meta::selector(e, &selector);
        }
        (false, false) => e.required(node, "either name or signerName must be specified"),
    }
    let path = node.get("path");
    e.need(&path);
    local_path(e, &path);
    if !paths.insert(path.text()) {
        e.invalid(volume, path.text(), TWICE);
    }
}

const KEY_TYPES: [&str; 6] = [
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
    "RSA3072",
    "RSA4096",
];

fn certificate<'a>(
    e: &mut Errors,
    volume: &Node<'a>,
    node: &Node<'a>,
    paths: &mut BTreeSet<&'a str>,
) {
    signer_name(e, &node.get("signerName"));
    let kind = node.get("keyType");
    if !KEY_TYPES.contains(&kind.text()) {
        e.not_supported(&kind, kind.text(), &KEY_TYPES);
    }
    let seconds = node.get("maxExpirationSeconds");
    if seconds.number().is_some_and(|s| s < 3600) {
        let why = "if provided, maxExpirationSeconds must be >= 3600";
        e.bad(&seconds, why);
    }
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if files.iter().all(|f| node.get(f).is_empty()) {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        e.required(node, why);
    }
    for field in files {
        let path = node.get(field);
        if path.is_empty() {
            continue;
        }
        local_path(e, &path);
        if !paths.insert(path.text()) {
            e.invalid(volume, path.text(), TWICE);
        }
    }
}
