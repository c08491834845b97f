use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::{self, ContainerState, PodSandboxState};
use crate::{Error, TaskEvents, connect};

/// Calls that only read or change small things.
const SHORT: Duration = Duration::from_secs(15);
/// Calls that start or stop processes and networks, on a machine under load.
const LONG: Duration = Duration::from_secs(240);
/// Lists of many large messages.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A container runtime behind its socket. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    socket: PathBuf,
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// One method per call: name, client, request and response, what is taken out of the response.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty,
       $client:ident, $limit:expr, $request:expr, $take:expr;)*) => {
        $(
            $(#[$doc])*
            pub async fn $name(&self, $($arg: $type),*) -> Result<$result, Error> {
                let mut client = self.$client.clone();
                let reply = self.call(stringify!($name), $limit, $request, |request| async move {
                    client.$name(request).await
                }).await?;
                Ok($take(reply))
            }
        )*
    };
}

impl Runtime {
    /// A runtime at a socket. Nothing is dialled before the first call.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        let socket = socket.as_ref().to_owned();
        let channel = connect(socket.clone());
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            channel,
            socket,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// containerd's exits as they happen.
    pub async fn task_events(&self) -> Result<TaskEvents, Error> {
        TaskEvents::subscribe(self.channel.clone()).await
    }

    async fn call<Q, R, F>(
        &self,
        name: &'static str,
        limit: Duration,
        request: Q,
        send: impl FnOnce(Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(request);
        request.set_timeout(limit);
        // The runtime keeps its own deadline; ours is for a runtime that hangs.
        match tokio::time::timeout(limit + Duration::from_secs(1), send(request)).await {
            Err(_) => Err(Error::Deadline { call: name }),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(
                &self.socket.display().to_string(),
                name,
                &status,
            )),
        }
    }

    calls! {
        /// The runtime's name and versions.
        version() -> v1::VersionResponse, runtime, SHORT,
            v1::VersionRequest { version: "v1".into() }, |reply| reply;
        /// The runtime's conditions, handlers and features.
        status() -> v1::StatusResponse, runtime, SHORT,
            v1::StatusRequest { verbose: false }, |reply| reply;
        /// The cgroup driver that the runtime uses; `Unimplemented` before containerd 2.0.
        runtime_config() -> Option<v1::LinuxRuntimeConfiguration>, runtime, SHORT,
            v1::RuntimeConfigRequest {}, |reply: v1::RuntimeConfigResponse| reply.linux;
        /// Tells the runtime the node's pod address range.
        update_runtime_config(pod_cidr: String) -> (), runtime, SHORT,
            v1::UpdateRuntimeConfigRequest {
                runtime_config: Some(v1::RuntimeConfig {
                    network_config: Some(v1::NetworkConfig { pod_cidr }),
                }),
            }, |_| ();
        /// Makes a sandbox with its network and answers its id.
        run_pod_sandbox(config: v1::PodSandboxConfig, runtime_handler: String) -> String, runtime, LONG,
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler },
            |reply: v1::RunPodSandboxResponse| reply.pod_sandbox_id;
        /// Stops what runs in a sandbox and takes its network down. Idempotent.
        stop_pod_sandbox(pod_sandbox_id: String) -> (), runtime, LONG,
            v1::StopPodSandboxRequest { pod_sandbox_id }, |_| ();
        /// Removes a sandbox and its containers. Idempotent.
        remove_pod_sandbox(pod_sandbox_id: String) -> (), runtime, LONG,
            v1::RemovePodSandboxRequest { pod_sandbox_id }, |_| ();
        /// A sandbox's state and addresses.
        pod_sandbox_status(pod_sandbox_id: String) -> Option<v1::PodSandboxStatus>, runtime, SHORT,
            v1::PodSandboxStatusRequest { pod_sandbox_id, verbose: false },
            |reply: v1::PodSandboxStatusResponse| reply.status;
        /// The sandboxes that a filter picks.
        list_pod_sandbox(filter: v1::PodSandboxFilter) -> Vec<v1::PodSandbox>, runtime, SHORT,
            v1::ListPodSandboxRequest { filter: Some(filter) },
            |reply: v1::ListPodSandboxResponse| reply.items;
        /// Makes a container in a sandbox and answers its id.
        create_container(pod_sandbox_id: String, config: v1::ContainerConfig, sandbox: v1::PodSandboxConfig)
            -> String, runtime, LONG,
            v1::CreateContainerRequest {
                pod_sandbox_id, config: Some(config), sandbox_config: Some(sandbox),
            },
            |reply: v1::CreateContainerResponse| reply.container_id;
        /// Starts a created container.
        start_container(container_id: String) -> (), runtime, LONG,
            v1::StartContainerRequest { container_id }, |_| ();
        /// Stops a container: its stop signal, then after `timeout` seconds SIGKILL. Idempotent.
        stop_container(container_id: String, timeout: i64) -> (), runtime,
            LONG + Duration::from_secs(u64::try_from(timeout).unwrap_or(0)),
            v1::StopContainerRequest { container_id, timeout }, |_| ();
        /// Removes a container. Idempotent.
        remove_container(container_id: String) -> (), runtime, LONG,
            v1::RemoveContainerRequest { container_id }, |_| ();
        /// The containers that a filter picks.
        list_containers(filter: v1::ContainerFilter) -> Vec<v1::Container>, runtime, SHORT,
            v1::ListContainersRequest { filter: Some(filter) },
            |reply: v1::ListContainersResponse| reply.containers;
        /// A container's state.
        container_status(container_id: String) -> Option<v1::ContainerStatus>, runtime, SHORT,
            v1::ContainerStatusRequest { container_id, verbose: false },
            |reply: v1::ContainerStatusResponse| reply.status;
        /// Changes the limits of a container that runs.
        update_container_resources(container_id: String, linux: v1::LinuxContainerResources) -> (),
            runtime, SHORT,
            v1::UpdateContainerResourcesRequest {
                container_id, linux: Some(linux), annotations: Default::default(),
            }, |_| ();
        /// Makes the runtime write to a new log file after the old one was renamed.
        reopen_container_log(container_id: String) -> (), runtime, SHORT,
            v1::ReopenContainerLogRequest { container_id }, |_| ();
        /// The address of a stream that runs a command in a container.
        exec(request: v1::ExecRequest) -> String, runtime, SHORT, request,
            |reply: v1::ExecResponse| reply.url;
        /// The address of a stream attached to a container's process.
        attach(request: v1::AttachRequest) -> String, runtime, SHORT, request,
            |reply: v1::AttachResponse| reply.url;
        /// The address of a stream that forwards ports of a sandbox.
        port_forward(request: v1::PortForwardRequest) -> String, runtime, SHORT, request,
            |reply: v1::PortForwardResponse| reply.url;
        /// The usage of the running containers that a filter picks.
        list_container_stats(filter: v1::ContainerStatsFilter) -> Vec<v1::ContainerStats>, runtime, SHORT,
            v1::ListContainerStatsRequest { filter: Some(filter) },
            |reply: v1::ListContainerStatsResponse| reply.stats;
        /// All images of the runtime.
        list_images() -> Vec<v1::Image>, images, SHORT,
            v1::ListImagesRequest { filter: None },
            |reply: v1::ListImagesResponse| reply.images;
        /// An image by name or id; `None` when it is not there.
        image_status(image: v1::ImageSpec) -> Option<v1::Image>, images, SHORT,
            v1::ImageStatusRequest { image: Some(image), verbose: false },
            |reply: v1::ImageStatusResponse| reply.image;
        /// Pulls an image and answers its reference. It may take as long as the network needs.
        pull_image(image: v1::ImageSpec, auth: Option<v1::AuthConfig>, sandbox: Option<v1::PodSandboxConfig>)
            -> String, images, Duration::from_secs(3600),
            v1::PullImageRequest { image: Some(image), auth, sandbox_config: sandbox },
            |reply: v1::PullImageResponse| reply.image_ref;
        /// Removes an image with all its names. Idempotent.
        remove_image(image: v1::ImageSpec) -> (), images, LONG,
            v1::RemoveImageRequest { image: Some(image) }, |_| ();
        /// The file systems that hold images.
        image_fs_info() -> v1::ImageFsInfoResponse, images, SHORT,
            v1::ImageFsInfoRequest {}, |reply| reply;
    }

    /// Runs a command in a container and waits for it, at most `timeout`.
    pub async fn exec_sync(
        &self,
        container_id: String,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let mut client = self.runtime.clone();
        let seconds = i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest {
            container_id,
            cmd,
            timeout: seconds,
        };
        self.call(
            "exec_sync",
            timeout + SHORT,
            request,
            |request| async move { client.exec_sync(request).await },
        )
        .await
    }
}

impl v1::Container {
    /// Whether the container's process runs.
    pub fn is_running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }
}

impl v1::PodSandbox {
    /// Whether the sandbox's process and network are up.
    pub fn is_ready(&self) -> bool {
        self.state() == PodSandboxState::SandboxReady
    }
}
