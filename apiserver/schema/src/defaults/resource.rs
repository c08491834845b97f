//! `resource.k8s.io`: claims for devices.

use super::{Object, at, object, objects, set, text};

pub(super) fn apply(map: &mut Object, kind: &str) {
    let path: &[&str] = match kind {
        "ResourceClaim" => &["spec", "devices"],
        "ResourceClaimTemplate" => &["spec", "spec", "devices"],
        _ => return,
    };
    let Some(devices) = at(map, path) else { return };
    for request in objects(devices, "requests") {
        if let Some(exactly) = object(request, "exactly") {
            amount(exactly);
        }
        objects(request, "firstAvailable").for_each(amount);
    }
}

fn amount(request: &mut Object) {
    set(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set(request, "count", 1);
    }
}
