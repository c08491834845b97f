//! The seam to the container runtime.
//!
//! [`Runtime`] is what the kubelet needs of a runtime, in the messages of CRI v1; another
//! runtime than a CRI one implements it by translating. [`observe`] reads everything of one
//! pod into the plain data that the core decides on.

mod cri_runtime;
mod names;
mod observe;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use cri::Error;
use cri::v1;
use futures::stream::BoxStream;

pub use names::{PodIdentity, annotation, label};
pub use observe::{Seen, identities, observe, record};

/// Labels to select by; all must match.
pub type Selector = BTreeMap<String, String>;

/// What the kubelet asks of a container runtime.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<v1::VersionResponse, Error>;
    async fn status(&self) -> Result<v1::StatusResponse, Error>;

    async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, Error>;
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error>;
    async fn list_sandboxes(&self, selector: Selector) -> Result<Vec<v1::PodSandbox>, Error>;

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, Error>;
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), Error>;
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error>;
    async fn list_containers(&self, selector: Selector) -> Result<Vec<v1::Container>, Error>;
    async fn update_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), Error>;
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;
    async fn stats(&self, selector: Selector) -> Result<Vec<v1::ContainerStats>, Error>;

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error>;
    async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, Error>;
    async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, Error>;
    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String, Error>;

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error>;
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Error>;
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error>;
    async fn remove_image(&self, image: &str) -> Result<(), Error>;
    async fn image_filesystems(&self) -> Result<v1::ImageFsInfoResponse, Error>;

    /// The ids of containers whose process has ended, as it happens. A runtime that cannot
    /// tell answers `Unimplemented`, and the kubelet asks regularly instead.
    async fn exits(&self) -> Result<BoxStream<'static, String>, Error>;
}

/// Whether the runtime mounts images as volumes. CRI has no way to ask: containerd learnt it
/// with 2.1, and of other runtimes it is assumed.
pub fn mounts_images(version: &v1::VersionResponse) -> bool {
    if version.runtime_name != "containerd" {
        return true;
    }
    let text = version.runtime_version.trim_start_matches('v');
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next(), numbers.next());
    (major, minor) >= (Some(2), Some(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_of_containerd_mount_no_images() {
        for (name, version, expected) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v2.0.5", false),
            ("containerd", "2.1.4", true),
            ("containerd", "v3.0.0-beta", true),
            ("cri-o", "1.30.0", true),
        ] {
            let answer = v1::VersionResponse {
                runtime_name: name.into(),
                runtime_version: version.into(),
                ..v1::VersionResponse::default()
            };
            assert_eq!(mounts_images(&answer), expected, "{name} {version}");
        }
    }
}
