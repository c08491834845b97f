//! Volumes of pods and of the cluster: what each source needs.

use std::collections::BTreeMap;

use super::super::field::{Errors, Node, Path, Place};
use super::super::{names, storage};
use super::environment::{FILE_FIELDS, field_selector, resource_selector};
use super::security::{descending, no_backsteps};
use super::{container, projected};

/// A pod's volumes: those without a fault by name.
pub(super) fn volumes<'a>(
    e: &mut Errors,
    list: &Node<'a>,
    pod: Option<&str>,
    is_pod: bool,
) -> BTreeMap<&'a str, Node<'a>> {
    let pod = pod.filter(|name| !name.is_empty());
    let created: Vec<String> = list
        .items()
        .filter(|v| v.get("ephemeral").is_set())
        .filter_map(|v| pod.map(|pod| format!("{pod}-{}", v.get("name").text())))
        .collect();
    let mut known: BTreeMap<&str, Node<'_>> = BTreeMap::new();
    for volume in list.items() {
        let before = e.list.len();
        source(e, &volume, pod, is_pod);
        let name = volume.get("name");
        e.check_required(&name, names::label_faults);
        if known.contains_key(name.text()) {
            e.duplicate(&name, name.text());
        }
        if e.list.len() == before {
            known.insert(name.text(), volume.clone());
        }
        let claim = volume.get("persistentVolumeClaim.claimName");
        if created.iter().any(|c| c == claim.text()) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            e.bad(&claim, why);
        }
    }
    known
}

/// Sources in the order in which upstream looks at them: field, and the name that the place of a
/// second one has.
const SOURCES: [(&str, &str); 31] = [
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
    ("local", "local"),
];

/// What a second source is told.
pub(in crate::validate) const ONE_TYPE: &str = "may not specify more than 1 volume type";

fn source(e: &mut Errors, volume: &Node<'_>, pod: Option<&str>, is_pod: bool) {
    let mut count = 0;
    for (field, second) in SOURCES {
        let node = volume.get(field);
        if !node.is_set() || field == "local" {
            continue;
        }
        count += 1;
        if count > 1 {
            e.forbidden(&volume.path.child(second), ONE_TYPE);
            continue;
        }
        match field {
            "emptyDir" => {
                let limit = node.get("sizeLimit");
                if crate::quantity::compare(limit.text(), "0").is_ok_and(|o| o.is_lt()) {
                    let why = "SizeLimit field must be a valid resource quantity";
                    e.forbidden(&limit, why);
                }
            }
            "secret" => files(e, &node, "secretName"),
            "configMap" => files(e, &node, "name"),
            "persistentVolumeClaim" => e.need(&node.get("claimName")),
            "downwardAPI" => {
                mode(e, &node.get("defaultMode"));
                for file in node.get("items").items() {
                    // Upstream names the volume, not the item.
                    downward_file(e, &Node::new(file.value, node.path.clone()));
                }
            }
            "projected" => projected::projected(e, &node),
            "csi" => csi(e, &node),
            "ephemeral" => ephemeral(e, volume, &node, pod),
            "image" => {
                if is_pod {
                    e.need(&node.get("reference"));
                }
                container::pull_policy(e, &node.get("pullPolicy"));
            }
            _ => shared(e, field, &node, Holder::Pod),
        }
        if field == "iscsi" {
            iscsi_length(e, volume, &node);
        }
    }
    if count == 0 {
        e.required(volume, "must specify a volume type");
    }
}

fn iscsi_length(e: &mut Errors, volume: &Node<'_>, node: &Node<'_>) {
    let name = volume.get("name").text();
    let length = name.len() + 1 + node.get("targetPortal").text().len();
    if node.get("initiatorName").is_set() && length > 64 {
        e.invalid(&volume.path.child("name"), name, TOO_LONG_TOGETHER);
    }
}

const TOO_LONG_TOGETHER: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

fn ephemeral(e: &mut Errors, volume: &Node<'_>, node: &Node<'_>, pod: Option<&str>) {
    let template = node.get("volumeClaimTemplate");
    if template.is_set() {
        storage::claim_template(e, &template);
    } else {
        e.required(&template, "");
    }
    let name = volume.get("name");
    if let Some(pod) = pod.filter(|_| !name.is_empty()) {
        let claim = format!("{pod}-{}", name.text());
        for fault in names::subdomain_faults(&claim) {
            let why = format!("PVC name {}: {fault}", super::super::field::quote(&claim));
            e.bad(&name, why);
        }
    }
}

/// The mode of files.
pub(super) fn mode(e: &mut Errors, node: &Node<'_>) {
    if node.number().is_some_and(|m| !(0..=0o777).contains(&m)) {
        e.bad(
            node,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn files(e: &mut Errors, node: &Node<'_>, name: &str) {
    e.need(&node.get(name));
    mode(e, &node.get("defaultMode"));
    for item in node.get("items").items() {
        key_to_path(e, &item);
    }
}

/// One key and its file.
pub(super) fn key_to_path(e: &mut Errors, item: &Node<'_>) {
    e.need(&item.get("key"));
    let path = item.get("path");
    e.need(&path);
    local_path(e, &path);
    mode(e, &item.get("mode"));
}

/// A path below the volume.
pub(super) fn local_path(e: &mut Errors, path: &Node<'_>) {
    local_path_at(e, path, path.text());
}

/// A path below the volume, whose fault is elsewhere.
pub(super) fn local_path_at(e: &mut Errors, at: &impl Place, path: &str) {
    descending(e, at, path);
    if path.starts_with("..") && !path.starts_with("../") {
        e.invalid(at, path, "must not start with '..'");
    }
}

/// A file that says something about the pod.
pub(super) fn downward_file(e: &mut Errors, file: &Node<'_>) {
    let path = file.get("path");
    e.need(&path);
    local_path(e, &path);
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        field_selector(e, &field, &FILE_FIELDS);
        if resource.is_set() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            e.invalid(file, "resource", why);
        }
    } else if resource.is_set() {
        resource_selector(e, &resource, true);
    } else {
        e.required(file, "one of fieldRef and resourceFieldRef is required");
    }
    mode(e, &file.get("mode"));
}

/// The name of a CSI driver.
pub(in crate::validate) fn driver_name(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        return e.required(node, "");
    }
    if text.len() > 63 {
        e.too_long(node, 63);
    }
    e.faults(node, text, names::subdomain_faults(&text.to_lowercase()));
}

fn csi(e: &mut Errors, node: &Node<'_>) {
    driver_name(e, &node.get("driver"));
    let secret = node.get("nodePublishSecretRef");
    if !secret.is_set() {
        return;
    }
    let name = secret.get("name");
    if name.is_empty() {
        e.required(&name, "");
    } else {
        let faults = names::subdomain_faults(name.text());
        e.faults(&node.path.child("name"), name.text(), faults);
    }
}

/// Whose volume it is: some sources need more in the cluster's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::validate) enum Holder<'a> {
    /// A pod's.
    Pod,
    /// The cluster's, with its name.
    Cluster(&'a str),
}

/// Sources that pods and the cluster's volumes share.
pub(in crate::validate) fn shared(
    e: &mut Errors,
    field: &str,
    node: &Node<'_>,
    holder: Holder<'_>,
) {
    let cluster = holder != Holder::Pod;
    match field {
        "hostPath" => host_path(e, node),
        "gitRepo" => {
            e.need(&node.get("repository"));
            let directory = node.get("directory");
            descending(e, &directory, directory.text());
        }
        "gcePersistentDisk" => disk(e, &renamed(node, field, "persistentDisk"), "pdName"),
        "awsElasticBlockStore" => disk(e, node, "volumeID"),
        "nfs" => {
            e.need(&node.get("server"));
            let path = node.get("path");
            e.need(&path);
            if !path.text().starts_with('/') {
                e.invalid(&path, path.text(), "must be an absolute path");
            }
        }
        "iscsi" => iscsi(e, node, holder),
        "glusterfs" => glusterfs(e, node),
        "flocker" => flocker(e, node),
        "rbd" => ["monitors", "image"]
            .iter()
            .for_each(|f| e.need(&node.get(f))),
        "cinder" => {
            e.need(&node.get("volumeID"));
            secret(e, &node.get("secretRef"), cluster);
        }
        "cephfs" => e.need(&node.get("monitors")),
        "quobyte" => quobyte(e, node),
        "fc" => fibre_channel(e, node),
        "flexVolume" => flex(e, node),
        "azureFile" => {
            ["secretName", "shareName"]
                .iter()
                .for_each(|f| e.need(&node.get(f)));
            let namespace = node.get("secretNamespace");
            if namespace.is_set() {
                e.need(&namespace);
            }
        }
        "vsphereVolume" => e.need(&node.get("volumePath")),
        "photonPersistentDisk" => e.need(&node.get("pdID")),
        "portworxVolume" => e.need(&node.get("volumeID")),
        "azureDisk" => azure_disk(e, node),
        "storageos" => {
            e.check_required(&node.get("volumeName"), names::label_faults);
            e.check_optional(&node.get("volumeNamespace"), names::label_faults);
            secret(e, &node.get("secretRef"), cluster);
        }
        "scaleIO" => {
            for field in ["gateway", "system", "volumeName"] {
                e.need(&node.get(field));
            }
        }
        "local" => {
            let path = node.get("path");
            e.need(&path);
            no_backsteps(e, &path, path.text());
        }
        _ => {}
    }
}

fn renamed<'a>(node: &Node<'a>, from: &str, to: &str) -> Node<'a> {
    let text = node.place();
    let base = text.strip_suffix(from).unwrap_or(text);
    Node::new(node.value, Path::new(format!("{base}{to}")))
}

fn secret(e: &mut Errors, node: &Node<'_>, cluster: bool) {
    if node.is_set() {
        e.need(&node.get("name"));
        if cluster {
            e.need(&node.get("namespace"));
        }
    }
}

fn host_path(e: &mut Errors, node: &Node<'_>) {
    let path = node.get("path");
    if path.is_empty() {
        return e.required(&path, "");
    }
    no_backsteps(e, &path, path.text());
    let types = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    e.one_of(&node.get("type"), &types);
}

fn disk(e: &mut Errors, node: &Node<'_>, name: &str) {
    e.need(&node.get(name));
    let partition = node.get("partition");
    if !(0..=255).contains(&partition.int()) {
        e.bad(&partition, names::between(1, 255));
    }
}

fn is_iqn(text: &str) -> bool {
    // iqn.YYYY-MM.name:rest
    let Some(rest) = text.strip_prefix("iqn.") else {
        return false;
    };
    let (Some(date), Some(rest)) = (rest.get(..7), rest.get(7..)) else {
        return false;
    };
    let digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit());
    let dated = digits(&date[..4]) && date.as_bytes()[4] == b'-' && digits(&date[5..]);
    let Some((name, own)) = rest.strip_prefix('.').and_then(|r| r.split_once(':')) else {
        return false;
    };
    let named = !name.is_empty()
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
    let plain = |c: char| !",;*&$|".contains(c) && !c.is_whitespace();
    dated && named && !own.is_empty() && own.chars().all(plain)
}

fn has_length(text: &str, length: usize) -> bool {
    let rest = text.get(4..).unwrap_or_default();
    rest.len() == length && rest.bytes().all(|c| c.is_ascii_alphanumeric())
}

fn initiator(e: &mut Errors, node: &Node<'_>, cluster: bool) {
    let text = node.text();
    let right = match text.get(..3) {
        Some("iqn") => is_iqn(text),
        Some("eui") => has_length(text, 16),
        Some("naa") => has_length(text, 32),
        _ => {
            let long = "must be valid format starting with iqn, eui, or naa";
            return e.bad(
                node,
                if cluster {
                    "must be valid format"
                } else {
                    long
                },
            );
        }
    };
    if !right {
        e.bad(node, "must be valid format");
    }
}

fn iscsi(e: &mut Errors, node: &Node<'_>, holder: Holder<'_>) {
    let cluster = holder != Holder::Pod;
    let portal = node.get("targetPortal");
    e.need(&portal);
    let own = node.get("initiatorName");
    if let Holder::Cluster(name) = holder
        && own.is_set()
        && name.len() + 1 + portal.text().len() > 64
    {
        let at = node.path.child("targetportal");
        e.invalid(&at, portal.text(), TOO_LONG_TOGETHER);
    }
    let iqn = node.get("iqn");
    if iqn.is_empty() {
        e.required(&iqn, "");
    } else {
        initiator(e, &iqn, cluster);
    }
    let lun = node.get("lun");
    if !(0..=255).contains(&lun.int()) {
        e.bad(&lun, names::between(0, 255));
    }
    let secret = node.get("secretRef");
    if (node.get("chapAuthDiscovery").flag() || node.get("chapAuthSession").flag())
        && !secret.is_set()
    {
        e.required(&secret, "");
    }
    if cluster && secret.is_set() {
        e.need(&secret.get("name"));
    }
    if own.is_set() {
        let at = Node::new(own.value, node.path.child("initiatorname"));
        initiator(e, &at, cluster);
    }
}

fn glusterfs(e: &mut Errors, node: &Node<'_>) {
    e.need(&node.get("endpoints"));
    e.need(&node.get("path"));
    let namespace = node.get("endpointsNamespace");
    if namespace.is_set() && namespace.is_empty() {
        let why = "if the endpointnamespace is set, it must be a valid namespace name";
        e.bad(&namespace, why);
    } else {
        e.check_optional(&namespace, names::label_faults);
    }
}

fn flocker(e: &mut Errors, node: &Node<'_>) {
    let (name, uuid) = (node.get("datasetName"), node.get("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        e.required(node, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        e.invalid(node, "resource", why);
    }
    if name.text().contains('/') {
        e.bad(&name, "must not contain '/'");
    }
}

fn quobyte(e: &mut Errors, node: &Node<'_>) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    let registry = node.get("registry");
    if registry.is_empty() {
        e.required(&registry, why);
    } else if node.get("tenant").text().len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        e.required(&node.get("tenant"), why);
    } else {
        for pair in registry.text().split(',') {
            if !is_host_and_port(pair) {
                e.bad(&registry, why);
            }
        }
    }
    e.need(&node.get("volume"));
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        None => false,
        Some((host, _)) if host.starts_with('[') => host.ends_with(']'),
        Some((host, _)) => !host.contains([':', ']']),
    }
}

fn fibre_channel(e: &mut Errors, node: &Node<'_>) {
    let (targets, ids) = (node.get("targetWWNs"), node.get("wwids"));
    if targets.is_empty() && ids.is_empty() {
        let why = "must specify either targetWWNs or wwids, but not both";
        e.required(&targets, why);
    }
    if !targets.is_empty() && !ids.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        e.bad(&targets, why);
    }
    if !targets.is_empty() {
        let lun = node.get("lun");
        if !lun.is_set() {
            e.required(&lun, "lun is required if targetWWNs is specified");
        } else if !(0..=255).contains(&lun.int()) {
            e.bad(&lun, names::between(0, 255));
        }
    }
}

fn flex(e: &mut Errors, node: &Node<'_>) {
    e.need(&node.get("driver"));
    for (key, option) in node.get("options").entries() {
        let namespace = key.split_once('/').map_or(key, |(n, _)| n).to_lowercase();
        let dotted = format!(".{namespace}");
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            e.invalid(&option, key, why);
        }
    }
}

fn azure_disk(e: &mut Errors, node: &Node<'_>) {
    e.need(&node.get("diskName"));
    let uri = node.get("diskURI");
    e.need(&uri);
    e.one_of(&node.get("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    let kind = node.get("kind");
    e.one_of(&kind, &["Dedicated", "Managed", "Shared"]);
    if !kind.is_set() {
        return;
    }
    let managed = kind.text() == "Managed";
    if managed && !uri.text().starts_with("/subscriptions/") {
        let form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        e.not_supported(&uri, uri.text(), &[form]);
    }
    if !managed && !uri.text().starts_with("https://") {
        let form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        e.not_supported(&uri, uri.text(), &[form]);
    }
}
