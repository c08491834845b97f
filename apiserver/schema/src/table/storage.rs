//! `storage.k8s.io` and `resource.k8s.io`.

use serde_json::Value;

use super::Cells;
use super::text::View;

pub(super) fn cells(view: View<'_>, kind: &str) -> Option<Cells> {
    let name = view.name();
    let text = |pointer: &str| Value::from(view.text(pointer));
    Some(match kind {
        "StorageClass" => vec![
            class_name(view).into(),
            text("/provisioner"),
            view.text_or("/reclaimPolicy", "Delete"),
            view.text_or("/volumeBindingMode", "Immediate"),
            view.flag("/allowVolumeExpansion").into(),
            view.age(),
        ],
        "VolumeAttributesClass" => vec![name, text("/driverName"), view.age()],
        "VolumeAttachment" => vec![
            name,
            text("/spec/attacher"),
            text("/spec/source/persistentVolumeName"),
            text("/spec/nodeName"),
            view.flag("/status/attached").into(),
            view.age(),
        ],
        "CSINode" => vec![name, view.count("/spec/drivers"), view.age()],
        "CSIDriver" => driver(view),
        "DeviceClass" | "ResourceClaimTemplate" => vec![name, view.age()],
        "ResourceClaim" => vec![name, claim_state(view).into(), view.age()],
        "ResourceSlice" => {
            vec![
                name,
                text("/spec/nodeName"),
                text("/spec/driver"),
                text("/spec/pool/name"),
                view.age(),
            ]
        }
        _ => return None,
    })
}

/// The name, with a mark on the default class.
fn class_name(view: View<'_>) -> String {
    let annotations = view.at("/metadata/annotations");
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|a| annotations.get(*a).is_some_and(|v| v == "true"));
    format!(
        "{}{}",
        view.text("/metadata/name"),
        if default { " (default)" } else { "" }
    )
}

fn driver(view: View<'_>) -> Cells {
    let texts = |pointer: &str, field: Option<&str>| {
        let own = view
            .list(pointer)
            .iter()
            .map(|v| field.map_or(v, |f| &v[f]))
            .filter_map(Value::as_str);
        own.collect::<Vec<_>>().join(",")
    };
    let requests = match texts("/spec/tokenRequests", Some("audience")) {
        own if view.list("/spec/tokenRequests").is_empty() && own.is_empty() => "<unset>".into(),
        own => own,
    };
    let modes = match texts("/spec/volumeLifecycleModes", None) {
        own if own.is_empty() => "<none>".into(),
        own => own,
    };
    vec![
        view.name(),
        view.at("/spec/attachRequired")
            .as_bool()
            .unwrap_or(true)
            .into(),
        view.flag("/spec/podInfoOnMount").into(),
        view.flag("/spec/storageCapacity").into(),
        requests.into(),
        view.flag("/spec/requiresRepublish").into(),
        modes.into(),
        view.age(),
    ]
}

fn claim_state(view: View<'_>) -> String {
    let mut states = Vec::new();
    if view.terminating() {
        states.push("deleted");
    }
    if view.at("/status/allocation").is_null() {
        if !view.terminating() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !view.list("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    }
    states.join(",")
}
