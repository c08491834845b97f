//! All sessions and the routes between them. Pure: inputs in, actions out; the driver has the
//! sockets and the clock.

mod export;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ipnetwork::IpNetwork;

use crate::config::{Config, Peer};
use crate::rib::{LOCAL, Path, PeerId, Rib, Source};
use crate::session::{ConnectionId, Input, Negotiated, Output, Reason, Session, State};
use crate::wire::attribute::Origin;
use crate::wire::{
    Attributes, Context, Family, Message, NextHop, Nlri, Notification, Raw, Refresh, Update,
};

/// How long after the start routes of a previous life are kept for peers that have not told
/// everything yet.
const DEFERRAL: Duration = Duration::from_secs(60);

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Connect(IpAddr, u16),
    Send(ConnectionId, Bytes),
    /// After what was sent has gone out.
    Close(ConnectionId),
    /// The kernel's routes for these prefixes are to be looked at again.
    Routes(BTreeSet<IpNetwork>),
}

/// One route of the kernel that the speaker wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarding {
    Via(Vec<IpAddr>),
    Blackhole,
}

struct PeerState {
    id: PeerId,
    config: Peer,
    session: Session,
    source: Arc<Source>,
    negotiated: Option<Negotiated>,
    connection: Option<ConnectionId>,
    /// Families of which the peer has told everything.
    complete: BTreeSet<Family>,
    /// When the stale routes of a lost session are dropped.
    stale_until: Option<Instant>,
    established_at: Option<Instant>,
    last_end: Option<Reason>,
    flaps: u64,
}

/// What people see of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub address: IpAddr,
    pub asn: u32,
    pub state: State,
    pub since: Option<Instant>,
    pub received: usize,
    pub advertised: usize,
    pub last_end: Option<Reason>,
    pub flaps: u64,
}

/// See the module's documentation.
pub struct Speaker {
    config: Config,
    rib: Rib,
    peers: BTreeMap<IpAddr, PeerState>,
    connections: BTreeMap<ConnectionId, IpAddr>,
    dirty: BTreeSet<IpNetwork>,
    next_peer: u32,
    restarting_until: Option<Instant>,
    actions: Vec<Action>,
}

impl Speaker {
    /// `restarting`: routes of a previous life of this process are in the kernel.
    pub fn new(config: Config, restarting: bool, now: Instant) -> Self {
        let empty = Config {
            peers: BTreeMap::new(),
            originate: BTreeMap::new(),
            ..config.clone()
        };
        let mut speaker = Self {
            config: empty,
            rib: Rib::default(),
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next_peer: 1,
            restarting_until: restarting.then(|| now + DEFERRAL),
            actions: Vec::new(),
        };
        speaker.configure(config, now);
        speaker
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes a new configuration; sessions whose peers did not change go on.
    pub fn configure(&mut self, config: Config, now: Instant) {
        let old = std::mem::replace(&mut self.config, config);
        let identity = |c: &Config| (c.local_as, c.router_id, c.cluster_id, c.restart_time);
        let same_speaker = identity(&old) == identity(&self.config);
        let gone: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(address, peer)| {
                !same_speaker || self.config.peers.get(*address) != Some(&peer.config)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.input(address, Input::Stop(Notification::PEER_DECONFIGURED), now);
            if let Some(peer) = self.peers.remove(&address) {
                self.forget(&peer);
            }
        }
        let new: Vec<(IpAddr, Peer)> = self
            .config
            .peers
            .iter()
            .filter(|(address, _)| !self.peers.contains_key(*address))
            .map(|(address, peer)| (*address, peer.clone()))
            .collect();
        for (address, peer) in new {
            self.add_peer(address, peer);
            self.input(address, Input::Start, now);
        }
        self.originate(&old);
    }

    fn add_peer(&mut self, address: IpAddr, config: Peer) {
        let session = self
            .config
            .session(&config, self.restarting_until.is_some());
        let source = Source {
            internal: session.is_internal(),
            client: config.client,
            router_id: Ipv4Addr::UNSPECIFIED,
            address,
        };
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        self.peers.insert(
            address,
            PeerState {
                id,
                config,
                session: Session::new(session),
                source: Arc::new(source),
                negotiated: None,
                connection: None,
                complete: BTreeSet::new(),
                stale_until: None,
                established_at: None,
                last_end: None,
                flaps: 0,
            },
        );
    }

    fn forget(&mut self, peer: &PeerState) {
        self.dirty.extend(self.rib.drop_paths(peer.id, |_, _| true));
        self.rib.forget_told(peer.id);
    }

    fn originate(&mut self, old: &Config) {
        let changed_next_hop = (old.next_hop_v4, old.next_hop_v6)
            != (self.config.next_hop_v4, self.config.next_hop_v6);
        for prefix in old.originate.keys() {
            if !self.config.originate.contains_key(prefix) && self.rib.remove(*prefix, LOCAL, 0) {
                self.dirty.insert(*prefix);
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
            let path = Path {
                peer: LOCAL,
                path_id: 0,
                next_hop: NextHop::new(own.unwrap_or(unspecified)),
                attributes: Arc::new(Attributes {
                    origin: Origin::Igp,
                    communities: origination.communities.clone(),
                    ..Attributes::default()
                }),
                source: source.clone(),
                stale: false,
            };
            if self.rib.set(*prefix, path) || changed_next_hop {
                self.dirty.insert(*prefix);
            }
        }
    }

    /// Whether connections from this address are answered.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.peers.contains_key(&address)
    }

    /// A connection came about; its number is the driver's.
    pub fn connected(
        &mut self,
        address: IpAddr,
        id: ConnectionId,
        side: crate::session::Side,
        now: Instant,
    ) {
        self.connections.insert(id, address);
        self.input(address, Input::Connected(id, side), now);
    }

    pub fn connect_failed(&mut self, address: IpAddr, now: Instant) {
        self.input(address, Input::ConnectFailed, now);
    }

    /// Messages as the framer cut them, or the fault that ended the reading.
    pub fn received(
        &mut self,
        id: ConnectionId,
        message: Result<Raw, crate::wire::Fault>,
        now: Instant,
    ) {
        let Some(address) = self.connections.get(&id).copied() else {
            return;
        };
        let Some(peer) = self.peers.get(&address) else {
            return;
        };
        let decoded = message.and_then(|raw| raw.decode(&peer.session.context(id)));
        let input = match decoded {
            Ok(message) => Input::Received(id, message),
            Err(fault) => Input::Faulty(id, fault),
        };
        self.input(address, input, now);
    }

    pub fn closed(&mut self, id: ConnectionId, now: Instant) {
        if let Some(address) = self.connections.remove(&id) {
            self.input(address, Input::Closed(id), now);
        }
    }

    /// BFD or somebody else says that the peer is gone.
    pub fn peer_lost(&mut self, address: IpAddr, now: Instant) {
        if let Some(id) = self.peers.get(&address).and_then(|peer| peer.connection) {
            self.input(address, Input::Closed(id), now);
        }
    }

    /// Ends all sessions. Peers that agreed to a graceful restart keep our routes.
    pub fn stop(&mut self, notification: &Notification, now: Instant) {
        for address in self.peers.keys().copied().collect::<Vec<_>>() {
            self.input(address, Input::Stop(notification.clone()), now);
        }
    }

    /// When [`Speaker::tick`] is wanted.
    pub fn timeout(&self) -> Option<Instant> {
        let of_peers = self.peers.values().flat_map(|peer| {
            [peer.session.timeout(), peer.stale_until]
                .into_iter()
                .flatten()
        });
        of_peers.chain(self.restarting_until).min()
    }

    pub fn tick(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for address in self.peers.keys().copied().collect::<Vec<_>>() {
            if self
                .peers
                .get(&address)
                .is_some_and(|peer| is_due(peer.session.timeout()))
            {
                self.input(address, Input::Timeout, now);
            }
            let stale = self
                .peers
                .get_mut(&address)
                .filter(|peer| is_due(peer.stale_until));
            if let Some(peer) = stale {
                peer.stale_until = None;
                let id = peer.id;
                self.dirty
                    .extend(self.rib.drop_paths(id, |_, path| path.stale));
            }
        }
        if is_due(self.restarting_until) {
            self.end_restart();
        }
    }

    /// From now on the kernel's routes are only ours of this life.
    fn end_restart(&mut self) {
        self.restarting_until = None;
        self.dirty
            .extend(self.rib.prefixes().copied().collect::<Vec<_>>());
        self.actions.push(Action::Routes(BTreeSet::new()));
    }

    /// Whether everything that a previous life left in the kernel may go if nobody wants it.
    pub fn may_sweep(&self) -> bool {
        self.restarting_until.is_none()
    }

    fn input(&mut self, address: IpAddr, input: Input, now: Instant) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        for output in peer.session.process(input, now) {
            self.output(address, output, now);
        }
    }

    fn output(&mut self, address: IpAddr, output: Output, now: Instant) {
        match output {
            Output::Connect => {
                let port = self
                    .peers
                    .get(&address)
                    .map_or(crate::config::PORT, |p| p.config.port);
                self.actions.push(Action::Connect(address, port));
            }
            Output::Send(id, message) => self.send(address, id, &message),
            Output::Close(id) => {
                self.connections.remove(&id);
                self.actions.push(Action::Close(id));
            }
            Output::Established(id, negotiated) => self.established(address, id, *negotiated, now),
            Output::Routes(update) => self.learn(address, *update, now),
            Output::Refresh(family, Refresh::Request) => self.tell_again(address, family),
            Output::Refresh(..) => {}
            Output::Down(reason) => self.down(address, reason, now),
        }
    }

    fn send(&mut self, address: IpAddr, id: ConnectionId, message: &Message) {
        let context = match self.peers.get(&address) {
            Some(peer) => peer.session.context(id),
            None => Context::default(),
        };
        let mut bytes = BytesMut::new();
        message.encode(&context, &mut bytes);
        self.actions.push(Action::Send(id, bytes.freeze()));
    }

    fn established(
        &mut self,
        address: IpAddr,
        id: ConnectionId,
        negotiated: Negotiated,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        peer.source = Arc::new(Source {
            router_id: negotiated.peer_id,
            ..(*peer.source).clone()
        });
        peer.complete.clear();
        peer.connection = Some(id);
        peer.established_at = Some(now);
        // Families whose forwarding the peer did not keep are not waited for (RFC 4724, 4.2).
        let kept: Vec<Family> = negotiated
            .restart
            .iter()
            .flat_map(|(_, families)| families.iter().filter(|own| own.forwarding))
            .map(|own| own.family)
            .collect();
        let peer_id = peer.id;
        let families = negotiated.families.clone();
        peer.negotiated = Some(negotiated);
        let dropped = self.rib.drop_paths(peer_id, |prefix, path| {
            path.stale && !kept.contains(&Family::of(prefix))
        });
        self.dirty.extend(dropped);
        self.tell_everything(address);
        for family in families {
            self.send(
                address,
                id,
                &Message::Update(Box::new(Update::end_of_rib(family))),
            );
        }
    }

    fn down(&mut self, address: IpAddr, reason: Reason, now: Instant) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let negotiated = peer.negotiated.take();
        peer.connection = None;
        peer.established_at = Some(now);
        peer.flaps += 1;
        let restart = negotiated.and_then(|negotiated| {
            let keeps = match &reason {
                Reason::ConnectionLost => true,
                Reason::Sent(_) | Reason::Received(_) => negotiated.restart_after_notification,
            };
            let (seconds, families) = negotiated.restart?;
            (keeps && !families.is_empty()).then_some(seconds)
        });
        peer.last_end = Some(reason);
        let id = peer.id;
        match restart {
            Some(seconds) => {
                peer.stale_until = Some(now + Duration::from_secs(seconds.into()));
                self.rib.mark_stale(id);
            }
            None => self.dirty.extend(self.rib.drop_paths(id, |_, _| true)),
        }
        self.rib.forget_told(id);
    }

    fn learn(&mut self, address: IpAddr, update: Update, now: Instant) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        for what in &update.mended {
            tracing::warn!(peer = %address, what, "an UPDATE is not as it has to be");
        }
        if let Some(family) = update.end_of_rib {
            peer.complete.insert(family);
            let id = peer.id;
            let stale = self
                .rib
                .drop_paths(id, |p, path| path.stale && Family::of(p) == family);
            self.dirty.extend(stale);
            self.check_restart();
            return;
        }
        let (id, source) = (peer.id, peer.source.clone());
        let (import, limit) = (peer.config.import.clone(), peer.config.max_prefixes);
        for nlri in &update.withdrawn {
            self.withdraw(*nlri, id);
        }
        let shared = Arc::new(update.attributes);
        let loops = self.is_loop(&shared, &source);
        for (next_hop, prefixes) in &update.reachable {
            let usable = !loops && self.is_usable(*next_hop);
            for nlri in prefixes {
                let accepted = if !usable {
                    None
                } else if import.is_open() {
                    Some(shared.clone())
                } else {
                    import
                        .apply(&nlri.prefix, &shared, self.config.local_as)
                        .map(Arc::new)
                };
                let Some(attributes) = accepted else {
                    self.withdraw(*nlri, id);
                    continue;
                };
                let (next_hop, source) = (*next_hop, source.clone());
                let path = Path {
                    peer: id,
                    path_id: nlri.path_id,
                    next_hop,
                    attributes,
                    source,
                    stale: false,
                };
                if self.rib.set(nlri.prefix, path) {
                    self.dirty.insert(nlri.prefix);
                }
            }
        }
        if limit.is_some_and(|limit| self.rib.count(id) > limit) {
            tracing::error!(peer = %address, limit, "the peer sends more prefixes than it may");
            self.input(address, Input::Stop(Notification::MAXIMUM_PREFIXES), now);
        }
    }

    fn withdraw(&mut self, nlri: Nlri, peer: PeerId) {
        if self.rib.remove(nlri.prefix, peer, nlri.path_id) {
            self.dirty.insert(nlri.prefix);
        }
    }

    /// RFC 4271, section 9.1.2; RFC 4456, section 8.
    fn is_loop(&self, attributes: &Attributes, source: &Source) -> bool {
        let through_us = !source.internal && attributes.contains_as(self.config.local_as) > 0;
        let ours = attributes.originator_id == Some(self.config.router_id);
        let reflected = attributes.cluster_list.contains(&self.config.cluster_id);
        through_us || ours || reflected
    }

    fn is_usable(&self, next_hop: NextHop) -> bool {
        let address = next_hop.address;
        let is_ours = self.config.own_addresses.contains(&address);
        !is_ours && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
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

    /// What is to be done since the last call. Changes to routes are told to the peers here, so
    /// that many inputs make few messages.
    pub fn actions(&mut self) -> Vec<Action> {
        let dirty = std::mem::take(&mut self.dirty);
        if !dirty.is_empty() {
            for address in self.peers.keys().copied().collect::<Vec<_>>() {
                self.tell(address, dirty.iter().copied());
            }
            self.actions.push(Action::Routes(dirty));
        }
        std::mem::take(&mut self.actions)
    }

    /// What the kernel should do with packets for a prefix.
    pub fn forwarding(&self, prefix: &IpNetwork) -> Option<Forwarding> {
        let best = self.rib.best(prefix)?;
        if best.peer == LOCAL {
            let own = self.config.originate.get(prefix)?;
            return own.blackhole.then_some(Forwarding::Blackhole);
        }
        let paths = self.rib.multipath(prefix, self.config.multipath.max(1));
        let gateways: BTreeSet<IpAddr> = paths.iter().map(|path| path.next_hop.address).collect();
        Some(Forwarding::Via(gateways.into_iter().collect()))
    }

    pub fn rib(&self) -> &Rib {
        &self.rib
    }

    pub fn status(&self) -> Vec<PeerStatus> {
        let each = self.peers.iter().map(|(address, peer)| PeerStatus {
            address: *address,
            asn: peer.config.asn,
            state: peer.session.state(),
            since: peer.established_at,
            received: self.rib.count(peer.id),
            advertised: self.rib.told_count(peer.id),
            last_end: peer.last_end.clone(),
            flaps: peer.flaps,
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests;
