//! Storage plugins on the node (CSI v1).
//!
//! A plugin puts a socket into `plugins_registry`; [`registration`] asks it for its name, and
//! tells the API of it with the node's CSINode. [`publish`] has a volume mounted where a pod's
//! other volumes are, and remembers beside the mount what has to be said to take it down: a
//! kubelet that is killed in between finds it there. [`hold`] keeps what has to stay attached to
//! the node; the node's status tells it, and nothing is mounted before the API has it. [`expand`]
//! makes a volume fill the room that it was given.

mod expand;
mod hold;
mod publish;
mod registration;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::csi::node_client::NodeClient;
use parking_lot::Mutex;
use tonic::transport::Channel;

pub(crate) use publish::{Behind, Mounted, set_up, tear_down};
pub(crate) use registration::follow;

/// How long a plugin may take for one call, as upstream.
const CALL: Duration = Duration::from_secs(120);

/// Why a volume of a plugin is not there. All of these may be over the next time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsiError {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    Unknown(String),
    #[error("CSI driver {driver}: {call}: {message}")]
    Call {
        driver: String,
        call: &'static str,
        message: String,
    },
    #[error("volume mode \"Ephemeral\" not supported by driver {0}")]
    NotEphemeral(String),
    #[error("volume {volume} is not attached to node {node} yet")]
    NotAttached { volume: String, node: String },
    #[error("the API does not know yet that volume {0} is in use here")]
    NotReported(String),
    #[error("reading {what}: {message}")]
    Api { what: String, message: String },
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
}

/// A plugin that has made itself known.
#[derive(Debug, Clone)]
struct Driver {
    name: String,
    channel: Channel,
    /// Volumes are staged once for the node before they are published to pods.
    stages: bool,
    /// The plugin itself gives a volume its group.
    mount_group: bool,
    /// It tells a single writer from a single node.
    single_writer: bool,
    /// It has something to do on the node when a volume has become larger.
    expands: bool,
}

impl Driver {
    fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// Sends a call and waits for its answer, not for ever.
    async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CsiError> {
        answered(&self.name, call, answer).await
    }
}

async fn answered<T>(
    driver: &str,
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CsiError> {
    let failed = |message: String| CsiError::Call {
        driver: driver.to_owned(),
        call,
        message,
    };
    match tokio::time::timeout(CALL, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(status.message().to_owned())),
        Err(_) => Err(failed(format!("no answer within {} s", CALL.as_secs()))),
    }
}

/// The plugins of the node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drivers {
    known: Arc<Mutex<BTreeMap<String, Driver>>>,
    /// One volume's stage is made or taken down by one at a time.
    staging: Arc<Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>,
    pub(crate) held: hold::Held,
}

impl Drivers {
    /// The plugins of a kubelet that may have run before.
    pub(crate) fn recall(paths: &crate::volumes::Paths) -> Self {
        Self {
            held: hold::Held::of(publish::held(paths)),
            ..Self::default()
        }
    }

    fn get(&self, name: &str) -> Result<Driver, CsiError> {
        let found = self.known.lock().get(name).cloned();
        found.ok_or_else(|| CsiError::Unknown(name.to_owned()))
    }

    fn turn(&self, stage: &std::path::Path) -> Arc<tokio::sync::Mutex<()>> {
        self.staging
            .lock()
            .entry(stage.to_owned())
            .or_default()
            .clone()
    }
}
