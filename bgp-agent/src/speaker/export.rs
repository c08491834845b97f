//! What peers are told.

use super::audience::{Audience, Parcel, Telling, hears_only_external};
use super::learn::kind;
use super::*;
use crate::config::{NextHopMode, Subject};
use crate::rib::Path;
use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop};

impl Speaker {
    /// Everything that an established peer should know, of one family or of all.
    pub(super) fn tell_everything(&mut self, address: IpAddr, family: Option<Family>) {
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let picks = |prefix: &IpNetwork| family.is_none_or(|family| Family::of(prefix) == family);
        let mut prefixes: Vec<IpNetwork> = match hears_only_external(peer) {
            true => self.rib.for_everybody(),
            false => self.rib.prefixes().collect(),
        };
        prefixes.retain(picks);
        let mut audiences = Vec::new();
        Audience::admit(&mut audiences, address, peer);
        for prefix in &prefixes {
            let Some(entry) = self.rib.entry(prefix) else {
                continue;
            };
            for audience in &mut audiences {
                audience.put(&self.config, prefix, entry, Telling::Everything);
            }
        }
        let parcels = audiences.into_iter().flat_map(Audience::close).collect();
        self.post(parcels);
    }

    /// Tells every peer what became of these prefixes.
    pub(super) fn tell_all(&mut self, dirty: &BTreeSet<IpNetwork>, telling: Telling) {
        let mut audiences: Vec<Audience<'_>> = Vec::new();
        for (address, peer) in &self.peers {
            Audience::admit(&mut audiences, *address, peer);
        }
        for prefix in dirty {
            let Some(entry) = self.rib.entry(prefix) else {
                continue;
            };
            // In a mesh nearly everything that is learnt is for nobody else: that is found out
            // once for all peers.
            let for_everybody = entry.concerns_everybody();
            for audience in &mut audiences {
                if for_everybody || !audience.hears_only_external() {
                    audience.put(&self.config, prefix, entry, telling);
                }
            }
            entry.all_told();
            if entry.is_empty() {
                self.rib.tidy(*prefix);
            }
        }
        let parcels = audiences.into_iter().flat_map(Audience::close).collect();
        self.post(parcels);
    }

    fn post(&mut self, parcels: Vec<Parcel>) {
        for parcel in parcels {
            if let Some(peer) = self.peers.get_mut(&parcel.address) {
                peer.counters.messages_out += parcel.messages;
                peer.counters.updates_out += parcel.messages;
            }
            for piece in parcel.pieces {
                self.actions.push(Action::Send(parcel.connection, piece));
            }
        }
    }
}

/// The attributes that the peer's filter lets out; `None`: it keeps the path back.
pub(super) fn filtered(
    config: &Config,
    peer: &PeerState,
    prefix: &IpNetwork,
    path: &Path,
) -> Option<Attributes> {
    let mut given = (*path.attributes).clone();
    forget_metric(peer, path, &mut given);
    let let_out = peer.config.export.apply(&Subject {
        prefix,
        attributes: &given,
        next_hop: path.next_hop.address,
        peer: kind(&peer.source),
        learnt: path.peer != LOCAL,
    })?;
    Some(outgoing(config, peer, path, let_out))
}

pub(super) fn may_export(peer: &PeerState, path: &Path) -> bool {
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

pub(super) fn next_hop(
    config: &Config,
    peer: &PeerState,
    prefix: &IpNetwork,
    path: &Path,
) -> Option<NextHop> {
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

pub(super) fn outgoing(
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
pub(super) fn forget_metric(peer: &PeerState, path: &Path, attributes: &mut Attributes) {
    if !peer.source.internal && path.peer != LOCAL {
        attributes.med = None;
    }
}
