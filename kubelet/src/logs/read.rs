use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::{Line, Stream};

/// Which part of a log is wanted, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub follow: bool,
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// Only what was written to one of the streams.
    pub stream: Option<Stream>,
}

/// How often a followed file is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Last words, as upstream cuts them.
const MESSAGE_BYTES: u64 = 4096;
const LOG_MESSAGE_BYTES: u64 = 2048;
const LOG_MESSAGE_LINES: u64 = 80;

/// Hands the log's text to `emit`, piece by piece, until its end (or, when following, until
/// `ended` says that the container writes no more). `emit` answers false when nobody listens.
pub(crate) fn read(
    path: &Path,
    options: &Options,
    mut emit: impl FnMut(Vec<u8>) -> bool,
    ended: impl Fn() -> bool,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    if let Some(lines) = options.tail {
        let start = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let mut reader = BufReader::new(file);
    let mut left = options.limit_bytes;
    let mut buffer = Vec::new();
    let mut begun = true;
    loop {
        let end = reader.read_until(b'\n', &mut buffer)? == 0 || !buffer.ends_with(b"\n");
        if !end {
            let piece = shape(&buffer, options, &mut begun);
            buffer.clear();
            if !hand_over(piece, &mut left, &mut emit) {
                return Ok(());
            }
            continue;
        }
        if !options.follow {
            return Ok(());
        }
        // Asked before the look at the file: what comes after it is there then.
        let over = ended();
        std::thread::sleep(FOLLOW_INTERVAL);
        if let Some(next) = rotated(path, reader.get_ref())? {
            if reader.fill_buf()?.is_empty() {
                reader = BufReader::new(next);
                buffer.clear();
            }
        } else if over && reader.fill_buf()?.is_empty() {
            return Ok(());
        }
        if !emit(Vec::new()) {
            return Ok(());
        }
    }
}

/// A line as the reader wants it; empty when it is left out. `begun` says whether the line
/// is the beginning of what the container wrote as one line.
fn shape(raw: &[u8], options: &Options, begun: &mut bool) -> Vec<u8> {
    let Some(line) = Line::parse(raw.strip_suffix(b"\n").unwrap_or(raw)) else {
        return Vec::new();
    };
    let first = std::mem::replace(begun, !line.partial);
    let early = options
        .since
        .is_some_and(|since| line.at().is_some_and(|at| at < since));
    let other = options.stream.is_some_and(|stream| stream != line.stream);
    if early || other {
        return Vec::new();
    }
    let mut piece = Vec::with_capacity(raw.len());
    if options.timestamps && first {
        piece.extend_from_slice(line.time.as_bytes());
        piece.push(b' ');
    }
    piece.extend_from_slice(line.text);
    if !line.partial {
        piece.push(b'\n');
    }
    piece
}

fn hand_over(
    mut piece: Vec<u8>,
    left: &mut Option<u64>,
    emit: &mut impl FnMut(Vec<u8>) -> bool,
) -> bool {
    if piece.is_empty() {
        return true;
    }
    if let Some(left) = left {
        piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= piece.len() as u64;
    }
    emit(piece) && *left != Some(0)
}

/// The new file when the one that is read was moved away.
fn rotated(path: &Path, file: &File) -> io::Result<Option<File>> {
    let Ok(next) = File::open(path) else {
        return Ok(None);
    };
    let (old, new) = (file.metadata()?, next.metadata()?);
    Ok((old.ino() != new.ino()).then_some(next))
}

/// Where the last so many lines begin.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(size);
    }
    let mut found = 0;
    let mut end = size;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for index in (0..length).rev() {
            // The last line's own line feed begins nothing.
            if block[index] == b'\n' && start + index as u64 + 1 != size {
                found += 1;
                if found == lines {
                    return Ok(start + index as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// What a container that ended leaves: the text of its message file or, when that is empty
/// and it failed, the end of its log.
pub(crate) fn last_words(message: Option<&Path>, log: Option<&Path>) -> String {
    let mut words = Vec::new();
    if let Some(file) = message.and_then(|path| File::open(path).ok()) {
        let _ = file.take(MESSAGE_BYTES).read_to_end(&mut words);
    }
    if words.is_empty()
        && let Some(log) = log
    {
        let options = Options {
            tail: Some(LOG_MESSAGE_LINES),
            ..Options::default()
        };
        let collect = |piece: Vec<u8>| {
            words.extend(piece);
            true
        };
        let _ = read(log, &options, collect, || true);
        let excess = words
            .len()
            .saturating_sub(usize::try_from(LOG_MESSAGE_BYTES).unwrap_or(0));
        words.drain(..excess);
    }
    String::from_utf8_lossy(&words).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LOG: &str = "2024-01-01T00:00:01Z stdout F one\n\
        2024-01-01T00:00:02Z stderr P tw\n\
        2024-01-01T00:00:02Z stderr F o\n\
        not a log line\n\
        2024-01-01T00:00:03Z stdout F three\n";

    fn text(options: &Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).unwrap();
        let mut all = Vec::new();
        read(
            &path,
            options,
            |piece| {
                all.extend(piece);
                true
            },
            || true,
        )
        .unwrap();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn the_wanted_part_is_read() {
        let options = Options::default;
        for (options, expected) in [
            (options(), "one\ntwo\nthree\n"),
            (
                Options {
                    tail: Some(1),
                    ..options()
                },
                "three\n",
            ),
            (
                Options {
                    tail: Some(0),
                    ..options()
                },
                "",
            ),
            (
                Options {
                    tail: Some(99),
                    ..options()
                },
                "one\ntwo\nthree\n",
            ),
            (
                Options {
                    limit_bytes: Some(5),
                    ..options()
                },
                "one\nt",
            ),
            (
                Options {
                    since: "2024-01-01T00:00:03Z".parse().ok(),
                    ..options()
                },
                "three\n",
            ),
            (
                Options {
                    stream: Some(Stream::Stderr),
                    ..options()
                },
                "two\n",
            ),
            (
                Options {
                    timestamps: true,
                    ..options()
                },
                "2024-01-01T00:00:01Z one\n2024-01-01T00:00:02Z two\n2024-01-01T00:00:03Z three\n",
            ),
        ] {
            assert_eq!(text(&options), expected, "{options:?}");
        }
    }

    #[test]
    fn following_goes_on_through_a_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "2024-01-01T00:00:01Z stdout F a\n").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = std::sync::mpsc::channel();
        let (reader_path, reader_over) = (path.clone(), over.clone());
        let reader = std::thread::spawn(move || {
            let options = Options {
                follow: true,
                ..Options::default()
            };
            let emit = |piece: Vec<u8>| piece.is_empty() || sender.send(piece).is_ok();
            read(&reader_path, &options, emit, || {
                reader_over.load(Ordering::SeqCst)
            })
        });
        let next =
            || String::from_utf8(receiver.recv_timeout(Duration::from_secs(5)).unwrap()).unwrap();
        assert_eq!(next(), "a\n");
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        let mut file = File::create(&path).unwrap();
        writeln!(file, "2024-01-01T00:00:02Z stdout F b").unwrap();
        assert_eq!(next(), "b\n");
        over.store(true, Ordering::SeqCst);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn last_words_come_from_the_file_or_else_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (message, log) = (dir.path().join("m"), dir.path().join("0.log"));
        fs::write(&log, LOG).unwrap();
        assert_eq!(last_words(Some(&message), Some(&log)), "one\ntwo\nthree\n");
        assert_eq!(last_words(Some(&message), None), "");
        fs::write(&message, "bye").unwrap();
        assert_eq!(last_words(Some(&message), Some(&log)), "bye");
    }
}
