//! Who was told of a prefix.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::PeerId;

const WORD: usize = u64::BITS as usize;

/// Which peers were told of which of a prefix's paths.
#[derive(Debug, Default)]
pub struct Told {
    /// Peers that get one path only, a bit each by their number: the first of them.
    first: u64,
    /// What most prefixes have nothing of.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// The later ones of those that get one path only.
    later: SmallVec<[u64; 2]>,
    /// Peers with ADD-PATH, with our number of the path.
    several: BTreeSet<(PeerId, u32)>,
}

impl Told {
    pub(super) fn is_empty(&self) -> bool {
        self.first == 0 && self.more.is_none()
    }

    fn place(peer: PeerId) -> (usize, u64) {
        let number = peer.0 as usize;
        (number / WORD, 1 << (number % WORD))
    }

    /// Whether a peer that gets one path was told of it.
    pub fn has(&self, peer: PeerId) -> bool {
        let (word, bit) = Self::place(peer);
        let later = || self.more.as_ref()?.later.get(word - 1).copied();
        let bits = if word == 0 { Some(self.first) } else { later() };
        bits.is_some_and(|bits| bits & bit != 0)
    }

    /// Notes whether a peer that gets one path knows of it.
    pub fn set(&mut self, peer: PeerId, knows: bool) {
        let (word, bit) = Self::place(peer);
        let change = |bits: &mut u64| *bits = if knows { *bits | bit } else { *bits & !bit };
        if word == 0 {
            return change(&mut self.first);
        }
        if !knows && !self.has(peer) {
            return;
        }
        let later = &mut self.more.get_or_insert_default().later;
        if later.len() < word {
            later.resize(word, 0);
        }
        change(&mut later[word - 1]);
        self.tidy();
    }

    /// The paths that a peer with ADD-PATH was told of.
    pub fn several(&self, peer: PeerId) -> BTreeSet<u32> {
        let all = self.more.iter();
        let own = all.flat_map(|more| more.several.range((peer, 0)..=(peer, u32::MAX)));
        own.map(|(_, id)| *id).collect()
    }

    /// Notes what a peer with ADD-PATH knows.
    pub fn set_several(&mut self, peer: PeerId, ids: &BTreeSet<u32>) {
        let set = &mut self.more.get_or_insert_default().several;
        set.retain(|(other, _)| *other != peer);
        set.extend(ids.iter().map(|id| (peer, *id)));
        self.tidy();
    }

    fn tidy(&mut self) {
        let is_empty =
            |more: &More| more.several.is_empty() && more.later.iter().all(|word| *word == 0);
        if self.more.as_deref().is_some_and(is_empty) {
            self.more = None;
        }
    }

    pub(super) fn count(&self, peer: PeerId) -> usize {
        usize::from(self.has(peer)) + self.several(peer).len()
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        self.set(peer, false);
        if self.more.is_some() {
            self.set_several(peer, &BTreeSet::new());
        }
    }
}
