use std::time::Duration;

use async_trait::async_trait;
use cri::Error;
use cri::v1;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Runtime, Selector};

fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..v1::ImageSpec::default()
    }
}

fn missing(call: &'static str, id: &str) -> Error {
    Error::NotFound {
        call,
        message: format!("{id} has no status"),
    }
}

#[async_trait]
impl Runtime for cri::Runtime {
    async fn version(&self) -> Result<v1::VersionResponse, Error> {
        self.version().await
    }

    async fn status(&self) -> Result<v1::StatusResponse, Error> {
        self.status().await
    }

    async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, Error> {
        self.run_pod_sandbox(config, handler).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_pod_sandbox(id.to_owned()).await
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.remove_pod_sandbox(id.to_owned()).await
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let status = self.pod_sandbox_status(id.to_owned()).await?;
        status.ok_or_else(|| missing("pod_sandbox_status", id))
    }

    async fn list_sandboxes(&self, selector: Selector) -> Result<Vec<v1::PodSandbox>, Error> {
        self.list_pod_sandbox(v1::PodSandboxFilter {
            label_selector: selector,
            ..Default::default()
        })
        .await
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        self.create_container(sandbox_id.to_owned(), config, sandbox)
            .await
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        self.start_container(id.to_owned()).await
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), Error> {
        self.stop_container(id.to_owned(), grace_seconds).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.remove_container(id.to_owned()).await
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let status = self.container_status(id.to_owned()).await?;
        status.ok_or_else(|| missing("container_status", id))
    }

    async fn list_containers(&self, selector: Selector) -> Result<Vec<v1::Container>, Error> {
        self.list_containers(v1::ContainerFilter {
            label_selector: selector,
            ..Default::default()
        })
        .await
    }

    async fn update_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        self.update_container_resources(id.to_owned(), resources)
            .await
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.reopen_container_log(id.to_owned()).await
    }

    async fn stats(&self, selector: Selector) -> Result<Vec<v1::ContainerStats>, Error> {
        self.list_container_stats(v1::ContainerStatsFilter {
            label_selector: selector,
            ..Default::default()
        })
        .await
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        self.exec_sync(id.to_owned(), command, timeout).await
    }

    async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, Error> {
        self.exec(request).await
    }

    async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, Error> {
        self.attach(request).await
    }

    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String, Error> {
        self.port_forward(request).await
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        self.list_images().await
    }

    async fn image_status(&self, name: &str) -> Result<Option<v1::Image>, Error> {
        self.image_status(image(name)).await
    }

    async fn pull_image(
        &self,
        name: &str,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error> {
        self.pull_image(image(name), auth, sandbox).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), Error> {
        self.remove_image(image(name)).await
    }

    async fn image_filesystems(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        self.image_fs_info().await
    }

    async fn exits(&self) -> Result<BoxStream<'static, String>, Error> {
        let events = self.task_events().await?;
        let stream = futures::stream::unfold(events, |mut events| async move {
            let notice = events.next().await?;
            Some((notice.container_id, events))
        });
        Ok(stream.boxed())
    }
}
