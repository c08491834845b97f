//! The embedded store: a write-ahead log in front of redb tables, in one directory.
//!
//! A commit's way: [`writer`] decides it in a group with whatever else waits, appends the
//! group to the [`log`] with one `fdatasync`, publishes it in memory ([`state`]: readers
//! see it, watchers get it) and answers. Later [`applier`] moves many groups into the
//! [`tables`] in one transaction, and the log's file is used again.
//!
//! - **Invariant:** nothing is visible or acknowledged that is not in the log on the disk.
//! - **Invariant:** the log holds every commit that is not durable in the tables.
//! - **Invariant:** the memory holds only what the tables lack.

mod applier;
mod backend;
mod log;
mod record;
mod state;
mod tables;
mod watcher;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};

use self::applier::{Applier, Orders};
use self::backend::SpillFile;
use self::log::{Log, failure};
use self::record::Record;
use self::state::{Newest, State};
use self::tables::{Snapshot, Tables};
use self::watcher::Watcher;
use self::writer::{Request, Writer};
use crate::{CommitStream, Entry, Page, Range, Revision, Store, StoreError, Transaction};

/// How an embedded store works; [`EmbeddedOptions::new`] has the usual values.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    pub directory: PathBuf,
    /// Memory for pages of the tables.
    pub cache_bytes: usize,
    /// Size of each of the two files of the log.
    pub log_bytes: u64,
    /// Commits move into the tables when so much waits ...
    pub apply_bytes: usize,
    /// ... or when something waits for so long.
    pub apply_after: Duration,
    /// History is kept for at least this long and at most twice as long; `None`: forever.
    pub compact_every: Option<Duration>,
}

impl EmbeddedOptions {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        EmbeddedOptions {
            directory: directory.into(),
            cache_bytes: 8 << 20,
            log_bytes: 8 << 20,
            apply_bytes: 2 << 20,
            apply_after: Duration::from_secs(5),
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

/// See the module's documentation. Dropping it writes out what waits and ends its threads.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

/// What the threads and the readers share.
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// The tables hold durably everything up to this revision.
    released: AtomicU64,
    orders: Mutex<Orders>,
    ordered: Condvar,
    progress: Mutex<Progress>,
    progressed: Condvar,
    backend: SpillFile,
    apply_bytes: usize,
}

/// For a writer that waits for the applier.
#[derive(Default)]
struct Progress {
    releases: u64,
    failure: Option<String>,
}

impl EmbeddedStore {
    /// Opens the store of a directory, making it when there is none, and brings back every
    /// acknowledged commit. Blocks for the time of reading the log.
    pub fn open(options: EmbeddedOptions) -> Result<EmbeddedStore, StoreError> {
        let directory = options.directory.clone();
        let fault = |error| failure("open the store", &directory, &error);
        std::fs::create_dir_all(&directory).map_err(fault)?;
        let lock = take_lock(&directory)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("tables.redb"))
            .map_err(fault)?;
        let backend = SpillFile::new(file);
        let tables = Tables::open(backend.clone(), options.cache_bytes)?;
        let (log, records) = Log::open(&directory, options.log_bytes)?;
        File::open(&directory)
            .and_then(|handle| handle.sync_all())
            .map_err(fault)?;
        let snapshot = tables.snapshot()?;
        let applied = snapshot.applied;
        let state = State::new(snapshot, beyond(applied, records)?);
        let shared = Arc::new(Shared {
            path: directory,
            state: Mutex::new(state),
            released: AtomicU64::new(applied),
            orders: Mutex::default(),
            ordered: Condvar::new(),
            progress: Mutex::default(),
            progressed: Condvar::new(),
            backend,
            apply_bytes: options.apply_bytes,
        });
        EmbeddedStore::start(shared, log, tables, options, lock)
    }

    fn start(
        shared: Arc<Shared>,
        log: Log,
        tables: Tables,
        options: EmbeddedOptions,
        lock: File,
    ) -> Result<EmbeddedStore, StoreError> {
        let (sender, receiver) = mpsc::channel(4096);
        let writer = Writer {
            shared: shared.clone(),
            log,
        };
        let applier = Applier::new(shared.clone(), tables, options);
        let threads = vec![
            spawn("store-writer", &shared.path, move || writer.run(receiver))?,
            spawn("store-applier", &shared.path, move || applier.run())?,
        ];
        Ok(EmbeddedStore {
            shared,
            requests: Some(sender),
            threads,
            _lock: lock,
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests = None;
        let mut threads = std::mem::take(&mut self.threads).into_iter();
        if let Some(writer) = threads.next() {
            let _ = writer.join();
        }
        self.shared.order(|orders| orders.stop = true);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn released(&self) -> Revision {
        self.released.load(Ordering::Acquire)
    }

    fn release(&self, revision: Revision) {
        if self.released.fetch_max(revision, Ordering::AcqRel) < revision {
            self.progress.lock().releases += 1;
            self.progressed.notify_all();
        }
    }

    fn fail(&self, error: &StoreError) {
        self.progress.lock().failure = Some(error.to_string());
        self.progressed.notify_all();
    }

    /// Makes durable commits visible.
    fn publish(&self, records: Vec<Record>) {
        let mut state = self.state.lock();
        state.publish(records);
        let (bytes, _) = state.backlog();
        drop(state);
        if bytes >= self.apply_bytes {
            self.order(|orders| orders.apply = true);
        }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
        self.ordered.notify_one();
    }

    fn next_orders(&self, patience: Duration) -> Orders {
        let mut orders = self.orders.lock();
        if !orders.apply && !orders.stop && orders.compactions.is_empty() {
            self.ordered.wait_for(&mut orders, patience);
        }
        std::mem::take(&mut orders)
    }

    /// Waits until the tables have taken over something of the log; an error when they
    /// cannot.
    fn wait_for_tables(&self, deadline: Instant) -> Result<(), StoreError> {
        let path = || self.path.display().to_string();
        if self.backend.is_spilled() {
            return Err(StoreError::NoSpace { path: path() });
        }
        let mut progress = self.progress.lock();
        let before = progress.releases;
        self.order(|orders| orders.apply = true);
        while progress.releases == before {
            let reason = match &progress.failure {
                Some(failure) => failure.clone(),
                None if self.backend.is_spilled() => {
                    return Err(StoreError::NoSpace { path: path() });
                }
                None if Instant::now() >= deadline => "the disk is too slow".to_owned(),
                None => {
                    self.progressed
                        .wait_for(&mut progress, Duration::from_millis(50));
                    continue;
                }
            };
            return Err(StoreError::Unavailable {
                operation: "commit",
                reason,
            });
        }
        Ok(())
    }
}

/// The replayed commits that the tables lack; they have to follow without a gap.
fn beyond(applied: Revision, records: Vec<Record>) -> Result<Vec<Record>, StoreError> {
    let fresh: Vec<Record> = records
        .into_iter()
        .filter(|record| record.revision > applied)
        .collect();
    let expected = applied + 1..;
    if let Some((record, expected)) = fresh
        .iter()
        .zip(expected)
        .find(|(record, expected)| record.revision != *expected)
    {
        return Err(StoreError::Corrupt {
            operation: "read the log",
            reason: format!("revision {expected} is missing before {}", record.revision),
        });
    }
    Ok(fresh)
}

fn take_lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| failure("open the store", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: directory.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(failure("lock the store", &path, &error)),
    }
}

fn spawn(
    name: &str,
    path: &Path,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| failure("start a thread", path, &error))
}

/// Runs what may read from the disk for long outside of the asynchronous threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Unavailable {
            operation: "read",
            reason: error.to_string(),
        })?
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.state.lock().revision)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let newest = self.shared.state.lock().newest(key);
        match newest {
            Newest::Recent { entry, .. } => Ok(entry),
            Newest::InTables(snapshot) => read_entry(&snapshot, key),
        }
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        let view = self.shared.state.lock().view(&range)?;
        blocking(move || view.page(&range)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.check()?;
        let stopped = || StoreError::Unavailable {
            operation: "commit",
            reason: "the store is closed".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        requests
            .send(Request { transaction, reply })
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<CommitStream, StoreError> {
        Ok(Watcher::start(self.shared.clone(), prefix, after)?.into_stream())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        {
            let state = self.shared.state.lock();
            if revision > state.revision {
                let newest = state.revision;
                return Err(StoreError::Future {
                    requested: revision,
                    newest,
                });
            }
            if revision <= state.snapshot.compacted {
                return Ok(());
            }
        }
        let (reply, answer) = oneshot::channel();
        self.shared
            .order(|orders| orders.compactions.push((revision, reply)));
        answer.await.map_err(|_| StoreError::Unavailable {
            operation: "compact",
            reason: "the store is closed".to_owned(),
        })?
    }
}

fn read_entry(snapshot: &Snapshot, key: &str) -> Result<Option<Entry>, StoreError> {
    snapshot
        .key(key)?
        .map(|state| snapshot.entry(state.position))
        .transpose()
}
