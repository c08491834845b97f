//! The file below the tables, on a disk that may be full.
//!
//! redb gives up for good at the first failed write, reads included. So a write for which
//! there is no room is kept in memory instead ("spilled"), and with it everything that
//! follows, in order, until the file takes all of it: what is on the disk is at any time
//! what a crash at the first failure would have left. Nothing is lost by that, since the
//! log keeps every commit that is not durable here; and it stays small, since the log
//! takes no more commits either once it is full.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use super::log::is_no_space;

#[derive(Debug)]
enum Pending {
    Write { offset: u64, data: Vec<u8> },
    Resize(u64),
    Sync,
}

#[derive(Default)]
struct Spill {
    pending: Vec<Pending>,
    length: u64,
}

struct Shared {
    file: File,
    spilled: AtomicBool,
    spill: Mutex<Spill>,
}

/// See the module's documentation. Clones share the file.
#[derive(Clone)]
pub(super) struct SpillFile(Arc<Shared>);

impl fmt::Debug for SpillFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillFile")
            .field("spilled", &self.is_spilled())
            .finish()
    }
}

impl SpillFile {
    pub(super) fn new(file: File) -> Self {
        SpillFile(Arc::new(Shared {
            file,
            spilled: AtomicBool::new(false),
            spill: Mutex::new(Spill::default()),
        }))
    }

    /// Whether something that redb believes to be on the disk is not.
    pub(super) fn is_spilled(&self) -> bool {
        self.0.spilled.load(Ordering::Acquire)
    }

    /// Tries to write out what was spilled; true when nothing is left.
    pub(super) fn drain(&self) -> io::Result<bool> {
        let mut spill = self.0.spill.lock();
        let mut done = 0;
        let mut result = Ok(true);
        for pending in &spill.pending {
            if let Err(error) = self.perform(pending) {
                result = if is_no_space(&error) {
                    Ok(false)
                } else {
                    Err(error)
                };
                break;
            }
            done += 1;
        }
        spill.pending.drain(..done);
        if spill.pending.is_empty() && self.is_spilled() {
            self.0.file.sync_data()?;
            self.0.spilled.store(false, Ordering::Release);
        }
        result
    }

    fn perform(&self, operation: &Pending) -> io::Result<()> {
        let file = &self.0.file;
        match operation {
            Pending::Write { offset, data } => file.write_all_at(data, *offset),
            Pending::Resize(length) => file.set_len(*length),
            Pending::Sync => file.sync_data(),
        }
    }

    /// Performs it, or keeps it when there is no room or something is kept already.
    fn submit(&self, operation: Pending) -> io::Result<()> {
        if !self.is_spilled() {
            match self.perform(&operation) {
                Err(error) if is_no_space(&error) => {}
                result => return result,
            }
        }
        let mut spill = self.0.spill.lock();
        if !self.is_spilled() {
            spill.length = self.0.file.metadata()?.len();
            self.0.spilled.store(true, Ordering::Release);
        }
        match &operation {
            Pending::Resize(length) => spill.length = *length,
            Pending::Write { offset, data } => {
                spill.length = spill.length.max(offset + data.len() as u64);
            }
            Pending::Sync => {}
        }
        spill.pending.push(operation);
        Ok(())
    }
}

impl Spill {
    /// Lays what was spilled over what the file holds.
    fn overlay(&self, start: u64, out: &mut [u8]) {
        let end = start + out.len() as u64;
        for pending in &self.pending {
            let Pending::Write { offset, data } = pending else {
                continue;
            };
            let from = start.max(*offset);
            let to = end.min(offset + data.len() as u64);
            if from < to {
                out[(from - start) as usize..(to - start) as usize]
                    .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            }
        }
    }
}

/// Reads what the file has, zeros behind its end.
fn read_padded(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        let count = file.read_at(out, offset)?;
        if count == 0 {
            out.fill(0);
            return Ok(());
        }
        out = &mut out[count..];
        offset += count as u64;
    }
    Ok(())
}

impl StorageBackend for SpillFile {
    fn len(&self) -> io::Result<u64> {
        if self.is_spilled() {
            return Ok(self.0.spill.lock().length);
        }
        Ok(self.0.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if !self.is_spilled() {
            return self.0.file.read_exact_at(out, offset);
        }
        let spill = self.0.spill.lock();
        read_padded(&self.0.file, offset, out)?;
        spill.overlay(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.submit(Pending::Resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.submit(Pending::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.is_spilled() {
            match self.0.file.write_all_at(data, offset) {
                Err(error) if is_no_space(&error) => {}
                result => return result,
            }
        }
        self.submit(Pending::Write {
            offset,
            data: data.to_vec(),
        })
    }

    // The store's own lock file keeps other processes away.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
