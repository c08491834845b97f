//! Routes as learnt, the best of them, and what each peer has been told.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use smallvec::SmallVec;

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

/// What prefixes that came together share. Tables have many more prefixes than of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    pub next_hop: NextHop,
    pub attributes: Arc<Attributes>,
    pub source: Arc<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub peer: PeerId,
    /// The peer's number for it, with ADD-PATH.
    pub path_id: u32,
    /// Our number for it towards others.
    pub local_id: u32,
    pub learnt: Arc<Learnt>,
    /// The session is gone, or the peer sends everything again: kept for a while.
    pub stale: bool,
    /// The kernel knows a way to the next hop.
    pub reachable: bool,
}

/// What makes one path better than another (RFC 4271, section 9.1.2; RFC 4456, section 9;
/// RFC 9494, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Reachable,
    NotLongStale,
    Own,
    LocalPreference,
    ShorterPath,
    Origin,
    Metric,
    External,
    RouterId,
    ShorterClusterList,
    PeerAddress,
    PathId,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reachable => "its next hop can be reached",
            Self::NotLongStale => "the other is kept from a session that ended long ago",
            Self::Own => "it is our own",
            Self::LocalPreference => "higher local preference",
            Self::ShorterPath => "shorter AS path",
            Self::Origin => "better origin",
            Self::Metric => "lower MED of the same neighbour",
            Self::External => "from another AS",
            Self::RouterId => "lower router id",
            Self::ShorterClusterList => "shorter cluster list",
            Self::PeerAddress => "lower address of the peer",
            Self::PathId => "lower path id",
        })
    }
}

type Compare = fn(&Path, &Path) -> Ordering;

/// The decision process; less is better. The first steps make paths unequal for more than a tie.
const STEPS: [(Step, Compare); 12] = [
    (Step::Reachable, |a, b| b.reachable.cmp(&a.reachable)),
    (Step::NotLongStale, |a, b| {
        a.is_long_stale().cmp(&b.is_long_stale())
    }),
    (Step::Own, |a, b| (a.peer != LOCAL).cmp(&(b.peer != LOCAL))),
    (Step::LocalPreference, |a, b| {
        b.local_pref().cmp(&a.local_pref())
    }),
    (Step::ShorterPath, |a, b| {
        let length = |path: &Path| path.attributes.as_path_length();
        length(a).cmp(&length(b))
    }),
    (Step::Origin, |a, b| {
        a.attributes.origin.cmp(&b.attributes.origin)
    }),
    (Step::Metric, |a, b| {
        if a.attributes.neighbour_as() != b.attributes.neighbour_as() {
            return Ordering::Equal;
        }
        let metric = |path: &Path| path.attributes.med.unwrap_or(0);
        metric(a).cmp(&metric(b))
    }),
    (Step::External, |a, b| {
        a.source.internal.cmp(&b.source.internal)
    }),
    (Step::RouterId, |a, b| a.identifier().cmp(&b.identifier())),
    (Step::ShorterClusterList, |a, b| {
        let length = |path: &Path| path.attributes.cluster_list.len();
        length(a).cmp(&length(b))
    }),
    (Step::PeerAddress, |a, b| {
        a.source.address.cmp(&b.source.address)
    }),
    (Step::PathId, |a, b| a.path_id.cmp(&b.path_id)),
];

/// How many of the steps are more than tie-breakers.
const DECISIVE: usize = 8;

impl Deref for Path {
    type Target = Learnt;

    fn deref(&self) -> &Learnt {
        &self.learnt
    }
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

    /// Ours, of another system, or of a client (RFC 4456, section 6).
    fn is_for_everybody(&self) -> bool {
        self.peer == LOCAL || !self.source.internal || self.source.client
    }

    pub fn is_long_stale(&self) -> bool {
        self.attributes.communities.contains(&community::LLGR_STALE)
    }

    fn identifier(&self) -> Ipv4Addr {
        self.attributes
            .originator_id
            .unwrap_or(self.source.router_id)
    }

    /// The first of the steps that tells the paths apart.
    fn decide(&self, other: &Self, steps: &[(Step, Compare)]) -> (Ordering, Option<Step>) {
        let mut each = steps
            .iter()
            .map(|(step, compare)| (compare(self, other), Some(*step)));
        each.find(|(order, _)| *order != Ordering::Equal)
            .unwrap_or((Ordering::Equal, None))
    }

    /// The decision process with its tie-breakers. Less is better.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.decide(other, &STEPS).0
    }

    /// Why this one is better; `None` when it is not.
    pub fn better_by(&self, other: &Self) -> Option<Step> {
        let (order, step) = self.decide(other, &STEPS);
        step.filter(|_| order == Ordering::Less)
    }

    fn is_as_good_as(&self, other: &Self) -> bool {
        self.decide(other, &STEPS[..DECISIVE]).0 == Ordering::Equal
    }
}

/// A prefix: the ways there, and who was told. Nearly all prefixes have one path.
#[derive(Debug, Default)]
pub struct Entry {
    /// The best first.
    paths: SmallVec<[Path; 1]>,
    told: Told,
    /// See [`Rib::is_for_everybody`].
    for_everybody: bool,
}

impl Entry {
    /// The best first.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    pub fn told(&mut self) -> &mut Told {
        &mut self.told
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.told.is_empty()
    }
}

const WORD: usize = u64::BITS as usize;

/// Which peers were told of which of a prefix's paths.
#[expect(
    clippy::box_collection,
    reason = "most prefixes have none: a pointer is a third of an empty set"
)]
#[derive(Debug, Default)]
pub struct Told {
    /// Peers that get one path only, a bit each by their number.
    single: SmallVec<[u64; 1]>,
    /// Peers with ADD-PATH, with our number of the path.
    several: Option<Box<BTreeSet<(PeerId, u32)>>>,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.single.iter().all(|word| *word == 0) && self.several.is_none()
    }

    fn place(peer: PeerId) -> (usize, u64) {
        let number = peer.0 as usize;
        (number / WORD, 1 << (number % WORD))
    }

    /// Whether a peer that gets one path was told of it.
    pub fn has(&self, peer: PeerId) -> bool {
        let (word, bit) = Self::place(peer);
        self.single.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Notes whether a peer that gets one path knows of it.
    pub fn set(&mut self, peer: PeerId, knows: bool) {
        let (word, bit) = Self::place(peer);
        if knows && self.single.len() <= word {
            self.single.resize(word + 1, 0);
        }
        if let Some(bits) = self.single.get_mut(word) {
            *bits = if knows { *bits | bit } else { *bits & !bit };
        }
    }

    /// The paths that a peer with ADD-PATH was told of.
    pub fn several(&self, peer: PeerId) -> BTreeSet<u32> {
        let all = self
            .several
            .iter()
            .flat_map(|set| set.range((peer, 0)..=(peer, u32::MAX)));
        all.map(|(_, id)| *id).collect()
    }

    /// Notes what a peer with ADD-PATH knows.
    pub fn set_several(&mut self, peer: PeerId, ids: &BTreeSet<u32>) {
        let set = self.several.get_or_insert_default();
        set.retain(|(other, _)| *other != peer);
        set.extend(ids.iter().map(|id| (peer, *id)));
        if set.is_empty() {
            self.several = None;
        }
    }

    fn count(&self, peer: PeerId) -> usize {
        usize::from(self.has(peer)) + self.several(peer).len()
    }

    fn forget(&mut self, peer: PeerId) {
        self.set(peer, false);
        if self.several.is_some() {
            self.set_several(peer, &BTreeSet::new());
        }
    }
}

/// What is known of a next hop.
#[derive(Debug, Clone, Copy)]
struct Hop {
    paths: usize,
    reachable: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Rib {
    entries: BTreeMap<IpNetwork, Entry>,
    counts: BTreeMap<PeerId, usize>,
    hops: BTreeMap<IpAddr, Hop>,
    /// Next hops that nobody has looked at yet.
    new_hops: BTreeSet<IpAddr>,
    /// Prefixes with a path that internal peers may be told without reflection.
    for_everybody: BTreeSet<IpNetwork>,
    last_local_id: u32,
}

impl Rib {
    /// Adds or replaces a peer's path; whether anything changed.
    pub fn set(&mut self, prefix: IpNetwork, mut path: Path) -> bool {
        path.reachable = self.is_reachable(&path);
        let entry = self.entries.entry(prefix).or_default();
        let known = entry
            .paths
            .iter_mut()
            .find(|p| p.peer == path.peer && p.path_id == path.path_id);
        let mut replaced = None;
        match known {
            Some(known) => {
                path.local_id = known.local_id;
                if *known == path {
                    return false;
                }
                replaced = Some(std::mem::replace(known, path.clone()));
            }
            None => {
                // Zero is for peers that get one path only.
                self.last_local_id = self.last_local_id.checked_add(1).unwrap_or(1);
                path.local_id = self.last_local_id;
                *self.counts.entry(path.peer).or_default() += 1;
                entry.paths.push(path.clone());
            }
        }
        entry.paths.sort_by(Path::compare);
        self.note_hop(&path);
        self.note_for_everybody(prefix);
        if let Some(old) = replaced {
            self.forget_hop(&old);
        }
        true
    }

    fn is_reachable(&self, path: &Path) -> bool {
        path.peer == LOCAL
            || self
                .hops
                .get(&path.next_hop.address)
                .is_none_or(|hop| hop.reachable)
    }

    fn note_hop(&mut self, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        let address = path.next_hop.address;
        let new = !self.hops.contains_key(&address);
        let hop = self.hops.entry(address).or_insert(Hop {
            paths: 0,
            reachable: true,
        });
        hop.paths += 1;
        if new {
            self.new_hops.insert(address);
        }
    }

    fn forget_hop(&mut self, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        let address = path.next_hop.address;
        if let Some(hop) = self.hops.get_mut(&address) {
            hop.paths = hop.paths.saturating_sub(1);
            if hop.paths == 0 {
                self.hops.remove(&address);
                self.new_hops.remove(&address);
            }
        }
    }

    /// Next hops that came since the last call.
    pub fn take_new_hops(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.new_hops)
    }

    /// The next hops of all paths, and whether they can be reached.
    pub fn hops(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        self.hops
            .iter()
            .map(|(address, hop)| (*address, hop.reachable))
    }

    /// Notes whether a next hop can be reached; the prefixes that this changes.
    pub fn set_reachable(&mut self, address: IpAddr, reachable: bool) -> Vec<IpNetwork> {
        let Some(hop) = self.hops.get_mut(&address) else {
            return Vec::new();
        };
        if std::mem::replace(&mut hop.reachable, reachable) == reachable {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (prefix, entry) in &mut self.entries {
            let through = |path: &&mut Path| path.peer != LOCAL && path.next_hop.address == address;
            let mut any = false;
            for path in entry.paths.iter_mut().filter(through) {
                path.reachable = reachable;
                any = true;
            }
            if any {
                entry.paths.sort_by(Path::compare);
                changed.push(*prefix);
            }
        }
        changed
    }

    pub fn remove(&mut self, prefix: IpNetwork, peer: PeerId, path_id: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return false;
        };
        let is_it = |path: &Path| path.peer == peer && path.path_id == path_id;
        let removed = extract(&mut entry.paths, is_it);
        self.removed(prefix, &removed)
    }

    /// Counts removed paths out; whether there were any.
    fn removed(&mut self, prefix: IpNetwork, removed: &[Path]) -> bool {
        for path in removed {
            if let Some(count) = self.counts.get_mut(&path.peer) {
                *count = count.saturating_sub(1);
            }
            self.forget_hop(path);
        }
        self.note_for_everybody(prefix);
        self.forget_empty(prefix);
        !removed.is_empty()
    }

    fn note_for_everybody(&mut self, prefix: IpNetwork) {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        let now = entry.paths.iter().any(Path::is_for_everybody);
        if std::mem::replace(&mut entry.for_everybody, now) == now {
            return;
        }
        if now {
            self.for_everybody.insert(prefix);
        } else {
            self.for_everybody.remove(&prefix);
        }
    }

    /// Whether internal peers that are no clients may be told of one of the prefix's paths.
    pub fn is_for_everybody(&self, prefix: &IpNetwork) -> bool {
        self.entries
            .get(prefix)
            .is_some_and(|entry| entry.for_everybody)
    }

    /// The prefixes of which that holds: in a mesh only our own.
    pub fn for_everybody(&self) -> impl Iterator<Item = &IpNetwork> {
        self.for_everybody.iter()
    }

    fn forget_empty(&mut self, prefix: IpNetwork) {
        if self.entries.get(&prefix).is_some_and(Entry::is_empty) {
            self.entries.remove(&prefix);
        }
    }

    /// Keeps the peer's paths that the filter picks for now, as stale.
    pub fn mark_stale(&mut self, peer: PeerId, picks: impl Fn(&IpNetwork) -> bool) {
        for (_, entry) in self.entries.iter_mut().filter(|(prefix, _)| picks(prefix)) {
            for path in entry.paths.iter_mut().filter(|path| path.peer == peer) {
                path.stale = true;
            }
        }
    }

    /// Gives the peer's stale paths the community of those that are kept for long (RFC 9494),
    /// and drops the others that the filter does not keep; the prefixes that changed.
    pub fn keep_for_long(
        &mut self,
        peer: PeerId,
        keeps: impl Fn(&IpNetwork, &Path) -> bool,
    ) -> Vec<IpNetwork> {
        let mut changed = self.drop_paths(peer, |prefix, path| path.stale && !keeps(prefix, path));
        for (prefix, entry) in &mut self.entries {
            let stale = |path: &&mut Path| path.peer == peer && path.stale;
            let mut any = false;
            for path in entry.paths.iter_mut().filter(stale) {
                let attributes = Arc::make_mut(&mut Arc::make_mut(&mut path.learnt).attributes);
                if !attributes.communities.contains(&community::LLGR_STALE) {
                    attributes.communities.push(community::LLGR_STALE);
                    any = true;
                }
            }
            if any {
                entry.paths.sort_by(Path::compare);
                changed.push(*prefix);
            }
        }
        changed
    }

    /// Drops the peer's paths that the filter picks; the prefixes that changed.
    pub fn drop_paths(
        &mut self,
        peer: PeerId,
        drops: impl Fn(&IpNetwork, &Path) -> bool,
    ) -> Vec<IpNetwork> {
        let mut dropped: Vec<(IpNetwork, Vec<Path>)> = Vec::new();
        for (prefix, entry) in &mut self.entries {
            let picked = |path: &Path| path.peer == peer && drops(prefix, path);
            let paths = extract(&mut entry.paths, picked);
            if !paths.is_empty() {
                dropped.push((*prefix, paths));
            }
        }
        let each = dropped.iter().map(|(prefix, paths)| {
            self.removed(*prefix, paths);
            *prefix
        });
        each.collect()
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

    /// The best path, if its next hop can be reached.
    pub fn best(&self, prefix: &IpNetwork) -> Option<&Path> {
        self.paths(prefix).first().filter(|path| path.reachable)
    }

    /// The best path and those as good as it but for tie-breakers, for load sharing.
    pub fn multipath(&self, prefix: &IpNetwork, most: usize) -> Vec<&Path> {
        let Some(best) = self.best(prefix) else {
            return Vec::new();
        };
        let equal = self
            .paths(prefix)
            .iter()
            .filter(|path| path.is_as_good_as(best));
        equal.take(most).collect()
    }

    /// The prefix, to note who is told of it; what it has become is tidied by [`Rib::tidy`].
    pub fn entry(&mut self, prefix: &IpNetwork) -> Option<&mut Entry> {
        self.entries.get_mut(prefix)
    }

    /// Forgets the prefix if it has no path any more and nobody has to be told.
    pub fn tidy(&mut self, prefix: IpNetwork) {
        self.forget_empty(prefix);
    }

    /// Whether the peer was told of a path of the prefix.
    pub fn is_told_to(&self, prefix: &IpNetwork, peer: PeerId) -> bool {
        let entry = self.entries.get(prefix);
        entry.is_some_and(|entry| entry.told.count(peer) > 0)
    }

    /// Whether any peer was told of the prefix.
    pub fn is_told(&self, prefix: &IpNetwork) -> bool {
        self.entries
            .get(prefix)
            .is_some_and(|entry| !entry.told.is_empty())
    }

    /// A session that ended knows nothing of us any more.
    pub fn forget_told(&mut self, peer: PeerId) {
        for entry in self.entries.values_mut() {
            entry.told.forget(peer);
        }
        self.entries.retain(|_, entry| !entry.is_empty());
    }

    pub fn told_count(&self, peer: PeerId) -> usize {
        self.entries
            .values()
            .map(|entry| entry.told.count(peer))
            .sum()
    }
}

/// Takes the paths out that the filter picks.
fn extract(paths: &mut SmallVec<[Path; 1]>, picks: impl Fn(&Path) -> bool) -> Vec<Path> {
    let picked: Vec<Path> = paths.iter().filter(|path| picks(path)).cloned().collect();
    if !picked.is_empty() {
        paths.retain(|path| !picks(path));
    }
    picked
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
            learnt: Arc::new(Learnt {
                next_hop: NextHop::new(address),
                attributes: Arc::new(attributes),
                source: Arc::new(Source {
                    internal: false,
                    client: false,
                    router_id,
                    address,
                }),
            }),
            stale: false,
            local_id: 0,
            reachable: true,
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
        rib.entry(&prefix).unwrap().told().set(PeerId(2), true);
        assert!(rib.is_told_to(&prefix, PeerId(2)) && !rib.is_told_to(&prefix, PeerId(3)));
        assert_eq!(rib.drop_paths(PeerId(1), |_, _| true), [prefix]);
        assert_eq!(rib.prefixes().count(), 1);
        rib.entry(&prefix).unwrap().told().set(PeerId(2), false);
        rib.tidy(prefix);
        assert_eq!(rib.prefixes().count(), 0);
    }

    #[test]
    fn who_was_told_is_remembered_for_any_number_of_peers_and_paths() {
        let mut told = Told::default();
        for peer in [0, 63, 64, 500] {
            told.set(PeerId(peer), true);
        }
        assert!(told.has(PeerId(63)) && told.has(PeerId(500)) && !told.has(PeerId(499)));
        told.set_several(PeerId(7), &[3, 4].into());
        assert_eq!(told.several(PeerId(7)), [3, 4].into());
        assert_eq!((told.count(PeerId(7)), told.count(PeerId(64))), (2, 1));
        for peer in [0, 7, 63, 64, 500] {
            assert!(!told.is_empty());
            told.forget(PeerId(peer));
        }
        assert!(told.is_empty());
    }

    #[test]
    fn a_path_whose_next_hop_is_lost_yields_to_a_worse_one_until_it_is_back() {
        let mut rib = Rib::default();
        let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
        rib.set(prefix, path(1, |a| a.local_pref = Some(200)));
        rib.set(prefix, path(2, |_| {}));
        let hop = |peer: u8| IpAddr::from([10, 0, 0, peer]);
        assert_eq!(rib.take_new_hops(), [hop(1), hop(2)].into());
        assert_eq!(rib.set_reachable(hop(1), false), [prefix]);
        assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(2)));
        let [better, worse] = rib.paths(&prefix) else {
            panic!("two paths")
        };
        assert_eq!(better.better_by(worse), Some(Step::Reachable));
        assert_eq!(rib.set_reachable(hop(2), false), [prefix]);
        assert_eq!(rib.best(&prefix), None);
        assert_eq!(rib.set_reachable(hop(1), true), [prefix]);
        assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(1)));
        assert!(rib.set_reachable(hop(1), true).is_empty());
        rib.drop_paths(PeerId(1), |_, _| true);
        rib.remove(prefix, PeerId(2), 0);
        assert_eq!(rib.hops().count(), 0);
    }

    #[test]
    fn the_reason_for_the_best_path_is_the_first_step_that_differs() {
        let base = path(2, |_| {});
        let cases = [
            (path(1, |_| {}), Step::RouterId),
            (path(3, |a| a.local_pref = Some(101)), Step::LocalPreference),
            (path(3, |a| a.as_path.clear()), Step::ShorterPath),
        ];
        for (better, step) in cases {
            assert_eq!(better.better_by(&base), Some(step));
            assert_eq!(base.better_by(&better), None);
        }
    }
}
