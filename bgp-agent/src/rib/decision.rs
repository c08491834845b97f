//! The decision process: which of a prefix's paths is the best, and why.

use std::cmp::Ordering;
use std::net::Ipv4Addr;

use super::{LOCAL, Path};
use crate::wire::attribute::community;

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

impl Path {
    pub(super) fn local_pref(&self) -> u32 {
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

    pub(super) fn is_as_good_as(&self, other: &Self) -> bool {
        self.decide(other, &STEPS[..DECISIVE]).0 == Ordering::Equal
    }
}
