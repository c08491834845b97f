//! What this process keeps resident of the files that it maps.
//!
//! A fault on a file's page maps the fifteen beside it too (`fault_around_bytes`), so that a large
//! program that has run through its start counts most of its code as resident, though it never
//! needs it again.

use std::io;

/// A mapping of this process, from `/proc/self/smaps` (proc_pid_smaps(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    writable: bool,
    file: bool,
    /// Bytes that are this process's own, and in no file.
    anonymous: u64,
}

impl Mapping {
    /// Whether every page of it can be read from its file again, with nothing lost.
    fn reads_back(&self) -> bool {
        self.file && !self.writable && self.anonymous == 0
    }
}

/// Unmaps the pages of this process that lie unchanged in the files they came from: its program
/// and its libraries. What is still in use comes back at its next use, from the page cache.
/// Returns the number of bytes whose mappings were looked at.
///
/// # Errors
///
/// `/proc/self/smaps` cannot be read, or the kernel refuses (madvise(2)).
pub fn unmap_unchanged() -> io::Result<usize> {
    let mut bytes = 0;
    for mapping in mappings(&std::fs::read_to_string("/proc/self/smaps")?) {
        if !mapping.reads_back() {
            continue;
        }
        let length = mapping.end - mapping.start;
        // SAFETY: the mapping is of a file, cannot be written, and has no page that differs from
        // the file's: whoever reads it after the call sees the same bytes as before. A mapping
        // that was replaced by another one since it was listed would have to be writable memory
        // at the very addresses of a program or library, which nothing here unloads.
        let result = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(mapping.start),
                length,
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += length;
    }
    Ok(bytes)
}

/// The mappings that the text lists. What cannot be read as a mapping is left out.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some(kilobytes)) =
            (mappings.last_mut(), line.strip_prefix("Anonymous:"))
        {
            let number = kilobytes.trim().trim_end_matches(" kB");
            mapping.anonymous = number.parse().map_or(u64::MAX, |number: u64| number * 1024);
        }
    }
    mappings
}

/// The first line of a mapping: `start-end permissions offset device inode path`. Until its own
/// line says how much of it is anonymous, all of it counts as that.
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let path = words.nth(3);
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        writable: permissions.contains('w'),
        file: path.is_some_and(|path| path.starts_with('/')),
        anonymous: u64::MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d55fb80000-55d56111e000 r--p 00000000 fe:00 523 /usr/local/bin/fairlead
Size:              22136 kB
Rss:               17000 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55d56111e000-55d564d19000 r-xp 0159d000 fe:00 523 /usr/local/bin/fairlead
Anonymous:             4 kB
55d564d19000-55d564eb1000 r--p 05197000 fe:00 523 /usr/local/bin/fairlead
Anonymous:          1632 kB
55d564eb1000-55d564eb8000 rw-p 0532e000 fe:00 523 /usr/local/bin/fairlead
Anonymous:             0 kB
7ffd3a9b1000-7ffd3a9d2000 rw-p 00000000 00:00 0 [stack]
Anonymous:            40 kB
7ffd3a9f1000-7ffd3a9f3000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7ffd3b000000-7ffd3b001000 r--p 00000000 fe:00 7 /usr/lib/libc.so.6
";

    #[test]
    fn only_unchanged_pages_of_files_are_read_back() {
        let mappings = mappings(SMAPS);
        assert_eq!(mappings.len(), 7);
        let told: Vec<bool> = mappings.iter().map(Mapping::reads_back).collect();
        // The code has a breakpoint in it, the third was relocated, the last one does not tell.
        assert_eq!(told, [true, false, false, false, false, false, false]);
        assert_eq!(mappings[0].start, 0x55d5_5fb8_0000);
        assert_eq!(mappings[0].end, 0x55d5_6111_e000);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let words: Vec<_> = line.unwrap().split_ascii_whitespace().collect();
            words[1].parse::<u64>().unwrap()
        };
        let before = resident();
        let bytes = unmap_unchanged().unwrap();
        assert!(bytes > 1 << 20, "{bytes}");
        assert!(resident() < before, "of {before} kB");
    }
}
