//! What each peer is told.

use std::collections::HashMap;

use super::*;

use super::learn::kind;
use crate::config::{NextHopMode, Subject};
use crate::rib::Path;
use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop, Nlri, Update};

/// Attributes by the ones that they were made from, so that prefixes that came together leave
/// together.
type Cache = HashMap<*const Attributes, Option<Arc<Attributes>>>;

impl Speaker {
    /// Everything that an established peer should know, of one family or of all.
    pub(super) fn tell_everything(&mut self, address: IpAddr, family: Option<Family>) {
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let picks = |prefix: &&IpNetwork| family.is_none_or(|family| Family::of(prefix) == family);
        let prefixes: Vec<IpNetwork> = match hears_only_external(peer) {
            true => self.rib.for_everybody().filter(picks).copied().collect(),
            false => self.rib.prefixes().filter(picks).copied().collect(),
        };
        self.tell(address, &prefixes);
    }

    /// Tells every peer what became of these prefixes.
    pub(super) fn tell_all(&mut self, dirty: &BTreeSet<IpNetwork>) {
        let all: Vec<IpNetwork> = dirty.iter().copied().collect();
        // In a mesh nearly everything that is learnt is for nobody else: that is found out once
        // for all peers.
        let for_everybody: Vec<IpNetwork> = all
            .iter()
            .filter(|prefix| self.rib.is_for_everybody(prefix) || self.rib.is_told(prefix))
            .copied()
            .collect();
        let peers: Vec<(IpAddr, bool)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.connection.is_some())
            .map(|(address, peer)| (*address, hears_only_external(peer)))
            .collect();
        for (address, only_external) in peers {
            self.tell(address, if only_external { &for_everybody } else { &all });
        }
    }

    /// Tells a peer what became of these prefixes.
    fn tell(&mut self, address: IpAddr, prefixes: &[IpNetwork]) {
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let (Some(id), Some(negotiated)) = (peer.connection, &peer.negotiated) else {
            return;
        };
        let mut cache = Cache::new();
        let mut withdrawn = Vec::new();
        let mut groups: BTreeMap<(Arc<Attributes>, NextHop), Vec<Nlri>> = BTreeMap::new();
        let mut told = Vec::new();
        for prefix in prefixes {
            let family = Family::of(prefix);
            if !negotiated.families.contains(&family) {
                continue;
            }
            let several = negotiated.context.add_path_send.contains(&family);
            let paths = match several {
                true => self.rib.paths(prefix),
                false => self.rib.paths(prefix).get(..1).unwrap_or_default(),
            };
            let mut now = BTreeSet::new();
            for path in paths.iter().filter(|path| path.reachable) {
                let Some(group) = export(&self.config, peer, prefix, path, &mut cache) else {
                    continue;
                };
                let path_id = if several { path.local_id } else { 0 };
                now.insert(path_id);
                let prefix = *prefix;
                groups
                    .entry(group)
                    .or_default()
                    .push(Nlri { path_id, prefix });
            }
            let before = self.rib.told(prefix, peer.id);
            for path_id in before.difference(&now) {
                withdrawn.push(Nlri {
                    path_id: *path_id,
                    prefix: *prefix,
                });
            }
            if before != now {
                told.push((*prefix, now));
            }
        }
        let peer_id = peer.id;
        for (prefix, now) in told {
            self.rib.set_told(prefix, peer_id, &now);
        }
        self.send_updates(address, id, withdrawn, groups);
    }

    fn send_updates(
        &mut self,
        address: IpAddr,
        id: ConnectionId,
        withdrawn: Vec<Nlri>,
        groups: BTreeMap<(Arc<Attributes>, NextHop), Vec<Nlri>>,
    ) {
        let mut updates = Vec::new();
        if !withdrawn.is_empty() {
            updates.push(Update {
                withdrawn,
                ..Update::default()
            });
        }
        for ((attributes, next_hop), prefixes) in groups {
            updates.push(Update {
                attributes: Arc::unwrap_or_clone(attributes),
                reachable: vec![(next_hop, prefixes)],
                ..Update::default()
            });
        }
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.counters.updates_out += updates.len() as u64;
        }
        for update in updates {
            self.send(address, id, &Message::Update(Box::new(update)));
        }
    }
}

/// Internal routes are not for an internal peer that is not served by reflection.
fn hears_only_external(peer: &PeerState) -> bool {
    peer.source.internal && !peer.source.client
}

/// What the peer is told of a path; `None`: nothing.
fn export(
    config: &Config,
    peer: &PeerState,
    prefix: &IpNetwork,
    path: &Path,
    cache: &mut Cache,
) -> Option<(Arc<Attributes>, NextHop)> {
    if path.peer == peer.id || !may_export(peer, path) {
        return None;
    }
    let next_hop = next_hop(config, peer, prefix, path)?;
    let attributes = if peer.config.export.is_open() {
        let key = Arc::as_ptr(&path.attributes);
        cache
            .entry(key)
            .or_insert_with(|| {
                let mut given = (*path.attributes).clone();
                forget_metric(peer, path, &mut given);
                Some(Arc::new(outgoing(config, peer, path, given)))
            })
            .clone()?
    } else {
        let mut given = (*path.attributes).clone();
        forget_metric(peer, path, &mut given);
        let filtered = peer.config.export.apply(&Subject {
            prefix,
            attributes: &given,
            next_hop: path.next_hop.address,
            peer: kind(&peer.source),
            learnt: path.peer != LOCAL,
        })?;
        Arc::new(outgoing(config, peer, path, filtered))
    };
    Some((attributes, next_hop))
}

fn may_export(peer: &PeerState, path: &Path) -> bool {
    let internal = peer.source.internal;
    let communities = &path.attributes.communities;
    if communities.contains(&community::NO_ADVERTISE) {
        return false;
    }
    let confined = [community::NO_EXPORT, community::NO_EXPORT_SUBCONFED];
    if !internal && communities.iter().any(|own| confined.contains(own)) {
        return false;
    }
    // Who does not know what the mark means would take the path for a good one
    // (RFC 9494, section 4.3).
    let knows_long = |own: &Negotiated| own.knows_long_lived;
    if path.is_long_stale() && !peer.negotiated.as_ref().is_some_and(knows_long) {
        return false;
    }
    // Internal routes go to internal peers only by reflection (RFC 4456, section 6).
    let learnt_internally = path.peer != LOCAL && path.source.internal;
    !(internal && learnt_internally) || path.source.client || peer.source.client
}

fn next_hop(config: &Config, peer: &PeerState, prefix: &IpNetwork, path: &Path) -> Option<NextHop> {
    // An IPv6 next hop of an IPv4 prefix is for those who said that they know it (RFC 8950).
    let extended = peer
        .negotiated
        .as_ref()
        .is_some_and(|own| own.extended_next_hop);
    let v4 = config.next_hop_v4.map(IpAddr::V4);
    let v6 = config.next_hop_v6.map(IpAddr::V6);
    let own = match Family::of(prefix) {
        Family::Ipv4 => v4.or(v6.filter(|_| extended)),
        Family::Ipv6 => v6,
    };
    let learnt = path.peer != LOCAL;
    let reflected = peer.source.internal && learnt && path.source.internal;
    let keep = match peer.config.next_hop {
        NextHopMode::Auto => reflected,
        NextHopMode::Own => false,
        NextHopMode::Keep => learnt,
    };
    if !keep {
        return own.map(NextHop::new);
    }
    let foreign = prefix.is_ipv4() && path.next_hop.address.is_ipv6();
    (!foreign || extended).then_some(path.next_hop)
}

fn outgoing(
    config: &Config,
    peer: &PeerState,
    path: &Path,
    mut attributes: Attributes,
) -> Attributes {
    let shutdown = community::GRACEFUL_SHUTDOWN;
    if config.graceful_shutdown && !attributes.communities.contains(&shutdown) {
        attributes.communities.push(shutdown);
    }
    if peer.source.internal {
        let preferred = attributes.local_pref.unwrap_or(100);
        // RFC 8326, section 4.2: inside an AS the preference says it as well.
        attributes.local_pref = Some(if config.graceful_shutdown {
            0
        } else {
            preferred
        });
        if path.peer != LOCAL && path.source.internal {
            let originator = attributes.originator_id.unwrap_or(path.source.router_id);
            attributes.originator_id = Some(originator);
            attributes.cluster_list.insert(0, config.cluster_id);
        }
        return attributes;
    }
    attributes.prepend(peer.config.local_as.unwrap_or(config.local_as), 1);
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    attributes
}

/// A neighbour's metric is not for others (RFC 4271, section 5.1.4); one that our filter sets is.
fn forget_metric(peer: &PeerState, path: &Path, attributes: &mut Attributes) {
    if !peer.source.internal && path.peer != LOCAL {
        attributes.med = None;
    }
}
