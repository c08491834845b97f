//! The tables: where commits live after the log.
//!
//! `versions` holds every mutation since the last compaction in commit order, plus the
//! live ones from before; `keys` names the live version of each key. A version points
//! back to the one that it replaced, so an old state is the present one with the later
//! versions undone, and a value is stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::backend::SpillFile;
use super::record::{KeyState, Position, Record, Version, VersionRef};
use crate::{Entry, Revision, StoreError};

const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
const VERSIONS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("versions");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const APPLIED: &str = "applied";
const COMPACTED: &str = "compacted";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// The tables, written by one thread.
pub(super) struct Tables {
    database: Database,
    backend: SpillFile,
}

/// A consistent state of the tables.
pub(super) struct Snapshot {
    keys: ReadOnlyTable<&'static str, &'static [u8]>,
    versions: ReadOnlyTable<(u64, u32), &'static [u8]>,
    /// Every commit up to this one is in it.
    pub(super) applied: Revision,
    pub(super) compacted: Revision,
}

impl Tables {
    pub(super) fn open(backend: SpillFile, cache: usize) -> Result<Tables, StoreError> {
        let database = Builder::new()
            .set_cache_size(cache)
            .create_with_backend(backend.clone())
            .map_err(|error| fault("open the tables", error))?;
        let tables = Tables { database, backend };
        match tables.format()? {
            Some(FORMAT_VERSION) => {}
            Some(found) => {
                return Err(StoreError::Corrupt {
                    operation: "open the tables",
                    reason: format!("format {found} is not known to this version"),
                });
            }
            None => tables.make()?,
        }
        Ok(tables)
    }

    /// `None` in a new file. It only reads, so that a full disk does not hinder a start.
    fn format(&self) -> Result<Option<u64>, StoreError> {
        const DOING: &str = "open the tables";
        let transaction = self.database.begin_read().map_err(|e| fault(DOING, e))?;
        match transaction.open_table(META) {
            Ok(meta) => read_meta(&meta, FORMAT).map(Some),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(fault(DOING, error)),
        }
    }

    fn make(&self) -> Result<(), StoreError> {
        const DOING: &str = "make the tables";
        self.write(DOING, |transaction| {
            transaction.open_table(KEYS).map_err(|e| fault(DOING, e))?;
            transaction
                .open_table(VERSIONS)
                .map_err(|e| fault(DOING, e))?;
            let mut meta = transaction.open_table(META).map_err(|e| fault(DOING, e))?;
            meta.insert(FORMAT, FORMAT_VERSION)
                .map(drop)
                .map_err(|e| fault(DOING, e))
        })
    }

    /// True when all that was written here is on the disk; tries to get it there.
    pub(super) fn settle(&self) -> Result<bool, StoreError> {
        if !self.backend.is_spilled() {
            return Ok(true);
        }
        self.backend
            .drain()
            .map_err(|error| StoreError::Unavailable {
                operation: "write the tables",
                reason: error.to_string(),
            })
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        const DOING: &str = "read the tables";
        let transaction = self.database.begin_read().map_err(|e| fault(DOING, e))?;
        let meta = transaction.open_table(META).map_err(|e| fault(DOING, e))?;
        Ok(Snapshot {
            keys: transaction.open_table(KEYS).map_err(|e| fault(DOING, e))?,
            versions: transaction
                .open_table(VERSIONS)
                .map_err(|e| fault(DOING, e))?,
            applied: read_meta(&meta, APPLIED)?,
            compacted: read_meta(&meta, COMPACTED)?,
        })
    }

    /// Moves commits into the tables, in one transaction.
    pub(super) fn apply(&self, records: &[Arc<Record>]) -> Result<(), StoreError> {
        const DOING: &str = "apply commits";
        let Some(last) = records.last() else {
            return Ok(());
        };
        self.write(DOING, |transaction| {
            let mut versions = transaction
                .open_table(VERSIONS)
                .map_err(|e| fault(DOING, e))?;
            let mut finals: BTreeMap<&str, Option<KeyState>> = BTreeMap::new();
            for record in records {
                for (index, version) in record.versions.iter().enumerate() {
                    let position = Position {
                        revision: record.revision,
                        index: index as u32,
                    };
                    let mut slot = versions
                        .insert_reserve((position.revision, position.index), version.encoded_len())
                        .map_err(|e| fault(DOING, e))?;
                    version.encode_into(slot.as_mut());
                    let create_revision = version.create_revision;
                    let state = KeyState {
                        create_revision,
                        position,
                    };
                    finals.insert(&version.key, version.value.as_ref().map(|_| state));
                }
            }
            let mut keys = transaction.open_table(KEYS).map_err(|e| fault(DOING, e))?;
            for (key, state) in finals {
                match state {
                    Some(state) => keys.insert(key, state.encode().as_slice()).map(drop),
                    None => keys.remove(key).map(drop),
                }
                .map_err(|e| fault(DOING, e))?;
            }
            let mut meta = transaction.open_table(META).map_err(|e| fault(DOING, e))?;
            meta.insert(APPLIED, last.revision)
                .map(drop)
                .map_err(|e| fault(DOING, e))
        })
    }

    /// Forgets history before `target`, as much as one short transaction can; returns how
    /// far it came.
    pub(super) fn compact(&self, target: Revision) -> Result<Revision, StoreError> {
        const DOING: &str = "compact";
        /// Versions looked at in one transaction: some ten milliseconds.
        const STEP: usize = 4096;
        let mut reached = target;
        self.write(DOING, |transaction| {
            let mut meta = transaction.open_table(META).map_err(|e| fault(DOING, e))?;
            let mut versions = transaction
                .open_table(VERSIONS)
                .map_err(|e| fault(DOING, e))?;
            let from = read_meta(&meta, COMPACTED)?;
            let mut dead: Vec<(u64, u32)> = Vec::new();
            let range = versions
                .range((from + 1, 0)..=(target, u32::MAX))
                .map_err(|e| fault(DOING, e))?;
            let mut last = from;
            for (seen, item) in range.enumerate() {
                let (key, value) = item.map_err(|e| fault(DOING, e))?;
                let (revision, index) = key.value();
                if seen >= STEP && revision != last {
                    reached = last;
                    break;
                }
                last = revision;
                let version = VersionRef::decode(value.value())?;
                if !version.previous.is_none() {
                    dead.push((version.previous.revision, version.previous.index));
                }
                if version.value.is_none() {
                    dead.push((revision, index));
                }
            }
            for position in dead {
                versions.remove(position).map_err(|e| fault(DOING, e))?;
            }
            meta.insert(COMPACTED, reached)
                .map(drop)
                .map_err(|e| fault(DOING, e))
        })?;
        Ok(reached)
    }

    fn write(
        &self,
        operation: &'static str,
        body: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut transaction = self
            .database
            .begin_write()
            .map_err(|e| fault(operation, e))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|e| fault(operation, e))?;
        // Without it a start after a crash reads the whole file.
        transaction.set_quick_repair(true);
        body(&transaction)?;
        transaction.commit().map_err(|e| fault(operation, e))
    }
}

impl Snapshot {
    pub(super) fn key(&self, key: &str) -> Result<Option<KeyState>, StoreError> {
        let found = self.keys.get(key).map_err(|e| fault("read a key", e))?;
        found
            .map(|value| KeyState::decode(value.value()))
            .transpose()
    }

    /// The live keys above a bound, in order.
    pub(super) fn keys_from<'a>(
        &'a self,
        start: std::ops::Bound<&'a str>,
    ) -> Result<impl Iterator<Item = Result<(String, KeyState), StoreError>> + 'a, StoreError> {
        let range = self
            .keys
            .range::<&str>((start, std::ops::Bound::Unbounded))
            .map_err(|e| fault("read the keys", e))?;
        Ok(range.map(|item| {
            let (key, value) = item.map_err(|e| fault("read the keys", e))?;
            Ok((key.value().to_owned(), KeyState::decode(value.value())?))
        }))
    }

    /// The entry of a version that is known to exist.
    pub(super) fn entry(&self, position: Position) -> Result<Entry, StoreError> {
        let found = self
            .versions
            .get((position.revision, position.index))
            .map_err(|e| fault("read a version", e))?
            .ok_or_else(|| missing(position))?;
        let version = VersionRef::decode(found.value())?;
        Ok(Entry {
            key: version.key.into(),
            value: Bytes::copy_from_slice(version.value.ok_or_else(|| missing(position))?),
            create_revision: version.create_revision,
            mod_revision: position.revision,
        })
    }

    /// For each key below the prefix that was written after `revision`: the version that
    /// was live at `revision`.
    pub(super) fn undo(
        &self,
        prefix: &str,
        revision: Revision,
    ) -> Result<BTreeMap<Arc<str>, Position>, StoreError> {
        let mut undone: BTreeMap<Arc<str>, Position> = BTreeMap::new();
        let range = self
            .versions
            .range((revision + 1, 0)..)
            .map_err(|e| fault("read the history", e))?;
        for item in range {
            let (_, value) = item.map_err(|e| fault("read the history", e))?;
            let version = VersionRef::decode(value.value())?;
            if version.key.starts_with(prefix) && !undone.contains_key(version.key) {
                undone.insert(version.key.into(), version.previous);
            }
        }
        Ok(undone)
    }

    /// Commits after `after`, at least one if there is one, about `limit` versions in all.
    pub(super) fn records_after(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = Vec::new();
        let range = self
            .versions
            .range((after + 1, 0)..)
            .map_err(|e| fault("read the history", e))?;
        for (seen, item) in range.enumerate() {
            let (key, value) = item.map_err(|e| fault("read the history", e))?;
            let (revision, _) = key.value();
            let version: Version = VersionRef::decode(value.value())?.to_owned();
            match records.last_mut() {
                Some(record) if record.revision == revision => record.versions.push(version),
                _ if seen >= limit => break,
                _ => records.push(Record {
                    revision,
                    versions: vec![version],
                }),
            }
        }
        Ok(records)
    }
}

fn read_meta(
    meta: &impl ReadableTable<&'static str, u64>,
    name: &'static str,
) -> Result<u64, StoreError> {
    let found = meta
        .get(name)
        .map_err(|e| fault("read the store's revision", e))?;
    Ok(found.map_or(0, |value| value.value()))
}

fn missing(position: Position) -> StoreError {
    StoreError::Corrupt {
        operation: "read a version",
        reason: format!(
            "version {}.{} is missing",
            position.revision, position.index
        ),
    }
}

fn fault(operation: &'static str, error: impl Into<redb::Error>) -> StoreError {
    let error: redb::Error = error.into();
    let reason = error.to_string();
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. } => StoreError::Corrupt { operation, reason },
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt { operation, reason }
        }
        _ => StoreError::Unavailable { operation, reason },
    }
}
