//! What each peer is told.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{PeerState, Speaker};
use crate::config::Config;
use crate::rib::{LOCAL, Path};
use crate::wire::attribute::community;
use crate::wire::{Attributes, Family, Message, NextHop, Nlri, Update};

/// Attributes by the ones that they were made from, so that prefixes that came together leave
/// together.
type Cache = HashMap<*const Attributes, Option<Arc<Attributes>>>;

impl Speaker {
    /// Everything that an established peer should know.
    pub(super) fn tell_everything(&mut self, address: IpAddr) {
        let prefixes: Vec<IpNetwork> = self.rib.prefixes().copied().collect();
        self.tell(address, prefixes.into_iter());
    }

    /// The same of one family, since the peer asks for it.
    pub(super) fn tell_again(&mut self, address: IpAddr, family: Family) {
        let prefixes: Vec<IpNetwork> = self
            .rib
            .prefixes()
            .filter(|prefix| Family::of(prefix) == family)
            .copied()
            .collect();
        self.tell(address, prefixes.into_iter());
    }

    /// Tells a peer what became of these prefixes.
    pub(super) fn tell(&mut self, address: IpAddr, prefixes: impl Iterator<Item = IpNetwork>) {
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
            if !negotiated.families.contains(&Family::of(&prefix)) {
                continue;
            }
            let exported = self
                .rib
                .best(&prefix)
                .and_then(|path| export(&self.config, peer, &prefix, path, &mut cache));
            told.push((prefix, exported.is_some()));
            if let Some(group) = exported {
                groups.entry(group).or_default().push(Nlri::new(prefix));
            }
        }
        let peer_id = peer.id;
        for (prefix, now) in told {
            let before = self.rib.set_told(prefix, peer_id, now);
            if before && !now {
                withdrawn.push(Nlri::new(prefix));
            }
        }
        if !withdrawn.is_empty() {
            let update = Update {
                withdrawn,
                ..Update::default()
            };
            self.send(address, id, &Message::Update(Box::new(update)));
        }
        for ((attributes, next_hop), prefixes) in groups {
            let attributes = (*attributes).clone();
            let reachable = vec![(next_hop, prefixes)];
            let update = Update {
                attributes,
                reachable,
                ..Update::default()
            };
            self.send(address, id, &Message::Update(Box::new(update)));
        }
    }
}

/// What the peer is told of the best path; `None`: nothing.
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
                Some(Arc::new(outgoing(
                    config,
                    peer,
                    path,
                    (*path.attributes).clone(),
                )))
            })
            .clone()?
    } else {
        let filtered = peer
            .config
            .export
            .apply(prefix, &path.attributes, config.local_as)?;
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
    // Internal routes go to internal peers only by reflection (RFC 4456, section 6).
    let learnt_internally = path.peer != LOCAL && path.source.internal;
    !(internal && learnt_internally) || path.source.client || peer.source.client
}

fn next_hop(config: &Config, peer: &PeerState, prefix: &IpNetwork, path: &Path) -> Option<NextHop> {
    let own = || match Family::of(prefix) {
        Family::Ipv4 => config.next_hop_v4.map(IpAddr::V4),
        Family::Ipv6 => config.next_hop_v6.map(IpAddr::V6),
    };
    let reflected = peer.source.internal && path.peer != LOCAL && path.source.internal;
    let keep =
        reflected || (peer.source.internal && path.peer != LOCAL && !peer.config.next_hop_self);
    if keep {
        Some(path.next_hop)
    } else {
        own().map(NextHop::new)
    }
}

fn outgoing(
    config: &Config,
    peer: &PeerState,
    path: &Path,
    mut attributes: Attributes,
) -> Attributes {
    if peer.source.internal {
        attributes.local_pref = Some(attributes.local_pref.unwrap_or(100));
        if path.peer != LOCAL && path.source.internal {
            let originator = attributes.originator_id.unwrap_or(path.source.router_id);
            attributes.originator_id = Some(originator);
            attributes.cluster_list.insert(0, config.cluster_id);
        }
        return attributes;
    }
    attributes.prepend(config.local_as, 1);
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    if path.peer != LOCAL {
        // A neighbour's metric is not for others (RFC 4271, section 5.1.4).
        attributes.med = None;
    }
    attributes
}
