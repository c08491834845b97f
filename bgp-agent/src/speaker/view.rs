//! What people and metrics see of the speaker.

use super::*;

use crate::rib::{Path, Step};
use crate::session::State;

/// What was counted of a peer since it was configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub messages_in: u64,
    pub messages_out: u64,
    pub updates_in: u64,
    pub updates_out: u64,
    /// Attributes that were discarded, or made a route go (RFC 7606).
    pub mended: u64,
    pub flaps: u64,
}

/// What people see of a peer.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    pub address: IpAddr,
    pub config: Peer,
    pub dynamic: bool,
    pub internal: bool,
    pub state: State,
    /// When it came up, or went down.
    pub changed_at: Option<Instant>,
    pub router_id: Option<Ipv4Addr>,
    pub negotiated: Option<Negotiated>,
    /// Routes that are kept of a session that is gone.
    pub keeps_stale: bool,
    pub received: usize,
    pub advertised: usize,
    pub last_end: Option<Reason>,
    pub counters: Counters,
}

/// One path of a prefix, with what decided between it and the best.
#[derive(Debug, Clone)]
pub struct PathView<'a> {
    pub path: &'a Path,
    /// `None` for our own.
    pub peer: Option<IpAddr>,
    pub best: bool,
    /// Shares the load with the best.
    pub used: bool,
    /// Of the best: why it is better than the second; of others: why the best is better.
    pub decided_by: Option<Step>,
}

impl Speaker {
    pub fn status(&self) -> Vec<PeerStatus> {
        let each = self.peers.iter().map(|(address, peer)| PeerStatus {
            address: *address,
            config: peer.config.clone(),
            dynamic: peer.dynamic,
            internal: peer.source.internal,
            state: peer.session.state(),
            changed_at: peer.changed_at,
            router_id: peer.negotiated.as_ref().map(|own| own.peer_id),
            negotiated: peer.negotiated.clone(),
            keeps_stale: peer.stale_until.is_some() || peer.long_until.is_some(),
            received: self.rib.count(peer.id),
            advertised: self.rib.told_count(peer.id),
            last_end: peer.last_end.clone(),
            counters: peer.counters,
        });
        each.collect()
    }

    /// The paths of a prefix, the best first.
    pub fn explain(&self, prefix: &IpNetwork) -> Vec<PathView<'_>> {
        let paths = self.rib.paths(prefix);
        let used = self.rib.multipath(prefix, self.config.multipath.max(1));
        let address = |id: PeerId| {
            let mut peers = self.peers.iter();
            peers.find(|(_, peer)| peer.id == id).map(|own| *own.0)
        };
        let each = paths.iter().enumerate().map(|(index, path)| {
            let other = match index {
                0 => paths.get(1).and_then(|second| path.better_by(second)),
                _ => paths.first().and_then(|best| best.better_by(path)),
            };
            let is_it = |own: &&Path| own.peer == path.peer && own.path_id == path.path_id;
            PathView {
                path,
                peer: address(path.peer),
                best: index == 0 && path.reachable,
                used: used.iter().any(is_it),
                decided_by: other,
            }
        });
        each.collect()
    }

    /// The prefixes that a peer was told of.
    pub fn advertised(&self, address: IpAddr) -> Vec<IpNetwork> {
        let Some(peer) = self.peers.get(&address) else {
            return Vec::new();
        };
        let told = |prefix: &IpNetwork| self.rib.is_told_to(prefix, peer.id);
        self.rib.prefixes().filter(told).collect()
    }

    pub fn is_restarting(&self) -> bool {
        self.restarting_until.is_some()
    }
}
