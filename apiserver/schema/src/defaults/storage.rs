//! `storage.k8s.io`.

use serde_json::json;

use super::{Object, object_or_new, set};

pub(super) fn apply(map: &mut Object, kind: &str) {
    match kind {
        "StorageClass" => {
            set(map, "reclaimPolicy", "Delete");
            set(map, "volumeBindingMode", "Immediate");
        }
        "CSIDriver" => {
            let Some(spec) = object_or_new(map, "spec") else {
                return;
            };
            set(spec, "attachRequired", true);
            set(spec, "podInfoOnMount", false);
            set(spec, "storageCapacity", false);
            set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
            set(spec, "requiresRepublish", false);
            set(spec, "seLinuxMount", false);
        }
        _ => {}
    }
}
