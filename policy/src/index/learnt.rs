//! What the cluster DNS answered, and for how long that holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::DomainPattern;

/// A client may use an answer to the end of its time, and begin to connect then.
const LEEWAY: Duration = Duration::from_secs(10);
/// How long an address is kept that connections go to when its time is over.
const RENEWAL: Duration = Duration::from_secs(60);
/// Names beyond this are not learnt: anybody may ask for any number of names.
const MOST_NAMES: usize = 16_384;
/// Of one name.
const MOST_ADDRESSES: usize = 256;

/// How long an address is a name's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub until: SystemTime,
    /// From when it was given or renewed to `until`.
    pub lifetime: Duration,
}

impl Lease {
    fn from(now: SystemTime, lifetime: Duration) -> Self {
        let until = now + lifetime;
        Self { until, lifetime }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    names: BTreeMap<String, BTreeMap<IpAddr, Lease>>,
}

impl Learnt {
    /// Whether anything is new. A lease that is nearly as long is left as it is, so that a busy
    /// name does not change the kernel with each answer.
    pub(super) fn learn(
        &mut self,
        name: &str,
        addresses: &[(IpAddr, Duration)],
        now: SystemTime,
    ) -> bool {
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(name) {
            return false;
        }
        let mut changed = false;
        for (address, ttl) in addresses {
            let new = Lease::from(now, *ttl + LEEWAY);
            let known = self.names.entry(name.to_owned()).or_default();
            let long_enough = |old: &Lease| old.until + LEEWAY / 2 >= new.until;
            let full = known.len() >= MOST_ADDRESSES && !known.contains_key(address);
            if !full && !known.get(address).is_some_and(long_enough) {
                known.insert(*address, new);
                changed = true;
            }
        }
        changed
    }

    /// The names that changed.
    pub(super) fn forget_past(
        &mut self,
        now: SystemTime,
        in_use: &BTreeSet<IpAddr>,
    ) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, addresses) in &mut self.names {
            let before = addresses.len();
            let mut renewed = false;
            addresses.retain(|address, lease| {
                if lease.until > now {
                    return true;
                }
                let used = in_use.contains(address);
                if used {
                    *lease = Lease::from(now, RENEWAL);
                    renewed = true;
                }
                used
            });
            if renewed || addresses.len() != before {
                changed.push(name.clone());
            }
        }
        self.names.retain(|_, addresses| !addresses.is_empty());
        changed
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        let leases = self.names.values().flat_map(BTreeMap::values);
        leases.map(|lease| lease.until).min()
    }

    /// The addresses of the names that one of the patterns matches, each with its longest lease.
    pub(super) fn matching(&self, patterns: &BTreeSet<DomainPattern>) -> BTreeMap<IpAddr, Lease> {
        let mut all: BTreeMap<IpAddr, Lease> = BTreeMap::new();
        for (name, addresses) in &self.names {
            if !patterns.iter().any(|pattern| pattern.matches(name)) {
                continue;
            }
            for (address, lease) in addresses {
                let longest = all.entry(*address).or_insert(*lease);
                if lease.until > longest.until {
                    *longest = *lease;
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn an_address_is_forgotten_after_its_time_unless_it_is_in_use() {
        let mut learnt = Learnt::default();
        let start = SystemTime::UNIX_EPOCH;
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let answer = [(a, seconds(30)), (b, seconds(30))];
        assert!(learnt.learn("x.example", &answer, start));
        assert!(
            !learnt.learn("x.example", &answer, start + seconds(1)),
            "nothing new"
        );
        assert!(learnt.learn("x.example", &answer, start + seconds(20)));
        let patterns = [DomainPattern::new("*.example")].into();
        assert_eq!(learnt.matching(&patterns).len(), 2);
        assert!(
            learnt
                .forget_past(start + seconds(50), &BTreeSet::new())
                .is_empty()
        );
        let changed = learnt.forget_past(start + seconds(61), &[b].into());
        assert_eq!(changed, ["x.example"]);
        let left = learnt.matching(&patterns);
        assert_eq!(left.keys().collect::<Vec<_>>(), [&b]);
        assert_eq!(left[&b].lifetime, RENEWAL);
        learnt.forget_past(start + seconds(200), &BTreeSet::new());
        assert_eq!(learnt, Learnt::default());
    }

    #[test]
    fn who_asks_for_endless_names_fills_nothing() {
        let mut learnt = Learnt::default();
        let answer = [([192, 0, 2, 1].into(), seconds(30))];
        for number in 0..2 * MOST_NAMES {
            learnt.learn(
                &format!("{number}.example"),
                &answer,
                SystemTime::UNIX_EPOCH,
            );
        }
        assert_eq!(learnt.names.len(), MOST_NAMES);
    }
}
