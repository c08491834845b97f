//! The next hops of all paths, and whether the kernel knows a way to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{LOCAL, Path};

/// What is known of a next hop.
#[derive(Debug, Clone, Copy)]
struct Hop {
    paths: usize,
    reachable: bool,
}

/// See the module's documentation. Those of our own routes are not among them.
#[derive(Debug, Default)]
pub(super) struct Hops {
    known: BTreeMap<IpAddr, Hop>,
    /// Those that nobody has looked at yet.
    new: BTreeSet<IpAddr>,
}

impl Hops {
    pub(super) fn is_reachable(&self, path: &Path) -> bool {
        let known = || self.known.get(&path.next_hop.address);
        path.peer == LOCAL || known().is_none_or(|hop| hop.reachable)
    }

    /// There is one more path through its next hop.
    pub(super) fn note(&mut self, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        let address = path.next_hop.address;
        let hop = self.known.entry(address).or_insert_with(|| {
            self.new.insert(address);
            Hop {
                paths: 0,
                reachable: true,
            }
        });
        hop.paths += 1;
    }

    /// There is one path less.
    pub(super) fn forget(&mut self, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        let address = path.next_hop.address;
        if let Some(hop) = self.known.get_mut(&address) {
            hop.paths = hop.paths.saturating_sub(1);
            if hop.paths == 0 {
                self.known.remove(&address);
                self.new.remove(&address);
            }
        }
    }

    pub(super) fn take_new(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.new)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        let all = self.known.iter();
        all.map(|(address, hop)| (*address, hop.reachable))
    }

    /// Whether that is news about one that paths have.
    pub(super) fn set_reachable(&mut self, address: IpAddr, reachable: bool) -> bool {
        let hop = self.known.get_mut(&address);
        hop.is_some_and(|hop| std::mem::replace(&mut hop.reachable, reachable) != reachable)
    }
}
