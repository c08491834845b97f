//! The write-ahead log: what makes a commit durable.
//!
//! Two files of a fixed size, allocated when they are made, so that an append needs no
//! room on the disk and its `fdatasync` no journal entry for the file system's own data.
//! One is written while the commits of the other move into the tables; a file is used
//! again once all of it is there ("released").
//!
//! A frame holds one group of commits. It counts only when its checksum is right, and
//! the checksum covers the file's generation: what an earlier use of the file left
//! behind never counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::record::Record;
use crate::{Revision, StoreError};

const MAGIC: &[u8; 8] = b"flstore1";
/// Magic, generation, checksum of both; then padding up to the first frame.
const FILE_HEADER: u64 = 512;
/// Payload length and checksum.
const FRAME_HEADER: usize = 12;

/// One of the two files.
struct Segment {
    file: File,
    generation: u64,
    end: u64,
    capacity: u64,
    /// Revision of the last commit in it; `None` when it holds nothing of use.
    last: Option<Revision>,
}

/// Why a group was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// Both files hold commits that the tables lack.
    Blocked,
    Store(StoreError),
}

/// The log, owned by the writer.
pub(super) struct Log {
    segments: [Segment; 2],
    active: usize,
    capacity: u64,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens or makes the log and returns what it holds, in order.
    pub(super) fn open(directory: &Path, capacity: u64) -> Result<(Log, Vec<Record>), StoreError> {
        let open = |name: &str| Segment::open(&directory.join(name), capacity);
        let (first, first_records) = open("log.0")?;
        let (second, second_records) = open("log.1")?;
        let (active, records) = if first.generation >= second.generation {
            (0, [second_records, first_records].concat())
        } else {
            (1, [first_records, second_records].concat())
        };
        let log = Log {
            segments: [first, second],
            active,
            capacity,
            path: directory.to_path_buf(),
            buffer: Vec::new(),
        };
        Ok((log, records))
    }

    /// Appends one group and makes it durable. `released`: the revision up to which all
    /// is in the tables, so that a file which ends there may be overwritten.
    pub(super) fn append(
        &mut self,
        records: &[Record],
        released: Revision,
    ) -> Result<(), AppendError> {
        let Some(last) = records.last() else {
            return Ok(());
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(FRAME_HEADER, 0);
        for record in records {
            record.encode(&mut buffer);
        }
        let result = self.append_frame(&mut buffer, last.revision, released);
        if buffer.capacity() <= 1 << 20 {
            self.buffer = buffer;
        }
        result
    }

    fn append_frame(
        &mut self,
        frame: &mut [u8],
        last: Revision,
        released: Revision,
    ) -> Result<(), AppendError> {
        if !self.segments[self.active].has_room(frame.len()) {
            self.switch(frame.len(), released)?;
        }
        let path = &self.path;
        self.segments[self.active]
            .append(frame, last)
            .map_err(|error| AppendError::Store(failure("append to the log", path, &error)))
    }

    /// Starts the other file, if nothing of it is needed any more.
    fn switch(&mut self, frame: usize, released: Revision) -> Result<(), AppendError> {
        let generation = self.segments[self.active].generation + 1;
        let capacity = self.capacity;
        let path = &self.path;
        let other = &mut self.segments[1 - self.active];
        if other.last.is_some_and(|last| last > released) {
            return Err(AppendError::Blocked);
        }
        other
            .restart(generation, capacity.max(FILE_HEADER + frame as u64))
            .map_err(|error| AppendError::Store(failure("start a log file", path, &error)))?;
        self.active = 1 - self.active;
        Ok(())
    }
}

impl Segment {
    fn open(path: &Path, capacity: u64) -> Result<(Segment, Vec<Record>), StoreError> {
        let fault = |error: io::Error| failure("open the log", path, &error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault)?;
        let length = file.metadata().map_err(fault)?.len();
        let mut segment = Segment {
            file,
            generation: 0,
            end: length,
            capacity: length,
            last: None,
        };
        let Some(generation) = segment.read_header().map_err(fault)? else {
            if length < capacity {
                segment.allocate(capacity).map_err(fault)?;
            }
            // Full, so that it is restarted with a header before anything goes into it.
            segment.end = segment.capacity;
            return Ok((segment, Vec::new()));
        };
        segment.generation = generation;
        segment.end = FILE_HEADER;
        let mut records = Vec::new();
        while let Some(payload) = segment.read_frame().map_err(fault)? {
            records.extend(Record::decode_all(&payload)?);
            segment.end += (FRAME_HEADER + payload.len()) as u64;
        }
        segment.last = records.last().map(|record: &Record| record.revision);
        Ok((segment, records))
    }

    fn has_room(&self, frame: usize) -> bool {
        self.end + frame as u64 <= self.capacity
    }

    fn append(&mut self, frame: &mut [u8], last: Revision) -> io::Result<()> {
        let payload = &frame[FRAME_HEADER..];
        let length = payload.len() as u32;
        let sum = checksum(self.generation, self.end, payload);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..FRAME_HEADER].copy_from_slice(&sum.to_le_bytes());
        let written = self
            .file
            .write_all_at(frame, self.end)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // The group is refused, so it must not come back at the next start. Should this
            // fail as well, the next group overwrites it.
            let _ = self.file.write_all_at(&[0; FRAME_HEADER], self.end);
            return Err(error);
        }
        self.end += frame.len() as u64;
        self.last = Some(last);
        Ok(())
    }

    fn restart(&mut self, generation: u64, capacity: u64) -> io::Result<()> {
        if self.capacity < capacity {
            self.allocate(capacity)?;
        }
        let mut header = [0; FILE_HEADER as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&generation.to_le_bytes());
        let sum = checksum(generation, 0, MAGIC);
        header[16..24].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&header, 0)?;
        self.file.sync_data()?;
        self.generation = generation;
        self.end = FILE_HEADER;
        self.last = None;
        Ok(())
    }

    fn allocate(&mut self, capacity: u64) -> io::Result<()> {
        fallocate(&self.file, FallocateFlags::empty(), 0, capacity as i64)?;
        self.file.sync_all()?;
        self.capacity = capacity;
        Ok(())
    }

    fn read_header(&self) -> io::Result<Option<u64>> {
        let mut header = [0; 24];
        if self.capacity < FILE_HEADER {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, 0)?;
        let generation = u64_at(&header, 8);
        let right =
            header.starts_with(MAGIC) && u64_at(&header, 16) == checksum(generation, 0, MAGIC);
        Ok(right.then_some(generation))
    }

    /// The payload of the frame at the end; `None` when there is no whole one.
    fn read_frame(&self) -> io::Result<Option<Vec<u8>>> {
        let start = self.end + FRAME_HEADER as u64;
        if start > self.capacity {
            return Ok(None);
        }
        let mut header = [0; FRAME_HEADER];
        self.file.read_exact_at(&mut header, self.end)?;
        let length = u64::from(u32::from_le_bytes([
            header[0], header[1], header[2], header[3],
        ]));
        if length == 0 || start + length > self.capacity {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        self.file.read_exact_at(&mut payload, start)?;
        let right = checksum(self.generation, self.end, &payload) == u64_at(&header, 4);
        Ok(right.then_some(payload))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Every step is a bijection of the state, so that a difference in one word always
/// shows; the seed ties a frame to its file's generation and to its place.
fn checksum(generation: u64, offset: u64, payload: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    let mut state = step(step(payload.len() as u64, generation), offset);
    let mut words = payload.chunks_exact(8);
    for word in &mut words {
        state = step(state, u64_at(word, 0));
    }
    for byte in words.remainder() {
        state = step(state, u64::from(*byte) + 1);
    }
    step(state, state >> 32)
}

/// Out of room, in any of the ways that a system says it.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The store's error for a failed system call.
pub(super) fn failure(operation: &'static str, path: &Path, error: &io::Error) -> StoreError {
    if is_no_space(error) {
        return StoreError::NoSpace {
            path: path.display().to_string(),
        };
    }
    StoreError::Unavailable {
        operation,
        reason: format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::record::{Position, Version};

    const CAPACITY: u64 = 8192;

    fn record(revision: Revision, size: usize) -> Record {
        Record {
            revision,
            versions: vec![Version {
                key: format!("/k/{revision}").into(),
                create_revision: revision,
                previous: Position::NONE,
                value: Some(vec![7; size].into()),
            }],
        }
    }

    fn revisions(records: &[Record]) -> Vec<Revision> {
        records.iter().map(|record| record.revision).collect()
    }

    #[test]
    fn an_appended_group_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, records) = Log::open(directory.path(), CAPACITY).expect("opens");
        assert!(records.is_empty());
        log.append(&[record(1, 10), record(2, 10)], 0)
            .expect("appends");
        log.append(&[record(3, 10)], 0).expect("appends");
        let (_, records) = Log::open(directory.path(), CAPACITY).expect("opens");
        assert_eq!(revisions(&records), [1, 2, 3]);
    }

    #[test]
    fn a_frame_cut_anywhere_ends_the_log_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), CAPACITY).expect("opens");
        log.append(&[record(1, 100)], 0).expect("appends");
        let start = log.segments[log.active].end;
        log.append(&[record(2, 100)], 0).expect("appends");
        let end = log.segments[log.active].end;
        let file = log.segments[log.active].file.try_clone().expect("clones");
        for at in start..end {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("reads");
            file.write_all_at(&[byte[0] ^ 0x40], at).expect("writes");
            let (_, records) = Log::open(directory.path(), CAPACITY).expect("opens");
            assert_eq!(revisions(&records), [1], "byte {at} is wrong");
            file.write_all_at(&byte, at).expect("writes");
        }
    }

    #[test]
    fn a_file_is_used_again_only_when_released_and_forgets_what_it_held() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), CAPACITY).expect("opens");
        let mut revision = 0;
        let refused = loop {
            revision += 1;
            if let Err(error) = log.append(&[record(revision, 1000)], 0) {
                break error;
            }
        };
        assert!(matches!(refused, AppendError::Blocked), "{refused:?}");
        assert_eq!(revision, 15, "seven frames in each file");
        log.append(&[record(15, 1000)], 7)
            .expect("the first file is released");
        let (_, records) = Log::open(directory.path(), CAPACITY).expect("opens");
        assert_eq!(revisions(&records), (8..=15).collect::<Vec<_>>());
    }

    #[test]
    fn a_group_larger_than_a_file_makes_the_file_grow() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut log, _) = Log::open(directory.path(), CAPACITY).expect("opens");
        log.append(&[record(1, 100_000)], 0).expect("appends");
        let (_, records) = Log::open(directory.path(), CAPACITY).expect("opens");
        assert_eq!(revisions(&records), [1]);
    }
}
