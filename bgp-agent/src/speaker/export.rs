//! What each peer is told.

use std::collections::HashMap;

use super::*;

use super::learn::kind;
use crate::config::{NextHopMode, Subject};
use crate::rib::{Entry, Learnt, Path};
use crate::wire::attribute::community;
use crate::wire::{Attributes, NextHop, Nlri, Update};

/// What one peer is told in one round.
struct Outbox<'a> {
    address: IpAddr,
    id: ConnectionId,
    peer: &'a PeerState,
    negotiated: &'a Negotiated,
    withdrawn: Vec<Nlri>,
    groups: Vec<Group>,
    by_content: HashMap<(Arc<Attributes>, NextHop), usize>,
    /// The groups of paths that came together, so that their prefixes leave together; `None`:
    /// the peer is not told of them.
    by_origin: HashMap<*const Learnt, Option<usize>>,
    /// The last of them: prefixes that came together mostly follow one another.
    last: Option<(*const Learnt, Option<usize>)>,
}

/// Prefixes of one UPDATE.
struct Group {
    attributes: Arc<Attributes>,
    next_hop: NextHop,
    prefixes: Vec<Nlri>,
}

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
        self.tell(&prefixes, |own| own == address);
    }

    /// Tells every peer what became of these prefixes.
    pub(super) fn tell_all(&mut self, dirty: &BTreeSet<IpNetwork>) {
        let all: Vec<IpNetwork> = dirty.iter().copied().collect();
        self.tell(&all, |_| true);
    }

    /// Tells the peers that the filter picks what became of these prefixes.
    fn tell(&mut self, prefixes: &[IpNetwork], picks: impl Fn(IpAddr) -> bool) {
        let picked = self.peers.iter().filter(|(address, _)| picks(**address));
        let mut outboxes: Vec<Outbox<'_>> = picked
            .filter_map(|(address, peer)| Outbox::of(*address, peer))
            .collect();
        for prefix in prefixes {
            // In a mesh nearly everything that is learnt is for nobody else: that is found out
            // once for all peers.
            let for_everybody = self.rib.is_for_everybody(prefix) || self.rib.is_told(prefix);
            let Some(entry) = self.rib.entry(prefix) else {
                continue;
            };
            for outbox in &mut outboxes {
                if for_everybody || !hears_only_external(outbox.peer) {
                    outbox.put(&self.config, prefix, entry);
                }
            }
            self.rib.tidy(*prefix);
        }
        let filled: Vec<_> = outboxes.into_iter().map(Outbox::close).collect();
        for (address, id, updates) in filled {
            if let Some(peer) = self.peers.get_mut(&address) {
                peer.counters.updates_out += updates.len() as u64;
            }
            for update in updates {
                self.send(address, id, &Message::Update(Box::new(update)));
            }
        }
    }
}

impl<'a> Outbox<'a> {
    /// Of a peer whose session is up.
    fn of(address: IpAddr, peer: &'a PeerState) -> Option<Self> {
        Some(Self {
            address,
            id: peer.connection?,
            peer,
            negotiated: peer.negotiated.as_ref()?,
            withdrawn: Vec::new(),
            groups: Vec::new(),
            by_content: HashMap::new(),
            by_origin: HashMap::new(),
            last: None,
        })
    }

    fn put(&mut self, config: &Config, prefix: &IpNetwork, entry: &mut Entry) {
        let family = Family::of(prefix);
        if !self.negotiated.families.contains(&family) {
            return;
        }
        if self.negotiated.context.add_path_send.contains(&family) {
            return self.put_several(config, prefix, entry);
        }
        let best = entry.paths().first().filter(|path| path.reachable);
        let group = best.and_then(|path| self.group(config, prefix, path));
        let nlri = Nlri::new(*prefix);
        match group {
            Some(group) => self.groups[group].prefixes.push(nlri),
            None if entry.told().has(self.peer.id) => self.withdrawn.push(nlri),
            None => return,
        }
        entry.told().set(self.peer.id, group.is_some());
    }

    /// All paths, each with our number (RFC 7911).
    fn put_several(&mut self, config: &Config, prefix: &IpNetwork, entry: &mut Entry) {
        let mut now = BTreeSet::new();
        for path in entry.paths().iter().filter(|path| path.reachable) {
            let Some(group) = self.group(config, prefix, path) else {
                continue;
            };
            let path_id = path.local_id;
            now.insert(path_id);
            let prefix = *prefix;
            self.groups[group].prefixes.push(Nlri { path_id, prefix });
        }
        let before = entry.told().several(self.peer.id);
        for path_id in before.difference(&now) {
            self.withdrawn.push(Nlri {
                path_id: *path_id,
                prefix: *prefix,
            });
        }
        if before != now {
            entry.told().set_several(self.peer.id, &now);
        }
    }

    /// The group that the path's prefix leaves in; `None`: the peer is not told of it.
    fn group(&mut self, config: &Config, prefix: &IpNetwork, path: &Path) -> Option<usize> {
        if path.peer == self.peer.id {
            return None;
        }
        let next_hop = |path: &Path| next_hop(config, self.peer, prefix, path);
        if !self.peer.config.export.is_open() {
            let next_hop = next_hop(path).filter(|_| may_export(self.peer, path))?;
            let attributes = filtered(config, self.peer, prefix, path)?;
            return Some(self.group_of(attributes, next_hop));
        }
        let origin = Arc::as_ptr(&path.learnt);
        if let Some((last, group)) = self.last
            && last == origin
        {
            return group;
        }
        let group = match self.by_origin.get(&origin) {
            Some(group) => *group,
            None => {
                let next_hop = next_hop(path).filter(|_| may_export(self.peer, path));
                let group = next_hop.map(|next_hop| {
                    let mut given = (*path.attributes).clone();
                    forget_metric(self.peer, path, &mut given);
                    self.group_of(outgoing(config, self.peer, path, given), next_hop)
                });
                self.by_origin.insert(origin, group);
                group
            }
        };
        self.last = Some((origin, group));
        group
    }

    /// What says the same leaves together, wherever it came from.
    fn group_of(&mut self, attributes: Attributes, next_hop: NextHop) -> usize {
        let key = (Arc::new(attributes), next_hop);
        if let Some(group) = self.by_content.get(&key) {
            return *group;
        }
        self.groups.push(Group {
            attributes: key.0.clone(),
            next_hop,
            prefixes: Vec::new(),
        });
        let group = self.groups.len() - 1;
        self.by_content.insert(key, group);
        group
    }

    /// The UPDATEs, withdrawals first.
    fn close(self) -> (IpAddr, ConnectionId, Vec<Update>) {
        drop(self.by_content);
        let withdrawals = (!self.withdrawn.is_empty()).then(|| Update {
            withdrawn: self.withdrawn,
            ..Update::default()
        });
        let announcements = self.groups.into_iter().map(|group| Update {
            attributes: Arc::unwrap_or_clone(group.attributes),
            reachable: vec![(group.next_hop, group.prefixes)],
            ..Update::default()
        });
        let updates = withdrawals.into_iter().chain(announcements).collect();
        (self.address, self.id, updates)
    }
}

/// Internal routes are not for an internal peer that is not served by reflection.
fn hears_only_external(peer: &PeerState) -> bool {
    peer.source.internal && !peer.source.client
}

/// The attributes that the peer's filter lets out; `None`: it keeps the path back.
fn filtered(
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
