//! What the plugin remembers of a network: one file, replaced as a whole under a lock.
//!
//! `DIR/<network>/state.json` holds every attachment with its addresses and host ports; an
//! address is in use exactly when an attachment has it, so the two cannot disagree. A new
//! state is written beside the old one and renamed over it: whoever is killed at whatever
//! instant leaves the one or the other. Nothing is synced to disk, on purpose: a state is
//! worth something only while the kernel that it describes runs, and the boot's id in it says
//! so. What a power failure may leave is of another boot and is not believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::{Attachment, Bandwidth, PortMapping};
use crate::error::{Code, Error};

/// Only so many resting addresses are remembered; those before them count as never used.
const RESTING: usize = 4096;
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
    /// The file was not readable and its content was moved away.
    pub corrupt: Option<String>,
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
        let (state, corrupt) = self.read()?;
        Ok(Locked {
            directory: self.directory.clone(),
            _lock: lock,
            state,
            corrupt,
        })
    }

    /// Reads without the lock: a state is always whole.
    pub fn peek(&self) -> Result<State, Error> {
        match self.read_file()? {
            Some(Ok(state)) => current_boot(state),
            _ => Ok(State::default()),
        }
    }

    fn read(&self) -> Result<(State, Option<String>), Error> {
        let (state, corrupt) = match self.read_file()? {
            None => (State::default(), None),
            Some(Ok(state)) => (state, None),
            Some(Err(reason)) => {
                // Kept for whoever wants to know what happened.
                let aside = self.directory.join("state.json.corrupt");
                let _ = fs::rename(self.path(), aside);
                (State::default(), Some(reason))
            }
        };
        Ok((current_boot(state)?, corrupt))
    }

    fn path(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    fn read_file(&self) -> Result<Option<Result<State, String>>, Error> {
        match fs::read(self.path()) {
            Ok(bytes) => Ok(Some(parse(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(
                format!("cannot read {}", self.path().display()),
                &error,
            )),
        }
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
    pub fn save(&self) -> Result<(), Error> {
        let path = self.directory.join("state.json");
        let write = || -> io::Result<()> {
            let new = self.directory.join("state.json.new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::new(Code::TryAgain, format!("no room for {}", path.display()))
                    .with_details(error)
            }
            _ => Error::io(format!("cannot write {}", path.display()), &error),
        })
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
    fn a_file_that_cannot_be_believed_is_moved_away() {
        let two = serde_json::to_vec(&State {
            attachments: [("a/eth0", "a"), ("b/eth0", "b")]
                .map(|(key, id)| (key.to_owned(), record(id, "10.0.0.2")))
                .into(),
            ..State::default()
        });
        for content in [b"{\"attachments\":".to_vec(), vec![0; 100], two.unwrap()] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(dir.path(), "net");
            fs::create_dir_all(dir.path().join("net")).unwrap();
            fs::write(dir.path().join("net/state.json"), &content).unwrap();
            let locked = store.lock().unwrap();
            assert!(locked.corrupt.is_some());
            assert!(locked.state.attachments.is_empty());
            assert_eq!(
                fs::read(dir.path().join("net/state.json.corrupt")).unwrap(),
                content
            );
        }
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
