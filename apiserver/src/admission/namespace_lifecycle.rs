//! Objects are made in namespaces that exist and are not going away.

use super::{Attributes, Operation};
use crate::response::{ApiError, Cause};

/// These namespaces cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses to create in a namespace that is absent or being deleted.
pub(super) async fn admit(a: &Attributes<'_>) -> Result<(), ApiError> {
    let call = a.call;
    if a.operation != Operation::Create || !call.resource.namespaced() {
        return Ok(());
    }
    if call.resource.group == "authorization.k8s.io" {
        // Access is asked about namespaces that may not exist.
        return Ok(());
    }
    let namespace = call.namespace();
    let find = || call.registry.lookup("", "namespaces", "", namespace);
    let mut found = find();
    if found.is_none() {
        call.registry.cacher.consistent().await?;
        found = find();
    }
    let Some(found) = found else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if !found.is_deleting() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let cause = Cause::new(
        "NamespaceTerminating",
        format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    );
    Err(a.forbidden(&why).with_cause(cause))
}

pub(super) fn validate_delete(a: &Attributes<'_>) -> Result<(), ApiError> {
    if a.is_for("", "namespaces") && IMMORTAL.contains(&a.name.as_str()) {
        return Err(a.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}
