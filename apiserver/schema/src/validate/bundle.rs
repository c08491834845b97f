//! Bundles of trust anchors.

use super::certificates::signer_name;
use super::field::Errors;
use super::{Change, names};

/// ClusterTrustBundle
pub(super) fn cluster_trust_bundle(e: &mut Errors, change: &Change<'_>) {
    let (name, spec) = (change.new.get("metadata.name"), change.new.get("spec"));
    let signer = spec.get("signerName");
    let prefix = format!("{}:", signer.text().replace('/', ":"));
    if signer.is_empty() {
        if name.text().contains(':') {
            let why = "ClusterTrustBundle without signer name must not have \":\" in its name";
            e.bad(&name, why);
        }
        e.check(&name, names::subdomain_faults);
    } else {
        signer_name(e, &signer);
        match name.text().strip_prefix(&prefix) {
            None => {
                let why = format!(
                    "ClusterTrustBundle for signerName {} must be named with prefix {prefix}",
                    signer.text()
                );
                e.bad(&name, why);
            }
            Some(rest) => e.faults(&name, rest, names::subdomain_faults(rest)),
        }
    }
    let bundle = spec.get("trustBundle");
    if !bundle.text().contains("-----BEGIN CERTIFICATE-----") {
        let why = "at least one trust anchor must be provided";
        e.invalid(&bundle, "<value omitted>", why);
    }
    change.immutable(e, "spec.signerName");
}
