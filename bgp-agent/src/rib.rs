//! Routes as learnt, the best of them, and what each peer has been told.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop};

/// A peer, numbered by the speaker; [`LOCAL`] are our own routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

pub const LOCAL: PeerId = PeerId(0);

/// What the decision process needs of the peer that a path came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub internal: bool,
    /// A client of ours that its routes are reflected for (RFC 4456).
    pub client: bool,
    pub router_id: Ipv4Addr,
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub peer: PeerId,
    pub path_id: u32,
    pub next_hop: NextHop,
    pub attributes: Arc<Attributes>,
    pub source: Arc<Source>,
    /// The session is gone; kept for the time of a graceful restart.
    pub stale: bool,
}

impl Path {
    fn local_pref(&self) -> u32 {
        let shut_down = self
            .attributes
            .communities
            .contains(&community::GRACEFUL_SHUTDOWN);
        if shut_down {
            0
        } else {
            self.attributes.local_pref.unwrap_or(100)
        }
    }

    fn identifier(&self) -> Ipv4Addr {
        self.attributes
            .originator_id
            .unwrap_or(self.source.router_id)
    }

    /// The steps that make paths unequal for more than a tie (RFC 4271, section 9.1.2.2,
    /// a to e; RFC 9494 first). Less is better.
    fn compare_decisive(&self, other: &Self) -> Ordering {
        let long_stale = |path: &Self| path.attributes.communities.contains(&community::LLGR_STALE);
        let same_neighbour = self.attributes.neighbour_as() == other.attributes.neighbour_as();
        let med = |path: &Self| path.attributes.med.unwrap_or(0);
        long_stale(self)
            .cmp(&long_stale(other))
            .then((self.peer != LOCAL).cmp(&(other.peer != LOCAL)))
            .then(other.local_pref().cmp(&self.local_pref()))
            .then(
                self.attributes
                    .as_path_length()
                    .cmp(&other.attributes.as_path_length()),
            )
            .then(self.attributes.origin.cmp(&other.attributes.origin))
            .then(if same_neighbour {
                med(self).cmp(&med(other))
            } else {
                Ordering::Equal
            })
            .then(self.source.internal.cmp(&other.source.internal))
    }

    /// The decision process with its tie-breakers (also RFC 4456, section 9).
    pub fn compare(&self, other: &Self) -> Ordering {
        self.compare_decisive(other)
            .then(self.identifier().cmp(&other.identifier()))
            .then(
                self.attributes
                    .cluster_list
                    .len()
                    .cmp(&other.attributes.cluster_list.len()),
            )
            .then(self.source.address.cmp(&other.source.address))
            .then(self.path_id.cmp(&other.path_id))
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// The best first.
    paths: Vec<Path>,
    /// Peers that were told of the prefix.
    told: BTreeSet<PeerId>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Rib {
    entries: BTreeMap<IpNetwork, Entry>,
    counts: HashMap<PeerId, usize>,
}

impl Rib {
    /// Adds or replaces a peer's path; whether anything changed.
    pub fn set(&mut self, prefix: IpNetwork, path: Path) -> bool {
        let entry = self.entries.entry(prefix).or_default();
        let known = entry
            .paths
            .iter_mut()
            .find(|p| p.peer == path.peer && p.path_id == path.path_id);
        match known {
            Some(known) if *known == path => return false,
            Some(known) => *known = path,
            None => {
                *self.counts.entry(path.peer).or_default() += 1;
                entry.paths.push(path);
            }
        }
        entry.paths.sort_by(Path::compare);
        true
    }

    pub fn remove(&mut self, prefix: IpNetwork, peer: PeerId, path_id: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return false;
        };
        let before = entry.paths.len();
        entry
            .paths
            .retain(|path| path.peer != peer || path.path_id != path_id);
        let removed = before - entry.paths.len();
        self.uncount(peer, removed);
        self.forget_empty(prefix);
        removed > 0
    }

    fn uncount(&mut self, peer: PeerId, removed: usize) {
        if let Some(count) = self.counts.get_mut(&peer) {
            *count = count.saturating_sub(removed);
        }
    }

    fn forget_empty(&mut self, prefix: IpNetwork) {
        let is_empty = |entry: &Entry| entry.paths.is_empty() && entry.told.is_empty();
        if self.entries.get(&prefix).is_some_and(is_empty) {
            self.entries.remove(&prefix);
        }
    }

    /// Keeps the peer's paths for now, as stale.
    pub fn mark_stale(&mut self, peer: PeerId) {
        for entry in self.entries.values_mut() {
            for path in entry.paths.iter_mut().filter(|path| path.peer == peer) {
                path.stale = true;
            }
        }
    }

    /// Drops the peer's paths that the filter picks; the prefixes that changed.
    pub fn drop_paths(
        &mut self,
        peer: PeerId,
        drops: impl Fn(&IpNetwork, &Path) -> bool,
    ) -> Vec<IpNetwork> {
        let mut changed = Vec::new();
        let mut dropped = 0;
        for (prefix, entry) in &mut self.entries {
            let before = entry.paths.len();
            entry
                .paths
                .retain(|path| path.peer != peer || !drops(prefix, path));
            if entry.paths.len() < before {
                dropped += before - entry.paths.len();
                changed.push(*prefix);
            }
        }
        self.uncount(peer, dropped);
        for prefix in &changed {
            self.forget_empty(*prefix);
        }
        changed
    }

    /// How many paths the peer has here.
    pub fn count(&self, peer: PeerId) -> usize {
        self.counts.get(&peer).copied().unwrap_or(0)
    }

    pub fn prefixes(&self) -> impl Iterator<Item = &IpNetwork> {
        self.entries.keys()
    }

    /// The prefix's paths, the best first.
    pub fn paths(&self, prefix: &IpNetwork) -> &[Path] {
        self.entries
            .get(prefix)
            .map(|entry| entry.paths.as_slice())
            .unwrap_or_default()
    }

    pub fn best(&self, prefix: &IpNetwork) -> Option<&Path> {
        self.paths(prefix).first()
    }

    /// The best path and those as good as it but for tie-breakers, for load sharing.
    pub fn multipath(&self, prefix: &IpNetwork, most: usize) -> Vec<&Path> {
        let paths = self.paths(prefix);
        let Some(best) = paths.first() else {
            return Vec::new();
        };
        let equal = paths
            .iter()
            .filter(|path| path.compare_decisive(best) == Ordering::Equal);
        equal.take(most).collect()
    }

    /// Notes whether a peer has been told of the prefix; what it was before.
    pub fn set_told(&mut self, prefix: IpNetwork, peer: PeerId, told: bool) -> bool {
        let before = if told {
            !self.entries.entry(prefix).or_default().told.insert(peer)
        } else {
            self.entries
                .get_mut(&prefix)
                .is_some_and(|entry| entry.told.remove(&peer))
        };
        self.forget_empty(prefix);
        before
    }

    /// A session that ended knows nothing of us any more.
    pub fn forget_told(&mut self, peer: PeerId) {
        for entry in self.entries.values_mut() {
            entry.told.remove(&peer);
        }
        self.entries
            .retain(|_, entry| !entry.paths.is_empty() || !entry.told.is_empty());
    }

    pub fn told_count(&self, peer: PeerId) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.told.contains(&peer))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Segment;
    use crate::wire::attribute::Origin;

    fn path(peer: u32, change: impl FnOnce(&mut Attributes)) -> Path {
        let mut attributes = Attributes {
            origin: Origin::Igp,
            as_path: vec![Segment::Sequence(vec![1, 2])],
            ..Attributes::default()
        };
        change(&mut attributes);
        let address = IpAddr::from([10, 0, 0, u8::try_from(peer).unwrap()]);
        let router_id = Ipv4Addr::from(peer);
        Path {
            peer: PeerId(peer),
            path_id: 0,
            next_hop: NextHop::new(address),
            attributes: Arc::new(attributes),
            source: Arc::new(Source {
                internal: false,
                client: false,
                router_id,
                address,
            }),
            stale: false,
        }
    }

    #[test]
    fn each_step_of_the_decision_decides() {
        type Change = fn(&mut Attributes);
        let better_than_plain: [Change; 3] = [
            |a| a.local_pref = Some(200),
            |a| a.as_path = vec![Segment::Sequence(vec![1])],
            |a| a.as_path = vec![Segment::Set(vec![7, 8, 9])],
        ];
        for change in better_than_plain {
            assert_eq!(path(9, change).compare(&path(1, |_| {})), Ordering::Less);
        }
        let worse_than_plain: [Change; 5] = [
            |a| a.origin = Origin::Incomplete,
            |a| a.med = Some(5),
            |a| a.communities = vec![community::GRACEFUL_SHUTDOWN],
            |a| a.communities = vec![community::LLGR_STALE],
            |a| a.local_pref = Some(50),
        ];
        for change in worse_than_plain {
            assert_eq!(path(1, change).compare(&path(9, |_| {})), Ordering::Greater);
        }
        assert_eq!(path(1, |_| {}).compare(&path(2, |_| {})), Ordering::Less);
    }

    #[test]
    fn med_counts_only_between_paths_of_one_neighbour() {
        let other = |a: &mut Attributes| {
            a.as_path = vec![Segment::Sequence(vec![5, 2])];
            a.med = Some(9);
        };
        assert_eq!(path(1, other).compare(&path(2, |_| {})), Ordering::Less);
    }

    #[test]
    fn the_best_stands_first_and_equals_share_the_load() {
        let mut rib = Rib::default();
        let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
        for (peer, local_pref) in [(3, 100), (1, 100), (2, 50)] {
            assert!(rib.set(prefix, path(peer, |a| a.local_pref = Some(local_pref))));
        }
        assert!(!rib.set(prefix, path(2, |a| a.local_pref = Some(50))));
        assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(1)));
        let sharing: Vec<u32> = rib.multipath(&prefix, 8).iter().map(|p| p.peer.0).collect();
        assert_eq!(sharing, [1, 3]);
        assert!(rib.remove(prefix, PeerId(1), 0));
        assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(3)));
    }

    #[test]
    fn a_prefix_is_remembered_until_nobody_has_to_be_told() {
        let mut rib = Rib::default();
        let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
        rib.set(prefix, path(1, |_| {}));
        assert!(!rib.set_told(prefix, PeerId(2), true));
        assert_eq!(rib.drop_paths(PeerId(1), |_, _| true), [prefix]);
        assert_eq!(rib.prefixes().count(), 1);
        assert!(rib.set_told(prefix, PeerId(2), false));
        assert_eq!(rib.prefixes().count(), 0);
    }
}
