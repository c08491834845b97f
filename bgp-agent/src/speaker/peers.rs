//! Peers come, change and go with the configuration.

use super::*;

use crate::config::{Community, Origination};
use crate::rib::{Learnt, Path};
use crate::wire::attribute::Origin;
use crate::wire::{Attributes, NextHop, Refresh};

impl Speaker {
    /// Takes a new configuration; sessions whose peers did not change go on.
    pub fn configure(&mut self, config: Config, now: Instant) {
        let old = std::mem::replace(&mut self.config, config);
        self.generation += 1;
        let identity = |c: &Config| (c.local_as, c.router_id, c.cluster_id, c.restart_time);
        let same_speaker = identity(&old) == identity(&self.config);
        let gone: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(address, peer)| {
                let wanted = self.wanted(**address, peer);
                !same_speaker || !wanted.is_some_and(|new| peer.config.has_same_session(new))
            })
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.input(address, Input::Stop(Notification::PEER_DECONFIGURED), now);
            if let Some(peer) = self.peers.remove(&address) {
                self.forget(&peer);
            }
        }
        self.change_policies(now);
        let new: Vec<(IpAddr, Peer)> = self
            .config
            .peers
            .iter()
            .filter(|(address, _)| !self.peers.contains_key(*address))
            .map(|(address, peer)| (*address, peer.clone()))
            .collect();
        for (address, peer) in new {
            self.add_peer(address, peer, false);
            self.input(address, Input::Start, now);
        }
        self.originate(&old);
        let told = |c: &Config| (c.graceful_shutdown, c.next_hop_v4, c.next_hop_v6);
        self.retell |= told(&old) != told(&self.config);
        if self.retell
            || old.not_for_kernel != self.config.not_for_kernel
            || old.multipath != self.config.multipath
        {
            self.dirty.extend(self.rib.prefixes());
        }
    }

    /// What the configuration says about a peer that is there.
    fn wanted(&self, address: IpAddr, peer: &PeerState) -> Option<&Peer> {
        let listed = self.config.peers.get(&address);
        let dynamic = || {
            let found = self.config.dynamic_peer(address)?;
            peer.dynamic.then_some(&found.1.peer)
        };
        listed.or_else(dynamic)
    }

    /// Peers of which only the treatment of routes changed: they are asked for theirs again, and
    /// told ours again.
    fn change_policies(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (address, peer) in &self.peers {
            let Some(wanted) = self.wanted(*address, peer) else {
                continue;
            };
            if *wanted != peer.config {
                changed.push((*address, wanted.clone()));
            }
        }
        for (address, wanted) in changed {
            let Some(peer) = self.peers.get_mut(&address) else {
                continue;
            };
            let old = std::mem::replace(&mut peer.config, wanted);
            let asks = old.import != peer.config.import;
            let (connection, negotiated) = (peer.connection, peer.negotiated.clone());
            let (Some(id), Some(negotiated)) = (connection, negotiated) else {
                continue;
            };
            if asks && !negotiated.route_refresh {
                self.input(
                    address,
                    Input::Stop(Notification::ADMINISTRATIVE_RESET),
                    now,
                );
                self.input(address, Input::Start, now);
                continue;
            }
            for family in negotiated.families.iter().filter(|_| asks) {
                let kind = Refresh::Request;
                let family = *family;
                self.send(address, id, &Message::RouteRefresh { family, kind });
            }
            self.tell_everything(address, None);
        }
    }

    fn add_peer(&mut self, address: IpAddr, config: Peer, dynamic: bool) {
        let session = self
            .config
            .session(&config, self.restarting_until.is_some());
        let source = Source {
            internal: session.is_internal(),
            client: config.client,
            router_id: Ipv4Addr::UNSPECIFIED,
            address,
        };
        let id = self.free_number();
        self.peers.insert(
            address,
            PeerState {
                id,
                config,
                dynamic,
                session: Session::new(session),
                source: Arc::new(source),
                negotiated: None,
                connection: None,
                complete: BTreeSet::new(),
                stale_until: None,
                long_lived: BTreeMap::new(),
                long_until: None,
                changed_at: None,
                last_end: None,
                counters: Counters::default(),
            },
        );
    }

    /// The lowest number that no peer has: what is noted of peers by number stays small.
    fn free_number(&self) -> PeerId {
        let used: BTreeSet<PeerId> = self.peers.values().map(|peer| peer.id).collect();
        let mut all = (LOCAL.0 + 1..=u32::MAX).map(PeerId);
        // There are fewer peers than numbers.
        all.find(|id| !used.contains(id)).unwrap_or(LOCAL)
    }

    fn forget(&mut self, peer: &PeerState) {
        self.dirty.extend(self.rib.drop_paths(peer.id, |_, _| true));
        self.rib.forget_told(peer.id);
    }

    /// Whether connections from this address are answered.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.peers.contains_key(&address) || self.dynamic_place(address).is_some()
    }

    /// The settings of a peer with this address, listed or not.
    pub fn peer_config(&self, address: IpAddr) -> Option<&Peer> {
        match self.peers.get(&address) {
            Some(peer) => Some(&peer.config),
            None => self.dynamic_place(address),
        }
    }

    /// The settings for a new peer of a range, if there is room for one more.
    fn dynamic_place(&self, address: IpAddr) -> Option<&Peer> {
        let (range, settings) = self.config.dynamic_peer(address)?;
        let there = self
            .peers
            .iter()
            .filter(|(other, peer)| peer.dynamic && range.contains(**other))
            .count();
        (there < settings.most).then_some(&settings.peer)
    }

    pub(super) fn admit_dynamic(&mut self, address: IpAddr, now: Instant) {
        if self.peers.contains_key(&address) {
            return;
        }
        if let Some(peer) = self.dynamic_place(address) {
            let passive = true;
            let peer = Peer {
                passive,
                ..peer.clone()
            };
            self.add_peer(address, peer, true);
            self.input(address, Input::Start, now);
        }
    }

    /// Dynamic peers are there as long as their session, or what is kept of it.
    pub(super) fn forget_gone_dynamic(&mut self) {
        let gone = |peer: &PeerState| {
            peer.dynamic
                && peer.session.is_quiet()
                && peer.stale_until.is_none()
                && peer.long_until.is_none()
        };
        let gone: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(_, peer)| gone(peer))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            if let Some(peer) = self.peers.remove(&address) {
                self.forget(&peer);
            }
        }
    }

    fn originate(&mut self, old: &Config) {
        for prefix in old.originate.keys() {
            if !self.config.originate.contains_key(prefix) && self.rib.remove(*prefix, LOCAL, 0) {
                self.dirty.push(*prefix);
            }
        }
        let source = Arc::new(Source {
            internal: true,
            client: false,
            router_id: self.config.router_id,
            address: IpAddr::V4(self.config.router_id),
        });
        for (prefix, origination) in &self.config.originate {
            let own = match Family::of(prefix) {
                Family::Ipv4 => self.config.next_hop_v4.map(IpAddr::V4),
                Family::Ipv6 => self.config.next_hop_v6.map(IpAddr::V6),
            };
            let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let learnt = Learnt {
                next_hop: NextHop::new(own.unwrap_or(unspecified)),
                attributes: Arc::new(own_attributes(origination)),
                source: source.clone(),
            };
            let path = Path::new(LOCAL, 0, Arc::new(learnt));
            let blackhole = |config: &Config| config.originate.get(prefix).map(|own| own.blackhole);
            let other_route = blackhole(old) != Some(origination.blackhole);
            if self.rib.set(*prefix, path) || other_route {
                self.dirty.push(*prefix);
            }
        }
    }
}

fn own_attributes(origination: &Origination) -> Attributes {
    let mut attributes = Attributes {
        origin: Origin::Igp,
        ..Attributes::default()
    };
    for own in &origination.communities {
        match own {
            Community::Standard(value) => attributes.communities.push(*value),
            Community::Large(value) => attributes.large_communities.push(*value),
        }
    }
    attributes
}
