//! A watch: history from the tables first, then the commits as they come. A reader that
//! is too slow for its queue goes back to reading history.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::unfold;
use tokio::sync::mpsc;

use super::state::Step;
use super::{Shared, blocking};
use crate::{Commit, CommitStream, Revision, StoreError};

/// Versions of history read at a time.
const CHUNK: usize = 512;

enum Mode {
    Seeking(Step),
    Live(mpsc::Receiver<Commit>),
    Lagging,
    Ended,
}

pub(super) struct Watcher {
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to here is delivered or in `pending`.
    seen: Revision,
    pending: VecDeque<Commit>,
    mode: Mode,
}

impl Watcher {
    pub(super) fn start(
        shared: Arc<Shared>,
        prefix: &str,
        after: Revision,
    ) -> Result<Watcher, StoreError> {
        let step = shared.state.lock().follow(prefix, after)?;
        Ok(Watcher {
            shared,
            prefix: prefix.to_owned(),
            seen: after,
            pending: VecDeque::new(),
            mode: Mode::Seeking(step),
        })
    }

    pub(super) fn into_stream(self) -> CommitStream {
        unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Commit, StoreError>> {
        loop {
            if let Some(commit) = self.pending.pop_front() {
                return Some(Ok(commit));
            }
            match std::mem::replace(&mut self.mode, Mode::Ended) {
                Mode::Ended => return None,
                Mode::Live(mut queue) => match queue.recv().await {
                    Some(commit) => {
                        self.seen = commit.revision;
                        self.mode = Mode::Live(queue);
                        return Some(Ok(commit));
                    }
                    None => self.mode = Mode::Lagging,
                },
                Mode::Lagging => {
                    let mut state = self.shared.state.lock();
                    if state.closed {
                        return None;
                    }
                    match state.follow(&self.prefix, self.seen) {
                        Ok(step) => self.mode = Mode::Seeking(step),
                        Err(error) => return Some(Err(error)),
                    }
                }
                Mode::Seeking(step) => {
                    if let Err(error) = self.take(step).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    async fn take(&mut self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Live {
                backlog,
                told,
                queue,
            } => {
                self.pending.extend(backlog);
                self.seen = told;
                self.mode = Mode::Live(queue);
            }
            Step::History(snapshot) => {
                let after = self.seen;
                let applied = snapshot.applied;
                let records = blocking(move || snapshot.records_after(after, CHUNK)).await?;
                self.seen = records.last().map_or(applied, |record| record.revision);
                self.pending.extend(
                    records
                        .iter()
                        .filter_map(|record| record.commit_below(&self.prefix)),
                );
                self.mode = Mode::Lagging;
            }
        }
        Ok(())
    }
}
