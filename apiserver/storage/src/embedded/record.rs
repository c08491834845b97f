//! Commits and versions as bytes, in the log and in the tables.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Change, Commit, Entry, Revision, StoreError};

/// Where a version stands in history: the revision, and which mutation of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) revision: Revision,
    pub(super) index: u32,
}

impl Position {
    /// "There is no version"; no commit has revision 0.
    pub(super) const NONE: Position = Position {
        revision: 0,
        index: 0,
    };

    pub(super) fn is_none(self) -> bool {
        self.revision == 0
    }
}

/// One mutation, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) key: Arc<str>,
    /// For a deletion: that of the version deleted.
    pub(super) create_revision: Revision,
    /// The version that this one replaces.
    pub(super) previous: Position,
    /// `None`: a deletion.
    pub(super) value: Option<Bytes>,
}

impl Version {
    pub(super) fn change(&self, revision: Revision) -> Change {
        match &self.value {
            Some(value) => Change::Put {
                entry: Entry {
                    key: self.key.clone(),
                    value: value.clone(),
                    create_revision: self.create_revision,
                    mod_revision: revision,
                },
            },
            None => Change::Delete {
                key: self.key.clone(),
            },
        }
    }

    pub(super) fn entry(&self, revision: Revision) -> Option<Entry> {
        match self.change(revision) {
            Change::Put { entry } => Some(entry),
            Change::Delete { .. } => None,
        }
    }

    /// Bytes that it holds in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        96 + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// Fills a slice of [`Version::encoded_len`] bytes.
    pub(super) fn encode_into(&self, out: &mut [u8]) {
        let mut writer = out;
        put(&mut writer, &[u8::from(self.value.is_some())]);
        put(&mut writer, &self.create_revision.to_le_bytes());
        put(&mut writer, &self.previous.revision.to_le_bytes());
        put(&mut writer, &self.previous.index.to_le_bytes());
        put(&mut writer, &(self.key.len() as u32).to_le_bytes());
        put(&mut writer, self.key.as_bytes());
        if let Some(value) = &self.value {
            put(&mut writer, value);
        }
    }
}

/// One committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) revision: Revision,
    pub(super) versions: Vec<Version>,
}

impl Record {
    pub(super) fn weight(&self) -> usize {
        self.versions.iter().map(Version::weight).sum()
    }

    /// What a watcher of the prefix sees of it.
    pub(super) fn commit_below(&self, prefix: &str) -> Option<Commit> {
        let changes: Vec<Change> = self
            .versions
            .iter()
            .filter(|version| version.key.starts_with(prefix))
            .map(|version| version.change(self.revision))
            .collect();
        (!changes.is_empty()).then_some(Commit {
            revision: self.revision,
            changes,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&(self.versions.len() as u32).to_le_bytes());
        for version in &self.versions {
            let length = version.encoded_len();
            out.extend_from_slice(&(length as u32).to_le_bytes());
            let start = out.len();
            out.resize(start + length, 0);
            version.encode_into(&mut out[start..]);
        }
    }

    /// Decodes all records of one frame of the log.
    pub(super) fn decode_all(mut input: &[u8]) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        while !input.is_empty() {
            let revision = u64::from_le_bytes(take(&mut input)?);
            let count = u32::from_le_bytes(take(&mut input)?);
            let mut versions = Vec::with_capacity(count.min(1024) as usize);
            for _ in 0..count {
                let length = u32::from_le_bytes(take(&mut input)?) as usize;
                let (bytes, rest) = input.split_at_checked(length).ok_or_else(short)?;
                versions.push(VersionRef::decode(bytes)?.to_owned());
                input = rest;
            }
            records.push(Record { revision, versions });
        }
        Ok(records)
    }
}

/// A version as it lies in a page or in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct VersionRef<'a> {
    pub(super) key: &'a str,
    pub(super) create_revision: Revision,
    pub(super) previous: Position,
    pub(super) value: Option<&'a [u8]>,
}

/// Kind, create revision, previous revision, previous index, key length.
const HEADER: usize = 1 + 8 + 8 + 4 + 4;

impl<'a> VersionRef<'a> {
    pub(super) fn decode(mut input: &'a [u8]) -> Result<Self, StoreError> {
        let [kind] = take(&mut input)?;
        let create_revision = u64::from_le_bytes(take(&mut input)?);
        let revision = u64::from_le_bytes(take(&mut input)?);
        let index = u32::from_le_bytes(take(&mut input)?);
        let length = u32::from_le_bytes(take(&mut input)?) as usize;
        let (key, value) = input.split_at_checked(length).ok_or_else(short)?;
        let key = std::str::from_utf8(key).map_err(|_| broken("a key is not UTF-8"))?;
        Ok(VersionRef {
            key,
            create_revision,
            previous: Position { revision, index },
            value: (kind == 1).then_some(value),
        })
    }

    pub(super) fn to_owned(self) -> Version {
        Version {
            key: self.key.into(),
            create_revision: self.create_revision,
            previous: self.previous,
            value: self.value.map(Bytes::copy_from_slice),
        }
    }
}

/// What the key table says of a live key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyState {
    pub(super) create_revision: Revision,
    pub(super) position: Position,
}

impl KeyState {
    pub(super) fn encode(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..8].copy_from_slice(&self.create_revision.to_le_bytes());
        out[8..16].copy_from_slice(&self.position.revision.to_le_bytes());
        out[16..].copy_from_slice(&self.position.index.to_le_bytes());
        out
    }

    pub(super) fn decode(mut input: &[u8]) -> Result<Self, StoreError> {
        Ok(KeyState {
            create_revision: u64::from_le_bytes(take(&mut input)?),
            position: Position {
                revision: u64::from_le_bytes(take(&mut input)?),
                index: u32::from_le_bytes(take(&mut input)?),
            },
        })
    }
}

fn put(writer: &mut &mut [u8], bytes: &[u8]) {
    let (head, tail) = std::mem::take(writer).split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    *writer = tail;
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], StoreError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or_else(short)?;
    *input = rest;
    Ok(*head)
}

fn short() -> StoreError {
    broken("a record is cut off")
}

fn broken(reason: &str) -> StoreError {
    StoreError::Corrupt {
        operation: "decode a record",
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64));
        (
            "[a-z/]{1,20}",
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            value,
        )
            .prop_map(|(key, create_revision, revision, index, value)| Version {
                key: key.into(),
                create_revision,
                previous: Position { revision, index },
                value: value.map(Bytes::from),
            })
    }

    proptest! {
        #[test]
        fn records_survive_encoding(
            versions in proptest::collection::vec(version(), 0..5), revision in any::<u64>()
        ) {
            let records = vec![
                Record { revision, versions: versions.clone() },
                Record { revision: revision.wrapping_add(1), versions },
            ];
            let mut bytes = Vec::new();
            for record in &records {
                record.encode(&mut bytes);
            }
            prop_assert_eq!(Record::decode_all(&bytes).expect("decodes"), records);
        }

        #[test]
        fn decoding_arbitrary_bytes_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = Record::decode_all(&bytes);
            let _ = KeyState::decode(&bytes);
        }
    }
}
