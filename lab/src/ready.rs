//! Waits for the API server and for the nodes.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};

use crate::error::LabError;
use crate::state::Directories;
use crate::topology::{SERVER, Topology};
use crate::up::timeout;

const POLL: Duration = Duration::from_millis(50);

fn block_on<T>(future: impl Future<Output = Result<T, LabError>>) -> Result<T, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LabError::Api(error.to_string()))?;
    runtime.block_on(future)
}

async fn client(topology: &Topology) -> Result<Client, LabError> {
    let failed = |error: &dyn std::fmt::Display| LabError::Api(error.to_string());
    let path = Directories::of(&topology.lab).kubeconfig();
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(&error))?;
    Client::try_from(config).map_err(|error| failed(&error))
}

/// Waits until the API server answers its administrator.
pub(crate) fn wait_for_api(topology: &Topology, patience: Duration) -> Result<(), LabError> {
    block_on(async {
        let client = client(topology).await?;
        let start = Instant::now();
        while client.apiserver_version().await.is_err() {
            if start.elapsed() > patience {
                let what = "the API server does not answer";
                return Err(timeout(what, patience, topology, SERVER, "server"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    })
}

/// How far a node has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// In the API; not more, since nobody has brought a network.
    Registered,
    Ready,
}

/// Waits until every node of the topology is as far and tells each as it becomes so.
pub(crate) fn wait(
    topology: &Topology,
    wanted: Wanted,
    patience: Duration,
    tell: &mut dyn FnMut(&str),
) -> Result<(), LabError> {
    block_on(async {
        let nodes: Api<Node> = Api::all(client(topology).await?);
        let mut missing: BTreeSet<String> =
            topology.nodes().map(|place| place.name.clone()).collect();
        let start = Instant::now();
        loop {
            // A server that is busy starting may refuse; the time limit decides.
            if let Ok(list) = nodes.list(&ListParams::default()).await {
                let is_there = |node: &&Node| wanted == Wanted::Registered || is_ready(node);
                for node in list.iter().filter(is_there) {
                    if missing.remove(&node.name_any()) {
                        tell(&node.name_any());
                    }
                }
            }
            let Some(node) = missing.first() else {
                return Ok(());
            };
            if start.elapsed() > patience {
                let what = format!("{node} is not {wanted:?}");
                return Err(timeout(&what, patience, topology, node, "node"));
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}
