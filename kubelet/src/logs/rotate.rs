use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Moves a log away when it has grown over `max_bytes`, and removes the oldest of those that
/// were moved before. True when the runtime has to open a new file.
pub(crate) fn rotate(log: &Path, max_bytes: u64, max_files: usize) -> io::Result<bool> {
    let size = match fs::metadata(log) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if size < max_bytes {
        return Ok(false);
    }
    let mut old = moved(log)?;
    // One is written, one is being moved.
    while old.len() + 2 > max_files.max(2) {
        fs::remove_file(old.remove(0))?;
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S%.3f").to_string();
    fs::rename(log, with_suffix(log, &stamp))?;
    Ok(true)
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// The files that were moved away before, the oldest first.
fn moved(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_move_when_they_are_large_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        assert!(!rotate(&log, 10, 3).unwrap(), "there is no log yet");
        for round in 0..6 {
            fs::write(&log, format!("{round}-0123456789")).unwrap();
            assert!(!rotate(&log, 100, 3).unwrap());
            assert!(rotate(&log, 10, 3).unwrap());
            assert!(!log.exists());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(
            moved(&log).unwrap().len(),
            2,
            "with the new one there are three"
        );
    }
}
