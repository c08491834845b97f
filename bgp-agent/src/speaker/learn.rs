//! What peers tell becomes paths, or is refused; what a lost peer told is kept for a while.

use std::collections::HashSet;

use super::*;

use crate::config::{PeerKind, Subject};
use crate::rib::{Learnt, Path};
use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop, Nlri, Refresh, Update};

impl Speaker {
    pub(super) fn learn(&mut self, address: IpAddr, update: Update, now: Instant) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        peer.counters.updates_in += 1;
        for what in &update.mended {
            peer.counters.mended += 1;
            tracing::warn!(peer = %address, what, "an UPDATE is not as it has to be");
        }
        if let Some(family) = update.end_of_rib {
            peer.complete.insert(family);
            let id = peer.id;
            self.drop_stale(id, family);
            self.check_restart();
            return;
        }
        let (id, source) = (peer.id, peer.source.clone());
        let (import, limit) = (peer.config.import.clone(), peer.config.max_prefixes);
        for nlri in &update.withdrawn {
            withdraw(&mut self.rib, &mut self.dirty, *nlri, id);
        }
        let shared = Arc::new(update.attributes);
        let loops = self.is_loop(address, &shared);
        for (next_hop, prefixes) in &update.reachable {
            let usable = !loops && self.is_usable(*next_hop);
            let mut learnt = |attributes| {
                self.learnt.intern(Learnt {
                    next_hop: *next_hop,
                    attributes,
                    source: source.clone(),
                })
            };
            let together = learnt(shared.clone());
            for nlri in prefixes {
                let subject = Subject {
                    prefix: &nlri.prefix,
                    attributes: &shared,
                    next_hop: next_hop.address,
                    peer: kind(&source),
                    learnt: true,
                };
                let accepted = if !usable {
                    None
                } else if import.is_open() {
                    Some(together.clone())
                } else {
                    import.apply(&subject).map(Arc::new).map(&mut learnt)
                };
                let Some(learnt) = accepted else {
                    withdraw(&mut self.rib, &mut self.dirty, *nlri, id);
                    continue;
                };
                let path = Path::new(id, nlri.path_id, learnt);
                if self.rib.set(nlri.prefix, path) {
                    self.dirty.push(nlri.prefix);
                }
            }
        }
        if limit.is_some_and(|limit| self.rib.count(id) > limit) {
            tracing::error!(peer = %address, limit, "the peer sends more prefixes than it may");
            self.input(address, Input::Stop(Notification::MAXIMUM_PREFIXES), now);
        }
    }

    /// RFC 4271, section 9.1.2; RFC 4456, section 8.
    fn is_loop(&self, address: IpAddr, attributes: &Attributes) -> bool {
        let Some(peer) = self.peers.get(&address) else {
            return true;
        };
        let allowed = peer.config.own_as_allowed;
        let passed = |asn: u32| attributes.contains_as(asn) > allowed;
        let through_us = !peer.source.internal
            && (passed(self.config.local_as) || peer.config.local_as.is_some_and(passed));
        let ours = attributes.originator_id == Some(self.config.router_id);
        let reflected = attributes.cluster_list.contains(&self.config.cluster_id);
        through_us || ours || reflected
    }

    fn is_usable(&self, next_hop: NextHop) -> bool {
        let address = next_hop.address;
        let is_ours = self.config.own_addresses.contains(&address);
        !is_ours && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
    }

    fn drop_stale(&mut self, peer: PeerId, family: Family) {
        let dropped = self.rib.drop_paths(peer, |prefix, path| {
            path.stale && Family::of(prefix) == family
        });
        self.dirty.extend(dropped);
    }

    /// The peer wants our routes again, or marks the begin and the end of its own
    /// (RFC 7313, section 4).
    pub(super) fn refreshed(&mut self, address: IpAddr, family: Family, kind: Refresh) {
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let id = peer.id;
        let (Some(connection), Some(negotiated)) = (peer.connection, &peer.negotiated) else {
            return;
        };
        let marks = negotiated.enhanced_refresh;
        match kind {
            Refresh::Begin => self
                .rib
                .mark_stale(id, |prefix| Family::of(prefix) == family),
            Refresh::End => self.drop_stale(id, family),
            Refresh::Request => {
                let mark = |kind| Message::RouteRefresh { family, kind };
                if marks {
                    self.send(address, connection, &mark(Refresh::Begin));
                }
                self.tell_everything(address, Some(family));
                if marks {
                    self.send(address, connection, &mark(Refresh::End));
                }
            }
        }
    }

    pub(super) fn end_of_rib(&mut self, address: IpAddr, id: ConnectionId, family: Family) {
        let mark = Message::Update(Box::new(Update::end_of_rib(family)));
        self.send(address, id, &mark);
    }

    /// Stale routes whose time has come go, or are kept for long with a mark (RFC 9494).
    pub(super) fn expire_stale(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut changed = Vec::new();
        for peer in self.peers.values_mut() {
            if is_due(peer.long_until) {
                peer.long_until = None;
                changed.extend(self.rib.drop_paths(peer.id, |_, path| path.stale));
            }
            if !is_due(peer.stale_until) {
                continue;
            }
            peer.stale_until = None;
            let times = match peer.connection {
                // The session is back: what was not told again until now is not there any more.
                Some(_) => BTreeMap::new(),
                None => std::mem::take(&mut peer.long_lived),
            };
            let keeps = |prefix: &IpNetwork, path: &Path| {
                let refused = path.attributes.communities.contains(&community::NO_LLGR);
                times.contains_key(&Family::of(prefix)) && !refused
            };
            changed.extend(self.rib.keep_for_long(peer.id, keeps));
            let longest = times.values().max();
            peer.long_until = longest.map(|seconds| now + Duration::from_secs((*seconds).into()));
        }
        self.dirty.extend(changed);
    }

    /// A restart of ours is over when every peer that is up has told everything.
    fn check_restart(&mut self) {
        if self.restarting_until.is_none() {
            return;
        }
        let is_complete = |peer: &PeerState| {
            peer.negotiated.as_ref().is_some_and(|negotiated| {
                negotiated
                    .families
                    .iter()
                    .all(|family| peer.complete.contains(family))
            })
        };
        if self.peers.values().all(is_complete) {
            self.end_restart();
        }
    }
}

pub(super) fn kind(source: &Source) -> PeerKind {
    match source.internal {
        true => PeerKind::Internal,
        false => PeerKind::External,
    }
}

fn withdraw(rib: &mut Rib, dirty: &mut Vec<IpNetwork>, nlri: Nlri, peer: PeerId) {
    if rib.remove(nlri.prefix, peer, nlri.path_id) {
        dirty.push(nlri.prefix);
    }
}

/// What many paths have in common is kept once, also when it came in different messages.
#[derive(Debug, Default)]
pub(super) struct Interned {
    known: HashSet<Arc<Learnt>>,
    /// With so many it is looked which of them no path has any more.
    look_at: usize,
}

impl Interned {
    /// Fewer are not worth a look.
    const FEW: usize = 1024;

    fn intern(&mut self, learnt: Learnt) -> Arc<Learnt> {
        if let Some(known) = self.known.get(&learnt) {
            return known.clone();
        }
        if self.known.len() >= self.look_at.max(Self::FEW) {
            self.known.retain(|own| Arc::strong_count(own) > 1);
            self.look_at = self.known.len() * 2;
        }
        let learnt = Arc::new(learnt);
        self.known.insert(learnt.clone());
        learnt
    }
}
