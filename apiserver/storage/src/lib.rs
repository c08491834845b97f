//! Durable storage of API objects: one trait, two implementations.
//!
//! A store is an ordered map from keys to opaque bytes with one revision counter
//! for all of it, as etcd has it. Every committed transaction has a revision of
//! its own, and [`Store::watch`] replays the transactions in that order.
//!
//! The store knows nothing of Kubernetes: keys are paths such as
//! `/registry/apps/deployments/NAMESPACE/NAME`, values are encoded objects
//! **without** a resourceVersion, which is the revision that the store gave the
//! write. Who reads most (the API server's watch cache) keeps values in memory;
//! a store does not have to.

mod embedded;
mod etcd;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use etcd::{EtcdOptions, EtcdStore};

/// A position in the store's history; the first write of an empty store makes 1
/// or higher. Never reused, strictly increasing with each commit.
pub type Revision = u64;

/// One key's current or historical state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision of the commit that created the key (after its last deletion).
    pub create_revision: Revision,
    /// Revision of the commit that last wrote the key.
    pub mod_revision: Revision,
}

/// What a transaction demands of a key for the whole transaction to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// The key exists and was last written at this revision.
    ModRevision(Revision),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    Put { key: Arc<str>, value: Bytes },
    Delete { key: Arc<str> },
}

/// All of it happens at one revision, or nothing. It names a key at most once in its
/// mutations. Deleting what is absent changes nothing; a transaction that changes nothing
/// makes no revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub expect: Vec<(Arc<str>, Expect)>,
    pub mutations: Vec<Mutation>,
}

/// A range of keys below a prefix, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    pub prefix: String,
    /// Exclusive lower bound: the last key of the page before.
    pub after: Option<String>,
    /// 0: no limit.
    pub limit: usize,
    /// Read the range as it was at this revision; `None`: now, consistently.
    pub at: Option<Revision>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The revision that the page shows.
    pub revision: Revision,
    /// How many keys follow the last entry of the page.
    pub remaining: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put { entry: Entry },
    Delete { key: Arc<str> },
}

/// One commit as a watcher sees it: the changes below its prefix, in the order
/// of the transaction. An empty list is a progress notification: everything up
/// to `revision` has been delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An [`Expect`] did not hold; nothing was written. Read again and decide anew.
    #[error("store: the key {key} changed in the meantime")]
    Conflict {
        key: Arc<str>,
        current: Option<Entry>,
    },
    /// History before `oldest` is gone. List anew.
    #[error("store: revision {requested} is compacted, the oldest kept is {oldest}")]
    Compacted {
        requested: Revision,
        oldest: Revision,
    },
    #[error("store: revision {requested} is in the future, the newest is {newest}")]
    Future {
        requested: Revision,
        newest: Revision,
    },
    /// The disk is full; reads go on and writes recover once there is room.
    #[error("store: no space left in {path}: free some, writes are tried again by themselves")]
    NoSpace { path: String },
    /// Retryable: the backend does not answer.
    #[error("store: {operation}: the backend is unavailable: {reason}")]
    Unavailable {
        operation: &'static str,
        reason: String,
    },
    /// What is stored, or what was asked, makes no sense; trying again does not help.
    #[error("store: {operation}: {reason}")]
    Corrupt {
        operation: &'static str,
        reason: String,
    },
    /// Another process has the data directory open.
    #[error("store: {path} is in use by another process: stop that one first")]
    InUse { path: String },
}

pub type CommitStream = BoxStream<'static, Result<Commit, StoreError>>;

impl Transaction {
    /// A transaction that names a key twice has no order that every backend agrees on.
    fn check(&self) -> Result<(), StoreError> {
        for (index, mutation) in self.mutations.iter().enumerate() {
            let key = mutation.key();
            if self.mutations[..index]
                .iter()
                .any(|other| other.key() == key)
            {
                return Err(StoreError::Corrupt {
                    operation: "commit",
                    reason: format!("the transaction names the key {key} twice"),
                });
            }
        }
        Ok(())
    }
}

impl Mutation {
    /// The key that it writes.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Mutation::Put { key, .. } | Mutation::Delete { key } => key,
        }
    }
}

/// See the crate's documentation. Every method may be called from many tasks.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed revision, read consistently (etcd: a linearizable read).
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The newest state of one key, read consistently.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// One page of a range.
    async fn list(&self, range: Range) -> Result<Page, StoreError>;

    /// Commits, durable (fsync) when it returns, and returns the new revision. By then a
    /// [`Store::watch`] of this process has been handed the commit in memory (embedded) or
    /// will be handed it soon (etcd).
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError>;

    /// Every commit after `after` that touches the prefix, in order, without a gap, with
    /// progress notifications within about a second when revisions passed that do not touch
    /// the prefix. Ends with [`StoreError::Compacted`] when the reader is too slow or `after`
    /// is too old.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<CommitStream, StoreError>;

    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
