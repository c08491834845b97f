//! Where containers see volumes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::field::{Errors, Node};
use super::Scope;
use super::security::descending;

/// Name to path of the items of a list.
fn paths<'a>(list: &Node<'a>, path: &str) -> BTreeMap<&'a str, &'a str> {
    list.items()
        .map(|i| (i.get("name").text(), i.get(path).text()))
        .collect()
}

/// `volumeMounts`
pub(super) fn mounts(e: &mut Errors, container: &Node<'_>, scope: &Scope<'_>) {
    let list = container.get("volumeMounts");
    let devices = paths(&container.get("volumeDevices"), "devicePath");
    let mut known = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        e.need(&name);
        let volume = scope.volumes.get(name.text());
        if volume.is_none() {
            e.not_found(&name, name.text(), "");
        }
        e.need(&path);
        if !known.insert(path.text()) {
            e.bad(&path, "must be unique");
        }
        if devices.contains_key(name.text()) {
            e.bad(&name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|d| *d == path.text()) {
            e.invalid(
                &path,
                path.text(),
                "must not already exist as a path in volumeDevices",
            );
        }
        sub_paths(e, &list, &mount);
        propagation(e, &list, &mount, container);
        read_only(e, &list, &mount);
    }
}

fn sub_paths(e: &mut Errors, list: &Node<'_>, mount: &Node<'_>) {
    let (path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    // Upstream names the list, not the item, where the path itself is wrong.
    if !path.is_empty() {
        descending(e, &list.path.child("subPath"), path.text());
    }
    if !expression.is_empty() {
        if !path.is_empty() {
            e.bad(
                &expression,
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        descending(e, &list.path.child("subPathExpr"), expression.text());
    }
}

fn propagation(e: &mut Errors, list: &Node<'_>, mount: &Node<'_>, container: &Node<'_>) {
    let own = mount.get("mountPropagation");
    if !own.is_set() {
        return;
    }
    let at = list.path.child("mountPropagation");
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if !supported.contains(&own.text()) {
        e.not_supported(&at, own.text(), &supported);
    }
    if own.text() == "Bidirectional" && !container.get("securityContext.privileged").flag() {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        e.forbidden(&at, why);
    }
}

fn read_only(e: &mut Errors, list: &Node<'_>, mount: &Node<'_>) {
    let own = mount.get("recursiveReadOnly");
    let at = list.path.child("recursiveReadOnly");
    match own.text() {
        _ if !own.is_set() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").flag() {
                e.forbidden(&at, "may only be specified when readOnly is true");
            }
            let propagation = mount.get("mountPropagation");
            if propagation.is_set() && propagation.text() != "None" {
                let why = "may only be specified when mountPropagation is None or not specified";
                e.forbidden(&at, why);
            }
        }
        other => e.not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// `volumeDevices`
pub(super) fn devices(e: &mut Errors, container: &Node<'_>, scope: &Scope<'_>) {
    let mounts = paths(&container.get("volumeMounts"), "mountPath");
    let (mut known_names, mut known_paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        e.need(&name);
        if known_names.contains(name.text()) {
            e.bad(&name, "must be unique");
        }
        match scope.volumes.get(name.text()) {
            None => e.not_found(&name, name.text(), ""),
            Some(volume)
                if !volume.get("persistentVolumeClaim").is_set()
                    && !volume.get("ephemeral").is_set() =>
            {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                e.bad(&name, why);
            }
            Some(_) => {}
        }
        e.need(&path);
        if known_paths.contains(path.text()) {
            e.bad(&path, "must be unique");
        }
        if path.text().split('/').any(|part| part == "..") {
            e.bad(&path, "can not contain backsteps ('..')");
        } else {
            known_paths.insert(path.text());
        }
        if mounts.contains_key(name.text()) {
            e.bad(&name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|m| *m == path.text()) {
            e.invalid(
                &path,
                path.text(),
                "must not already exist as a path in volumeMounts",
            );
        }
        if !name.is_empty() {
            known_names.insert(name.text());
        }
    }
}
