//! A volume of a plugin, from its definition to a directory, and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri::csi::volume_capability::access_mode::Mode;
use cri::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use cri::csi::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeCapability,
};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod,
    Secret, Volume,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::expand::{Place, expand};
use super::{CsiError, Driver, hold};
use crate::context::Context;
use crate::pod::containers;
use crate::volumes::{Paths, mount_table, ownership};

/// Beside a mount: what is needed to take it down.
const RECORD: &str = "vol_data.json";

/// A volume in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub path: PathBuf,
    pub read_only: bool,
    /// The kubelet gives its files to the pod's group.
    pub own: bool,
    /// It may become larger while the pod runs.
    pub grows: bool,
}

/// What a claim leads to.
pub(crate) struct Behind {
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    driver_name: String,
    volume_handle: String,
    /// Empty for volumes that are not staged.
    staging_path: PathBuf,
    /// The volume's name in the node's status; empty for volumes that are not attached.
    on_node: String,
}

type Map = BTreeMap<String, String>;

/// What a pod wants of a plugin, whichever way it is written.
struct Wanted {
    driver: String,
    handle: String,
    fs_type: String,
    attributes: Map,
    mode: &'static str,
    mount_flags: Vec<String>,
    read_only: bool,
    ephemeral: bool,
    /// Namespace and name of the Secrets for staging and publishing.
    stage_secret: Option<(String, String)>,
    publish_secret: Option<(String, String)>,
}

fn digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

fn inline(pod: &Pod, volume: &Volume, source: &CSIVolumeSource) -> Wanted {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let namespace = pod.namespace().unwrap_or_default();
    let secret = source.node_publish_secret_ref.as_ref();
    Wanted {
        driver: source.driver.clone(),
        handle: format!("csi-{}", digest(&[uid, &volume.name])),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        mode: "ReadWriteOnce",
        mount_flags: Vec::new(),
        read_only: source.read_only == Some(true),
        ephemeral: true,
        stage_secret: None,
        publish_secret: secret.map(|secret| (namespace, secret.name.clone())),
    }
}

fn persistent(volume: &PersistentVolume, source: &CSIPersistentVolumeSource) -> Wanted {
    let spec = volume.spec.as_ref();
    let modes = spec
        .and_then(|spec| spec.access_modes.clone())
        .unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|other| other == mode);
    let order = [
        "ReadWriteMany",
        "ReadWriteOncePod",
        "ReadWriteOnce",
        "ReadOnlyMany",
    ];
    let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
        let reference = reference.as_ref()?;
        Some((reference.namespace.clone()?, reference.name.clone()?))
    };
    Wanted {
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        mode: order
            .into_iter()
            .find(|mode| has(mode))
            .unwrap_or("ReadWriteOnce"),
        mount_flags: spec
            .and_then(|spec| spec.mount_options.clone())
            .unwrap_or_default(),
        read_only: source.read_only == Some(true),
        ephemeral: false,
        stage_secret: secret(&source.node_stage_secret_ref),
        publish_secret: secret(&source.node_publish_secret_ref),
    }
}

fn capability(wanted: &Wanted, driver: &Driver, group: Option<u32>) -> VolumeCapability {
    let mode = match wanted.mode {
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteOncePod" if driver.single_writer => Mode::SingleNodeSingleWriter,
        "ReadWriteOnce" if driver.single_writer => Mode::SingleNodeMultiWriter,
        _ => Mode::SingleNodeWriter,
    };
    let group = group.filter(|_| driver.mount_group);
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: wanted.fs_type.clone(),
            mount_flags: wanted.mount_flags.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        })),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

/// What the plugin's object says of how it wants to be used.
fn pod_info(pod: &Pod, ephemeral: bool) -> Map {
    let account = containers::spec(pod).service_account_name.clone();
    [
        ("pod.name", pod.name_any()),
        ("pod.namespace", pod.namespace().unwrap_or_default()),
        ("pod.uid", pod.uid().unwrap_or_default()),
        ("serviceAccount.name", account.unwrap_or_default()),
        ("ephemeral", ephemeral.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
    .collect()
}

/// Whether the kubelet changes the group of the volume's files.
fn owns(object: Option<&CSIDriver>, wanted: &Wanted, driver: &Driver) -> bool {
    let policy = object.and_then(|object| object.spec.fs_group_policy.as_deref());
    match policy.unwrap_or("ReadWriteOnceWithFSType") {
        _ if driver.mount_group => false,
        "None" => false,
        "File" => true,
        _ => !wanted.fs_type.is_empty() && wanted.mode == "ReadWriteOnce",
    }
}

/// Has a volume mounted for a pod, unless it is already, and lets it fill its room. `behind` is
/// what a claim leads to.
pub(crate) async fn set_up(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    behind: Option<&Behind>,
) -> Result<Option<Mounted>, CsiError> {
    let of_claim =
        behind.and_then(|behind| Some((behind, behind.volume.spec.as_ref()?.csi.as_ref()?)));
    let wanted = match (&volume.csi, of_claim) {
        (Some(source), _) => inline(pod, volume, source),
        (None, Some((behind, source))) => persistent(&behind.volume, source),
        (None, None) => return Ok(None),
    };
    let driver = context.csi.get(&wanted.driver)?;
    let object = read::<CSIDriver>(Api::all(context.client.clone()), &wanted.driver).await?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let directory = context.paths.volume(uid, "csi", &volume.name);
    let mounted = Mounted {
        path: directory.join("mount"),
        read_only: wanted.read_only,
        own: owns(object.as_ref(), &wanted, &driver) && !wanted.read_only,
        grows: driver.expands && !wanted.ephemeral && !wanted.read_only,
    };
    let there = directory.join(RECORD).exists() && is_mounted(&mounted.path)?;
    if !there {
        mount(context, pod, &wanted, &driver, object.as_ref(), &mounted).await?;
    }
    if let Some(behind) = behind.filter(|_| mounted.grows) {
        let staged = driver.stages.then(|| stage_path(context, &wanted));
        let place = Place {
            handle: &wanted.handle,
            path: mounted.path.display().to_string(),
            staging_path: staged.unwrap_or_default().display().to_string(),
            capability: capability(&wanted, &driver, ownership::fs_group(pod)),
        };
        let grown = (&behind.volume, &behind.claim);
        expand(context, pod, &driver, grown, place).await;
    }
    Ok(Some(mounted))
}

async fn mount(
    context: &Context,
    pod: &Pod,
    wanted: &Wanted,
    driver: &Driver,
    object: Option<&CSIDriver>,
    mounted: &Mounted,
) -> Result<(), CsiError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = object.map(|object| &object.spec);
    if wanted.ephemeral {
        let modes = spec.and_then(|spec| spec.volume_lifecycle_modes.as_ref());
        if !modes.is_some_and(|modes| modes.iter().any(|mode| mode == "Ephemeral")) {
            return Err(CsiError::NotEphemeral(wanted.driver.clone()));
        }
    }
    let attaches = !wanted.ephemeral && spec.and_then(|spec| spec.attach_required) != Some(false);
    let mut record = Record {
        driver_name: wanted.driver.clone(),
        volume_handle: wanted.handle.clone(),
        ..Record::default()
    };
    let mut attached = Map::new();
    if attaches {
        record.on_node = hold::name(&wanted.driver, &wanted.handle);
        // From here on nobody detaches it behind our back.
        hold::keep(context, &record.on_node, uid).await?;
        attached = attachment(context, wanted).await?;
    }
    let mut attributes = wanted.attributes.clone();
    if spec.and_then(|spec| spec.pod_info_on_mount) == Some(true) {
        attributes.extend(pod_info(pod, wanted.ephemeral));
    }
    let capability = capability(wanted, driver, ownership::fs_group(pod));
    if driver.stages && !wanted.ephemeral {
        let stage = stage_path(context, wanted);
        record.staging_path.clone_from(&stage);
        let turn = context.csi.turn(&stage);
        let _turn = turn.lock().await;
        make(&stage)?;
        let request = NodeStageVolumeRequest {
            volume_id: wanted.handle.clone(),
            publish_context: into(attached.clone()),
            staging_target_path: stage.display().to_string(),
            volume_capability: Some(capability.clone()),
            secrets: into(secrets(context, wanted.stage_secret.as_ref()).await?),
            volume_context: into(attributes.clone()),
        };
        let mut client = driver.client();
        driver
            .call("NodeStageVolume", client.node_stage_volume(request))
            .await?;
    }
    let directory = mounted.path.parent().unwrap_or(&mounted.path);
    make(directory)?;
    // The record comes first: what may be mounted has to be taken down.
    write(&directory.join(RECORD), &record)?;
    let request = NodePublishVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context: into(attached),
        staging_target_path: record.staging_path.display().to_string(),
        target_path: mounted.path.display().to_string(),
        volume_capability: Some(capability),
        readonly: wanted.read_only,
        secrets: into(secrets(context, wanted.publish_secret.as_ref()).await?),
        volume_context: into(attributes),
    };
    let mut client = driver.client();
    driver
        .call("NodePublishVolume", client.node_publish_volume(request))
        .await?;
    Ok(())
}

fn into<M: FromIterator<(String, String)>>(map: Map) -> M {
    map.into_iter().collect()
}

fn stage_path(context: &Context, wanted: &Wanted) -> PathBuf {
    let base = context.paths.root.join("plugins/kubernetes.io/csi");
    let volume = digest(&[&wanted.handle]);
    base.join(&wanted.driver).join(volume).join("globalmount")
}

async fn read<K>(api: Api<K>, name: &str) -> Result<Option<K>, CsiError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found = api.get_opt(name).await;
    found.map_err(|error| CsiError::Api {
        what: name.to_owned(),
        message: error.to_string(),
    })
}

async fn attachment(context: &Context, wanted: &Wanted) -> Result<Map, CsiError> {
    let node = &context.config.node_name;
    let name = format!("csi-{}", digest(&[&wanted.handle, &wanted.driver, node]));
    let found = read::<VolumeAttachment>(Api::all(context.client.clone()), &name).await?;
    let status = found.and_then(|found| found.status);
    match status.filter(|status| status.attached) {
        Some(status) => Ok(status.attachment_metadata.unwrap_or_default()),
        None => Err(CsiError::NotAttached {
            volume: wanted.handle.clone(),
            node: node.clone(),
        }),
    }
}

async fn secrets(context: &Context, reference: Option<&(String, String)>) -> Result<Map, CsiError> {
    let Some((namespace, name)) = reference else {
        return Ok(Map::new());
    };
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let missing = || CsiError::Api {
        what: format!("secret {namespace}/{name}"),
        message: "it does not exist".to_owned(),
    };
    let secret = read(api, name).await?.ok_or_else(missing)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let data = secret.data.unwrap_or_default();
    Ok(data
        .into_iter()
        .map(|(key, value)| (key, text(value.0)))
        .collect())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CsiError {
    let path = path.display().to_string();
    move |source| CsiError::Io {
        action,
        path,
        source,
    }
}

fn make(path: &Path) -> Result<(), CsiError> {
    std::fs::create_dir_all(path).map_err(failed("create", path))
}

fn write(path: &Path, record: &Record) -> Result<(), CsiError> {
    let text = serde_json::to_vec(record).unwrap_or_default();
    // A record is either whole or not there.
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text).map_err(failed("write", path))?;
    std::fs::rename(&unfinished, path).map_err(failed("write", path))
}

fn is_mounted(path: &Path) -> Result<bool, CsiError> {
    mount_table::is_mounted(path).map_err(|error| CsiError::Api {
        what: "the mount table".to_owned(),
        message: error.to_string(),
    })
}

fn records(directory: &Path) -> Vec<(PathBuf, Record)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let text = std::fs::read(entry.path().join(RECORD)).ok()?;
            Some((entry.path(), serde_json::from_slice(&text).ok()?))
        })
        .collect()
}

/// What earlier runs of the kubelet left attached: volumes by their names on the node, and pods.
pub(super) fn held(paths: &Paths) -> Vec<(String, String)> {
    let pods = std::fs::read_dir(paths.pods())
        .into_iter()
        .flatten()
        .flatten();
    let uids = pods.map(|pod| pod.file_name().to_string_lossy().into_owned());
    uids.flat_map(|uid| {
        let records = records(&paths.volume(&uid, "csi", ""));
        let names = records.into_iter().map(|(_, record)| record.on_node);
        names
            .filter(|name| !name.is_empty())
            .map(move |name| (name, uid.clone()))
            .collect::<Vec<_>>()
    })
    .collect()
}

/// Takes the plugins' volumes of a pod down. The rest of the pod's volumes wait for it.
pub(crate) async fn tear_down(context: &Context, uid: &str) -> Result<(), CsiError> {
    let directory = context.paths.volume(uid, "csi", "");
    for (volume, record) in records(&directory) {
        let driver = context.csi.get(&record.driver_name)?;
        let target = volume.join("mount");
        let request = NodeUnpublishVolumeRequest {
            volume_id: record.volume_handle.clone(),
            target_path: target.display().to_string(),
        };
        let mut client = driver.client();
        driver
            .call("NodeUnpublishVolume", client.node_unpublish_volume(request))
            .await?;
        if !record.staging_path.as_os_str().is_empty() {
            unstage(context, uid, &driver, &record).await?;
        }
        let path = volume.join(RECORD);
        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    context.csi.held.release(uid);
    Ok(())
}

/// The last pod on the node that used a volume lets go of its stage.
async fn unstage(
    context: &Context,
    uid: &str,
    driver: &Driver,
    record: &Record,
) -> Result<(), CsiError> {
    let turn = context.csi.turn(&record.staging_path);
    let _turn = turn.lock().await;
    let pods = std::fs::read_dir(context.paths.pods())
        .into_iter()
        .flatten()
        .flatten();
    let others = pods.filter(|pod| pod.file_name() != uid).any(|pod| {
        let pod = pod.file_name().to_string_lossy().into_owned();
        records(&context.paths.volume(&pod, "csi", ""))
            .iter()
            .any(|(_, other)| other.staging_path == record.staging_path)
    });
    if others {
        return Ok(());
    }
    let request = NodeUnstageVolumeRequest {
        volume_id: record.volume_handle.clone(),
        staging_target_path: record.staging_path.display().to_string(),
    };
    let mut client = driver.client();
    driver
        .call("NodeUnstageVolume", client.node_unstage_volume(request))
        .await?;
    // Only what is empty goes: a plugin that did not unmount keeps its data.
    let _ = std::fs::remove_dir(&record.staging_path);
    let _ = record.staging_path.parent().map(std::fs::remove_dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    fn driver(single_writer: bool) -> Driver {
        Driver {
            name: "d".into(),
            channel: cri::connect("/nowhere"),
            stages: true,
            mount_group: false,
            single_writer,
            expands: false,
        }
    }

    #[tokio::test]
    async fn access_modes_are_told_as_the_plugin_knows_them() {
        for (modes, single_writer, expected) in [
            (json!(["ReadWriteOnce"]), false, Mode::SingleNodeWriter),
            (json!(["ReadWriteOnce"]), true, Mode::SingleNodeMultiWriter),
            (
                json!(["ReadWriteOncePod"]),
                true,
                Mode::SingleNodeSingleWriter,
            ),
            (
                json!(["ReadOnlyMany", "ReadWriteMany"]),
                true,
                Mode::MultiNodeMultiWriter,
            ),
            (json!(["ReadOnlyMany"]), false, Mode::MultiNodeReaderOnly),
        ] {
            let volume: PersistentVolume = serde_json::from_value(json!({"spec": {
                "accessModes": modes, "csi": {"driver": "d", "volumeHandle": "h"}}}))
            .unwrap();
            let source = volume.spec.as_ref().unwrap().csi.as_ref().unwrap();
            let wanted = persistent(&volume, source);
            let told = capability(&wanted, &driver(single_writer), None);
            assert_eq!(told.access_mode.unwrap().mode(), expected, "{modes}");
        }
    }

    #[tokio::test]
    async fn groups_are_the_kubelets_business_where_the_plugin_says_so() {
        let pod = pod(json!({"spec": {"containers": []}}));
        let volume: Volume =
            serde_json::from_value(json!({"name": "v", "csi": {"driver": "d", "fsType": "ext4"}}))
                .unwrap();
        let wanted = inline(&pod, &volume, volume.csi.as_ref().unwrap());
        let object = |policy: &str| -> CSIDriver {
            serde_json::from_value(json!({"spec": {"fsGroupPolicy": policy}})).unwrap()
        };
        assert!(owns(None, &wanted, &driver(false)));
        assert!(owns(Some(&object("File")), &wanted, &driver(false)));
        assert!(!owns(Some(&object("None")), &wanted, &driver(false)));
        assert!(wanted.handle.starts_with("csi-") && wanted.ephemeral);
    }
}
