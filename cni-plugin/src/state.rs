//! What is remembered of a network, in memory and as text.
//!
//! The first line is JSON with what is not about one attachment. Every other line is about one:
//! its key, its addresses, whose they are, and the rest as JSON. An ADD or DEL asks of all other
//! attachments for their addresses only, so that the rest of theirs is passed on unread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::config::{Attachment, Bandwidth, PortMapping};
use crate::ipam::RangeSet;
use crate::wiring;

/// Only so many resting addresses are remembered; those before them count as never used.
pub(crate) const RESTING: usize = 4096;
/// Whose the addresses of a line are.
const OURS: &str = "own";
const OTHERS: &str = "other";

/// An attachment as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub attachment: Attachment,
    #[serde(default)]
    pub netns: PathBuf,
    pub host_interface: String,
    pub addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub bandwidth: Bandwidth,
    #[serde(default, skip_serializing_if = "is_default")]
    pub masquerade: bool,
    /// The interface is another plugin's; ours are only the settings.
    #[serde(default, skip_serializing_if = "is_default")]
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Record {
    /// What can be said of an attachment of which only the addresses are known.
    pub fn found(attachment: Attachment, addresses: Vec<IpAddr>) -> Self {
        let (id, ifname) = (&attachment.container_id, &attachment.ifname);
        Self {
            host_interface: wiring::host_interface_name(id, ifname),
            attachment,
            netns: PathBuf::new(),
            addresses,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            masquerade: false,
            chained: false,
            ipam: None,
            aliases: Vec::new(),
            pod: None,
        }
    }

    /// Its addresses are of this plugin's ranges.
    fn is_own(&self) -> bool {
        self.ipam.is_none() && !self.chained
    }
}

/// Everything that is remembered of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    #[serde(default)]
    pub boot_id: String,
    #[serde(skip)]
    attachments: BTreeMap<String, Entry>,
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

/// A record as its line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    addresses: Vec<IpAddr>,
    own: bool,
    record: String,
}

impl State {
    pub fn contains(&self, attachment: &Attachment) -> bool {
        self.attachments.contains_key(&key(attachment))
    }

    pub fn get(&self, attachment: &Attachment) -> Option<Record> {
        let key = key(attachment);
        let entry = self.attachments.get(&key)?;
        Some(entry.record(&key))
    }

    pub fn insert(&mut self, record: &Record) {
        let entry = Entry {
            addresses: record.addresses.clone(),
            own: record.is_own(),
            // Plain data with text keys always is JSON.
            record: serde_json::to_string(record).unwrap_or_default(),
        };
        self.attachments.insert(key(&record.attachment), entry);
    }

    /// Forgets the attachment; its addresses rest from now on.
    pub fn remove(&mut self, attachment: &Attachment) {
        let Some(entry) = self.attachments.remove(&key(attachment)) else {
            return;
        };
        if entry.own {
            self.released
                .retain(|address| !entry.addresses.contains(address));
            self.released.extend(entry.addresses);
            let excess = self.released.len().saturating_sub(RESTING);
            self.released.drain(..excess);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty()
    }

    pub fn attachments(&self) -> impl Iterator<Item = Attachment> {
        self.attachments.keys().map(|key| attachment(key))
    }

    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.attachments
            .iter()
            .map(|(key, entry)| entry.record(key))
    }

    /// The addresses that somebody has.
    pub fn used(&self) -> BTreeSet<IpAddr> {
        self.attachments
            .values()
            .flat_map(|entry| entry.addresses.iter().copied())
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

    pub fn owner(&self, address: IpAddr) -> Option<Attachment> {
        let mut all = self.attachments.iter();
        let (key, _) = all.find(|(_, entry)| entry.addresses.contains(&address))?;
        Some(attachment(key))
    }

    /// The lines.
    pub(crate) fn encode(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(self)?;
        for (key, entry) in &self.attachments {
            let _ = write!(text, "\n{key} ");
            for (index, address) in entry.addresses.iter().enumerate() {
                let separator = if index == 0 { "" } else { "," };
                let _ = write!(text, "{separator}{address}");
            }
            let whose = if entry.own { OURS } else { OTHERS };
            let _ = write!(text, " {whose} {}", entry.record);
        }
        Ok(text)
    }

    /// Reads the lines, and checks that no address has two owners.
    pub(crate) fn decode(text: &str) -> Result<Self, String> {
        let mut lines = text.split('\n');
        let head = lines.next().unwrap_or_default();
        let mut state: Self = serde_json::from_str(head).map_err(|error| error.to_string())?;
        for line in lines {
            let (key, entry) =
                Entry::decode(line).ok_or_else(|| format!("the line {line:?} says nothing"))?;
            if state.attachments.insert(key.to_owned(), entry).is_some() {
                return Err(format!("{key} is there twice"));
            }
        }
        state.check_owners()
    }

    /// Reads the form of earlier plugins: all of it is one object.
    pub(crate) fn decode_object(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Former {
            #[serde(default)]
            attachments: BTreeMap<String, Record>,
        }
        let fail = |error: serde_json::Error| error.to_string();
        let mut state: Self = serde_json::from_slice(text).map_err(fail)?;
        let former: Former = serde_json::from_slice(text).map_err(fail)?;
        for (name, record) in &former.attachments {
            if *name != key(&record.attachment) {
                return Err(format!("the entry {name} is about another attachment"));
            }
            state.insert(record);
        }
        state.check_owners()
    }

    fn check_owners(self) -> Result<Self, String> {
        let own = self.attachments.values().filter(|entry| entry.own);
        let mut addresses: Vec<IpAddr> = own
            .flat_map(|entry| entry.addresses.iter().copied())
            .collect();
        addresses.sort_unstable();
        match addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("{} has two owners", twice[0])),
            None => Ok(self),
        }
    }
}

impl Entry {
    fn decode(line: &str) -> Option<(&str, Self)> {
        let mut words = line.splitn(4, ' ');
        let key = words.next().filter(|key| key.contains('/'))?;
        let listed = words.next()?.split(',').filter(|word| !word.is_empty());
        let addresses = listed.map(|word| word.parse().ok());
        let addresses = addresses.collect::<Option<Vec<IpAddr>>>()?;
        let own = match words.next()? {
            OURS => true,
            OTHERS => false,
            _ => return None,
        };
        let record = words.next()?.to_owned();
        let entry = Self {
            addresses,
            own,
            record,
        };
        Some((key, entry))
    }

    /// A record that cannot be read, of a plugin that wrote others, still has its addresses.
    fn record(&self, key: &str) -> Record {
        serde_json::from_str(&self.record).unwrap_or_else(|_| Record {
            chained: !self.own,
            ..Record::found(attachment(key), self.addresses.clone())
        })
    }
}

fn key(attachment: &Attachment) -> String {
    format!("{}/{}", attachment.container_id, attachment.ifname)
}

/// Neither part of a key has a slash.
fn attachment(key: &str) -> Attachment {
    let (container_id, ifname) = key.rsplit_once('/').unwrap_or((key, ""));
    Attachment {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str, addresses: &[&str]) -> Record {
        let attachment = Attachment {
            container_id: container.into(),
            ifname: "eth0".into(),
        };
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        Record::found(attachment, addresses.collect())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut state = State {
            boot_id: "b".into(),
            released: ["10.0.0.9".parse().unwrap()].into(),
            ..State::default()
        };
        let mut several = record("a", &["10.0.0.2", "fd00::2"]);
        several.aliases = vec!["one word\nand a line".into()];
        let delegated = Record {
            ipam: Some("host-local".into()),
            ..record("b", &[])
        };
        for record in [&several, &delegated] {
            state.insert(record);
        }
        let text = state.encode().unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        let read = State::decode(&text).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.records().collect::<Vec<_>>(), [several, delegated]);
        for damaged in [
            text.replace(" own ", " "),
            text.replace("10.0.0.2,", "10.0.0,"),
            text.replace("a/eth0", "eth0"),
            text.replace("b/eth0", "a/eth0"),
        ] {
            assert!(State::decode(&damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn a_record_in_words_of_another_version_keeps_its_addresses() {
        let state = State::decode("{}\nc/eth0 10.0.0.2 own {\"new\": 1}").unwrap();
        let found = record("c", &["10.0.0.2"]);
        assert_eq!(state.get(&found.attachment), Some(found));
    }

    #[test]
    fn an_address_with_two_owners_is_not_believed() {
        let mut state = State::default();
        state.insert(&record("a", &["10.0.0.2"]));
        state.insert(&record("b", &["10.0.0.2"]));
        let error = State::decode(&state.encode().unwrap()).unwrap_err();
        assert!(error.contains("two owners"), "{error}");
    }

    #[test]
    fn the_form_of_earlier_plugins_is_read() {
        let record = record("c", &["10.0.0.2"]);
        let json = serde_json::to_string(&record).unwrap();
        let text =
            |name: &str| format!("{{\"bootId\": \"b\", \"attachments\": {{\"{name}\": {json}}}}}");
        let state = State::decode_object(text("c/eth0").as_bytes()).unwrap();
        assert_eq!(state.get(&record.attachment), Some(record));
        assert!(State::decode_object(text("d/eth0").as_bytes()).is_err());
    }

    #[test]
    fn only_so_many_resting_addresses_are_kept() {
        let mut state = State::default();
        for n in 0..u32::try_from(RESTING + 10).unwrap() {
            let mut one = record(&n.to_string(), &[]);
            one.addresses = vec![std::net::Ipv4Addr::from(0x0a00_0000 + n).into()];
            state.insert(&one);
            state.remove(&one.attachment);
        }
        assert_eq!(state.released.len(), RESTING);
        assert_eq!(state.released[0], "10.0.0.10".parse::<IpAddr>().unwrap());
    }
}
