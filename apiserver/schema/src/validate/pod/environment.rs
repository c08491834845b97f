//! Environment variables and where their values come from.

use super::super::field::{Errors, Node};
use super::super::names;
use super::Scope;
use crate::quantity;

/// `env`
pub(super) fn variables(e: &mut Errors, list: &Node<'_>, scope: &Scope<'_>) {
    for variable in list.items() {
        e.check_required(&variable.get("name"), names::environment_faults);
        let from = variable.get("valueFrom");
        if from.is_set() {
            value_from(e, &from, !variable.get("value").is_empty(), scope);
        }
    }
}

fn value_from(e: &mut Errors, from: &Node<'_>, has_value: bool, scope: &Scope<'_>) {
    let mut count = 0;
    let mut present = |name: &str| {
        let node = from.get(name);
        count += usize::from(node.is_set());
        node.is_set().then_some(node)
    };
    if let Some(field) = present("fieldRef") {
        field_selector(e, &field, &ENVIRONMENT_FIELDS);
    }
    if let Some(resource) = present("resourceFieldRef") {
        resource_selector(e, &resource, false);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(key) = present(name) {
            key_selector(e, &key);
        }
    }
    if let Some(key) = present("fileKeyRef") {
        file_key_selector(e, &key, scope);
    }
    let why = match (count, has_value) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, true) => "may not be specified when `value` is not empty",
        (1, _) => return,
        _ => "may not have more than one field specified at a time",
    };
    e.invalid(from, "", why);
}

fn key_selector(e: &mut Errors, node: &Node<'_>) {
    e.check(&node.get("name"), names::subdomain_faults);
    e.check_required(&node.get("key"), names::config_key_faults);
}

fn file_key_selector(e: &mut Errors, node: &Node<'_>, scope: &Scope<'_>) {
    e.check_required(&node.get("key"), names::environment_faults);
    let volume = node.get("volumeName");
    if volume.is_empty() {
        e.required(&volume, "");
    } else {
        match scope.volumes.get(volume.text()) {
            None => e.not_found(&volume, volume.text(), ""),
            Some(source) if !source.get("emptyDir").is_set() => {
                e.bad(&volume, "must reference emptyDir volume source");
            }
            Some(_) => {}
        }
    }
    let path = node.get("path");
    e.need(&path);
    super::volume::local_path(e, &path);
}

/// `envFrom`
pub(super) fn sources(e: &mut Errors, list: &Node<'_>) {
    for source in list.items() {
        e.check_optional(&source.get("prefix"), names::environment_faults);
        let mut count = 0;
        for name in ["configMapRef", "secretRef"] {
            let reference = source.get(name);
            if reference.is_set() {
                count += 1;
                e.check_required(&reference.get("name"), names::subdomain_faults);
            }
        }
        // Upstream names the list, not the item.
        match count {
            0 => e.invalid(
                list,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => e.invalid(
                list,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

/// What environment variables can be.
const ENVIRONMENT_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What files can be.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// A reference to a field of the pod.
pub(super) fn field_selector(e: &mut Errors, node: &Node<'_>, supported: &[&str]) {
    let version = node.get("apiVersion");
    if version.is_empty() {
        return e.required(&version, "");
    }
    let field = node.get("fieldPath");
    let text = field.text();
    if text.is_empty() {
        return e.required(&field, "");
    }
    if version.text() != "v1" {
        let why = format!(
            "error converting fieldPath: unsupported pod version: {}",
            version.text()
        );
        return e.bad(&field, why);
    }
    let subscript = text
        .strip_suffix("']")
        .and_then(|t| t.split_once("['"))
        .filter(|(path, _)| !path.is_empty());
    let unknown = format!("error converting fieldPath: field label not supported: {text}");
    match subscript {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            e.faults(node, &key, names::qualified_name_faults(&key));
        }
        Some(("metadata.labels", key)) => e.faults(node, key, names::qualified_name_faults(key)),
        Some(_) => {
            let why = format!(
                "error converting fieldPath: field label does not support subscript: {text}"
            );
            e.bad(&field, why);
        }
        None if text != "spec.host" && !KNOWN_FIELDS.contains(&text) => e.bad(&field, unknown),
        None => {
            // What old clients call the node.
            let meant = if text == "spec.host" {
                "spec.nodeName"
            } else {
                text
            };
            if !supported.contains(&meant) {
                e.not_supported(&field, meant, supported);
            }
        }
    }
}

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const UNITS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-")
}

/// A reference to what a container asks for.
pub(super) fn resource_selector(e: &mut Errors, node: &Node<'_>, in_volume: bool) {
    let (container, resource) = (node.get("containerName"), node.get("resource"));
    let name = resource.text();
    if in_volume && container.is_empty() {
        e.required(&container, "");
    } else if name.is_empty() {
        e.required(&resource, "");
    } else if !RESOURCES.contains(&name) && !is_huge_page(name) {
        e.not_supported(&resource, name, &RESOURCES);
    }
    let divisor = node.get("divisor");
    let text = divisor.text();
    if text.is_empty() || quantity::compare(text, "0").is_ok_and(|o| o.is_eq()) {
        return;
    }
    let (units, what): (&[&str], &str) = match name.split_once('.').map(|(_, n)| n) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (&UNITS, "memory"),
        Some("ephemeral-storage") => (&UNITS, "local ephemeral storage"),
        Some(n) if n.starts_with("hugepages-") => (&UNITS, "hugepages"),
        _ => return,
    };
    if !units.contains(&text) {
        let listed = match what {
            "cpu" => "1m and 1".to_owned(),
            _ => UNITS.join(", "),
        };
        let why = format!("only divisor's values {listed} are supported with the {what} resource");
        e.invalid(&divisor, name, why);
    }
}
