//! The state machine of one peer (RFC 4271, section 8). Pure: the time is an input, connections
//! are numbers, everything else is an output.
//!
//! Two connections may exist for a moment, one opened by each side; which one stays is decided
//! by the identifiers in the OPENs (section 6.8).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::wire::open::{AddPath, RestartFamily};
use crate::wire::{
    Capability, Context, Family, Fault, Message, Notification, Open, Refresh, Update,
};

/// How long an OPEN is waited for (section 8.2.2: "a large value").
const OPEN_WAIT: Duration = Duration::from_secs(240);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What the session needs of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub local_as: u32,
    pub peer_as: u32,
    pub router_id: Ipv4Addr,
    /// Seconds offered; 0 holds none.
    pub hold_time: u16,
    pub connect_retry: Duration,
    /// Waits for the peer to connect.
    pub passive: bool,
    pub families: Vec<Family>,
    /// Seconds for which the peer is asked to keep our routes while we restart; 0: none.
    pub restart_time: u16,
    /// Forwarding went on while we were away (RFC 4724, section 4.1).
    pub restarting: bool,
    pub add_path: Option<AddPath>,
    /// Seconds for which the peer's routes are kept after a graceful restart failed; 0: none.
    pub long_lived: u32,
}

impl Config {
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }
}

/// A TCP connection, numbered by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We connected.
    Outbound,
    Inbound,
}

#[derive(Debug)]
pub enum Input {
    Start,
    /// Ends the session until the next start.
    Stop(Notification),
    Connected(ConnectionId, Side),
    ConnectFailed,
    Received(ConnectionId, Message),
    /// The peer's bytes cannot be read on.
    Faulty(ConnectionId, Fault),
    Closed(ConnectionId),
    /// [`Session::timeout`] has come.
    Timeout,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection to the peer.
    Connect,
    Send(ConnectionId, Message),
    /// After what was sent has gone out.
    Close(ConnectionId),
    Established(ConnectionId, Box<Negotiated>),
    Routes(Box<Update>),
    /// The peer asks for our routes, or marks those that it sends again.
    Refresh(Family, Refresh),
    Down(Reason),
}

/// Why an established session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Sent(Notification),
    Received(Notification),
    ConnectionLost,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "we ended it: {notification}"),
            Self::Received(notification) => write!(f, "the peer ended it: {notification}"),
            Self::ConnectionLost => f.write_str("the connection was lost"),
        }
    }
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    pub context: Context,
    pub hold_time: u16,
    pub peer_id: Ipv4Addr,
    pub families: Vec<Family>,
    pub route_refresh: bool,
    pub extended_next_hop: bool,
    /// The peer's graceful restart: seconds, and the families whose forwarding went on.
    pub restart: Option<(u16, Vec<RestartFamily>)>,
    /// The peer keeps forwarding when the session ends with a NOTIFICATION (RFC 8538).
    pub restart_after_notification: bool,
    /// The peer says when it begins and ends to send everything again (RFC 7313).
    pub enhanced_refresh: bool,
    /// The peer knows routes that are kept for long (RFC 9494)...
    pub knows_long_lived: bool,
    /// ... and we keep its own for so many seconds.
    pub long_lived: BTreeMap<Family, u32>,
}

/// States under the names of RFC 4271, section 8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Idle,
    Active,
    Connect,
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Debug)]
struct Connection {
    side: Side,
    phase: State,
    open: Option<Open>,
    hold: Option<Instant>,
    keepalive: Option<(Instant, Duration)>,
    hold_time: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Session {
    config: Config,
    connections: BTreeMap<ConnectionId, Connection>,
    established: Option<ConnectionId>,
    context: Context,
    /// The peer keeps our routes unless the end is marked as final (RFC 8538).
    hard_reset: bool,
    started: bool,
    connecting: bool,
    retry: Option<Instant>,
    failures: u32,
}

impl Session {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            connections: BTreeMap::new(),
            established: None,
            context: Context::default(),
            hard_reset: false,
            started: false,
            connecting: false,
            retry: None,
            failures: 0,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The restart is over: later sessions do not announce it any more.
    pub fn end_restart(&mut self) {
        self.config.restarting = false;
    }

    /// Whether there is no connection and none is tried.
    pub fn is_quiet(&self) -> bool {
        self.connections.is_empty() && !self.connecting
    }

    pub fn state(&self) -> State {
        let best = self
            .connections
            .values()
            .map(|connection| connection.phase)
            .max();
        best.unwrap_or(match (self.started, self.connecting) {
            (false, _) => State::Idle,
            (true, true) => State::Connect,
            (true, false) => State::Active,
        })
    }

    /// How messages of a connection are decoded.
    pub fn context(&self, connection: ConnectionId) -> Context {
        if self.established == Some(connection) {
            self.context.clone()
        } else {
            Context::default()
        }
    }

    /// When [`Input::Timeout`] is wanted.
    pub fn timeout(&self) -> Option<Instant> {
        let of_connections = self.connections.values().flat_map(|connection| {
            [connection.hold, connection.keepalive.map(|(at, _)| at)]
                .into_iter()
                .flatten()
        });
        of_connections.chain(self.retry).min()
    }

    pub fn process(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Start => {
                self.started = true;
                self.connect(&mut out);
            }
            Input::Stop(notification) => {
                self.started = false;
                self.retry = None;
                for id in self.connections.keys().copied().collect::<Vec<_>>() {
                    self.end(id, Reason::Sent(notification.clone()), now, &mut out);
                }
            }
            Input::Connected(id, side) => self.connected(id, side, now, &mut out),
            Input::ConnectFailed => {
                self.connecting = false;
                self.retry_later(now);
            }
            Input::Received(id, message) => {
                if self.connections.contains_key(&id) {
                    self.received(id, message, now, &mut out);
                }
            }
            Input::Faulty(id, fault) => {
                self.end(id, Reason::Sent(fault.notification), now, &mut out);
            }
            Input::Closed(id) => self.end(id, Reason::ConnectionLost, now, &mut out),
            Input::Timeout => self.timed_out(now, &mut out),
        }
        out
    }

    fn connect(&mut self, out: &mut Vec<Output>) {
        self.retry = None;
        if self.started && !self.config.passive && !self.connecting && self.connections.is_empty() {
            self.connecting = true;
            out.push(Output::Connect);
        }
    }

    /// Tries less and less often while nobody answers.
    fn retry_later(&mut self, now: Instant) {
        if self.started && self.connections.is_empty() {
            let wait = self.config.connect_retry * (1 << self.failures.min(4));
            self.failures += 1;
            self.retry = Some(now + wait.min(LONGEST_RETRY));
        }
    }

    fn connected(&mut self, id: ConnectionId, side: Side, now: Instant, out: &mut Vec<Output>) {
        if side == Side::Outbound {
            self.connecting = false;
        }
        let same_side = self.connections.values().any(|own| own.side == side);
        if !self.started || (same_side && self.established.is_none()) {
            let rejected = Notification::CONNECTION_REJECTED;
            out.push(Output::Send(id, Message::Notification(rejected)));
            out.push(Output::Close(id));
            return;
        }
        self.retry = None;
        out.push(Output::Send(id, Message::Open(self.open())));
        self.connections.insert(
            id,
            Connection {
                side,
                phase: State::OpenSent,
                open: None,
                hold: Some(now + OPEN_WAIT),
                keepalive: None,
                hold_time: OPEN_WAIT,
            },
        );
    }

    fn open(&self) -> Open {
        let config = &self.config;
        let mut capabilities: Vec<Capability> = config
            .families
            .iter()
            .map(|family| Capability::Multiprotocol(*family))
            .collect();
        capabilities.extend([
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
            Capability::FourOctetAs(config.local_as),
        ]);
        if config.families == Family::ALL {
            capabilities.push(Capability::ExtendedNextHop);
        }
        if config.restart_time > 0 {
            let of = |family: &Family| RestartFamily {
                family: *family,
                forwarding: config.restarting,
                stale_time: 0,
            };
            capabilities.push(Capability::GracefulRestart {
                restarting: config.restarting,
                notification: true,
                seconds: config.restart_time,
                families: config.families.iter().map(of).collect(),
            });
            // Announced also without a time of our own, so that the peer may tell us of routes
            // that it keeps for long.
            let of = |family: &Family| RestartFamily {
                stale_time: config.long_lived,
                ..of(family)
            };
            let families = config.families.iter().map(of).collect();
            capabilities.push(Capability::LongLivedGracefulRestart(families));
        }
        if let Some(directions) = config.add_path {
            let each = config.families.iter().map(|family| (*family, directions));
            capabilities.push(Capability::AddPath(each.collect()));
        }
        Open {
            asn: config.local_as,
            hold_time: config.hold_time,
            router_id: config.router_id,
            capabilities,
        }
    }

    fn received(
        &mut self,
        id: ConnectionId,
        message: Message,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.phase >= State::OpenConfirm && connection.hold.is_some() {
            connection.hold = Some(now + connection.hold_time);
        }
        match (connection.phase, message) {
            (_, Message::Notification(notification)) => {
                self.end(id, Reason::Received(notification), now, out);
            }
            (State::OpenSent, Message::Open(open)) => self.opened(id, open, now, out),
            (State::OpenConfirm, Message::Keepalive) => self.establish(id, out),
            (State::Established, Message::Update(update)) => out.push(Output::Routes(update)),
            (State::Established, Message::Keepalive) => {}
            (State::Established, Message::RouteRefresh { family, kind }) => {
                out.push(Output::Refresh(family, kind));
            }
            _ => self.end(id, Reason::Sent(Notification::FSM_ERROR), now, out),
        }
    }

    fn opened(&mut self, id: ConnectionId, open: Open, now: Instant, out: &mut Vec<Output>) {
        if let Some(fault) = self.unacceptable(&open) {
            return self.end(id, Reason::Sent(fault.notification), now, out);
        }
        if !self.wins(id, &open, now, out) {
            return self.end(id, Reason::Sent(Notification::COLLISION), now, out);
        }
        let hold_time = open.hold_time.min(self.config.hold_time);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.phase = State::OpenConfirm;
        connection.open = Some(open);
        connection.hold_time = Duration::from_secs(hold_time.into());
        connection.hold = (hold_time > 0).then(|| now + connection.hold_time);
        let interval = connection.hold_time / 3;
        connection.keepalive = (hold_time > 0).then(|| (now + interval, interval));
        out.push(Output::Send(id, Message::Keepalive));
    }

    fn unacceptable(&self, open: &Open) -> Option<Fault> {
        if open.asn != self.config.peer_as {
            return Some(Fault::open(
                "the peer has another AS than configured",
                2,
                &[],
            ));
        }
        if self.config.is_internal() && open.router_id == self.config.router_id {
            return Some(Fault::open("the peer has our own BGP identifier", 3, &[]));
        }
        None
    }

    /// Settles a collision with the other connection, whose OPEN came before (section 6.8). An
    /// established session only yields to a peer that restarted (RFC 4724, section 5).
    fn wins(&mut self, id: ConnectionId, open: &Open, now: Instant, out: &mut Vec<Output>) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return false;
        };
        let side = connection.side;
        let other = self
            .connections
            .iter()
            .find(|(own, other)| **own != id && other.phase >= State::OpenConfirm)
            .map(|(own, other)| (*own, other.phase));
        let Some((other, phase)) = other else {
            return true;
        };
        if phase == State::Established {
            let restarts = open
                .capabilities
                .iter()
                .any(|own| matches!(own, Capability::GracefulRestart { .. }));
            if restarts && self.config.restart_time > 0 {
                self.end(other, Reason::ConnectionLost, now, out);
                return true;
            }
            return false;
        }
        let ours_is_higher =
            (self.config.router_id, self.config.local_as) > (open.router_id, open.asn);
        let wins = (side == Side::Outbound) == ours_is_higher;
        if wins {
            self.end(other, Reason::Sent(Notification::COLLISION), now, out);
        }
        wins
    }

    fn establish(&mut self, id: ConnectionId, out: &mut Vec<Output>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(open) = connection.open.clone() else {
            return;
        };
        connection.phase = State::Established;
        let hold_time = u16::try_from(connection.hold_time.as_secs()).unwrap_or(u16::MAX);
        let negotiated = negotiate(&self.config, &open, hold_time);
        self.context = negotiated.context.clone();
        self.hard_reset = negotiated.restart_after_notification && self.config.restart_time > 0;
        self.established = Some(id);
        self.failures = 0;
        let others: Vec<ConnectionId> = self
            .connections
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect();
        for other in others {
            self.connections.remove(&other);
            out.push(Output::Send(
                other,
                Message::Notification(Notification::COLLISION),
            ));
            out.push(Output::Close(other));
        }
        out.push(Output::Established(id, Box::new(negotiated)));
    }

    fn end(&mut self, id: ConnectionId, reason: Reason, now: Instant, out: &mut Vec<Output>) {
        if self.connections.remove(&id).is_none() {
            return;
        }
        if let Reason::Sent(notification) = &reason {
            let hard = self.established == Some(id) && self.hard_reset && notification.is_final();
            let told = match hard {
                true => notification.clone().as_hard_reset(),
                false => notification.clone(),
            };
            out.push(Output::Send(id, Message::Notification(told)));
        }
        out.push(Output::Close(id));
        if self.established == Some(id) {
            self.established = None;
            self.context = Context::default();
            out.push(Output::Down(reason));
        }
        self.retry_later(now);
    }

    fn timed_out(&mut self, now: Instant, out: &mut Vec<Output>) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let expired: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, own)| is_due(own.hold))
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.end(id, Reason::Sent(Notification::HOLD_TIMER_EXPIRED), now, out);
        }
        for (id, connection) in &mut self.connections {
            if let Some((at, interval)) = &mut connection.keepalive
                && *at <= now
            {
                *at = now + *interval;
                out.push(Output::Send(*id, Message::Keepalive));
            }
        }
        if is_due(self.retry) {
            self.connect(out);
        }
    }
}

fn negotiate(config: &Config, open: &Open, hold_time: u16) -> Negotiated {
    let has = |wanted: fn(&Capability) -> bool| open.capabilities.iter().any(wanted);
    let announced: Vec<Family> = open
        .capabilities
        .iter()
        .filter_map(|own| match own {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
        .collect();
    // A peer without the capability speaks IPv4 (RFC 4760, section 8).
    let speaks = |family: &Family| {
        announced.contains(family) || (announced.is_empty() && *family == Family::Ipv4)
    };
    let families: Vec<Family> = config.families.iter().copied().filter(speaks).collect();
    let (mut receive, mut send) = (Vec::new(), Vec::new());
    for capability in &open.capabilities {
        let (Capability::AddPath(theirs), Some(ours)) = (capability, config.add_path) else {
            continue;
        };
        for (family, directions) in theirs
            .iter()
            .filter(|(family, _)| families.contains(family))
        {
            if directions.send && ours.receive {
                receive.push(*family);
            }
            if directions.receive && ours.send {
                send.push(*family);
            }
        }
    }
    let kept_long = open.capabilities.iter().find_map(|own| match own {
        Capability::LongLivedGracefulRestart(families) => Some(families.as_slice()),
        _ => None,
    });
    let restart = open.capabilities.iter().find_map(|own| match own {
        Capability::GracefulRestart {
            seconds, families, ..
        } => Some((*seconds, families.clone())),
        _ => None,
    });
    Negotiated {
        context: Context {
            four_octets: has(|own| matches!(own, Capability::FourOctetAs(_))),
            extended_messages: has(|own| *own == Capability::ExtendedMessage),
            add_path_receive: receive,
            add_path_send: send,
            internal: config.is_internal(),
        },
        hold_time,
        peer_id: open.router_id,
        route_refresh: has(|own| *own == Capability::RouteRefresh),
        extended_next_hop: has(|own| *own == Capability::ExtendedNextHop),
        restart_after_notification: has(|own| {
            matches!(
                own,
                Capability::GracefulRestart {
                    notification: true,
                    ..
                }
            )
        }),
        restart: restart.filter(|_| config.restart_time > 0),
        enhanced_refresh: has(|own| *own == Capability::EnhancedRouteRefresh),
        knows_long_lived: kept_long.is_some() && config.restart_time > 0,
        long_lived: long_lived(config, kept_long.unwrap_or_default()),
        families,
    }
}

/// How long the peer's routes of each family are kept: as long as the peer asks for, but no
/// longer than we want to.
fn long_lived(config: &Config, asked: &[RestartFamily]) -> BTreeMap<Family, u32> {
    let each = asked
        .iter()
        .map(|own| (own.family, own.stale_time.min(config.long_lived)));
    each.filter(|(_, seconds)| *seconds > 0).collect()
}

#[cfg(test)]
mod tests;
