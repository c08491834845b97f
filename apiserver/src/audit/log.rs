//! The log file: a thread of its own writes lines and puts full files aside.
//!
//! Requests never wait for the disk: what comes faster than it can be written is dropped, and
//! how much that was is told in the server's own log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use super::{AuditConfig, AuditError};

/// Lines that may wait to be written.
const QUEUE: usize = 10_000;
const MEGABYTE: u64 = 1 << 20;
const DEFAULT_SIZE: u64 = 100;
/// How long lines may stay in memory.
const FLUSH: Duration = Duration::from_millis(200);

pub(super) struct Log {
    lines: SyncSender<String>,
    dropped: AtomicU64,
}

impl Log {
    pub(super) fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        let (lines, waiting) = sync_channel(QUEUE);
        let path = config.log_path.clone().unwrap_or_default();
        let fault = |source| AuditError::Log {
            path: path.clone(),
            source,
        };
        if path == Path::new("-") {
            let writer = move || write_all(&waiting, &mut Standard);
            spawn(writer).map_err(fault)?;
        } else {
            let mut file = Rotating::open(config, &path).map_err(fault)?;
            let writer = move || write_all(&waiting, &mut file);
            spawn(writer).map_err(fault)?;
        }
        Ok(Log {
            lines,
            dropped: AtomicU64::new(0),
        })
    }

    pub(super) fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::error!(dropped, "audit events are lost: the log is too slow");
            }
        }
    }
}

fn spawn(writer: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("audit-log".into())
        .spawn(writer)
        .map(drop)
}

trait Sink {
    fn line(&mut self, line: &str) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
}

fn write_all(waiting: &Receiver<String>, sink: &mut dyn Sink) {
    let report = |outcome: io::Result<()>| {
        if let Err(error) = outcome {
            tracing::error!(%error, "the audit log cannot be written");
        }
    };
    loop {
        match waiting.recv_timeout(FLUSH) {
            Ok(line) => report(sink.line(&line)),
            Err(RecvTimeoutError::Timeout) => report(sink.flush()),
            Err(RecvTimeoutError::Disconnected) => return report(sink.flush()),
        }
    }
}

struct Standard;

impl Sink for Standard {
    fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{line}")
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// A file that is put aside when it is full.
pub(super) struct Rotating {
    path: PathBuf,
    file: io::BufWriter<File>,
    size: u64,
    limit: u64,
    backups: usize,
    age: Duration,
}

impl Rotating {
    pub(super) fn open(config: &AuditConfig, path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = append(path)?;
        let limit = if config.max_size == 0 {
            DEFAULT_SIZE
        } else {
            config.max_size
        };
        Ok(Rotating {
            path: path.to_path_buf(),
            size: file.metadata()?.len(),
            file: io::BufWriter::new(file),
            limit: limit * MEGABYTE,
            backups: config.max_backups,
            age: config.max_age,
        })
    }

    /// `audit-2024-01-02T03-04-05.678.log` beside `audit.log`.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
        std::fs::rename(&self.path, self.beside(&format!("-{now}")))?;
        self.file = io::BufWriter::new(append(&self.path)?);
        self.size = 0;
        self.sweep()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = self
            .path
            .extension()
            .map(|e| format!(".{}", e.to_string_lossy()));
        let name = format!("{stem}{suffix}{}", extension.unwrap_or_default());
        self.path.with_file_name(name)
    }

    /// Removes what is too much or too old of what was put aside.
    fn sweep(&self) -> io::Result<()> {
        let Some(directory) = self.path.parent() else {
            return Ok(());
        };
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = format!("{stem}-");
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                aside.push((
                    entry.file_name(),
                    entry.path(),
                    entry.metadata()?.modified()?,
                ));
            }
        }
        // Their names are their times.
        aside.sort_by(|a, b| b.0.cmp(&a.0));
        let now = SystemTime::now();
        for (position, (_, path, modified)) in aside.iter().enumerate() {
            let too_many = self.backups > 0 && position >= self.backups;
            let too_old = !self.age.is_zero()
                && now
                    .duration_since(*modified)
                    .is_ok_and(|age| age > self.age);
            if too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Sink for Rotating {
    fn line(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.size > 0 && self.size + length > self.limit {
            self.rotate()?;
        }
        self.size += length;
        writeln!(self.file, "{line}")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_old_ones_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let config = AuditConfig {
            max_size: 1,
            max_backups: 2,
            ..AuditConfig::default()
        };
        let mut log = Rotating::open(&config, &path).unwrap();
        let line = "x".repeat(700 * 1024);
        for _ in 0..6 {
            log.line(&line).unwrap();
            // Their names tell milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        log.flush().unwrap();
        let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(files.len(), 3);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 700 * 1024 + 1);
    }
}
