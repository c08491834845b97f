//! Claims grow only where their storage class lets them.

use std::cmp::Ordering;

use schema::quantity;

use super::{Attributes, Operation};
use crate::response::ApiError;

pub(super) fn validate(a: &Attributes<'_>) -> Result<(), ApiError> {
    if a.operation != Operation::Update || !a.is_for("", "persistentvolumeclaims") {
        return Ok(());
    }
    let (Some(new), Some(old)) = (a.object.as_deref(), a.old) else {
        return Ok(());
    };
    let size = |claim: &serde_json::Value| {
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        size.as_str().unwrap_or("0").to_owned()
    };
    let grows = quantity::compare(&size(new), &size(old)) == Ok(Ordering::Greater);
    if !grows || old["status"]["phase"] != "Bound" {
        return Ok(());
    }
    let class = old["spec"]["storageClassName"].as_str().unwrap_or_default();
    let registry = &a.call.registry;
    let found = registry.lookup("storage.k8s.io", "storageclasses", "", class);
    if !class.is_empty() && found.is_some_and(|c| c.value()["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err(a.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
