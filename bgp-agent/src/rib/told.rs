//! Who was told of a prefix.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::PeerId;

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
    pub(super) fn is_empty(&self) -> bool {
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

    pub(super) fn count(&self, peer: PeerId) -> usize {
        usize::from(self.has(peer)) + self.several(peer).len()
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        self.set(peer, false);
        if self.several.is_some() {
            self.set_several(peer, &BTreeSet::new());
        }
    }
}
