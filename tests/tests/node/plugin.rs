//! A storage plugin of the suite's own: this program, started on a node, serves volumes in
//! memory through CSI.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, ensure};
use cri::csi::node_server::{Node, NodeServer};
use cri::csi::node_service_capability::rpc::Type as Rpc;
use cri::csi::node_service_capability::{Rpc as Feature, Type as Capability};
use cri::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology,
};
use cri::registration::registration_server::{Registration, RegistrationServer};
use cri::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::site::{Site, idle, job};

/// The argument with which this program is the plugin.
pub(crate) const ROLE: &str = "storage-plugin";
const NAME: &str = "memory.node-suite.fairlead.io";
const REGISTRY: &str = "/var/lib/kubelet/plugins_registry";

#[derive(Clone)]
struct Plugin {
    name: String,
}

type Answer<T> = Result<Response<T>, Status>;

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn in_memory(path: &Path) -> Result<(), Status> {
    std::fs::create_dir_all(path).map_err(failed)?;
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(failed)
}

#[tonic::async_trait]
impl Node for Plugin {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        let path = PathBuf::from(&request.staging_target_path);
        if !path.join("staged").exists() {
            in_memory(&path)?;
            std::fs::write(path.join("staged"), &request.volume_id).map_err(failed)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let path = request.into_inner().staging_target_path;
        umount2(path.as_str(), MntFlags::empty()).map_err(failed)?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let target = PathBuf::from(&request.target_path);
        if request.staging_target_path.is_empty() {
            in_memory(&target)?;
        } else {
            std::fs::create_dir_all(&target).map_err(failed)?;
            let stage = request.staging_target_path.as_str();
            mount(
                Some(stage),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(failed)?;
        }
        let mut context: Vec<_> = request.volume_context.iter().collect();
        context.sort();
        let text: String = context
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        std::fs::write(target.join("context"), text).map_err(failed)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let path = PathBuf::from(request.into_inner().target_path);
        umount2(&path, MntFlags::empty()).map_err(failed)?;
        std::fs::remove_dir(&path).map_err(failed)?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let range = request.capacity_range.unwrap_or_default();
        let size = range.required_bytes;
        let note = Path::new(&request.volume_path).join("expanded");
        std::fs::write(note, size.to_string()).map_err(failed)?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: size,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let able = |what: Rpc| NodeServiceCapability {
            r#type: Some(Capability::Rpc(Feature {
                r#type: what.into(),
            })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![able(Rpc::StageUnstageVolume), able(Rpc::ExpandVolume)],
        }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let segments = [("node-suite.fairlead.io/rack".to_owned(), "a".to_owned())];
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "the-node".to_owned(),
            max_volumes_per_node: 7,
            accessible_topology: Some(Topology {
                segments: segments.into_iter().collect(),
            }),
        }))
    }
}

#[tonic::async_trait]
impl Registration for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.clone(),
            endpoint: String::new(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        println!("registered: {:?}", request.into_inner());
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Serves under a name until the standard input ends.
pub(crate) fn serve(name: String) -> anyhow::Result<()> {
    let socket = PathBuf::from(REGISTRY).join(format!("{name}.sock"));
    let plugin = Plugin { name };
    let _ = std::fs::remove_file(&socket);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket)?);
        let over = async {
            let mut rest = Vec::new();
            let _ = tokio::io::stdin().read_to_end(&mut rest).await;
        };
        tonic::transport::Server::builder()
            .add_service(NodeServer::new(plugin.clone()))
            .add_service(RegistrationServer::new(plugin))
            .serve_with_incoming_shutdown(incoming, over)
            .await?;
        std::fs::remove_file(&socket)?;
        Ok(())
    })
}

/// The plugin, running on a node. It ends with this value.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(site: &Site, node: &str, name: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let child = cluster_tests::command::command(cluster_tests::command::fairlead())
            .args(["lab", "exec", &site.cluster.lab, node, "--"])
            .arg(program)
            .args([ROLE, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A pod on a node that runs a command with a volume at `/vol`.
pub(crate) fn with_volume(name: &str, node: &str, line: &str, source: &Value) -> Value {
    let mut pod = job(name, line);
    let mut volume = source.clone();
    volume["name"] = json!("vol");
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "vol", "mountPath": "/vol"}]);
    pod
}

pub(crate) fn storage_plugins_provide_volumes(site: &Site) -> anyhow::Result<()> {
    let space = site.space("plugged")?;
    let node = site.cluster.nodes()?.first().cloned().context("no node")?;
    let driver = json!({"metadata": {"name": NAME}, "spec": {"attachRequired": false,
        "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"], "fsGroupPolicy": "File"}});
    site.create("/apis/storage.k8s.io/v1/csidrivers", &driver)?;
    let inline = json!({"csi": {"driver": NAME, "volumeAttributes": {"colour": "blue"}}});
    // Before the plugin is there, the pod waits and says for what.
    let mut early = with_volume(
        "early",
        &node,
        "cat /vol/context; echo x > /vol/own; stat -c %g /vol/own",
        &inline,
    );
    early["spec"]["securityContext"] = json!({"fsGroup": 4321});
    space.pod(&early)?;
    space.event(
        "pods/early",
        "FailedMount",
        "not found in the list of registered CSI drivers",
    )?;
    let plugin = Running::start(site, &node, NAME)?;
    space.ended("early")?;
    let log = space.log("early", "")?;
    for line in [
        "colour=blue",
        "csi.storage.k8s.io/ephemeral=true",
        "csi.storage.k8s.io/pod.name=early",
        "csi.storage.k8s.io/pod.namespace=plugged",
        "csi.storage.k8s.io/serviceAccount.name=default",
        "4321",
    ] {
        ensure!(log.lines().any(|found| found == line), "no {line} in {log}");
    }
    let listed = site.get(&format!("/apis/storage.k8s.io/v1/csinodes/{node}"))?;
    let own = listed["spec"]["drivers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|driver| driver["name"] == NAME);
    let own = own.with_context(|| listed.to_string())?;
    ensure!(
        own["nodeID"] == "the-node" && own["allocatable"]["count"] == 7,
        "{own}"
    );
    ensure!(
        own["topologyKeys"] == json!(["node-suite.fairlead.io/rack"]),
        "{own}"
    );

    // A persistent one is staged once and shared by the pods of the node.
    let volume = json!({"metadata": {"name": "node-suite-plugged"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"], "storageClassName": "node-suite-plugged", "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": space.name, "name": "claim"}, "csi": {"driver": NAME, "volumeHandle": "one"}}});
    site.create("/api/v1/persistentvolumes", &volume)?;
    let claim = json!({"metadata": {"name": "claim"}, "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "node-suite-plugged",
        "resources": {"requests": {"storage": "1Gi"}}}});
    space.create("persistentvolumeclaims", &claim)?;
    space.until("persistentvolumeclaims/claim", "bound", |claim| {
        claim["status"]["phase"] == "Bound"
    })?;
    let source = json!({"persistentVolumeClaim": {"claimName": "claim"}});
    let mut holder = with_volume("holder", &node, "", &source);
    holder["spec"]["containers"][0]["command"] =
        idle("x")["spec"]["containers"][0]["command"].clone();
    space.start(&holder)?;
    space
        .exec("holder", "main", "echo kept > /vol/file")?
        .success()?;
    let log = space.output(&with_volume(
        "reader",
        &node,
        "cat /vol/file /vol/staged",
        &source,
    ))?;
    ensure!(log == "kept\none", "{log}");
    let mut places = vec![format!("/{NAME}/")];
    for name in ["early", "reader", "holder"] {
        let pod = space.get(&format!("pods/{name}"))?;
        places.extend(pod["metadata"]["uid"].as_str().map(str::to_owned));
        space.delete(&format!("pods/{name}"))?;
        space.until_gone(&format!("pods/{name}"))?;
    }
    // Nothing of it stays mounted. Other cases have mounts of another plugin.
    let mounts = site
        .cluster
        .exec(&node, &["cat", "/proc/self/mounts"])?
        .success()?;
    let left = mounts
        .lines()
        .find(|line| places.iter().any(|place| line.contains(place.as_str())));
    ensure!(left.is_none(), "{left:?}");
    drop(plugin);
    site.delete("/api/v1/persistentvolumes/node-suite-plugged")?;
    site.delete(&format!("/apis/storage.k8s.io/v1/csidrivers/{NAME}"))?;
    Ok(())
}
