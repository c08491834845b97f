//! Runs controllers: changes in caches become keys, keys become syncs.
//!
//! ```text
//! WatchCache --change--> source task --key--> Queue --key--> dispatcher --> sync (<= N at once)
//!                                               ^-- back-off, delayed --'
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Api, Client, Resource};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watch_cache::{Cacheable, Change, WatchCache, WatchCaches};

use super::error::Error;
use super::metrics::METRICS;
use super::queue::Queue;
use crate::config::Config;
use ::events::Recorder;

/// What every controller gets. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub caches: WatchCaches,
    pub recorder: Recorder,
    pub config: Arc<Config>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
}

impl Context {
    /// The objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The objects of a kind without namespaces.
    pub fn cluster_api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    /// Starts to put a controller together.
    pub fn controller<K: Key>(&self, name: &'static str) -> Builder<K> {
        Builder {
            name,
            queue: Queue::new(name),
            ready: Vec::new(),
            shutdown: self.shutdown.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// Runs a task until shutdown.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// What a queue can hold.
pub trait Key: Ord + Hash + Clone + Debug + Send + Sync + 'static {}
impl<K: Ord + Hash + Clone + Debug + Send + Sync + 'static> Key for K {}

/// The end of a successful sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Look again after this time.
    After(Duration),
}

impl Outcome {
    /// The earlier of a delay, if there is one.
    pub fn after(delay: Option<Duration>) -> Self {
        delay.map_or(Outcome::Done, Outcome::After)
    }
}

/// Brings one object to where it should be.
pub trait Reconciler: Send + Sync + 'static {
    type Key: Key;

    /// Must be safe to run again at any time, whatever happened in the run before.
    fn sync(&self, key: &Self::Key) -> impl Future<Output = Result<Outcome, Error>> + Send;
}

/// Collects a controller's sources; [`Builder::run`] starts it.
pub struct Builder<K> {
    name: &'static str,
    queue: Queue<K>,
    ready: Vec<BoxFuture<'static, ()>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl<K: Key> Builder<K> {
    /// The queue, for sources other than caches.
    pub fn queue(&self) -> Queue<K> {
        self.queue.clone()
    }

    /// Every change of the kind, beginning with what is there, becomes keys.
    pub fn watch<T, F, I>(mut self, cache: &WatchCache<T>, keys: F) -> Self
    where
        T: Cacheable,
        F: Fn(&Change<T>) -> I + Send + Sync + 'static,
        I: IntoIterator<Item = K>,
    {
        self = self.reads(cache);
        let (queue, cache, shutdown) = (self.queue.clone(), cache.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = follow(cache, move |change| {
                    for key in keys(change) { queue.add(key); }
                }) => {}
            }
        });
        self
    }

    /// The first sync waits until this cache has everything.
    pub fn reads<T: Cacheable>(mut self, cache: &WatchCache<T>) -> Self {
        let cache = cache.clone();
        self.ready
            .push(Box::pin(async move { cache.synced().await }));
        self
    }

    /// Starts the controller with at most `workers` syncs at once.
    pub fn run<R: Reconciler<Key = K>>(self, workers: usize, reconciler: R) {
        let Self {
            name,
            queue,
            ready,
            shutdown,
            tasks,
        } = self;
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = join_all(ready) => {}
            }
            tracing::debug!(controller = name, "started");
            dispatch(name, queue, workers.max(1), Arc::new(reconciler), shutdown).await;
        });
    }
}

/// Calls `see` for every object that is there and for every change after that.
pub async fn follow<T: Cacheable>(cache: WatchCache<T>, see: impl Fn(&Change<T>)) {
    let mut changes = cache.subscribe();
    cache.synced().await;
    let everything = |see: &dyn Fn(&Change<T>)| {
        for new in cache.list() {
            see(&Change::Applied { old: None, new });
        }
    };
    everything(&see);
    loop {
        match changes.recv().await {
            Ok(change) => see(&change),
            Err(RecvError::Lagged(_)) => {
                changes = changes.resubscribe();
                everything(&see);
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn dispatch<R: Reconciler>(
    name: &'static str,
    queue: Queue<R::Key>,
    workers: usize,
    reconciler: Arc<R>,
    shutdown: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            key = queue.take(), if running.len() < workers => {
                let (queue, reconciler) = (queue.clone(), reconciler.clone());
                running.spawn(async move { attempt(name, &queue, reconciler.as_ref(), key).await });
            }
        }
    }
    // A sync that is under way may end its writes; a new leader would find them anyhow.
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        while running.join_next().await.is_some() {}
    })
    .await;
}

async fn attempt<R: Reconciler>(
    name: &'static str,
    queue: &Queue<R::Key>,
    reconciler: &R,
    key: R::Key,
) {
    let started = Instant::now();
    let result = reconciler.sync(&key).await;
    METRICS.synced(name, started.elapsed(), result.is_ok());
    match result {
        Ok(outcome) => {
            queue.forget(&key);
            if let Outcome::After(delay) = outcome {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            let delay = queue.retry(key.clone());
            if error.is_conflict() || error.is_not_found() {
                tracing::debug!(controller = name, ?key, %error, ?delay, "sync will be repeated");
            } else {
                tracing::warn!(controller = name, ?key, %error, ?delay, "sync failed");
            }
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counting {
        now: AtomicUsize,
        most: AtomicUsize,
        runs: AtomicUsize,
    }

    impl Reconciler for Arc<Counting> {
        type Key = u32;

        async fn sync(&self, key: &u32) -> Result<Outcome, Error> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            let run = self.runs.fetch_add(1, Ordering::SeqCst);
            if run == 0 {
                let reason = "on purpose".to_owned();
                return Err(Error::Invalid {
                    object: key.to_string(),
                    field: "x",
                    reason,
                });
            }
            Ok(Outcome::Done)
        }
    }

    #[tokio::test]
    async fn at_most_n_syncs_run_at_once_and_a_failed_key_comes_back() {
        let counting = Arc::new(Counting {
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            runs: AtomicUsize::new(0),
        });
        let (queue, shutdown) = (Queue::new("test"), CancellationToken::new());
        for key in 0..10u32 {
            queue.add(key);
        }
        let work = tokio::spawn(dispatch(
            "test",
            queue.clone(),
            3,
            Arc::new(counting.clone()),
            shutdown.clone(),
        ));
        while counting.runs.load(Ordering::SeqCst) < 11 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shutdown.cancel();
        work.await.expect("the dispatcher ends");
        assert_eq!(counting.most.load(Ordering::SeqCst), 3);
        assert_eq!(counting.runs.load(Ordering::SeqCst), 11);
    }
}
