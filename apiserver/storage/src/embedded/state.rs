//! What readers, watchers and the writer share: the newest commits over the tables.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::record::{KeyState, Position, Record};
use super::tables::Snapshot;
use crate::{Commit, Entry, Page, Range, Revision, StoreError};

/// What a subscriber's queue holds before it has to read the history instead.
const QUEUE: usize = 1024;

/// A version that is not in the tables yet.
#[derive(Clone)]
struct Recent {
    position: Position,
    create_revision: Revision,
    value: Option<Bytes>,
}

impl Recent {
    fn entry(&self, key: &Arc<str>) -> Option<Entry> {
        self.value.as_ref().map(|value| Entry {
            key: key.clone(),
            value: value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.position.revision,
        })
    }
}

struct Subscriber {
    prefix: String,
    queue: mpsc::Sender<Commit>,
    told: Revision,
}

/// Behind one lock; every operation on it is short.
pub(super) struct State {
    /// The newest durable commit.
    pub(super) revision: Revision,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) closed: bool,
    unapplied: VecDeque<Arc<Record>>,
    weight: usize,
    /// When the oldest unapplied commit came.
    waiting_since: Option<Instant>,
    overlay: BTreeMap<Arc<str>, Vec<Recent>>,
    subscribers: Vec<Subscriber>,
}

/// A watcher's next step.
pub(super) enum Step {
    /// Deliver these, then wait for the queue.
    Live {
        backlog: Vec<Commit>,
        told: Revision,
        queue: mpsc::Receiver<Commit>,
    },
    /// Read more history from the tables first.
    History(Arc<Snapshot>),
}

/// What is known of a key: nothing newer than the tables, or its newest version.
pub(super) enum Newest {
    InTables(Arc<Snapshot>),
    Recent {
        entry: Option<Entry>,
        position: Position,
    },
}

impl State {
    pub(super) fn new(snapshot: Snapshot, replayed: Vec<Record>) -> State {
        let mut state = State {
            revision: snapshot.applied,
            snapshot: Arc::new(snapshot),
            closed: false,
            unapplied: VecDeque::new(),
            weight: 0,
            waiting_since: None,
            overlay: BTreeMap::new(),
            subscribers: Vec::new(),
        };
        state.publish(replayed);
        state
    }

    pub(super) fn newest(&self, key: &str) -> Newest {
        match self.overlay.get_key_value(key) {
            Some((key, versions)) if let Some(last) = versions.last() => Newest::Recent {
                entry: last.entry(key),
                position: last.position,
            },
            _ => Newest::InTables(self.snapshot.clone()),
        }
    }

    /// Takes durable commits in and hands them to the subscribers.
    pub(super) fn publish(&mut self, records: Vec<Record>) {
        for record in records {
            self.revision = record.revision;
            self.weight += record.weight();
            self.waiting_since.get_or_insert_with(Instant::now);
            for (index, version) in record.versions.iter().enumerate() {
                let recent = Recent {
                    position: Position {
                        revision: record.revision,
                        index: index as u32,
                    },
                    create_revision: version.create_revision,
                    value: version.value.clone(),
                };
                self.overlay
                    .entry(version.key.clone())
                    .or_default()
                    .push(recent);
            }
            self.subscribers
                .retain_mut(|subscriber| subscriber.offer(&record));
            self.unapplied.push_back(Arc::new(record));
        }
    }

    /// Tells every subscriber of the revisions that did not concern it.
    pub(super) fn tell_progress(&mut self) {
        let revision = self.revision;
        self.subscribers.retain_mut(|subscriber| {
            subscriber.told >= revision
                || subscriber.send(Commit {
                    revision,
                    changes: Vec::new(),
                })
        });
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.subscribers.clear();
    }

    /// Bytes that wait for the tables, and since when.
    pub(super) fn backlog(&self) -> (usize, Option<Instant>) {
        (self.weight, self.waiting_since)
    }

    /// The commits that the tables lack, oldest first.
    pub(super) fn unapplied(&self) -> Vec<Arc<Record>> {
        self.unapplied.iter().cloned().collect()
    }

    /// The tables moved on: drops what they hold now.
    pub(super) fn advance(&mut self, snapshot: Snapshot) {
        let applied = snapshot.applied;
        self.snapshot = Arc::new(snapshot);
        while let Some(record) = self.unapplied.pop_front_if(|r| r.revision <= applied) {
            self.weight -= record.weight();
            for version in &record.versions {
                if let Some(recents) = self.overlay.get_mut(&version.key) {
                    recents.retain(|recent| recent.position.revision > applied);
                    if recents.is_empty() {
                        self.overlay.remove(&version.key);
                    }
                }
            }
        }
        self.waiting_since = (!self.unapplied.is_empty()).then(Instant::now);
    }

    /// A watcher that has everything up to `after` wants to go on.
    pub(super) fn follow(&mut self, prefix: &str, after: Revision) -> Result<Step, StoreError> {
        self.check_readable(after)?;
        if after < self.snapshot.applied {
            return Ok(Step::History(self.snapshot.clone()));
        }
        let start = self
            .unapplied
            .partition_point(|record| record.revision <= after);
        let backlog = self
            .unapplied
            .range(start..)
            .filter_map(|r| r.commit_below(prefix))
            .collect();
        let (sender, queue) = mpsc::channel(QUEUE);
        let told = self.revision;
        self.subscribers.push(Subscriber {
            prefix: prefix.to_owned(),
            queue: sender,
            told,
        });
        Ok(Step::Live {
            backlog,
            told,
            queue,
        })
    }

    fn check_readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future {
                requested: revision,
                newest: self.revision,
            });
        }
        if revision < self.snapshot.compacted {
            let oldest = self.snapshot.compacted;
            return Err(StoreError::Compacted {
                requested: revision,
                oldest,
            });
        }
        Ok(())
    }

    /// What a list has to read, fixed at one moment.
    pub(super) fn view(&self, range: &Range) -> Result<View, StoreError> {
        let revision = range.at.unwrap_or(self.revision);
        self.check_readable(revision)?;
        let mut recent = BTreeMap::new();
        if revision >= self.snapshot.applied {
            let from = (Bound::Included(range.prefix.as_str()), Bound::Unbounded);
            for (key, versions) in self
                .overlay
                .range::<str, _>(from)
                .take_while(|(key, _)| key.starts_with(&range.prefix))
            {
                if let Some(seen) = versions.iter().rfind(|v| v.position.revision <= revision) {
                    recent.insert(key.clone(), Override::Recent(seen.entry(key)));
                }
            }
        }
        Ok(View {
            revision,
            snapshot: self.snapshot.clone(),
            overrides: recent,
        })
    }
}

impl Subscriber {
    fn offer(&mut self, record: &Record) -> bool {
        match record.commit_below(&self.prefix) {
            Some(commit) => self.send(commit),
            None => !self.queue.is_closed(),
        }
    }

    /// False: the reader is gone or too slow. A slow one finds its queue ended, and reads
    /// the history from where it stands.
    fn send(&mut self, commit: Commit) -> bool {
        self.told = commit.revision;
        self.queue.try_send(commit).is_ok()
    }
}

enum Override {
    Recent(Option<Entry>),
    At(Position),
}

/// A list's input: the tables, and where the list differs from them.
pub(super) struct View {
    revision: Revision,
    snapshot: Arc<Snapshot>,
    overrides: BTreeMap<Arc<str>, Override>,
}

impl View {
    /// Reads the page; may read from the disk.
    pub(super) fn page(mut self, range: &Range) -> Result<Page, StoreError> {
        if self.revision < self.snapshot.applied {
            let undone = self.snapshot.undo(&range.prefix, self.revision)?;
            self.overrides = undone
                .into_iter()
                .map(|(key, position)| (key, Override::At(position)))
                .collect();
        }
        let after = range
            .after
            .as_deref()
            .filter(|after| *after >= range.prefix.as_str());
        let start = after.map_or(Bound::Included(range.prefix.as_str()), Bound::Excluded);
        let mut page = PageBuilder::new(range.limit);
        let mut overrides = self
            .overrides
            .range::<str, _>((start, Bound::Unbounded))
            .peekable();
        for item in self.snapshot.keys_from(start)? {
            let (key, state) = item?;
            if !key.starts_with(&range.prefix) {
                break;
            }
            while let Some((_, earlier)) = overrides.next_if(|(other, _)| ***other < *key) {
                page.push_override(earlier, &self.snapshot)?;
            }
            match overrides.next_if(|(other, _)| ***other == *key) {
                Some((_, instead)) => page.push_override(instead, &self.snapshot)?,
                None => page.push(|| self.snapshot.entry(state.position))?,
            }
        }
        for (_, rest) in overrides {
            page.push_override(rest, &self.snapshot)?;
        }
        Ok(Page {
            entries: page.entries,
            revision: self.revision,
            remaining: page.remaining,
        })
    }
}

struct PageBuilder {
    entries: Vec<Entry>,
    limit: usize,
    remaining: u64,
}

impl PageBuilder {
    fn new(limit: usize) -> Self {
        PageBuilder {
            entries: Vec::new(),
            limit,
            remaining: 0,
        }
    }

    fn push(&mut self, load: impl FnOnce() -> Result<Entry, StoreError>) -> Result<(), StoreError> {
        if self.limit > 0 && self.entries.len() >= self.limit {
            self.remaining += 1;
        } else {
            self.entries.push(load()?);
        }
        Ok(())
    }

    fn push_override(&mut self, what: &Override, tables: &Snapshot) -> Result<(), StoreError> {
        match what {
            Override::Recent(Some(entry)) => self.push(|| Ok(entry.clone())),
            Override::At(position) if !position.is_none() => self.push(|| tables.entry(*position)),
            Override::Recent(None) | Override::At(_) => Ok(()),
        }
    }
}

/// The keys as the writer sees them while it decides one group: what earlier
/// transactions of the group do comes before the state.
#[derive(Default)]
pub(super) struct GroupView {
    newest: HashMap<Arc<str>, (Option<Entry>, Position)>,
}

impl GroupView {
    pub(super) fn remember(&mut self, record: &Record) {
        for (index, version) in record.versions.iter().enumerate() {
            let position = Position {
                revision: record.revision,
                index: index as u32,
            };
            let newest = (version.entry(record.revision), position);
            self.newest.insert(version.key.clone(), newest);
        }
    }

    /// The live version of a key, and a way to its entry.
    pub(super) fn live(
        &self,
        key: &str,
        newest: impl FnOnce() -> Newest,
    ) -> Result<Option<Live>, StoreError> {
        let recent = |entry: Option<Entry>, position: Position| {
            entry.map(|entry| Live {
                state: KeyState {
                    create_revision: entry.create_revision,
                    position,
                },
                source: Source::Memory(entry),
            })
        };
        if let Some((entry, position)) = self.newest.get(key) {
            return Ok(recent(entry.clone(), *position));
        }
        match newest() {
            Newest::Recent { entry, position } => Ok(recent(entry, position)),
            Newest::InTables(snapshot) => Ok(snapshot.key(key)?.map(|state| Live {
                state,
                source: Source::Tables(snapshot),
            })),
        }
    }
}

/// A key's live version.
pub(super) struct Live {
    pub(super) state: KeyState,
    source: Source,
}

enum Source {
    Memory(Entry),
    Tables(Arc<Snapshot>),
}

impl Live {
    pub(super) fn entry(self) -> Result<Entry, StoreError> {
        match self.source {
            Source::Memory(entry) => Ok(entry),
            Source::Tables(snapshot) => snapshot.entry(self.state.position),
        }
    }
}
