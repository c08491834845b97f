//! What the plugin remembers of a network, under a lock.
//!
//! `DIR/<network>/state.0` and `state.1` hold the last [`State`] and the one before: every
//! attachment with its addresses and host ports. An address is in use exactly when an
//! attachment has it, so the two cannot disagree.
//!
//! A new state is written over the older of the two, behind a number that grows and a digest
//! of its content. Whoever is killed at whatever instant leaves one that is whole. (Renaming a
//! new file over the old one would do the same, but makes some file systems write to the disk
//! at once.) Nothing is synced to disk, on purpose: a state is worth something only while the
//! kernel that it describes runs, and the boot's id in it says so. What a power failure may
//! leave is of another boot and is not believed.
//!
//! A file that is not whole may also have been damaged later, and then the other one is too
//! old: in that case the caller is told, and adds what really is in the kernel. Of the older
//! file only the first line is read, which has a check of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::config::Attachment;
use crate::error::{Code, Error};
pub use crate::state::{Pod, Record, State};

const SLOTS: usize = 2;
/// How often a state is read that is being replaced.
const PEEKS: usize = 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MARK: &str = "fairlead-cni";
/// The form of what follows the first line: an object, by earlier plugins, and lines.
const OBJECT: &str = "1";
const LINES: &str = "2";
/// Longer than any first line.
const FIRST_LINE: usize = 256;

/// The files of one network.
pub struct Store {
    directory: PathBuf,
}

/// The right to change the state, until it is dropped.
pub struct Locked {
    directory: PathBuf,
    _lock: Flock<File>,
    /// Changed in memory until [`Locked::save`].
    pub state: State,
    /// A file could not be believed: what the state says may be too old.
    pub corrupt: Option<String>,
    /// Nothing was ever written.
    pub fresh: bool,
    /// The number of the state that was read, and where it was not.
    generation: u64,
    next_slot: usize,
}

/// A state that was read under a lock which was given up since.
pub struct Seen {
    generation: u64,
    pub state: State,
}

/// The newest whole state.
struct Newest {
    generation: u64,
    slot: usize,
    state: State,
    /// Why another one was not believed.
    corrupt: Option<String>,
}

impl Store {
    pub fn new(data_dir: &Path, network: &str) -> Self {
        Self {
            directory: data_dir.join(network),
        }
    }

    /// Waits for the lock and reads the state; not again, if it is what was seen already.
    pub fn lock(&self, seen: Option<Seen>) -> Result<Locked, Error> {
        let fail = |error: &io::Error| {
            Error::io(
                format!("cannot lock the state in {}", self.directory.display()),
                error,
            )
        };
        fs::create_dir_all(&self.directory).map_err(|error| fail(&error))?;
        let path = self.directory.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path);
        let mut file = open.map_err(|error| fail(&error))?;
        let lock = loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => break lock,
                Err((again, nix::errno::Errno::EINTR)) => file = again,
                Err((_, errno)) => return Err(fail(&errno.into())),
            }
        };
        let newest = self.read(seen)?;
        Ok(Locked {
            directory: self.directory.clone(),
            _lock: lock,
            state: current_boot(newest.state)?,
            corrupt: newest.corrupt,
            fresh: newest.generation == 0,
            generation: newest.generation,
            next_slot: 1 - newest.slot,
        })
    }

    /// Reads without the lock: one of the two states is always whole, unless both are
    /// replaced during the attempt.
    pub fn peek(&self) -> Result<State, Error> {
        let mut newest = self.read(None)?;
        for _ in 0..PEEKS {
            if newest.corrupt.is_none() {
                break;
            }
            newest = self.read(None)?;
        }
        current_boot(newest.state)
    }

    fn read(&self, mut seen: Option<Seen>) -> Result<Newest, Error> {
        let mut corrupt = None;
        let mut slots = Vec::new();
        for index in 0..SLOTS {
            match self.open_slot(index)? {
                Some(Ok(slot)) => slots.push(slot),
                Some(Err(reason)) => corrupt = Some(reason),
                None => {}
            }
        }
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.head.generation));
        for slot in slots {
            let (generation, index) = (slot.head.generation, slot.index);
            let known = seen.take().filter(|seen| seen.generation == generation);
            let state = match known {
                Some(seen) => Ok(seen.state),
                None => slot.state(&self.directory)?,
            };
            match state {
                Ok(state) => {
                    return Ok(Newest {
                        generation,
                        slot: index,
                        state,
                        corrupt,
                    });
                }
                Err(reason) => corrupt = Some(reason),
            }
        }
        Ok(Newest {
            generation: 0,
            slot: 1,
            state: State::default(),
            corrupt,
        })
    }

    /// The first line of a file, if there is one, or why it cannot be believed.
    fn open_slot(&self, index: usize) -> Result<Option<Result<Slot, String>>, Error> {
        let path = slot_path(&self.directory, index);
        let mut bytes = Vec::with_capacity(FIRST_LINE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let first = (&mut file).take(FIRST_LINE as u64).read_to_end(&mut bytes);
        first.map_err(|error| unreadable(&path, &error))?;
        Ok(Some(Head::read(&bytes).map(|head| Slot {
            index,
            file,
            bytes,
            head,
        })))
    }
}

fn slot_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("state.{index}"))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), error)
}

/// One of the two files, of which the beginning was read.
struct Slot {
    index: usize,
    file: File,
    bytes: Vec<u8>,
    head: Head,
}

impl Slot {
    /// The state, or why it cannot be believed.
    fn state(mut self, directory: &Path) -> Result<Result<State, String>, Error> {
        let path = slot_path(directory, self.index);
        let rest = self.file.read_to_end(&mut self.bytes);
        rest.map_err(|error| unreadable(&path, &error))?;
        Ok(self.head.state(&self.bytes))
    }
}

/// What the first line says.
struct Head {
    form: &'static str,
    generation: u64,
    digest: String,
    length: usize,
}

/// A line with a number, the digest of what follows, and a check of the line itself.
fn head(generation: u64, body: &[u8]) -> String {
    let line = format!("{MARK} {LINES} {generation:020} {}", digest(body));
    let check = check(&line);
    format!("{line} {check}\n")
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn check(line: &str) -> String {
    let mut digest = digest(line.as_bytes());
    digest.truncate(16);
    digest
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&bytes[..end]).ok());
        let line = line.ok_or("it has no first line")?;
        let words: Vec<&str> = line.split(' ').collect();
        let (form, generation, digest) = match words[..] {
            [MARK, OBJECT, generation, digest] => (OBJECT, generation, digest),
            [MARK, LINES, generation, digest, told] => {
                let checked = line.len().saturating_sub(told.len() + 1);
                if check(&line[..checked]) != told {
                    return Err("its first line is damaged".to_owned());
                }
                (LINES, generation, digest)
            }
            _ => return Err("its first line is another one".to_owned()),
        };
        let number = generation.parse().ok().filter(|_| generation.len() == 20);
        Ok(Self {
            form,
            generation: number.ok_or("it has no number")?,
            digest: digest.to_owned(),
            length: line.len() + 1,
        })
    }

    /// The state of a file with this first line.
    fn state(&self, bytes: &[u8]) -> Result<State, String> {
        let body = bytes.get(self.length..).unwrap_or_default();
        if digest(body) != self.digest {
            return Err("its digest is another one".to_owned());
        }
        if self.form == OBJECT {
            return State::decode_object(body);
        }
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        State::decode(text)
    }
}

/// Reads a file of the state as a whole: its first line, its digest and what they are about.
pub fn whole(bytes: &[u8]) -> Result<State, String> {
    let first = bytes.get(..FIRST_LINE).unwrap_or(bytes);
    Head::read(first)?.state(bytes)
}

/// Reads what follows the first line, in either form, and checks that no address has two owners.
pub fn parse(bytes: &[u8]) -> Result<State, String> {
    let lines = std::str::from_utf8(bytes).map_err(|error| error.to_string());
    lines
        .and_then(State::decode)
        .or_else(|_| State::decode_object(bytes))
}

/// A state of an earlier boot says nothing about this one, but which addresses rest.
fn current_boot(mut state: State) -> Result<State, Error> {
    let id = fs::read_to_string(BOOT_ID)
        .map_err(|error| Error::io("cannot read the boot id", &error))?;
    let id = id.trim();
    if state.boot_id != id {
        let gone: Vec<Attachment> = state.attachments().collect();
        gone.iter().for_each(|attachment| state.remove(attachment));
        id.clone_into(&mut state.boot_id);
    }
    Ok(state)
}

impl Locked {
    /// Gives the lock up. Who takes it again need not read what nobody has changed meanwhile.
    pub fn release(self) -> Seen {
        Seen {
            generation: self.generation,
            state: self.state,
        }
    }

    /// Makes the state in memory the one on disk.
    pub fn save(&mut self) -> Result<(), Error> {
        let path = slot_path(&self.directory, self.next_slot);
        let write = || -> io::Result<()> {
            let body = self.state.encode()?;
            let bytes = head(self.generation + 1, body.as_bytes()) + &body;
            // Not cut off first: that, too, would be written to the disk at once.
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)?;
            file.write_all(bytes.as_bytes())?;
            file.set_len(bytes.len() as u64)
        };
        match write() {
            Ok(()) => {
                self.generation += 1;
                self.next_slot = 1 - self.next_slot;
                Ok(())
            }
            Err(error) => Err(match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    let message = format!("no room for {}", path.display());
                    Error::new(Code::TryAgain, message).with_details(error)
                }
                _ => Error::io(format!("cannot write {}", path.display()), &error),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn record(container: &str, address: &str) -> Record {
        let attachment = Attachment {
            container_id: container.into(),
            ifname: "eth0".into(),
        };
        Record::found(attachment, vec![address.parse().unwrap()])
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(None).unwrap();
        locked.state.insert(&record("a", "10.0.0.2"));
        locked.save().unwrap();
        let saved = locked.state.clone();
        drop(locked);
        assert_eq!(store.peek().unwrap(), saved);
        assert_eq!(store.lock(None).unwrap().state, saved);
    }

    #[test]
    fn what_was_seen_is_read_again_when_somebody_changed_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(None).unwrap();
        locked.state.insert(&record("a", "10.0.0.2"));
        locked.save().unwrap();
        let seen = locked.release();
        let mut other = store.lock(None).unwrap();
        other.state.insert(&record("b", "10.0.0.3"));
        other.save().unwrap();
        drop(other);
        let locked = store.lock(Some(seen)).unwrap();
        assert_eq!(locked.state.used().len(), 2);
        let mut seen = locked.release();
        seen.state.insert(&record("c", "10.0.0.4"));
        let mut locked = store.lock(Some(seen)).unwrap();
        assert_eq!(locked.state.used().len(), 3, "it was not read again");
        locked.save().unwrap();
        drop(locked);
        assert_eq!(store.peek().unwrap().used().len(), 3);
    }

    #[test]
    fn addresses_of_an_earlier_boot_are_free_and_rest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(None).unwrap();
        locked.state.insert(&record("a", "10.0.0.2"));
        locked.state.boot_id = "another".into();
        locked.save().unwrap();
        drop(locked);
        let state = store.lock(None).unwrap().state;
        assert!(state.is_empty());
        assert_eq!(state.released, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_newest_whole_state_is_read_and_a_broken_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(None).unwrap();
        for n in 2..7 {
            locked
                .state
                .insert(&record(&format!("c{n}"), &format!("10.0.0.{n}")));
            locked.save().unwrap();
        }
        let newest = 1 - locked.next_slot;
        drop(locked);
        assert_eq!(store.peek().unwrap().used().len(), 5);
        let path = slot_path(&dir.path().join("net"), newest);
        let whole = fs::read(&path).unwrap();
        for damage in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[damage] ^= 0x20;
            fs::write(&path, &bytes).unwrap();
            let locked = store.lock(None).unwrap();
            assert!(locked.corrupt.is_some(), "byte {damage}");
            assert_eq!(
                locked.state.used().len(),
                4,
                "the state before is still there"
            );
        }
        for length in (0..whole.len()).step_by(29) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(
                store.lock(None).unwrap().corrupt.is_some(),
                "length {length}"
            );
        }
    }

    #[test]
    fn a_file_of_an_earlier_plugin_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let boot = fs::read_to_string(BOOT_ID).unwrap();
        let one = serde_json::to_string(&record("a", "10.0.0.2")).unwrap();
        let body = format!(
            "{{\"bootId\": \"{}\", \"attachments\": {{\"a/eth0\": {one}}}}}",
            boot.trim()
        );
        let first = format!("{MARK} {OBJECT} {:020} {}\n", 7, digest(body.as_bytes()));
        fs::create_dir_all(dir.path().join("net")).unwrap();
        fs::write(slot_path(&dir.path().join("net"), 0), first + &body).unwrap();
        let mut locked = store.lock(None).unwrap();
        assert!(locked.corrupt.is_none() && !locked.fresh);
        assert_eq!(locked.state.used().len(), 1);
        locked.save().unwrap();
        drop(locked);
        assert_eq!(store.peek().unwrap().used().len(), 1);
    }
}
