//! Encryption at rest: a store around the store, which keeps what it is told to keep secret as
//! ciphertext.
//!
//! The configuration is upstream's EncryptionConfiguration, and so is the form of the values:
//! `k8s:enc:PROVIDER:v1:KEY:` and then the ciphertext, which is bound to the object's key in the
//! store. The first key of the first provider encrypts, all of them decrypt. What is stored in
//! another way than it would be now is written anew in the background, so that a key can be
//! retired after one start with the new one before it.

mod cipher;
mod config;
mod kms;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use storage::{
    Change, Commit, CommitStream, Entry, Expect, Mutation, Page, Range, Revision, Store,
    StoreError, Transaction,
};

use crate::registry::cache::PREFIX;
use config::{Configuration, Providers};

/// Why an encryption configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("the encryption configuration {path} cannot be read: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the encryption configuration {path} is wrong: {why}")]
    Configuration { path: PathBuf, why: String },
    #[error("the encryption configuration {path} names a plugin that does not work: {why}")]
    Plugin { path: PathBuf, why: String },
}

/// See the module's documentation.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    configuration: Configuration,
}

/// Entries that are looked at at a time.
const PAGE: usize = 500;

impl EncryptedStore {
    /// Wraps a store as a configuration file says.
    pub async fn open(inner: Arc<dyn Store>, path: &Path) -> Result<Arc<Self>, EncryptionError> {
        let text = std::fs::read_to_string(path).map_err(|source| EncryptionError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let configuration =
            Configuration::parse(&text).map_err(|why| EncryptionError::Configuration {
                path: path.to_path_buf(),
                why,
            })?;
        let started = configuration.start().await;
        started.map_err(|why| EncryptionError::Plugin {
            path: path.to_path_buf(),
            why,
        })?;
        Ok(Arc::new(EncryptedStore {
            inner,
            configuration,
        }))
    }

    fn providers(&self, key: &str) -> Option<&Providers> {
        let mut parts = key.strip_prefix(PREFIX)?.split('/');
        let (group, resource) = (parts.next()?, parts.next()?);
        let group = if group == "core" { "" } else { group };
        self.configuration.of(group, resource)
    }

    async fn seal(&self, mutation: Mutation) -> Result<Mutation, StoreError> {
        let Mutation::Put { key, value } = mutation else {
            return Ok(mutation);
        };
        let value = match self.providers(&key) {
            Some(providers) => providers
                .seal(&key, &value)
                .await
                .map_err(|why| corrupt("encrypt", &key, &why))?
                .into(),
            None => value,
        };
        Ok(Mutation::Put { key, value })
    }

    async fn open_entry(&self, mut entry: Entry) -> Result<Entry, StoreError> {
        if let Some(providers) = self.providers(&entry.key) {
            let opened = providers
                .open(&entry.key, &entry.value)
                .await
                .map_err(|why| corrupt("decrypt", &entry.key, &why))?;
            if let Some(opened) = opened {
                entry.value = Bytes::from(opened);
            }
        }
        Ok(entry)
    }

    async fn open_commit(&self, mut commit: Commit) -> Result<Commit, StoreError> {
        for change in &mut commit.changes {
            if let Change::Put { entry } = change {
                *entry = self.open_entry(entry.clone()).await?;
            }
        }
        Ok(commit)
    }

    /// Writes anew what is not stored as it would be now; how many entries that were.
    pub async fn renew(&self) -> Result<usize, StoreError> {
        let mut renewed = 0;
        let mut after = None;
        loop {
            let range = Range {
                prefix: PREFIX.to_owned(),
                after: after.take(),
                limit: PAGE,
                at: None,
            };
            let page = self.inner.list(range).await?;
            for entry in &page.entries {
                let Some(providers) = self.providers(&entry.key) else {
                    continue;
                };
                if providers.is_current(&entry.value) {
                    continue;
                }
                let plain = self.open_entry(entry.clone()).await?;
                let transaction = Transaction {
                    expect: vec![(entry.key.clone(), Expect::ModRevision(entry.mod_revision))],
                    mutations: vec![Mutation::Put {
                        key: entry.key.clone(),
                        value: plain.value,
                    }],
                };
                match self.commit(transaction).await {
                    Ok(_) => renewed += 1,
                    // Whoever changed it has written it as it should be.
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            match page.entries.last() {
                Some(last) if page.remaining > 0 => after = Some(last.key.to_string()),
                _ => return Ok(renewed),
            }
        }
    }
}

fn corrupt(operation: &'static str, key: &str, why: &str) -> StoreError {
    StoreError::Corrupt {
        operation,
        reason: format!("the value of {key}: {why}"),
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self.inner.get(key).await? {
            Some(entry) => self.open_entry(entry).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        let mut page = self.inner.list(range).await?;
        for entry in &mut page.entries {
            *entry = self.open_entry(entry.clone()).await?;
        }
        Ok(page)
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Revision, StoreError> {
        let mut sealed = Vec::with_capacity(transaction.mutations.len());
        for mutation in transaction.mutations {
            sealed.push(self.seal(mutation).await?);
        }
        transaction.mutations = sealed;
        match self.inner.commit(transaction).await {
            Err(StoreError::Conflict {
                key,
                current: Some(entry),
            }) => Err(StoreError::Conflict {
                key,
                current: Some(self.open_entry(entry).await?),
            }),
            outcome => outcome,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<CommitStream, StoreError> {
        let commits = self.inner.watch(prefix, after).await?;
        let own = Arc::new(EncryptedStore {
            inner: self.inner.clone(),
            configuration: self.configuration.clone(),
        });
        let opened = commits.then(move |commit| {
            let own = own.clone();
            async move { own.open_commit(commit?).await }
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
}

#[cfg(test)]
mod tests;
