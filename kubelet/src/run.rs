use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::context::Context;
use crate::csi::{self, Drivers};
use crate::events::Recorder;
use crate::housekeeping;
use crate::images::Images;
use crate::manager::{Manager, News};
use crate::metrics::{Metrics, NodeName};
use crate::node::{self, Machine};
use crate::objects::ObjectStore;
use crate::runtime::Runtime;
use crate::server;
use crate::static_pods::{self, StaticPods};
use crate::tokens::Tokens;
use crate::volumes::Paths;

/// What the kubelet is given.
#[derive(Clone)]
pub struct Deps {
    pub client: Client,
    pub caches: WatchCaches,
    /// Another runtime than the CRI one at the configured socket.
    pub runtime: Option<Arc<dyn Runtime>>,
    pub metrics: Metrics,
    pub beside: Beside,
}

/// What other parts of the node's process have the kubelet's server serve, behind its
/// authentication.
#[derive(Clone, Default)]
pub struct Beside {
    /// Each adds its metrics to those at `/metrics`.
    pub metrics: Vec<fn(&mut Registry)>,
    pub routes: Router,
}

impl Deps {
    pub fn new(client: Client, caches: WatchCaches) -> Self {
        Self {
            client,
            caches,
            runtime: None,
            metrics: Metrics::default(),
            beside: Beside::default(),
        }
    }
}

/// Faults that somebody has to mend before the kubelet can run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kubelet has to run as root")]
    NotRoot,
    #[error("the kubelet cannot use {path}: {source}")]
    Directory {
        path: String,
        source: std::io::Error,
    },
    #[error("the kubelet cannot listen on {address}: {source}; is another kubelet running?")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("the kubelet's server has no usable certificate: {0}")]
    Certificate(#[from] server::TlsError),
    #[error("this machine has no name")]
    NoName,
}

/// Runs the kubelet until the shutdown. Pods go on running after it.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let config = complete(config)?;
    let server = server::bind(&config).await?;
    let runtime: Arc<dyn Runtime> = match deps.runtime.clone() {
        Some(runtime) => runtime,
        None => Arc::new(cri::Runtime::new(&config.runtime_socket)),
    };
    let machine = Machine::read(&config.root);
    let (objects_sender, objects) = mpsc::unbounded_channel();
    let (evictions_sender, evictions) = mpsc::unbounded_channel();
    let events = Recorder::start(deps.client.clone(), &config.node_name);
    let named = NodeName {
        node: config.node_name.clone(),
    };
    deps.metrics.node_name.get_or_create(&named).set(1);
    let node_selector = format!("metadata.name={}", config.node_name);
    let pod_selector = format!("spec.nodeName={}", config.node_name);
    let facts = node::facts(&config, &machine);
    let paths = Paths {
        root: config.root.clone(),
    };
    let context = Arc::new(Context {
        client: deps.client.clone(),
        images: Images::new(runtime.clone(), events.clone()),
        runtime,
        cgroups: Cgroups::detect(&config.cgroup_mount),
        csi: Drivers::recall(&paths),
        paths,
        events,
        objects: ObjectStore::new(deps.client.clone(), objects_sender),
        tokens: Tokens::new(deps.client.clone()),
        services: deps.caches.of::<Service>(),
        node: deps.caches.selected::<Node>(&node_selector),
        runtime_classes: deps.caches.of::<RuntimeClass>(),
        facts: parking_lot::RwLock::new(facts),
        pods: parking_lot::Mutex::default(),
        metrics: deps.metrics.clone(),
        config,
    });
    let pods = deps.caches.selected::<Pod>(&pod_selector);
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(node::keep_registered(
        context.clone(),
        machine,
        shutdown.clone(),
    ));
    tasks.spawn(node::keep_lease(context.clone(), shutdown.clone()));
    if let Some(server) = server {
        let beside = deps.beside.clone();
        tasks.spawn(server.run(context.clone(), beside, shutdown.clone()));
    }
    tasks.spawn(node::watch_pressure(
        context.clone(),
        evictions_sender,
        shutdown.clone(),
    ));
    tasks.spawn(housekeeping::run(context.clone(), shutdown.clone()));
    tasks.spawn(csi::follow(context.clone(), shutdown.clone()));
    let (static_sender, static_pods) = watch::channel(StaticPods::new());
    if let Some(directory) = context.config.manifests.clone() {
        let node = context.config.node_name.clone();
        static_sender.send_replace(static_pods::read(&directory, &node));
        tasks.spawn(static_pods::follow(
            directory,
            node,
            static_sender,
            shutdown.clone(),
        ));
    }
    let ready = async {
        wait_for_runtime(&context).await;
        pods.synced().await;
        context.services.synced().await;
        context.node.synced().await;
        context.runtime_classes.synced().await;
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = ready => {
            let news = News {
                objects,
                evictions,
                static_pods,
            };
            let manager = Manager::new(context.clone(), pods, news);
            manager.run(shutdown.clone()).await;
        }
    }
    tasks.close();
    // What still waits for an answer is not worth waiting for long.
    let _ = tokio::time::timeout(Duration::from_secs(2), tasks.wait()).await;
    Ok(())
}

/// Fills in what follows from the machine, and makes the directories.
fn complete(mut config: Config) -> Result<Config, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if config.node_name.is_empty() {
        let name = nix::unistd::gethostname().map_err(|_| Error::NoName)?;
        config.node_name = name.to_string_lossy().to_lowercase();
    }
    if config.node_name.is_empty() {
        return Err(Error::NoName);
    }
    for directory in [&config.root, &config.pod_logs, &config.container_logs] {
        std::fs::create_dir_all(directory).map_err(|source| Error::Directory {
            path: directory.display().to_string(),
            source,
        })?;
    }
    Ok(config)
}

/// Pods are taken only when the runtime can say what of them is there already.
async fn wait_for_runtime(context: &Context) {
    let mut told = false;
    while let Err(error) = context.runtime.version().await {
        if !told {
            let socket = context.config.runtime_socket.display();
            tracing::error!(
                %error,
                "no container runtime at {socket}: install and start containerd; waiting for it"
            );
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
