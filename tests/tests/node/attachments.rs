//! Volumes that a storage plugin wants attached: the suite plays the plugin's attacher and resizer,
//! which run outside of nodes.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::plugin::{Running, with_volume};
use crate::site::{IDLE, Site, Space, condition, phase};

const NAME: &str = "attached.node-suite.fairlead.io";
const CLASS: &str = "node-suite-attached";
const VOLUME: &str = "node-suite-attached";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
/// The volume in the status of nodes.
const ON_NODE: &str = "kubernetes.io/csi/attached.node-suite.fairlead.io^two";

fn objects(site: &Site, space: &Space<'_>) -> anyhow::Result<()> {
    let driver = json!({"metadata": {"name": NAME}, "spec": {"attachRequired": true}});
    site.create("/apis/storage.k8s.io/v1/csidrivers", &driver)?;
    let class =
        json!({"metadata": {"name": CLASS}, "provisioner": NAME, "allowVolumeExpansion": true});
    site.create("/apis/storage.k8s.io/v1/storageclasses", &class)?;
    let volume = json!({"metadata": {"name": VOLUME}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS, "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": space.name, "name": "claim"}, "csi": {"driver": NAME, "volumeHandle": "two"}}});
    site.create("/api/v1/persistentvolumes", &volume)?;
    let claim = json!({"metadata": {"name": "claim"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": CLASS, "resources": {"requests": {"storage": "1Gi"}}}});
    space.create("persistentvolumeclaims", &claim)?;
    Ok(())
}

/// Waits until the volume is to be attached to a node, and answers the attachment's path.
fn wanted_on(site: &Site, node: &str) -> anyhow::Result<String> {
    let ours = |attachment: &Value| {
        attachment["spec"]["source"]["persistentVolumeName"] == VOLUME
            && attachment["spec"]["nodeName"] == node
    };
    let list = site.until(ATTACHMENTS, "one for the volume", |list| {
        list["items"]
            .as_array()
            .is_some_and(|all| all.iter().any(ours))
    })?;
    let found = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| ours(one));
    let found = found.context("no attachment")?;
    ensure!(found["spec"]["attacher"] == NAME, "{found}");
    let name = found["metadata"]["name"].as_str().unwrap_or_default();
    Ok(format!("{ATTACHMENTS}/{name}"))
}

/// What the attacher says when it has done its work.
fn attached(site: &Site, path: &str) -> anyhow::Result<()> {
    let done = json!({"status": {"attached": true, "attachmentMetadata": {"device": "0"}}});
    site.merge(&format!("{path}/status"), &done)?;
    Ok(())
}

fn lists(node: &Value, attached: bool, in_use: bool) -> bool {
    let status = &node["status"];
    let has = |list: &str, name: &dyn Fn(&Value) -> bool| {
        status[list]
            .as_array()
            .is_some_and(|all| all.iter().any(name))
    };
    has("volumesAttached", &|one| one["name"] == ON_NODE) == attached
        && has("volumesInUse", &|one| one == ON_NODE) == in_use
}

pub(crate) fn volumes_are_attached_where_their_pods_are_and_grow(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("attached")?;
    let nodes = site.cluster.nodes()?;
    let (first, second) = (&nodes[0], &nodes[1]);
    let _plugins = [
        Running::start(site, first, NAME)?,
        Running::start(site, second, NAME)?,
    ];
    objects(site, &space)?;
    let source = json!({"persistentVolumeClaim": {"claimName": "claim"}});

    // The pod waits until its volume is attached.
    space.pod(&with_volume("one", first, IDLE, &source))?;
    let path = wanted_on(site, first)?;
    space.stays(Duration::from_secs(2), "pods/one", "waiting", |pod| {
        phase(pod) == "Pending"
    })?;
    attached(site, &path)?;
    space.ready("one")?;
    space.event("pods/one", "SuccessfulAttachVolume", VOLUME)?;
    let first_node = format!("/api/v1/nodes/{first}");
    site.until(&first_node, "with the volume", |node| {
        lists(node, true, true)
    })?;

    // One node at a time.
    space.pod(&with_volume("two", second, IDLE, &source))?;
    space.event("pods/two", "FailedAttachVolume", "Multi-Attach error")?;

    grows(site, &space)?;

    // The first node lets go before the second one gets it.
    space.delete("pods/one")?;
    space.until_gone("pods/one")?;
    let path = wanted_on(site, second)?;
    site.until(&first_node, "without the volume", |node| {
        lists(node, false, false)
    })?;
    let all = site.list(ATTACHMENTS)?;
    let left = all.iter().find(|one| one["spec"]["nodeName"] == **first);
    ensure!(left.is_none(), "{left:?}");
    attached(site, &path)?;
    space.ready("two")?;
    space.delete("pods/two")?;
    site.until_gone(&path)?;
    space.until_gone("pods/two")?;
    site.delete(&format!("/api/v1/persistentvolumes/{VOLUME}"))?;
    site.delete(&format!("/apis/storage.k8s.io/v1/storageclasses/{CLASS}"))?;
    site.delete(&format!("/apis/storage.k8s.io/v1/csidrivers/{NAME}"))?;
    Ok(())
}

fn grows(site: &Site, space: &Space<'_>) -> anyhow::Result<()> {
    let claim = "persistentvolumeclaims/claim";
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    space.patch(claim, &larger)?;
    space.event(
        claim,
        "ExternalExpanding",
        "waiting for an external controller",
    )?;
    // What the resizer does when the volume itself has grown.
    let pending = json!({"status": {"conditions": [
        {"type": "FileSystemResizePending", "status": "True"}]}});
    site.merge(&space.path(&format!("{claim}/status")), &pending)?;
    let capacity = json!({"spec": {"capacity": {"storage": "2Gi"}}});
    site.merge(&format!("/api/v1/persistentvolumes/{VOLUME}"), &capacity)?;
    space.until(claim, "as large as its volume", |claim| {
        claim["status"]["capacity"]["storage"] == "2Gi"
            && condition(claim, "FileSystemResizePending").is_empty()
    })?;
    space.event("pods/one", "FileSystemResizeSuccessful", VOLUME)?;
    let size = space.exec("one", "main", "cat /vol/expanded")?.success()?;
    ensure!(size.trim() == (2_u64 << 30).to_string(), "{size}");
    Ok(())
}

pub(crate) fn a_class_of_attributes_goes_when_no_claim_names_it(site: &Site) -> anyhow::Result<()> {
    let space = site.space("attributes")?;
    let classes = "/apis/storage.k8s.io/v1/volumeattributesclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "driverName": NAME, "parameters": {"iops": "1"}});
    let (used, unused) = ("node-suite-used", "node-suite-unused");
    site.create(classes, &class(used))?;
    site.create(classes, &class(unused))?;
    let claim = json!({"metadata": {"name": "claim"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "none", "volumeAttributesClassName": used,
        "resources": {"requests": {"storage": "1Gi"}}}});
    space.create("persistentvolumeclaims", &claim)?;
    for name in [used, unused] {
        site.delete(&format!("{classes}/{name}"))?;
    }
    site.until_gone(&format!("{classes}/{unused}"))?;
    let kept = site.get(&format!("{classes}/{used}"))?;
    ensure!(!kept["metadata"]["deletionTimestamp"].is_null(), "{kept}");
    space.delete("persistentvolumeclaims/claim")?;
    site.until_gone(&format!("{classes}/{used}"))
}
