//! The store in etcd v3, where several servers share the state.

mod errors;
mod watcher;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue,
    KvClient, ResponseHeader, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use self::errors::store_error;
use self::watcher::Watcher;
use crate::{
    CommitStream, Entry, Expect, Mutation, Page, Range, Revision, Store, StoreError, Transaction,
};

/// Entries asked for at a time.
const CHUNK: usize = 1000;
/// How long a new store waits for the first answer: a service manager may start etcd and its
/// servers at the same time.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// How to reach etcd. All texts are PEM.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    pub endpoints: Vec<String>,
    pub ca: Option<String>,
    /// The client's certificate and its key.
    pub identity: Option<(String, String)>,
    /// As [`crate::EmbeddedOptions::compact_every`]. Servers that share an etcd may all do it.
    pub compact_every: Option<Duration>,
}

/// See the module's documentation.
pub struct EtcdStore {
    client: Client,
    _background: DropGuard,
}

impl EtcdStore {
    /// Connects; fails when no endpoint answers within ten seconds.
    pub async fn connect(options: EtcdOptions) -> Result<EtcdStore, StoreError> {
        const DOING: &str = "connect to etcd";
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(5))
            .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
            .with_keep_alive_while_idle(true);
        if options.ca.is_some() || options.identity.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(ca) = options.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = options.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(tls);
        }
        let client = Client::connect(&options.endpoints, Some(connect))
            .await
            .map_err(|error| store_error(DOING, 0, error))?;
        let cancelled = CancellationToken::new();
        let store = EtcdStore {
            client,
            _background: cancelled.clone().drop_guard(),
        };
        store.wait_for_answer().await?;
        if let Some(every) = options.compact_every {
            tokio::spawn(compact_regularly(store.client.clone(), every, cancelled));
        }
        Ok(store)
    }

    async fn wait_for_answer(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.revision().await {
                Err(error @ StoreError::Unavailable { .. }) if Instant::now() < deadline => {
                    warn!(%error, "etcd does not answer yet");
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                other => return other.map(drop),
            }
        }
    }

    fn kv(&self) -> KvClient {
        // etcd limits what one answer holds by the limit asked for, not by size.
        self.client
            .kv_client()
            .max_decoding_message_size(usize::MAX)
    }

    async fn range(
        &self,
        range: &Range,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, StoreError> {
        const DOING: &str = "list";
        let mut start = range.prefix.clone().into_bytes();
        if let Some(after) = range.after.as_ref().filter(|after| **after >= range.prefix) {
            start = after.clone().into_bytes();
            start.push(0);
        }
        if start.is_empty() {
            start.push(0);
        }
        let options = GetOptions::new()
            .with_range(end_of_prefix(range.prefix.as_bytes()))
            .with_limit(limit as i64)
            .with_revision(at.map_or(0, |revision| revision as i64));
        let mut response = self
            .kv()
            .get(start, Some(options))
            .await
            .map_err(|error| store_error(DOING, at.unwrap_or(0), error))?;
        let newest = newest(DOING, response.header())?;
        if let Some(requested) = at.filter(|at| *at > newest) {
            return Err(StoreError::Future { requested, newest });
        }
        let count = response.count().unsigned_abs();
        let entries: Vec<Entry> = response
            .take_kvs()
            .into_iter()
            .map(entry)
            .collect::<Result<_, _>>()?;
        let remaining = count.saturating_sub(entries.len() as u64);
        Ok(Page {
            entries,
            revision: at.unwrap_or(newest),
            remaining,
        })
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        revision(self.kv()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut response = self
            .kv()
            .get(key, None)
            .await
            .map_err(|error| store_error("get", 0, error))?;
        response
            .take_kvs()
            .into_iter()
            .next()
            .map(entry)
            .transpose()
    }

    async fn list(&self, mut range: Range) -> Result<Page, StoreError> {
        let mut page: Option<Page> = None;
        loop {
            let have = page.as_ref().map_or(0, |page| page.entries.len());
            let limit = match range.limit {
                0 => CHUNK,
                limit => CHUNK.min(limit - have),
            };
            let at = page.as_ref().map_or(range.at, |page| Some(page.revision));
            let mut next = self.range(&range, limit, at).await?;
            range.after = next.entries.last().map(|entry| entry.key.to_string());
            let page = match &mut page {
                None => page.insert(next),
                Some(page) => {
                    page.remaining = next.remaining;
                    page.entries.append(&mut next.entries);
                    page
                }
            };
            if page.remaining == 0 || (range.limit > 0 && page.entries.len() >= range.limit) {
                return Ok(Page {
                    entries: std::mem::take(&mut page.entries),
                    revision: page.revision,
                    remaining: page.remaining,
                });
            }
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        const DOING: &str = "commit";
        transaction.check()?;
        let response = self
            .kv()
            .txn(txn(&transaction))
            .await
            .map_err(|error| store_error(DOING, 0, error))?;
        if response.succeeded() {
            return newest(DOING, response.header());
        }
        for ((key, expect), answer) in transaction.expect.iter().zip(response.op_responses()) {
            let TxnOpResponse::Get(mut got) = answer else {
                continue;
            };
            let current = got.take_kvs().into_iter().next().map(entry).transpose()?;
            let holds = match (expect, &current) {
                (Expect::Absent, None) => true,
                (Expect::ModRevision(wanted), Some(entry)) => entry.mod_revision == *wanted,
                _ => false,
            };
            if !holds {
                return Err(StoreError::Conflict {
                    key: key.clone(),
                    current,
                });
            }
        }
        Err(StoreError::Corrupt {
            operation: DOING,
            reason: "etcd refused a transaction whose conditions hold".to_owned(),
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<CommitStream, StoreError> {
        let watcher = Watcher::start(self.client.clone(), prefix, after).await?;
        Ok(watcher.into_stream())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        compact(self.kv(), revision).await
    }
}

/// All mutations if every expectation holds, else the expected keys as they are.
fn txn(transaction: &Transaction) -> Txn {
    let compares: Vec<Compare> = transaction
        .expect
        .iter()
        .map(|(key, expect)| match expect {
            Expect::Absent => Compare::create_revision(key.as_bytes(), CompareOp::Equal, 0),
            Expect::ModRevision(revision) => {
                Compare::mod_revision(key.as_bytes(), CompareOp::Equal, *revision as i64)
            }
        })
        .collect();
    let writes: Vec<TxnOp> = transaction
        .mutations
        .iter()
        .map(|mutation| match mutation {
            Mutation::Put { key, value } => TxnOp::put(key.as_bytes(), value.as_ref(), None),
            Mutation::Delete { key } => TxnOp::delete(key.as_bytes(), None),
        })
        .collect();
    let reads: Vec<TxnOp> = transaction
        .expect
        .iter()
        .map(|(key, _)| TxnOp::get(key.as_bytes(), None))
        .collect();
    Txn::new().when(compares).and_then(writes).or_else(reads)
}

fn entry(pair: KeyValue) -> Result<Entry, StoreError> {
    let (create_revision, mod_revision) = (pair.create_revision(), pair.mod_revision());
    let (key, value) = pair.into_key_value();
    let key = String::from_utf8(key).map_err(|_| StoreError::Corrupt {
        operation: "read from etcd",
        reason: "a key is not UTF-8".to_owned(),
    })?;
    Ok(Entry {
        key: Arc::from(key),
        value: Bytes::from(value),
        create_revision: create_revision.unsigned_abs(),
        mod_revision: mod_revision.unsigned_abs(),
    })
}

fn newest(
    operation: &'static str,
    header: Option<&ResponseHeader>,
) -> Result<Revision, StoreError> {
    let header = header.ok_or_else(|| StoreError::Corrupt {
        operation,
        reason: "etcd's answer has no header".to_owned(),
    })?;
    Ok(header.revision().unsigned_abs())
}

/// The first key behind every key with the prefix, as etcd's ranges want it; `\0` is "no end".
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

async fn compact_regularly(client: Client, every: Duration, cancelled: CancellationToken) {
    let mut target: Option<Revision> = None;
    while cancelled
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        if let Some(revision) = target
            && let Err(error) = compact(client.kv_client(), revision).await
        {
            warn!(%error, "etcd was not compacted; trying again later");
        }
        target = revision(client.kv_client()).await.ok();
    }
}

async fn compact(mut client: KvClient, revision: Revision) -> Result<(), StoreError> {
    let done = client.compact(revision as i64, None).await;
    match done.map_err(|error| store_error("compact", revision, error)) {
        Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn revision(mut client: KvClient) -> Result<Revision, StoreError> {
    const DOING: &str = "read the revision";
    let options = GetOptions::new().with_count_only();
    let response = client
        .get("\0", Some(options))
        .await
        .map_err(|error| store_error(DOING, 0, error))?;
    newest(DOING, response.header())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        let check = |prefix: &[u8], end: &[u8]| assert_eq!(end_of_prefix(prefix), end);
        check(b"/registry/", b"/registry0");
        check(b"a\xff\xff", b"b");
        check(b"\xff", b"\0");
        check(b"", b"\0");
    }
}
