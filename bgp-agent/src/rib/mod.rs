//! Routes as learnt, the best of them, and what each peer has been told.

mod decision;
mod hops;
mod paths;
mod prefixes;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use self::hops::Hops;
use self::paths::Paths;
use self::prefixes::Prefixes;
use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop};

pub use decision::Step;
pub use told::Told;

/// A peer, numbered by the speaker; [`LOCAL`] are our own routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

pub const LOCAL: PeerId = PeerId(0);

/// What the decision process needs of the peer that a path came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    pub internal: bool,
    /// A client of ours that its routes are reflected for (RFC 4456).
    pub client: bool,
    pub router_id: Ipv4Addr,
    pub address: IpAddr,
}

/// What prefixes that came together share. Tables have many more prefixes than of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// It says something that peers were not told yet.
    pub changed: bool,
}

impl Path {
    /// A path that a peer tells, or one of our own.
    pub fn new(peer: PeerId, path_id: u32, learnt: Arc<Learnt>) -> Self {
        Self {
            peer,
            path_id,
            local_id: 0,
            learnt,
            stale: false,
            reachable: true,
            changed: true,
        }
    }
}

impl Deref for Path {
    type Target = Learnt;

    fn deref(&self) -> &Learnt {
        &self.learnt
    }
}

/// Whom a prefix's paths are for without reflection (RFC 4456, section 6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum ForWhom {
    /// All are of internal peers that are no clients: for no internal peer.
    #[default]
    NoInternal,
    /// One is our own, or a client's.
    Everybody,
    /// One is another system's: for everybody as well, but there may be very many of these.
    EverybodyFromOutside,
}

impl ForWhom {
    fn of(path: &Path) -> Self {
        if path.peer != LOCAL && !path.source.internal {
            Self::EverybodyFromOutside
        } else if path.peer == LOCAL || path.source.client {
            Self::Everybody
        } else {
            Self::NoInternal
        }
    }
}

/// A prefix: the ways there, and who was told. Nearly all prefixes have one path.
#[derive(Debug, Default)]
pub struct Entry {
    /// The best first.
    paths: Paths,
    told: Told,
    /// Our number of the path that peers were told of as the best; 0: of none.
    announced: u32,
    for_whom: ForWhom,
}

impl Entry {
    /// The best first.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The best path, if its next hop can be reached.
    pub fn best(&self) -> Option<&Path> {
        self.paths.first().filter(|path| path.reachable)
    }

    pub fn told(&mut self) -> &mut Told {
        &mut self.told
    }

    /// Whether internal peers that are no clients may be told of one of the paths, or were.
    pub fn concerns_everybody(&self) -> bool {
        self.for_whom != ForWhom::NoInternal || !self.told.is_empty()
    }

    /// Whether peers that hear of the best path only were told of another one, or of none.
    pub fn has_news(&self) -> bool {
        match self.best() {
            Some(best) => best.changed || best.local_id != self.announced,
            None => self.announced != 0,
        }
    }

    /// All peers have been told of what there is now.
    pub fn all_told(&mut self) {
        self.announced = self.best().map_or(0, |best| best.local_id);
        self.paths.iter_mut().for_each(|path| path.changed = false);
    }

    fn whom_for(&self) -> ForWhom {
        let all = self.paths.iter().map(ForWhom::of);
        all.max().unwrap_or_default()
    }

    fn sort(&mut self) {
        if self.paths.len() > 1 {
            self.paths.sort_by(Path::compare);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.told.is_empty()
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Rib {
    entries: Prefixes<Entry>,
    counts: BTreeMap<PeerId, usize>,
    hops: Hops,
    /// Prefixes that are [`ForWhom::Everybody`]'s: in a mesh only our own.
    for_everybody: BTreeSet<IpNetwork>,
    /// How many prefixes are for everybody and from outside.
    from_outside: usize,
    last_local_id: u32,
}

impl Rib {
    /// Adds or replaces a peer's path; whether anything changed.
    pub fn set(&mut self, prefix: IpNetwork, mut path: Path) -> bool {
        path.reachable = self.hops.is_reachable(&path);
        let entry = self.entries.or_default(prefix);
        let known = entry
            .paths
            .iter_mut()
            .find(|p| p.peer == path.peer && p.path_id == path.path_id);
        self.hops.note(&path);
        match known {
            Some(known) => {
                let same = known.learnt == path.learnt;
                if same && (known.stale, known.reachable) == (path.stale, path.reachable) {
                    self.hops.forget(&path);
                    return false;
                }
                path.local_id = known.local_id;
                path.changed = known.changed || !same;
                let old = std::mem::replace(known, path);
                self.hops.forget(&old);
            }
            None => {
                // Zero is for peers that get one path only.
                self.last_local_id = self.last_local_id.checked_add(1).unwrap_or(1);
                path.local_id = self.last_local_id;
                path.changed = true;
                *self.counts.entry(path.peer).or_default() += 1;
                entry.paths.push(path);
            }
        }
        entry.sort();
        if entry.for_whom != entry.whom_for() {
            self.note_for_whom(prefix);
        }
        true
    }

    /// Next hops that came since the last call.
    pub fn take_new_hops(&mut self) -> BTreeSet<IpAddr> {
        self.hops.take_new()
    }

    /// The next hops of all paths, and whether they can be reached.
    pub fn hops(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        self.hops.iter()
    }

    /// Notes whether a next hop can be reached; the prefixes that this changes.
    pub fn set_reachable(&mut self, address: IpAddr, reachable: bool) -> Vec<IpNetwork> {
        if !self.hops.set_reachable(address, reachable) {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (prefix, entry) in self.entries.iter_mut() {
            let through = |path: &&mut Path| path.peer != LOCAL && path.next_hop.address == address;
            let mut any = false;
            for path in entry.paths.iter_mut().filter(through) {
                path.reachable = reachable;
                any = true;
            }
            if any {
                entry.sort();
                changed.push(prefix);
            }
        }
        changed
    }

    pub fn remove(&mut self, prefix: IpNetwork, peer: PeerId, path_id: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return false;
        };
        let is_it = |path: &Path| path.peer == peer && path.path_id == path_id;
        let removed = entry.paths.extract(is_it);
        self.removed(prefix, &removed)
    }

    /// Counts removed paths out; whether there were any.
    fn removed(&mut self, prefix: IpNetwork, removed: &[Path]) -> bool {
        for path in removed {
            if let Some(count) = self.counts.get_mut(&path.peer) {
                *count = count.saturating_sub(1);
            }
            self.hops.forget(path);
        }
        self.note_for_whom(prefix);
        self.tidy(prefix);
        !removed.is_empty()
    }

    fn note_for_whom(&mut self, prefix: IpNetwork) {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        let now = entry.whom_for();
        let before = std::mem::replace(&mut entry.for_whom, now);
        if before == now {
            return;
        }
        match before {
            ForWhom::NoInternal => {}
            ForWhom::Everybody => drop(self.for_everybody.remove(&prefix)),
            ForWhom::EverybodyFromOutside => self.from_outside -= 1,
        }
        match now {
            ForWhom::NoInternal => {}
            ForWhom::Everybody => drop(self.for_everybody.insert(prefix)),
            ForWhom::EverybodyFromOutside => self.from_outside += 1,
        }
    }

    /// The prefixes that internal peers which are no clients may be told of.
    pub fn for_everybody(&self) -> Vec<IpNetwork> {
        if self.from_outside == 0 {
            return self.for_everybody.iter().copied().collect();
        }
        let all = self.entries.iter();
        let picked = all.filter(|(_, entry)| entry.for_whom != ForWhom::NoInternal);
        picked.map(|(prefix, _)| prefix).collect()
    }

    /// Keeps the peer's paths that the filter picks for now, as stale.
    pub fn mark_stale(&mut self, peer: PeerId, picks: impl Fn(&IpNetwork) -> bool) {
        for (_, entry) in self.entries.iter_mut().filter(|(own, _)| picks(own)) {
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
        let mut changed = self.drop_paths(peer, |own, path| path.stale && !keeps(own, path));
        // What paths share they go on sharing.
        let mut marked: HashMap<Arc<Learnt>, Arc<Learnt>> = HashMap::new();
        for (prefix, entry) in self.entries.iter_mut() {
            let stale = |path: &&mut Path| path.peer == peer && path.stale && !path.is_long_stale();
            let mut any = false;
            for path in entry.paths.iter_mut().filter(stale) {
                let mark = || with_community(&path.learnt, community::LLGR_STALE);
                path.learnt = marked
                    .entry(path.learnt.clone())
                    .or_insert_with(mark)
                    .clone();
                path.changed = true;
                any = true;
            }
            if any {
                entry.sort();
                changed.push(prefix);
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
        if self.count(peer) == 0 {
            return Vec::new();
        }
        let mut dropped: Vec<(IpNetwork, Vec<Path>)> = Vec::new();
        for (prefix, entry) in self.entries.iter_mut() {
            let picked = |path: &Path| path.peer == peer && drops(&prefix, path);
            let paths = entry.paths.extract(picked);
            if !paths.is_empty() {
                dropped.push((prefix, paths));
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

    pub fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.entries.iter().map(|(prefix, _)| prefix)
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prefix's paths, the best first.
    pub fn paths(&self, prefix: &IpNetwork) -> &[Path] {
        self.entries
            .get(prefix)
            .map(Entry::paths)
            .unwrap_or_default()
    }

    /// The best path, if its next hop can be reached.
    pub fn best(&self, prefix: &IpNetwork) -> Option<&Path> {
        self.entries.get(prefix).and_then(Entry::best)
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
        if self.entries.get(&prefix).is_some_and(Entry::is_empty) {
            self.entries.remove(&prefix);
        }
    }

    /// Whether the peer was told of a path of the prefix.
    pub fn is_told_to(&self, prefix: &IpNetwork, peer: PeerId) -> bool {
        let entry = self.entries.get(prefix);
        entry.is_some_and(|entry| entry.told.count(peer) > 0)
    }

    /// A session that ended knows nothing of us any more.
    pub fn forget_told(&mut self, peer: PeerId) {
        for (_, entry) in self.entries.iter_mut() {
            entry.told.forget(peer);
        }
        self.entries.retain(|entry| !entry.is_empty());
    }

    pub fn told_count(&self, peer: PeerId) -> usize {
        let each = self.entries.iter();
        each.map(|(_, entry)| entry.told.count(peer)).sum()
    }
}

/// The same with one more community.
fn with_community(learnt: &Learnt, value: u32) -> Arc<Learnt> {
    let mut attributes = (*learnt.attributes).clone();
    attributes.communities.push(value);
    Arc::new(Learnt {
        attributes: Arc::new(attributes),
        ..learnt.clone()
    })
}
