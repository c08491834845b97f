//! A watch on etcd that survives a lost connection.
//!
//! Progress is asked for once a second. An old etcd may answer such a question before it
//! has sent the events that the answer covers, so an answer counts only when the next one
//! has come: by then everything before it has been sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use futures::stream::unfold;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::warn;

use super::errors::store_error;
use super::{entry, newest};
use crate::{Change, Commit, CommitStream, Revision, StoreError};

const DOING: &str = "watch";
const PROGRESS: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Watcher {
    client: Client,
    prefix: String,
    /// Everything up to here is delivered or in `pending`.
    seen: Revision,
    pending: VecDeque<Commit>,
    stream: Option<WatchStream>,
    ended: bool,
    tick: Interval,
    /// A progress answer that does not count yet.
    promised: Option<Revision>,
}

impl Watcher {
    pub(super) async fn start(
        client: Client,
        prefix: &str,
        after: Revision,
    ) -> Result<Watcher, StoreError> {
        let mut tick = interval_at(Instant::now() + PROGRESS, PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watcher = Watcher {
            client,
            prefix: prefix.to_owned(),
            seen: after,
            pending: VecDeque::new(),
            stream: None,
            ended: false,
            tick,
            promised: None,
        };
        watcher.open().await?;
        Ok(watcher)
    }

    pub(super) fn into_stream(self) -> CommitStream {
        unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            watcher.ended |= item.is_err();
            Some((item, watcher))
        })
        .boxed()
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(self.seen as i64 + 1);
        let mut stream = self
            .client
            .watch_client()
            .max_decoding_message_size(usize::MAX)
            .watch(self.prefix.as_bytes(), Some(options))
            .await
            .map_err(|error| store_error(DOING, self.seen, error))?;
        let first = stream
            .message()
            .await
            .map_err(|error| store_error(DOING, self.seen, error))?;
        let Some(first) = first else {
            return Err(unavailable("etcd ended the stream"));
        };
        let newest = newest(DOING, first.header())?;
        if self.seen > newest {
            return Err(StoreError::Future {
                requested: self.seen,
                newest,
            });
        }
        self.promised = None;
        self.accept(first)?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Commit, StoreError>> {
        while !self.ended {
            if let Some(commit) = self.pending.pop_front() {
                return Some(Ok(commit));
            }
            match self.advance().await {
                Ok(()) => {}
                Err(StoreError::Unavailable { reason, .. }) => {
                    warn!(%reason, prefix = %self.prefix, "the watch on etcd broke; opening it again");
                    self.stream = None;
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Waits for one answer and takes it in.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(stream) = &mut self.stream else {
            return self.open().await;
        };
        tokio::select! {
            message = stream.message() => {
                let message = message.map_err(|error| store_error(DOING, self.seen, error))?;
                self.accept(message.ok_or_else(|| unavailable("etcd ended the stream"))?)
            }
            _ = self.tick.tick() => {
                stream.request_progress().await.map_err(|error| store_error(DOING, self.seen, error))
            }
        }
    }

    fn accept(&mut self, response: WatchResponse) -> Result<(), StoreError> {
        if response.compact_revision() > 0 {
            let oldest = response.compact_revision().unsigned_abs();
            return Err(StoreError::Compacted {
                requested: self.seen,
                oldest,
            });
        }
        if response.canceled() {
            return Err(unavailable(response.cancel_reason()));
        }
        if response.created() {
            return Ok(());
        }
        if response.events().is_empty() {
            let revision = newest(DOING, response.header())?;
            if let Some(certain) = self.promised.replace(revision).filter(|r| *r > self.seen) {
                self.seen = certain;
                self.pending.push_back(Commit {
                    revision: certain,
                    changes: Vec::new(),
                });
            }
            return Ok(());
        }
        for event in response.events() {
            let Some(pair) = event.kv() else { continue };
            let pair = entry(pair.clone())?;
            let revision = pair.mod_revision;
            let change = match event.event_type() {
                EventType::Put => Change::Put { entry: pair },
                EventType::Delete => Change::Delete {
                    key: Arc::clone(&pair.key),
                },
            };
            match self.pending.back_mut() {
                Some(commit) if commit.revision == revision => commit.changes.push(change),
                _ => self.pending.push_back(Commit {
                    revision,
                    changes: vec![change],
                }),
            }
            self.seen = revision;
        }
        Ok(())
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        operation: DOING,
        reason: reason.to_owned(),
    }
}
