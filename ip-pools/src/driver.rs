//! The node's agent: answers the CNI plugin and keeps the node's blocks.
//!
//! ```text
//! plugin --Request--> decide --Answer--> plugin
//!                       '--Step--> API (one at a time) --watch--> decide anew
//! changes of blocks --> chores: lend; clock --> chores: return, release
//! ```

mod blocks;
mod sources;
mod status;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use self::blocks::Failed;
use self::sources::Sources;
use crate::gate::{self, Answer, Answering, Request};
use crate::model::Inputs;
use crate::plan::{Chore, Decision, Refusal, Source, chores, decide};
use crate::span::{Span, host, is_host};
use crate::wish::{InvalidWish, Wish};

pub use self::sources::{Ranges, ranges};

/// How often it is looked whether the resources' definitions are there by now.
const DEFINITIONS: Duration = Duration::from_secs(10);
/// Between two looks while another node is asked.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    pub socket: PathBuf,
    /// How often what nobody uses is given back.
    pub tidy: Duration,
    /// How long a pod waits for a block or another node's answer.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            socket: PathBuf::from(crate::SOCKET),
            tidy: Duration::from_secs(60),
            patience: Duration::from_secs(15),
        }
    }
}

/// The plugin's own memory of this node's addresses. All of it may block for a moment.
pub trait LocalAddresses: Send + Sync + 'static {
    /// The addresses that pods have.
    fn used(&self) -> io::Result<BTreeSet<IpAddr>>;
    /// From now on no pod gets an address of the network; `false`, and nothing changed, when one
    /// has.
    fn withdraw(&self, network: IpNetwork) -> io::Result<bool>;
    /// Pods get addresses of it again.
    fn admit(&self, network: IpNetwork) -> io::Result<()>;
    /// What is withdrawn.
    fn withdrawn(&self) -> io::Result<BTreeSet<IpNetwork>>;
}

pub struct Deps {
    pub caches: WatchCaches,
    pub local: Arc<dyn LocalAddresses>,
}

/// Faults that an operator has to mend. Everything else is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {path} for the CNI plugin: {source}")]
    Socket { path: PathBuf, source: io::Error },
}

/// Why a pod gets no address.
#[derive(Debug, thiserror::Error)]
enum NoAddress {
    #[error(transparent)]
    Wish(#[from] InvalidWish),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot read pod {0}: {1}")]
    Pod(String, Box<kube::Error>),
    #[error("the node's blocks were not to be had within {0} s; the last fault: {1}")]
    Late(u64, String),
}

/// Runs the agent until `shutdown`. Blocks stay the node's.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let sources = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        sources = Sources::open(&deps.caches, &config.node_name) => sources,
    };
    let path = config.socket.clone();
    let agent = Arc::new(Agent {
        client: deps.caches.client(),
        local: deps.local,
        changes: sources.changes(),
        sources,
        config,
        steps: Mutex::default(),
        doubts: std::sync::Mutex::default(),
    });
    agent.start().await;
    let listener = gate::listen(&path).map_err(|source| Error::Socket { path, source })?;
    let serving = gate::serve(listener, agent.clone(), shutdown.clone());
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = serving => {}
        () = agent.keep() => {}
    }
    Ok(())
}

struct Agent {
    config: Config,
    client: Client,
    local: Arc<dyn LocalAddresses>,
    sources: Sources,
    changes: watch::Receiver<()>,
    /// One step at a time: each starts from what the one before has made.
    steps: Mutex<()>,
    /// Blocks of which it is not known what became of the last write.
    doubts: std::sync::Mutex<BTreeSet<IpNetwork>>,
}

impl Answering for Agent {
    async fn answer(&self, request: Request) -> Answer {
        match self.find(&request).await {
            Ok(sources) => Answer::of(&sources),
            Err(error) => Answer::refusal(&error),
        }
    }
}

impl Agent {
    fn inputs(&self) -> Inputs {
        self.sources.inputs(&self.config.node_name)
    }

    async fn find(&self, request: &Request) -> Result<Vec<Source>, NoAddress> {
        let wish = self.wish(request).await?;
        if request.dry {
            return match decide(&self.inputs(), &wish, &request.full)? {
                Decision::Answer(sources) => Ok(sources),
                Decision::First(_) => Ok(Vec::new()),
            };
        }
        match self.obtain(&wish, &request.full).await {
            Err(NoAddress::Refused(refusal @ Refusal::Exhausted { .. })) => {
                // What the plugin found full when it looked may not be so any more: an address
                // that was about to be lent was not, or a pod went.
                let full = self.still_full(&request.full).await;
                if full == request.full {
                    return Err(refusal.into());
                }
                self.obtain(&wish, &full).await
            }
            outcome => outcome,
        }
    }

    /// Those of the ranges that have no address left now. A range of which that cannot be found
    /// out counts as full.
    async fn still_full(&self, full: &BTreeSet<IpNetwork>) -> BTreeSet<IpNetwork> {
        {
            let _turn = self.steps.lock().await;
            self.settle().await;
        }
        let looked = self.blocking(|local| Ok((local.used()?, local.withdrawn()?)));
        let Ok((used, withdrawn)) = looked.await else {
            return full.clone();
        };
        let inputs = self.inputs();
        let is_full = |range: &&IpNetwork| {
            let mut taken: Vec<IpNetwork> = used.iter().copied().map(host).collect();
            taken.extend(&withdrawn);
            taken.extend(&inputs.reserved);
            let span = match is_host(range) || inputs.ranges().contains(range) {
                true => Span::of_node(**range),
                false => Span::usable(**range),
            };
            span.without(&taken).is_empty()
        };
        full.iter().filter(is_full).copied().collect()
    }

    /// Decides, and does what has to be done first, until there is an answer.
    async fn obtain(
        &self,
        wish: &Wish,
        full: &BTreeSet<IpNetwork>,
    ) -> Result<Vec<Source>, NoAddress> {
        let deadline = Instant::now() + self.config.patience;
        let mut changes = self.changes.clone();
        let mut stepped = false;
        let mut fault = "another node does not answer".to_owned();
        loop {
            changes.mark_unchanged();
            let decided = decide(&self.inputs(), wish, full)?;
            let Decision::First(step) = decided else {
                match self.make_known(stepped).await {
                    Ok(()) => {}
                    Err(error) if Instant::now() < deadline => {
                        fault = error.to_string();
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    Err(error) => return Err(self.late(&error)),
                }
                // Nothing was taken meanwhile of what is answered.
                return match decide(&self.inputs(), wish, full)? {
                    Decision::Answer(sources) => Ok(sources),
                    Decision::First(_) => continue,
                };
            };
            if Instant::now() >= deadline {
                return Err(self.late(&fault));
            }
            stepped = true;
            let turn = self.steps.lock().await;
            // Whoever had the turn before may have done it.
            let same = decide(&self.inputs(), wish, full)? == Decision::First(step.clone());
            let done = if same {
                self.act(&step).await
            } else {
                Ok(true)
            };
            drop(turn);
            match done {
                Ok(true) => {}
                Ok(false) => drop(tokio::time::timeout(LOOK, changes.changed()).await),
                Err(error) => {
                    tracing::warn!(%error, "no further block yet, it is tried again");
                    fault = error.to_string();
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Before a pod gets an address: the plugin may give it, and the routes lead to it.
    async fn make_known(&self, stepped: bool) -> Result<(), Failed> {
        if !stepped && self.is_published(&self.inputs()) {
            return Ok(());
        }
        let _turn = self.steps.lock().await;
        self.settle().await;
        self.publish(&self.inputs()).await
    }

    fn late(&self, fault: &impl ToString) -> NoAddress {
        NoAddress::Late(self.config.patience.as_secs(), fault.to_string())
    }

    /// What the pod's annotations say. The cache may not have a new pod yet.
    async fn wish(&self, request: &Request) -> Result<Wish, NoAddress> {
        if request.pod_name.is_empty() {
            return Ok(Wish::default());
        }
        let (namespace, name) = (&request.pod_namespace, &request.pod_name);
        let cached = self.sources.pod_annotations(namespace, name);
        let pod = match cached {
            Some(found) => found,
            None => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                let read = pods.get_opt(name).await.map_err(|error| {
                    NoAddress::Pod(format!("{namespace}/{name}"), Box::new(error))
                })?;
                // One that is gone already gets an address all the same, and gives it back.
                read.and_then(|pod| pod.metadata.annotations)
                    .unwrap_or_default()
            }
        };
        let (annotations, labels) = self.sources.namespace(namespace);
        Ok(Wish::read(&pod, &annotations, labels)?)
    }

    /// Makes good what a previous life left half done; a node without a range of its own gets
    /// its first blocks, without which its network would not become ready.
    async fn start(&self) {
        {
            let _turn = self.steps.lock().await;
            self.settle().await;
        }
        if self.inputs().ranges().is_empty()
            && let Err(error) = self.obtain(&Wish::default(), &BTreeSet::new()).await
        {
            tracing::info!(%error, "the node has no addresses for pods yet");
        }
    }

    /// Does the chores, for ever.
    async fn keep(&self) {
        let mut changes = self.changes.clone();
        let mut tidy = tokio::time::interval(self.config.tidy);
        tidy.tick().await;
        loop {
            let tidying = tokio::select! {
                _ = changes.changed() => false,
                _ = tidy.tick() => true,
            };
            self.sources.tell(&self.client).await;
            let turn = self.steps.lock().await;
            self.settle().await;
            let inputs = self.inputs();
            if let Err(error) = self.publish(&inputs).await {
                tracing::warn!(%error, "the node's blocks are not published, it is tried again");
            }
            for chore in self.due(&inputs, tidying).await {
                if let Err(error) = self.do_chore(&chore).await {
                    tracing::warn!(%error, ?chore, "it is tried again");
                }
            }
            drop(turn);
            if self.inputs().ranges().is_empty() && self.inputs().published().is_empty() {
                self.start().await;
            }
        }
    }

    async fn due(&self, inputs: &Inputs, tidying: bool) -> Vec<Chore> {
        let used = match self.blocking(|local| local.used()).await {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, "the plugin's addresses cannot be read");
                return Vec::new();
            }
        };
        let mut due = chores(inputs, &used);
        due.retain(|chore| tidying || matches!(chore, Chore::Lend { .. }));
        due
    }

    /// Runs what may block beside this runtime's tasks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn LocalAddresses) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failed> {
        let local = self.local.clone();
        let done = tokio::task::spawn_blocking(move || work(local.as_ref())).await;
        match done {
            Ok(result) => result.map_err(Failed::Local),
            Err(panicked) => Err(Failed::Local(io::Error::other(panicked))),
        }
    }
}
