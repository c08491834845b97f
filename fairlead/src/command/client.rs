//! Clients of an API server, from a kubeconfig.

use std::path::Path;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client with the account of the pod that this process runs in.
pub(crate) fn from_pod() -> anyhow::Result<Client> {
    let config = Config::incluster()
        .context("this is no pod of a cluster; name a kubeconfig with --kubeconfig")?;
    Client::try_from(config).context("the pod's account cannot be used")
}

/// A client for the kubeconfig's current context.
pub(crate) async fn from_kubeconfig(path: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| {
        format!(
            "{} is no readable kubeconfig; name one with --kubeconfig",
            path.display()
        )
    })?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} cannot be used", path.display()))?;
    Client::try_from(config).with_context(|| format!("{} cannot be used", path.display()))
}
