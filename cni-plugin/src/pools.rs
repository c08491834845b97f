//! The node's agent for pools of addresses: asked by ADD, and asking in turn what is in use.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::ipam::{Range, RangeSet};
use crate::store::{Locked, State, Store};
use crate::verbs;

const RETRY: Duration = Duration::from_millis(50);
/// What the agent may take for an answer, at the least: it may claim a block first.
const ANSWER: Duration = Duration::from_secs(20);

/// What the agent is asked, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRequest {
    pub pod_namespace: String,
    pub pod_name: String,
    /// Ranges that have no address left.
    pub full: BTreeSet<IpNetwork>,
    /// Only whether there would be one.
    pub dry: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawOffer {
    sets: Vec<Vec<RawRange>>,
    addresses: Vec<IpAddr>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRange {
    subnet: IpNetwork,
    range_start: IpAddr,
    range_end: IpAddr,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// One address of each.
    pub sets: Vec<RangeSet>,
    /// These of them.
    pub addresses: Vec<IpAddr>,
}

impl Offer {
    /// Reads an answer; an agent's refusal is an error.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawOffer = serde_json::from_str(text).map_err(|error| {
            Error::new(
                Code::Decode,
                "the answer of the agent for pools cannot be read",
            )
            .with_details(error)
        })?;
        if let Some(why) = raw.error {
            return Err(Error::new(Code::Exhausted, "the pod gets no address").with_details(why));
        }
        let set = |ranges: Vec<RawRange>| {
            let each = ranges
                .into_iter()
                .map(|r| Range::new(r.subnet, Some(r.range_start), Some(r.range_end), None));
            each.collect::<Result<Vec<_>, _>>().and_then(RangeSet::new)
        };
        let sets = raw.sets.into_iter().map(set).collect::<Result<_, _>>();
        let sets = sets.map_err(|error| {
            Error::new(
                Code::Decode,
                "the ranges of the agent for pools make no sense",
            )
            .with_details(error)
        })?;
        Ok(Self {
            sets,
            addresses: raw.addresses,
        })
    }

    /// The ranges of those sets that have no address left.
    pub fn full(&self, state: &State) -> BTreeSet<IpNetwork> {
        let mut taken = state.used();
        taken.extend(state.withdrawn_of(&self.sets));
        let is_full = |set: &&RangeSet| {
            let (used, capacity) = set.usage(&taken);
            used >= capacity
        };
        let ranges = self.sets.iter().filter(is_full).flat_map(RangeSet::ranges);
        ranges.map(Range::subnet).collect()
    }
}

/// Asks the agent; one that is starting is waited for.
pub fn ask(socket: &Path, request: &PoolRequest, timeout: Duration) -> Result<Offer, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        let error = match exchange(socket, request) {
            Ok(answer) => return Offer::parse(&answer),
            Err(error) => error,
        };
        if Instant::now() + RETRY >= deadline {
            let message = format!(
                "the agent for pools does not answer at {}",
                socket.display()
            );
            return Err(Error::new(Code::TryAgain, message).with_details(error));
        }
        sleep(RETRY);
    }
}

fn exchange(socket: &Path, request: &PoolRequest) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// A network's memory of addresses, for the node's agent.
#[derive(Debug, Clone)]
pub struct Memory {
    pub data_dir: PathBuf,
    pub network: String,
}

impl Memory {
    fn store(&self) -> Store {
        Store::new(&self.data_dir, &self.network)
    }

    fn lock(&self) -> Result<Locked, Error> {
        verbs::lock(&self.store(), &self.network, None)
    }

    /// The addresses that containers have.
    pub fn used(&self) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(self.lock()?.state.used())
    }

    /// The networks that nobody gets an address of.
    pub fn withdrawn(&self) -> Result<BTreeSet<IpNetwork>, Error> {
        Ok(self.store().peek()?.withdrawn)
    }

    /// From now on nobody gets an address of the network; `false`, and nothing changed, when a
    /// container has one. An ADD that was offered it before finds it withdrawn.
    pub fn withdraw(&self, network: IpNetwork) -> Result<bool, Error> {
        let mut locked = self.lock()?;
        if locked.state.used().iter().any(|own| network.contains(*own)) {
            return Ok(false);
        }
        if locked.state.withdrawn.insert(network) {
            locked.save()?;
        }
        Ok(true)
    }

    /// Containers get addresses of it again.
    pub fn admit(&self, network: IpNetwork) -> Result<(), Error> {
        let mut locked = self.lock()?;
        if locked.state.withdrawn.remove(&network) {
            locked.save()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn offer() -> Offer {
        let answer = r#"{"sets":[[
            {"subnet":"10.1.0.0/30","rangeStart":"10.1.0.1","rangeEnd":"10.1.0.1"},
            {"subnet":"10.1.0.0/30","rangeStart":"10.1.0.3","rangeEnd":"10.1.0.3"}]],
            "addresses":["10.1.0.3"]}"#;
        Offer::parse(answer).unwrap()
    }

    #[test]
    fn parts_of_a_block_are_full_together() {
        let offer = offer();
        assert_eq!(offer.addresses.len(), 1);
        let mut state = State::default();
        assert!(offer.full(&state).is_empty());
        state.withdrawn.insert(net("10.1.0.1/32"));
        assert!(offer.full(&state).is_empty());
        state.withdrawn.insert(net("10.1.0.2/31"));
        assert_eq!(offer.full(&state), [net("10.1.0.0/30")].into());
    }

    #[test]
    fn a_refusal_and_nonsense_are_errors() {
        let error = Offer::parse(r#"{"error":"no pool is for it"}"#).unwrap_err();
        assert!(error.is(Code::Exhausted) && error.to_string().contains("no pool is for it"));
        for text in [
            "",
            "{",
            r#"{"sets":[[]]}"#,
            r#"{"sets":[[{"subnet":"10.0.0.0/30","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.3"}]]}"#,
        ] {
            assert!(Offer::parse(text).unwrap_err().is(Code::Decode), "{text}");
        }
    }

    #[test]
    fn what_is_withdrawn_nobody_gets_until_it_is_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory {
            data_dir: dir.path().to_owned(),
            network: "net".to_owned(),
        };
        let block = net("10.1.0.0/30");
        assert!(memory.withdraw(block).unwrap());
        assert_eq!(memory.withdrawn().unwrap(), [block].into());
        let mut state = memory.lock().unwrap().state.clone();
        let chosen = crate::verbs::choose(&mut state, &offer().sets, &[]);
        assert!(chosen.unwrap_err().is(Code::Exhausted));
        memory.admit(block).unwrap();
        let mut state = memory.lock().unwrap().state.clone();
        assert!(crate::verbs::choose(&mut state, &offer().sets, &[]).is_ok());
    }
}
