//! Plugins come and go with their sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::csi::node_client::NodeClient;
use cri::csi::node_service_capability::Type as Capability;
use cri::csi::node_service_capability::rpc::Type as Rpc;
use cri::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse};
use cri::registration::registration_client::RegistrationClient;
use cri::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{CsiError, Driver, answered};
use crate::context::Context;

const PERIOD: Duration = Duration::from_secs(1);
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// A socket, told from another one at the same path by its inode.
type Sockets = BTreeSet<(PathBuf, u64)>;

fn sockets(directory: &Path) -> Sockets {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "sock"))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.ino())))
        .collect()
}

/// Registers the plugins whose sockets are in the directory, until the shutdown.
pub(crate) async fn follow(context: Arc<Context>, shutdown: CancellationToken) {
    let directory = context.paths.root.join("plugins_registry");
    if let Err(error) = std::fs::create_dir_all(&directory) {
        tracing::warn!(%error, "no storage plugins: {} is not there", directory.display());
    }
    let mut registered: BTreeMap<(PathBuf, u64), String> = BTreeMap::new();
    let mut complained = Sockets::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let found = sockets(&directory);
        complained.retain(|socket| found.contains(socket));
        let gone: Vec<_> = registered
            .extract_if(.., |socket, _| !found.contains(socket))
            .collect();
        for (_, name) in gone {
            if !registered.values().any(|other| *other == name) {
                context.csi.known.lock().remove(&name);
                tracing::info!(driver = name, "a storage plugin is gone");
                list(&context, &name, None).await;
            }
        }
        for socket in found {
            if registered.contains_key(&socket) {
                continue;
            }
            match register(&context, &socket.0).await {
                Ok(name) => {
                    tracing::info!(driver = name, "a storage plugin is registered");
                    registered.insert(socket, name);
                }
                Err(error) => {
                    if complained.insert(socket) {
                        tracing::warn!(%error, "a storage plugin is not registered");
                    }
                }
            }
        }
    }
}

async fn register(context: &Context, socket: &Path) -> Result<String, CsiError> {
    let mut client = RegistrationClient::new(cri::connect(socket));
    let shown = socket.display().to_string();
    let info = answered(&shown, "GetInfo", client.get_info(InfoRequest {})).await?;
    let result = learn(context, socket, &info).await;
    let status = RegistrationStatus {
        plugin_registered: result.is_ok(),
        error: result
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let notified = client.notify_registration_status(status);
    answered(&info.name, "NotifyRegistrationStatus", notified).await?;
    result.map(|()| info.name)
}

async fn learn(context: &Context, socket: &Path, info: &PluginInfo) -> Result<(), CsiError> {
    let refuse = |message: String| CsiError::Call {
        driver: info.name.clone(),
        call: "GetInfo",
        message,
    };
    if info.r#type != "CSIPlugin" {
        return Err(refuse(format!(
            "plugins of type {:?} are not used",
            info.r#type
        )));
    }
    let fits = |version: &String| version.trim_start_matches('v').starts_with("1.");
    if info.name.is_empty() || !info.supported_versions.iter().any(fits) {
        return Err(refuse("a name and a version 1.x are needed".to_owned()));
    }
    let endpoint = match info.endpoint.as_str() {
        "" => socket.to_owned(),
        endpoint => PathBuf::from(endpoint.trim_start_matches("unix://")),
    };
    let channel = cri::connect(endpoint);
    let mut client = NodeClient::new(channel.clone());
    let asked = client.node_get_capabilities(NodeGetCapabilitiesRequest {});
    let answer = answered(&info.name, "NodeGetCapabilities", asked).await?;
    let has = |wanted: Rpc| {
        answer.capabilities.iter().any(
            |capability| matches!(&capability.r#type, Some(Capability::Rpc(rpc)) if rpc.r#type() == wanted),
        )
    };
    let driver = Driver {
        name: info.name.clone(),
        channel,
        stages: has(Rpc::StageUnstageVolume),
        mount_group: has(Rpc::VolumeMountGroup),
        single_writer: has(Rpc::SingleNodeMultiWriter),
        expands: has(Rpc::ExpandVolume),
    };
    let node = answered(
        &info.name,
        "NodeGetInfo",
        client.node_get_info(NodeGetInfoRequest {}),
    );
    let node = node.await?;
    context.csi.known.lock().insert(info.name.clone(), driver);
    list(context, &info.name, Some(&node)).await;
    Ok(())
}

/// Tells the API of a plugin, or that it is gone. What fails is said again with the next one.
async fn list(context: &Context, name: &str, info: Option<&NodeGetInfoResponse>) {
    for _ in 0..5 {
        match write(context, name, info).await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                tracing::warn!(driver = name, %error, "the node's CSINode was not written");
                return;
            }
        }
    }
}

async fn write(
    context: &Context,
    name: &str,
    info: Option<&NodeGetInfoResponse>,
) -> Result<(), kube::Error> {
    let api = Api::<CSINode>::all(context.client.clone());
    let node_name = &context.config.node_name;
    let found = api.get_opt(node_name).await?;
    let exists = found.is_some();
    let mut object = found.unwrap_or_else(|| CSINode {
        metadata: ObjectMeta {
            name: Some(node_name.clone()),
            owner_references: context.node_object().map(|node| vec![owner(&node)]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec::default(),
    });
    let drivers = &mut object.spec.drivers;
    drivers.retain(|driver| driver.name != name);
    drivers.extend(info.map(|info| entry(name, info)));
    if exists {
        api.replace(node_name, &PostParams::default(), &object)
            .await?;
    } else {
        api.create(&PostParams::default(), &object).await?;
    }
    if let Some(info) = info {
        mark_node(context, name, info).await?;
    }
    Ok(())
}

fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn entry(name: &str, info: &NodeGetInfoResponse) -> CSINodeDriver {
    let topology = info.accessible_topology.as_ref();
    let count = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: topology.map(|topology| topology.segments.keys().cloned().collect()),
        allocatable: (count > 0).then_some(VolumeNodeResources { count: Some(count) }),
    }
}

/// The node's id with the plugin, and where the node is in the plugin's topology.
async fn mark_node(
    context: &Context,
    name: &str,
    info: &NodeGetInfoResponse,
) -> Result<(), kube::Error> {
    let node = context.node_object().unwrap_or_default();
    let known = node.annotations().get(NODE_IDS);
    let mut ids: BTreeMap<String, String> = known
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    ids.insert(name.to_owned(), info.node_id.clone());
    let segments = info
        .accessible_topology
        .as_ref()
        .map(|topology| &topology.segments);
    let patch = json!({"metadata": {
        "annotations": {NODE_IDS: json!(ids).to_string()},
        "labels": segments.cloned().unwrap_or_default(),
    }});
    let nodes = Api::<Node>::all(context.client.clone());
    let written = nodes
        .patch(
            &context.config.node_name,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await;
    written.map(drop)
}
