//! The cluster's volumes.

use serde_json::{Map, Value};

use super::field::{Errors, IMMUTABLE, Node, same};
use super::pod::scheduling::node_selector;
use super::pod::volume::{Holder, ONE_TYPE, driver_name, shared};
use super::{Change, diff, internal, names};
use crate::quantity;

/// Ways to use a volume.
pub(super) const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// What a volume looks like.
pub(super) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Sources in upstream's order: field, and the name that the place of a second one has.
const SOURCES: [(&str, &str); 22] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

/// PersistentVolume
pub(super) fn persistent_volume(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return;
    }
    let name = change.new.get("metadata.name").text();
    let spec = change.new.get("spec");
    specification(e, &spec, name, Use::Own);
    if let Some(old) = &change.old {
        specification(e, &spec, name, Use::Own);
        update(e, change, &spec, &old.get("spec"));
    }
}

/// Whether it is a volume of its own or part of an attachment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// An object.
    Own,
    /// In a VolumeAttachment.
    Inline,
}

/// How a volume or a claim can be used.
pub(super) fn access_modes(e: &mut Errors, list: &Node<'_>) {
    let (mut single, mut others) = (false, false);
    for mode in list.texts() {
        if !ACCESS_MODES.contains(&mode) {
            e.not_supported(list, mode, &ACCESS_MODES);
        }
        single |= mode == "ReadWriteOncePod";
        others |= mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode);
    }
    if single && others {
        let why = "may not use ReadWriteOncePod with other access modes";
        e.forbidden(list, why);
    }
}

/// A volume's specification.
pub(super) fn specification(e: &mut Errors, spec: &Node<'_>, name: &str, of: Use) {
    let inline = of == Use::Inline;
    let mut not_inline = |field: &str| {
        let node = spec.get(field);
        if inline && !node.is_empty() {
            let why = "may not be specified in the context of inline volumes";
            e.forbidden(&node, why);
        }
    };
    not_inline("claimRef");
    not_inline("capacity");
    let csi = spec.get("csi");
    if inline && !csi.is_set() {
        e.required(&csi, "has to be specified in the context of inline volumes");
    }
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        e.required(&modes, "");
    }
    access_modes(e, &modes);
    if !inline {
        capacity(e, &spec.get("capacity"));
    }
    reclaim_policy(e, spec, inline);
    let affinity = spec.get("nodeAffinity");
    if affinity.is_set() && inline {
        let why = "may not be specified in the context of inline volumes";
        e.forbidden(&affinity, why);
    } else if affinity.is_set() {
        let required = affinity.get("required");
        if required.is_set() {
            node_selector(e, &required);
        } else {
            e.required(&required, "must specify required node constraints");
        }
    }
    sources(e, spec, name);
    let policy = spec.get("persistentVolumeReclaimPolicy");
    let path = spec.get("hostPath.path").text();
    let is_root = path.starts_with('/') && path.split('/').all(|p| matches!(p, "" | "."));
    if is_root && policy.text() == "Recycle" {
        e.forbidden(&policy, "may not be 'recycle' for a hostPath mount of '/'");
    }
    classes(e, spec, inline);
}

fn capacity(e: &mut Errors, node: &Node<'_>) {
    if node.is_empty() {
        e.required(node, "");
    }
    if node.len() != 1 || !node.value["storage"].is_string() {
        let empty = Value::Object(Map::new());
        let shown = if node.is_set() { node.value } else { &empty };
        e.not_supported(node, shown, &["storage"]);
    }
    for (_, amount) in node.entries() {
        if let Some(number) = quantity::to_integer(amount.text()).filter(|n| *n < 0) {
            e.invalid(&amount, number, "must be a valid resource quantity");
        }
        positive(e, &amount);
    }
}

/// An amount above zero.
pub(super) fn positive(e: &mut Errors, amount: &Node<'_>) -> bool {
    let right = quantity::compare(amount.text(), "0").is_ok_and(|o| o.is_gt());
    if !right {
        e.bad(amount, "must be greater than zero");
    }
    right
}

fn reclaim_policy(e: &mut Errors, spec: &Node<'_>, inline: bool) {
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if policy.is_empty() {
        return;
    }
    if !inline {
        return e.one_of(&policy, &["Delete", "Recycle", "Retain"]);
    }
    if policy.text() != "Retain" {
        let why = "may only be Retain in the context of inline volumes";
        e.forbidden(&policy, why);
    }
}

fn sources(e: &mut Errors, spec: &Node<'_>, name: &str) {
    let mut count = 0;
    for (field, second) in SOURCES {
        let node = spec.get(field);
        if !node.is_set() {
            continue;
        }
        count += 1;
        if count > 1 && field != "flexVolume" {
            e.forbidden(&spec.path.child(second), ONE_TYPE);
            continue;
        }
        match field {
            "csi" => csi_source(e, &node),
            _ => shared(e, field, &node, Holder::Cluster(name)),
        }
        let affinity = spec.get("nodeAffinity");
        if field == "local" && !affinity.is_set() {
            e.required(&affinity, "Local volume requires node affinity");
        }
    }
    if count == 0 {
        e.required(spec, "must specify a volume type");
    }
}

fn csi_source(e: &mut Errors, node: &Node<'_>) {
    driver_name(e, &node.get("driver"));
    e.need(&node.get("volumeHandle"));
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = node.get(field);
        if secret.is_set() {
            e.check_required(&secret.get("name"), names::subdomain_faults);
            e.check_required(&secret.get("namespace"), names::label_faults);
        }
    }
}

fn classes(e: &mut Errors, spec: &Node<'_>, inline: bool) {
    let class = spec.get("storageClassName");
    let mode = spec.get("volumeMode");
    if inline {
        if !class.is_empty() {
            let why = "may not be specified in the context of inline volumes";
            e.forbidden(&class, why);
        }
        if mode.is_set() && mode.text() != "Filesystem" {
            let why =
                "may not specify volumeMode other than Filesystem in the context of inline volumes";
            e.forbidden(&mode, why);
        }
    } else {
        e.check_optional(&class, names::subdomain_faults);
        e.one_of(&mode, &VOLUME_MODES);
    }
    let attributes = spec.get("volumeAttributesClassName");
    if !attributes.is_set() {
        return;
    }
    if attributes.is_empty() {
        e.required(&attributes, "an empty string is disallowed");
    } else {
        e.check(&attributes, names::subdomain_faults);
    }
    let csi = spec.get("csi");
    if !csi.is_set() {
        let why = "has to be specified when using volumeAttributesClassName";
        e.required(&csi, why);
    }
}

fn source_of(spec: &Node<'_>) -> Value {
    let fields = SOURCES.iter().map(|(f, _)| *f);
    let present = fields.filter(|f| spec.get(f).is_set());
    Value::Object(
        present
            .map(|f| (f.to_owned(), spec.value[f].clone()))
            .collect(),
    )
}

fn update(e: &mut Errors, change: &Change<'_>, new: &Node<'_>, old: &Node<'_>) {
    let (mut after, before) = (source_of(new), source_of(old));
    let secret = "controllerExpandSecretRef";
    if before["csi"].is_object()
        && before["csi"][secret].is_null()
        && let Some(csi) = after.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove(secret);
    }
    if !same(&after, &before) {
        let difference = diff::unified(
            &internal::indented("PersistentVolumeSource", &before),
            &internal::indented("PersistentVolumeSource", &after),
        );
        let why = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
        e.forbidden(&new.path.child("persistentvolumesource"), why);
    }
    // Upstream forgets where these fields are.
    let root = &change.new.path;
    let mode = Node::new(new.get("volumeMode").value, root.child("volumeMode"));
    e.immutable(&mode, &old.get("volumeMode"));
    let (after, before) = (new.get("nodeAffinity"), old.get("nodeAffinity"));
    if before.is_set() && !same(after.value, before.value) {
        let shown = internal::shown("?VolumeNodeAffinity", after.value);
        let why = format!("{IMMUTABLE}, except for updating from beta label to GA");
        e.invalid(&root.child("nodeAffinity"), shown, why);
    }
    let (after, before) = (
        new.get("volumeAttributesClassName"),
        old.get("volumeAttributesClassName"),
    );
    if before.is_set() && !after.is_set() {
        e.forbidden(&after, "update from non-nil value to nil is forbidden");
    }
}
