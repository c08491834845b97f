//! Sockets, timers and the kernel around the pure speaker.
//!
//! ```text
//! listener, connections --Event--> loop { Speaker } --Action--> connections, kernel routes
//! configurations ---------------'     ^      '--> BFD task (--Report--^)
//! kernel's notifications, questions --'
//! ```

mod connection;
mod control;
mod routes;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kernel::monitor::{Group, Monitor};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::connection::{Listeners, Options};
use self::control::Question;
use self::routes::Routes;
use crate::bfd;
use crate::config::{Config, PORT, Peer};
use crate::report::{self, Neighbor, Surroundings};
use crate::session::{ConnectionId, Side};
use crate::speaker::{Action, Speaker};
use crate::wire::{Fault, Notification, Raw};

/// Messages of one connection that wait to be processed: the rest stays in TCP.
const BACKLOG: usize = 64;
/// So many changed prefixes make a round of messages.
const ROUND: usize = 20_000;
/// How long the last messages may take on their way out.
const FAREWELL: Duration = Duration::from_millis(100);

/// Faults that an operator has to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "bgp: cannot listen on port {port}: {source}; end the other BGP daemon or choose another port"
    )]
    Listen { port: u16, source: std::io::Error },
    #[error("bgp: the kernel's routes cannot be read: {0}; run as root")]
    Kernel(#[from] kernel::netlink::Error),
    #[error("bgp: the kernel's notifications cannot be read: {0}")]
    Monitor(#[from] kernel::monitor::Error),
    #[error("bgp: nobody can be answered at {place}: {source}")]
    Control {
        place: String,
        source: std::io::Error,
    },
}

/// What a speaker is told besides its configuration of peers and routes.
#[derive(Debug, Clone)]
pub struct Serving {
    pub port: u16,
    /// The socket that `fairlead bgp` asks.
    pub control: Option<PathBuf>,
    /// Where metrics are served over TCP.
    pub metrics: Option<std::net::SocketAddr>,
    /// Told of every session that comes up or goes down.
    pub sessions: Option<watch::Sender<Vec<Neighbor>>>,
    /// What of the configuration cannot be used, for people who ask.
    pub problems: Option<watch::Receiver<Vec<String>>>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            port: PORT,
            control: None,
            metrics: None,
            sessions: None,
            problems: None,
        }
    }
}

enum Event {
    Accepted(TcpStream, IpAddr),
    Connected(TcpStream, IpAddr),
    ConnectFailed(IpAddr),
    Received(ConnectionId, Vec<Result<Raw, Fault>>),
    Closed(ConnectionId),
    Asked(Question, oneshot::Sender<String>),
}

/// Runs a speaker with the configurations that come, the first of which starts it. Routes stay in
/// the kernel, and peers keep theirs for the time of a graceful restart.
pub async fn serve(
    mut configs: mpsc::Receiver<Config>,
    serving: Serving,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (events, mut arrived) = mpsc::channel(BACKLOG);
    let listeners = connection::listen(serving.port, &events, &shutdown)?;
    control::start(&serving, &events, &shutdown)?;
    let mut routes = Routes::open()?;
    let mut monitor = Monitor::open(&[Group::Links, Group::Routes])?;
    let first = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        first = configs.recv() => first,
    };
    let Some(first) = first else { return Ok(()) };
    let (reports, mut reported) = mpsc::unbounded_channel();
    let restarting = !routes.is_empty();
    let mut driver = Driver {
        speaker: Speaker::new(first, restarting, Instant::now()),
        connections: HashMap::new(),
        next_connection: 1,
        events,
        listeners,
        serving,
        started: Instant::now(),
        generation: 0,
        bfd: None,
        reports,
    };
    driver.configured();
    loop {
        driver.act(&mut routes);
        let (due, repair) = (driver.speaker.timeout(), routes.due());
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = arrived.recv() => driver.event(event, &routes),
            Some(config) = configs.recv() => {
                driver.speaker.configure(config, Instant::now());
                driver.configured();
            }
            Some(report) = reported.recv() => driver.bfd_reported(report),
            () = sleep_until(due) => driver.speaker.tick(Instant::now()),
            event = monitor.next() => routes.heard(&event?),
            () = sleep_until(repair) => routes.repair(&mut driver.speaker),
        }
        // Many events make one round of messages, but not so many that the first wait long and
        // what is to be said of them fills the memory.
        while driver.speaker.changed_prefixes() < ROUND
            && let Ok(event) = arrived.try_recv()
        {
            driver.event(event, &routes);
        }
    }
    driver.close_all(&mut routes).await;
    Ok(())
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

struct Driver {
    speaker: Speaker,
    connections: HashMap<ConnectionId, mpsc::UnboundedSender<Bytes>>,
    next_connection: u64,
    events: mpsc::Sender<Event>,
    listeners: Listeners,
    serving: Serving,
    started: Instant,
    /// Of the speaker, when its sessions were last told of.
    generation: u64,
    /// Running once a peer wants it.
    bfd: Option<bfd::Task>,
    reports: mpsc::UnboundedSender<bfd::Report>,
}

impl Driver {
    fn event(&mut self, event: Event, routes: &Routes) {
        let now = Instant::now();
        match event {
            Event::Accepted(stream, address) => {
                if self.speaker.knows(address) {
                    self.open(stream, address, Side::Inbound, now);
                }
            }
            Event::Connected(stream, address) => self.open(stream, address, Side::Outbound, now),
            Event::ConnectFailed(address) => self.speaker.connect_failed(address, now),
            Event::Received(id, messages) => {
                for message in messages {
                    self.speaker.received(id, message, now);
                }
            }
            Event::Closed(id) => {
                self.connections.remove(&id);
                self.speaker.closed(id, now);
            }
            Event::Asked(question, answer) => {
                let text = question.answer(&self.speaker, &self.surroundings(routes), now);
                // Whoever asked may have gone.
                let _ = answer.send(text);
            }
        }
    }

    fn surroundings(&self, routes: &Routes) -> Surroundings {
        Surroundings {
            kernel_routes: routes.len(),
            repairs: routes.repairs(),
            bfd: self.bfd.as_ref().map(bfd::Task::states).unwrap_or_default(),
            problems: self
                .serving
                .problems
                .as_ref()
                .map(|problems| problems.borrow().clone())
                .unwrap_or_default(),
            started: Some(self.started),
        }
    }

    fn open(&mut self, stream: TcpStream, address: IpAddr, side: Side, now: Instant) {
        let options = self.speaker.peer_config(address).map(Options::of);
        if let Some(options) = options
            && side == Side::Inbound
            && let Err(error) = options.on_accepted(&stream, address)
        {
            tracing::warn!(peer = %address, %error, "a connection was not accepted");
            return;
        }
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let sender = connection::start(stream, id, self.events.clone());
        self.connections.insert(id, sender);
        self.speaker.connected(address, id, side, now);
    }

    /// What hangs on the configuration besides the speaker: keys of connections, BFD.
    fn configured(&mut self) {
        let config = self.speaker.config();
        self.listeners.set_keys(config);
        let with_bfd =
            |(address, peer): (&IpAddr, &Peer)| Some((*address, (peer.bfd?, peer.source)));
        let wanted: bfd::Wanted = config.peers.iter().filter_map(with_bfd).collect();
        if self.bfd.is_none() && !wanted.is_empty() {
            match bfd::Task::start(self.reports.clone()) {
                Ok(task) => self.bfd = Some(task),
                Err(error) => tracing::error!(
                    %error,
                    "no BFD: UDP port 3784 cannot be used; end the other BFD daemon"
                ),
            }
        }
        if let Some(task) = &self.bfd {
            task.want(wanted);
        }
    }

    fn bfd_reported(&mut self, report: bfd::Report) {
        if report.change == bfd::Change::Down {
            self.speaker.peer_lost(report.peer, Instant::now());
        }
    }

    fn act(&mut self, routes: &mut Routes) {
        routes.resolve_new(&mut self.speaker);
        for action in self.speaker.actions() {
            match action {
                Action::Connect(address, port) => {
                    let options = self.speaker.peer_config(address).map(Options::of);
                    let options = options.unwrap_or_default();
                    tokio::spawn(connection::connect(
                        address,
                        port,
                        options,
                        self.events.clone(),
                    ));
                }
                Action::Send(id, bytes) => {
                    if let Some(connection) = self.connections.get(&id) {
                        // A writer that ended is told by its reader.
                        let _ = connection.send(bytes);
                    }
                }
                // The writer ends when it has sent what is queued.
                Action::Close(id) => {
                    self.connections.remove(&id);
                }
                Action::Routes(prefixes) => routes.write(&self.speaker, prefixes),
                Action::Sweep => routes.sweep(&self.speaker),
            }
        }
        self.tell_sessions(routes);
    }

    fn tell_sessions(&mut self, routes: &Routes) {
        let generation = self.speaker.generation();
        let Some(sessions) = &self.serving.sessions else {
            return;
        };
        if std::mem::replace(&mut self.generation, generation) != generation {
            let around = self.surroundings(routes);
            let neighbors = report::neighbors(&self.speaker, &around, Instant::now());
            sessions.send_replace(neighbors);
        }
    }

    /// A restart keeps our routes with the peers: connections end without a word. The tasks
    /// that write end with the process.
    async fn close_all(&mut self, routes: &mut Routes) {
        if let Some(task) = self.bfd.take() {
            task.end().await;
        }
        if self.speaker.config().restart_time == 0 {
            self.speaker
                .stop(&Notification::ADMINISTRATIVE_SHUTDOWN, Instant::now());
            self.act(routes);
            tokio::time::sleep(FAREWELL).await;
        }
        self.connections.clear();
    }
}

/// The peers and ranges whose connections are signed, with their keys.
fn keys(config: &Config) -> BTreeMap<ipnetwork::IpNetwork, crate::config::Password> {
    let listed = config
        .peers
        .iter()
        .map(|(address, peer)| ((*address).into(), peer));
    let dynamic = config
        .dynamic
        .iter()
        .map(|(range, own)| (*range, &own.peer));
    let both = listed.chain(dynamic);
    both.filter_map(|(range, peer)| Some((range, peer.password.clone()?)))
        .collect()
}
