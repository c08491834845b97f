//! The writer: one thread that decides transactions in order and makes them durable in
//! groups. While one group is on its way to the disk the next one gathers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::Shared;
use super::log::{AppendError, Log};
use super::record::{Position, Record, Version};
use super::state::GroupView;
use crate::{Expect, Mutation, Revision, StoreError, Transaction};

/// A transaction and who waits for it.
pub(super) struct Request {
    pub(super) transaction: Transaction,
    pub(super) reply: oneshot::Sender<Result<Revision, StoreError>>,
}

/// Bounds of a group: what one write to the log may carry.
const GROUP: usize = 1024;
const GROUP_BYTES: usize = 2 << 20;
/// How long a group waits for the tables to take over a log file before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
}

/// A decided request.
struct Decided {
    reply: oneshot::Sender<Result<Revision, StoreError>>,
    result: Result<Revision, StoreError>,
}

impl Writer {
    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut bytes = size(&first.transaction);
            let mut group = vec![first];
            while group.len() < GROUP
                && bytes < GROUP_BYTES
                && let Ok(next) = requests.try_recv()
            {
                bytes += size(&next.transaction);
                group.push(next);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Request>) {
        let mut revision = self.shared.state.lock().revision;
        let mut view = GroupView::default();
        let mut records = Vec::with_capacity(group.len());
        let mut decided = Vec::with_capacity(group.len());
        for request in group {
            let outcome = self.decide(request.transaction, revision + 1, &view);
            let result = match outcome {
                Ok(Some(record)) => {
                    revision = record.revision;
                    view.remember(&record);
                    records.push(record);
                    Ok(revision)
                }
                Ok(None) => Ok(revision),
                Err(error) => Err(error),
            };
            decided.push(Decided {
                reply: request.reply,
                result,
            });
        }
        let written = self.persist(records);
        for Decided { reply, result } in decided {
            // Also a conflict may rest on an earlier transaction of this group.
            let result = match &written {
                Ok(()) => result,
                Err(error) => Err(again(error)),
            };
            let _ = reply.send(result);
        }
    }

    fn persist(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.log.append(&records, self.shared.released()) {
            let error = match error {
                AppendError::Store(error) => error,
                AppendError::Blocked => match self.shared.wait_for_tables(deadline) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            warn!(path = %self.shared.path.display(), %error, "a group of writes is refused");
            return Err(error);
        }
        self.shared.publish(records);
        Ok(())
    }

    fn decide(
        &self,
        transaction: Transaction,
        revision: Revision,
        group: &GroupView,
    ) -> Result<Option<Record>, StoreError> {
        let live = |key: &str| group.live(key, || self.shared.state.lock().newest(key));
        let mut known = Vec::with_capacity(transaction.expect.len());
        for (key, expect) in &transaction.expect {
            let current = live(key)?;
            known.push((key, current.as_ref().map(|live| live.state)));
            let holds = match (expect, &current) {
                (Expect::Absent, None) => true,
                (Expect::ModRevision(wanted), Some(live)) => {
                    live.state.position.revision == *wanted
                }
                _ => false,
            };
            if !holds {
                let current = current.map(|live| live.entry()).transpose()?;
                return Err(StoreError::Conflict {
                    key: key.clone(),
                    current,
                });
            }
        }
        let mut versions = Vec::with_capacity(transaction.mutations.len());
        for mutation in transaction.mutations {
            let key = mutation.key();
            let previous = match known.iter().find(|(other, _)| *other == key) {
                Some((_, state)) => *state,
                None => live(key)?.map(|live| live.state),
            };
            let position = previous.map_or(Position::NONE, |state| state.position);
            let create_revision = previous.map_or(revision, |state| state.create_revision);
            let (key, value) = match mutation {
                Mutation::Put { key, value } => (key, Some(value)),
                Mutation::Delete { .. } if previous.is_none() => continue,
                Mutation::Delete { key } => (key, None),
            };
            versions.push(Version {
                key,
                create_revision,
                previous: position,
                value,
            });
        }
        Ok((!versions.is_empty()).then_some(Record { revision, versions }))
    }
}

fn size(transaction: &Transaction) -> usize {
    transaction
        .mutations
        .iter()
        .map(|mutation| match mutation {
            Mutation::Put { key, value } => key.len() + value.len(),
            Mutation::Delete { key } => key.len(),
        })
        .sum()
}

/// The same error for another waiter of the group.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::NoSpace { path } => StoreError::NoSpace { path: path.clone() },
        other => StoreError::Unavailable {
            operation: "commit",
            reason: other.to_string(),
        },
    }
}
