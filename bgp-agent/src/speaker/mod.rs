//! All sessions and the routes between them. Pure: inputs in, actions out; the driver has the
//! sockets and the clock.

mod audience;
mod export;
mod learn;
mod peers;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ipnetwork::IpNetwork;

use self::audience::Telling;
use self::learn::Interned;
use crate::config::{Config, Peer};
use crate::rib::{LOCAL, PeerId, Rib, Source};
use crate::session::{ConnectionId, Input, Negotiated, Output, Reason, Session};
use crate::wire::{Context, Family, Message, Notification, Raw};

pub use view::{Counters, PathView, PeerStatus};

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
    /// Routes of ours in the kernel that nobody wants may go.
    Sweep,
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
    /// Not listed in the configuration: it goes when its session does.
    dynamic: bool,
    session: Session,
    source: Arc<Source>,
    negotiated: Option<Negotiated>,
    connection: Option<ConnectionId>,
    /// Families of which the peer has told everything.
    complete: BTreeSet<Family>,
    /// When the stale routes of a lost session are dropped, or kept for long.
    stale_until: Option<Instant>,
    /// What the lost session agreed on to keep for long.
    long_lived: BTreeMap<Family, u32>,
    long_until: Option<Instant>,
    changed_at: Option<Instant>,
    last_end: Option<Reason>,
    counters: Counters,
}

/// See the module's documentation.
pub struct Speaker {
    config: Config,
    rib: Rib,
    peers: BTreeMap<IpAddr, PeerState>,
    connections: BTreeMap<ConnectionId, IpAddr>,
    /// Prefixes that peers and the kernel may have to be told of; some more than once.
    dirty: Vec<IpNetwork>,
    /// What peers are told has changed, whatever the routes have.
    retell: bool,
    /// What paths of different messages have in common.
    learnt: Interned,
    restarting_until: Option<Instant>,
    actions: Vec<Action>,
    sweep: bool,
    generation: u64,
}

impl Speaker {
    /// `restarting`: routes of a previous life of this process are in the kernel.
    pub fn new(config: Config, restarting: bool, now: Instant) -> Self {
        let empty = Config::new(config.local_as, config.router_id);
        let mut speaker = Self {
            config: empty,
            rib: Rib::default(),
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            dirty: Vec::new(),
            retell: false,
            learnt: Interned::default(),
            restarting_until: restarting.then(|| now + DEFERRAL),
            actions: Vec::new(),
            sweep: false,
            generation: 0,
        };
        speaker.configure(config, now);
        speaker
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection came about; its number is the driver's.
    pub fn connected(
        &mut self,
        address: IpAddr,
        id: ConnectionId,
        side: crate::session::Side,
        now: Instant,
    ) {
        self.admit_dynamic(address, now);
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
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        peer.counters.messages_in += 1;
        let decoded = message.and_then(|raw| raw.decode(&peer.session.context(id)));
        let input = match decoded {
            Ok(message) => Input::Received(id, message),
            Err(fault) => {
                tracing::warn!(peer = %address, fault = fault.what, "the session ends");
                Input::Faulty(id, fault)
            }
        };
        self.input(address, input, now);
    }

    pub fn closed(&mut self, id: ConnectionId, now: Instant) {
        if let Some(address) = self.connections.remove(&id) {
            self.input(address, Input::Closed(id), now);
        }
    }

    /// BFD says that the peer cannot be reached any more: its routes go at once, and the session
    /// is tried again.
    pub fn peer_lost(&mut self, address: IpAddr, now: Instant) {
        let is_up = |peer: &PeerState| peer.connection.is_some();
        if self.peers.get(&address).is_some_and(is_up) {
            self.input(address, Input::Stop(Notification::BFD_DOWN), now);
            self.input(address, Input::Start, now);
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
            [peer.session.timeout(), peer.stale_until, peer.long_until]
                .into_iter()
                .flatten()
        });
        of_peers.chain(self.restarting_until).min()
    }

    pub fn tick(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let with_timer: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(_, peer)| is_due(peer.session.timeout()))
            .map(|(address, _)| *address)
            .collect();
        for address in with_timer {
            self.input(address, Input::Timeout, now);
        }
        self.expire_stale(now);
        if is_due(self.restarting_until) {
            self.end_restart();
        }
    }

    /// From now on the kernel's routes are only ours of this life.
    fn end_restart(&mut self) {
        self.restarting_until = None;
        for peer in self.peers.values_mut() {
            peer.session.end_restart();
        }
        self.dirty.extend(self.rib.prefixes());
        self.sweep = true;
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
            Output::Refresh(family, kind) => self.refreshed(address, family, kind),
            Output::Down(reason) => self.down(address, reason, now),
        }
    }

    fn send(&mut self, address: IpAddr, id: ConnectionId, message: &Message) {
        let context = match self.peers.get_mut(&address) {
            Some(peer) => {
                peer.counters.messages_out += 1;
                peer.session.context(id)
            }
            None => Context::default(),
        };
        let mut bytes = BytesMut::new();
        message.encode(&context, &mut bytes);
        self.actions.push(Action::Send(id, bytes.freeze()));
    }

    /// A session's routes and those that its peer wants, when it is up.
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
        tracing::info!(peer = %address, asn = peer.config.asn, "the session is up");
        peer.source = Arc::new(Source {
            router_id: negotiated.peer_id,
            ..(*peer.source).clone()
        });
        peer.complete.clear();
        peer.connection = Some(id);
        peer.changed_at = Some(now);
        peer.long_until = None;
        self.generation += 1;
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
        self.tell_everything(address, None);
        for family in families {
            self.end_of_rib(address, id, family);
        }
    }

    fn down(&mut self, address: IpAddr, reason: Reason, now: Instant) {
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        tracing::warn!(peer = %address, %reason, "the session is down");
        let negotiated = peer.negotiated.take();
        peer.connection = None;
        peer.changed_at = Some(now);
        peer.counters.flaps += 1;
        self.generation += 1;
        let restart = negotiated.and_then(|negotiated| {
            peer.long_lived = negotiated.long_lived;
            let keeps = match &reason {
                Reason::ConnectionLost => true,
                Reason::Sent(own) => negotiated.restart_after_notification && !own.is_final(),
                Reason::Received(own) => {
                    negotiated.restart_after_notification && !own.is_hard_reset()
                }
            };
            let (seconds, families) = negotiated.restart?;
            (keeps && !families.is_empty()).then_some(seconds)
        });
        peer.last_end = Some(reason);
        let id = peer.id;
        match restart {
            Some(seconds) => {
                peer.stale_until = Some(now + Duration::from_secs(seconds.into()));
                self.rib.mark_stale(id, |_| true);
            }
            None => self.dirty.extend(self.rib.drop_paths(id, |_, _| true)),
        }
        self.rib.forget_told(id);
    }

    /// Next hops that nobody has looked at yet. The driver says of each what it finds, also
    /// later when that changes.
    pub fn take_new_hops(&mut self) -> BTreeSet<IpAddr> {
        self.rib.take_new_hops()
    }

    /// The kernel has a way to the next hop, or has none any more.
    pub fn set_reachable(&mut self, hop: IpAddr, reachable: bool) {
        self.dirty.extend(self.rib.set_reachable(hop, reachable));
    }

    /// How many prefixes changed since [`Speaker::actions`], some more than once.
    pub fn changed_prefixes(&self) -> usize {
        self.dirty.len()
    }

    /// What is to be done since the last call. Changes to routes are told to the peers here, so
    /// that many inputs make few messages.
    pub fn actions(&mut self) -> Vec<Action> {
        self.forget_gone_dynamic();
        let dirty: BTreeSet<IpNetwork> = std::mem::take(&mut self.dirty).into_iter().collect();
        if !dirty.is_empty() {
            let telling = match std::mem::take(&mut self.retell) {
                true => Telling::Everything,
                false => Telling::News,
            };
            self.tell_all(&dirty, telling);
            self.actions.push(Action::Routes(dirty));
        }
        if std::mem::take(&mut self.sweep) {
            self.actions.push(Action::Sweep);
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
        if self.config.is_kept_from_kernel(prefix) {
            return None;
        }
        let paths = self.rib.multipath(prefix, self.config.multipath.max(1));
        let gateways: BTreeSet<IpAddr> = paths.iter().map(|path| path.next_hop.address).collect();
        Some(Forwarding::Via(gateways.into_iter().collect()))
    }

    /// Another number whenever a session came up or went down, or peers came or went.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn rib(&self) -> &Rib {
        &self.rib
    }
}

#[cfg(test)]
mod tests;
