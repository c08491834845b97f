//! `rbac.authorization.k8s.io`, `scheduling.k8s.io`, `flowcontrol.apiserver.k8s.io` and
//! `authentication.k8s.io`.

use super::{Object, at, object, object_or_new, objects, set, text};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "RoleBinding" | "ClusterRoleBinding" => {
            if let Some(role) = object_or_new(map, "roleRef") {
                group(role);
            }
            for subject in objects(map, "subjects") {
                if matches!(text(subject, "kind"), "User" | "Group") {
                    group(subject);
                }
            }
        }
        "PriorityClass" => set(map, "preemptionPolicy", "PreemptLowerPriority"),
        "FlowSchema" => {
            if let Some(spec) = object_or_new(map, "spec") {
                set(spec, "matchingPrecedence", 1000);
            }
        }
        "PriorityLevelConfiguration" => priority_level(map),
        "TokenRequest" => {
            if let Some(spec) = object_or_new(map, "spec") {
                set(spec, "expirationSeconds", 3600);
            }
        }
        _ => {}
    }
}

/// Clients in Go always write the group, empty where nobody named one.
fn group(reference: &mut Object) {
    if text(reference, "apiGroup").is_empty() {
        reference.insert("apiGroup".into(), RBAC.into());
    }
}

fn priority_level(map: &mut Object) {
    let Some(spec) = object(map, "spec") else {
        return;
    };
    if text(spec, "type") == "Exempt"
        && let Some(exempt) = object_or_new(spec, "exempt")
    {
        set(exempt, "nominalConcurrencyShares", 0);
        set(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = object(spec, "limited") {
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        if let Some(queuing) = at(limited, &["limitResponse", "queuing"]) {
            set(queuing, "queues", 64);
            set(queuing, "handSize", 8);
            set(queuing, "queueLengthLimit", 50);
        }
    }
}
