//! The audit log: who asked for what, when, and what came of it.
//!
//! [`policy`] says how much is recorded of a request, [`record`] makes the events, [`log`] writes
//! them as lines of JSON. Anything that answers a request can add to its record with
//! [`annotate`], without knowing whether there is one.

mod log;
mod policy;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use log::Log;
pub(crate) use policy::Level;
use policy::Policy;
pub(crate) use record::{Record, Request, Stage};

/// What an operator says about the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// A Policy of audit.k8s.io; without one nothing is recorded.
    pub policy_file: Option<PathBuf>,
    /// `-` is standard output.
    pub log_path: Option<PathBuf>,
    /// Megabytes after which the file is put aside; 0: 100.
    pub max_size: u64,
    /// Files that are kept aside; 0: all.
    pub max_backups: usize,
    /// How long they are kept; zero: for ever.
    pub max_age: Duration,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit policy {path} cannot be read: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the audit policy {path} is wrong: {why}")]
    Policy { path: PathBuf, why: String },
    #[error("the audit log {path} cannot be written: {source}")]
    Log {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Decides what is recorded, and records it.
pub(crate) struct Auditor {
    policy: Policy,
    log: Log,
}

impl Auditor {
    /// `None` when the operator wants no log.
    pub(crate) fn open(config: &AuditConfig) -> Result<Option<Arc<Self>>, AuditError> {
        let (Some(path), Some(_)) = (&config.policy_file, &config.log_path) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).map_err(|source| AuditError::Read {
            path: path.clone(),
            source,
        })?;
        let policy = Policy::parse(&text).map_err(|why| AuditError::Policy {
            path: path.clone(),
            why,
        })?;
        let log = Log::open(config)?;
        Ok(Some(Arc::new(Auditor { policy, log })))
    }

    /// The record of a request, if there is to be one.
    pub(crate) fn begin(self: &Arc<Self>, request: Request) -> Option<Record> {
        let (level, omitted) = self.policy.judge(&request);
        (level != Level::None).then(|| Record::new(self.clone(), request, level, omitted))
    }

    fn write(&self, event: &serde_json::Value) {
        self.log.write(event.to_string());
    }
}

/// What parts of the server have to say about a request.
#[derive(Debug, Default)]
pub struct Annotations(Mutex<BTreeMap<String, String>>);

impl Annotations {
    fn all(&self) -> BTreeMap<String, String> {
        self.0.lock().clone()
    }
}

tokio::task_local! {
    static CURRENT: Arc<Annotations>;
}

/// Adds to the record of the request that this task answers. The first word on a key stands.
pub fn annotate(key: impl Into<String>, value: impl Into<String>) {
    // Without a record there is nothing to add to.
    let _ = CURRENT.try_with(|current| {
        current
            .0
            .lock()
            .entry(key.into())
            .or_insert_with(|| value.into());
    });
}

/// Runs what answers a request so that it can annotate the record.
pub(crate) async fn within<F: Future>(annotations: Arc<Annotations>, answer: F) -> F::Output {
    CURRENT.scope(annotations, answer).await
}

#[cfg(test)]
mod tests;
