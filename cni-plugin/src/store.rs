//! What the plugin remembers of a network, under a lock.
//!
//! `DIR/<network>/state.0` and `state.1` hold the last state and the one before: every
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
//! old: in that case the caller is told, and adds what really is in the kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Attachment, Bandwidth, PortMapping};
use crate::error::{Code, Error};
use crate::ipam::RangeSet;

/// Only so many resting addresses are remembered; those before them count as never used.
const RESTING: usize = 4096;
const SLOTS: usize = 2;
/// How often a state is read that is being replaced.
const PEEKS: usize = 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An attachment as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub attachment: Attachment,
    pub netns: PathBuf,
    pub host_interface: String,
    pub addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    #[serde(default)]
    pub bandwidth: Bandwidth,
    #[serde(default)]
    pub masquerade: bool,
    /// The interface is another plugin's; ours are only the settings.
    #[serde(default)]
    pub chained: bool,
    /// The addresses come from this plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// The pod that an attachment is for, where the runtime says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
}

/// Everything that is remembered of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    #[serde(default)]
    pub boot_id: String,
    #[serde(default)]
    pub attachments: BTreeMap<String, Record>,
    /// Addresses that were given back, in that order.
    #[serde(default)]
    pub released: VecDeque<IpAddr>,
    /// The address that was handed out last, by set of ranges.
    #[serde(default)]
    pub last: BTreeMap<String, IpAddr>,
    /// Networks that nobody gets an address of, whoever offers it: the node has given them away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub withdrawn: BTreeSet<IpNetwork>,
}

impl State {
    pub fn get(&self, attachment: &Attachment) -> Option<&Record> {
        self.attachments.get(&key(attachment))
    }

    pub fn insert(&mut self, record: Record) {
        self.attachments.insert(key(&record.attachment), record);
    }

    /// Forgets the attachment; its addresses rest from now on.
    pub fn remove(&mut self, attachment: &Attachment) {
        let Some(record) = self.attachments.remove(&key(attachment)) else {
            return;
        };
        if record.ipam.is_none() && !record.chained {
            self.released
                .retain(|address| !record.addresses.contains(address));
            self.released.extend(record.addresses);
            let excess = self.released.len().saturating_sub(RESTING);
            self.released.drain(..excess);
        }
    }

    /// The addresses that somebody has.
    pub fn used(&self) -> BTreeSet<IpAddr> {
        self.attachments
            .values()
            .flat_map(|record| record.addresses.iter().copied())
            .collect()
    }

    /// The addresses of the sets that the node has given away.
    pub fn withdrawn_of(&self, sets: &[RangeSet]) -> BTreeSet<IpAddr> {
        let networks = self.withdrawn.iter();
        let concerned = networks.filter(|network| sets.iter().any(|set| set.touches(network)));
        // Blocks are small: 4096 addresses at most.
        concerned
            .flat_map(|network| network.iter().take(RESTING))
            .collect()
    }

    pub fn owner(&self, address: IpAddr) -> Option<&Record> {
        self.attachments
            .values()
            .find(|record| record.addresses.contains(&address))
    }
}

fn key(attachment: &Attachment) -> String {
    format!("{}/{}", attachment.container_id, attachment.ifname)
}

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

/// What one of the two files holds.
enum Slot {
    Missing,
    Broken(String),
    Whole { generation: u64, state: State },
}

impl Store {
    pub fn new(data_dir: &Path, network: &str) -> Self {
        Self {
            directory: data_dir.join(network),
        }
    }

    /// Waits for the lock and reads the state.
    pub fn lock(&self) -> Result<Locked, Error> {
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
        let (generation, newest, state, corrupt) = self.read()?;
        Ok(Locked {
            directory: self.directory.clone(),
            _lock: lock,
            state: current_boot(state)?,
            corrupt,
            fresh: generation == 0,
            generation,
            next_slot: 1 - newest,
        })
    }

    /// Reads without the lock: one of the two states is always whole, unless both are
    /// replaced during the attempt.
    pub fn peek(&self) -> Result<State, Error> {
        let mut read = self.read()?;
        for _ in 0..PEEKS {
            if read.3.is_none() {
                break;
            }
            read = self.read()?;
        }
        current_boot(read.2)
    }

    /// The newest whole state, with its number and its place, and why one was not believed.
    fn read(&self) -> Result<(u64, usize, State, Option<String>), Error> {
        let mut best = (0, 1, State::default());
        let mut corrupt = None;
        for index in 0..SLOTS {
            match self.read_slot(index)? {
                Slot::Missing => {}
                Slot::Broken(reason) => corrupt = Some(reason),
                Slot::Whole { generation, state } if generation >= best.0 => {
                    best = (generation, index, state);
                }
                Slot::Whole { .. } => {}
            }
        }
        Ok((best.0, best.1, best.2, corrupt))
    }

    fn read_slot(&self, index: usize) -> Result<Slot, Error> {
        let path = slot_path(&self.directory, index);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slot::Missing),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()), &error)),
        }
    }
}

fn slot_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("state.{index}"))
}

/// A line with the number and the digest of what follows.
fn header(generation: u64, body: &[u8]) -> String {
    format!(
        "fairlead-cni 1 {generation:020} {}\n",
        hex::encode(Sha256::digest(body))
    )
}

fn decode(bytes: &[u8]) -> Slot {
    let broken = |reason: &str| Slot::Broken(reason.to_owned());
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return broken("it has no header");
    };
    let (head, body) = bytes.split_at(end + 1);
    let number = std::str::from_utf8(head)
        .ok()
        .and_then(|text| text.split(' ').nth(2)?.parse().ok());
    let Some(generation) = number else {
        return broken("it has no number");
    };
    if header(generation, body).as_bytes() != head {
        return broken("its digest is another one");
    }
    match parse(body) {
        Ok(state) => Slot::Whole { generation, state },
        Err(reason) => Slot::Broken(reason),
    }
}

/// Reads a file of the state as a whole: its header, its digest and what they are about.
pub fn whole(bytes: &[u8]) -> Result<State, String> {
    match decode(bytes) {
        Slot::Whole { state, .. } => Ok(state),
        Slot::Broken(reason) => Err(reason),
        Slot::Missing => Err("there is none".to_owned()),
    }
}

/// Reads a state and checks that no address has two owners.
pub fn parse(bytes: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut seen = BTreeSet::new();
    for (name, record) in &state.attachments {
        if *name != key(&record.attachment) {
            return Err(format!("the entry {name} is about another attachment"));
        }
        let own = record.ipam.is_none() && !record.chained;
        if let Some(twice) = record.addresses.iter().find(|a| own && !seen.insert(**a)) {
            return Err(format!("{twice} has two owners"));
        }
    }
    Ok(state)
}

/// A state of an earlier boot says nothing about this one, but which addresses rest.
fn current_boot(mut state: State) -> Result<State, Error> {
    let id = fs::read_to_string(BOOT_ID)
        .map_err(|error| Error::io("cannot read the boot id", &error))?;
    let id = id.trim();
    if state.boot_id != id {
        let gone: Vec<Attachment> = state
            .attachments
            .values()
            .map(|record| record.attachment.clone())
            .collect();
        gone.iter().for_each(|attachment| state.remove(attachment));
        id.clone_into(&mut state.boot_id);
    }
    Ok(state)
}

impl Locked {
    /// Makes the state in memory the one on disk.
    pub fn save(&mut self) -> Result<(), Error> {
        let path = slot_path(&self.directory, self.next_slot);
        let write = || -> io::Result<()> {
            let body = serde_json::to_vec(&self.state)?;
            let mut bytes = header(self.generation + 1, &body).into_bytes();
            bytes.extend_from_slice(&body);
            // Not cut off first: that, too, would be written to the disk at once.
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)?;
            file.write_all(&bytes)?;
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

    fn record(container: &str, address: &str) -> Record {
        Record {
            attachment: Attachment {
                container_id: container.into(),
                ifname: "eth0".into(),
            },
            netns: "/run/netns/x".into(),
            host_interface: "fl0".into(),
            addresses: vec![address.parse().unwrap()],
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            masquerade: false,
            chained: false,
            ipam: None,
            aliases: Vec::new(),
            pod: None,
        }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock().unwrap();
        locked.state.insert(record("a", "10.0.0.2"));
        locked.save().unwrap();
        let saved = locked.state.clone();
        drop(locked);
        assert_eq!(store.peek().unwrap(), saved);
        assert_eq!(store.lock().unwrap().state, saved);
    }

    #[test]
    fn addresses_of_an_earlier_boot_are_free_and_rest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock().unwrap();
        locked.state.insert(record("a", "10.0.0.2"));
        locked.state.boot_id = "another".into();
        locked.save().unwrap();
        drop(locked);
        let state = store.lock().unwrap().state;
        assert!(state.attachments.is_empty());
        assert_eq!(state.released, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_newest_whole_state_is_read_and_a_broken_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock().unwrap();
        for n in 2..7 {
            locked
                .state
                .insert(record(&format!("c{n}"), &format!("10.0.0.{n}")));
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
            let locked = store.lock().unwrap();
            assert!(locked.corrupt.is_some(), "byte {damage}");
            assert_eq!(
                locked.state.used().len(),
                4,
                "the state before is still there"
            );
        }
        for length in (0..whole.len()).step_by(29) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(store.lock().unwrap().corrupt.is_some(), "length {length}");
        }
    }

    #[test]
    fn an_address_with_two_owners_is_not_believed() {
        let two = State {
            attachments: [("a/eth0", "a"), ("b/eth0", "b")]
                .map(|(key, id)| (key.to_owned(), record(id, "10.0.0.2")))
                .into(),
            ..State::default()
        };
        assert!(
            parse(&serde_json::to_vec(&two).unwrap())
                .unwrap_err()
                .contains("two owners")
        );
    }

    #[test]
    fn only_so_many_resting_addresses_are_kept() {
        let mut state = State::default();
        for n in 0..u32::try_from(RESTING + 10).unwrap() {
            let mut one = record(&n.to_string(), "10.0.0.2");
            one.addresses = vec![std::net::Ipv4Addr::from(0x0a00_0000 + n).into()];
            let attachment = one.attachment.clone();
            state.insert(one);
            state.remove(&attachment);
        }
        assert_eq!(state.released.len(), RESTING);
        assert_eq!(state.released[0], "10.0.0.10".parse::<IpAddr>().unwrap());
    }
}
