//! Sockets, timers, the kernel and the cluster around the pure speaker.
//!
//! ```text
//! listener, connections --Event--> loop { Speaker } --Action--> connections, kernel routes
//! node cache --Config-----------'
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kernel::monitor::{Group, Monitor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use crate::cluster;
use crate::config::{Config, DEFAULT_AS, PORT};
use crate::kernel_routes::{self, KernelRoutes};
use crate::session::{ConnectionId, Side};
use crate::speaker::{Action, Forwarding, Speaker};
use crate::wire::{Fault, Framer, Notification, Raw};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one connection that wait to be processed: the rest stays in TCP.
const BACKLOG: usize = 64;
/// Routes that could not be written are tried again after this.
const RETRY: Duration = Duration::from_secs(1);
const READ_PIECE: usize = 64 * 1024;

/// The speaker of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_name: String,
    /// The AS of nodes that have no annotation.
    pub as_number: u32,
    pub port: u16,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            as_number: DEFAULT_AS,
            port: PORT,
        }
    }
}

pub struct Deps {
    pub caches: WatchCaches,
}

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
}

/// Runs the node's speaker until `shutdown`. Routes stay in the kernel, and peers keep theirs for
/// the time of a graceful restart.
pub async fn run(config: NodeConfig, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let nodes: WatchCache<Node> = deps.caches.of();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = nodes.synced() => {}
    }
    let (sender, configs) = mpsc::channel(1);
    let (name, asn) = (config.node_name.clone(), config.as_number);
    let follow = async move {
        let mut changes = nodes.subscribe();
        let mut last = None;
        loop {
            let wanted = cluster::mesh(&name, asn, &nodes.list());
            if let Some(config) = wanted.clone().filter(|_| wanted != last) {
                last = wanted;
                if sender.send(config).await.is_err() {
                    return;
                }
            }
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = changes.recv().await {
                return;
            }
            // Status heartbeats of many nodes are one look.
            while changes.try_recv().is_ok() {}
        }
    };
    let serving = serve(configs, config.port, shutdown.clone());
    tokio::select! {
        () = follow => {
            shutdown.cancelled().await;
            Ok(())
        }
        result = serving => result,
    }
}

enum Event {
    Accepted(TcpStream, IpAddr),
    Connected(TcpStream, IpAddr),
    ConnectFailed(IpAddr),
    Received(ConnectionId, Vec<Result<Raw, Fault>>),
    Closed(ConnectionId),
}

/// Runs a speaker with the configurations that come, the first of which starts it.
pub async fn serve(
    mut configs: mpsc::Receiver<Config>,
    port: u16,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (events, mut arrived) = mpsc::channel(BACKLOG);
    listen(port, &events, &shutdown).await?;
    let kernel = KernelRoutes::open()?;
    let mut monitor = Monitor::open(&[Group::Links, Group::Routes])?;
    let first = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        first = configs.recv() => first,
    };
    let Some(first) = first else { return Ok(()) };
    let restarting = !kernel.actual.is_empty();
    let mut driver = Driver {
        speaker: Speaker::new(first, restarting, Instant::now()),
        kernel,
        connections: HashMap::new(),
        next_connection: 1,
        events,
        failed: BTreeSet::new(),
    };
    loop {
        driver.act();
        let due = driver.speaker.timeout();
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = arrived.recv() => driver.event(event),
            Some(config) = configs.recv() => driver.speaker.configure(config, Instant::now()),
            () = sleep_until(due) => driver.speaker.tick(Instant::now()),
            event = monitor.next() => {
                event?;
                driver.repair();
            }
            () = tokio::time::sleep(RETRY), if !driver.failed.is_empty() => driver.repair(),
        }
        // Many events make one round of messages.
        while let Ok(event) = arrived.try_recv() {
            driver.event(event);
        }
    }
    driver.close_all().await;
    Ok(())
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Both families; a kernel without IPv6 is no fault.
async fn listen(
    port: u16,
    events: &mpsc::Sender<Event>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let v4 = bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    let mut listeners = vec![v4.map_err(|source| Error::Listen { port, source })?];
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
        Ok(listener) => listeners.push(listener),
        Err(error) => tracing::info!(%error, "no sessions over IPv6"),
    }
    for listener in listeners {
        tokio::spawn(accept(listener, events.clone(), shutdown.clone()));
    }
    Ok(())
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if events
                    .send(Event::Accepted(stream, peer.ip()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Driver {
    speaker: Speaker,
    kernel: KernelRoutes,
    connections: HashMap<ConnectionId, mpsc::UnboundedSender<Bytes>>,
    next_connection: u64,
    events: mpsc::Sender<Event>,
    /// Prefixes whose routes could not be written.
    failed: BTreeSet<IpNetwork>,
}

impl Driver {
    fn event(&mut self, event: Event) {
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
        }
    }

    fn open(&mut self, stream: TcpStream, address: IpAddr, side: Side, now: Instant) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %address, "small messages may wait for others");
        }
        let (reader, writer) = stream.into_split();
        let (sender, outgoing) = mpsc::unbounded_channel();
        tokio::spawn(write(writer, outgoing));
        tokio::spawn(read(reader, id, self.events.clone()));
        self.connections.insert(id, sender);
        self.speaker.connected(address, id, side, now);
    }

    fn act(&mut self) {
        for action in self.speaker.actions() {
            match action {
                Action::Connect(address, port) => {
                    tokio::spawn(connect(address, port, self.events.clone()));
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
                Action::Routes(prefixes) => self.write_routes(prefixes),
            }
        }
    }

    fn write_routes(&mut self, mut prefixes: BTreeSet<IpNetwork>) {
        prefixes.append(&mut self.failed);
        let sweep = self.speaker.may_sweep();
        if sweep {
            prefixes.extend(self.kernel.actual.keys());
        }
        let wanted: BTreeMap<IpNetwork, Forwarding> = prefixes
            .iter()
            .filter_map(|prefix| Some((*prefix, self.speaker.forwarding(prefix)?)))
            .collect();
        // While a previous life's routes are kept, only what is known is changed.
        let looked_at: BTreeSet<IpNetwork> = match sweep {
            true => prefixes,
            false => prefixes
                .into_iter()
                .filter(|prefix| wanted.contains_key(prefix))
                .collect(),
        };
        let gateways: BTreeSet<IpAddr> = wanted
            .values()
            .flat_map(|forwarding| match forwarding {
                Forwarding::Via(gateways) => gateways.clone(),
                Forwarding::Blackhole => Vec::new(),
            })
            .collect();
        let resolved: BTreeMap<IpAddr, _> = gateways
            .into_iter()
            .filter_map(|gateway| Some((gateway, self.kernel.resolve(gateway)?)))
            .collect();
        let resolve = |gateway: IpAddr| resolved.get(&gateway).cloned();
        let ops = kernel_routes::plan(&wanted, &looked_at, &self.kernel.actual, sweep, &resolve);
        let unreachable = wanted.iter().filter(|(_, own)| match own {
            Forwarding::Via(gateways) => gateways.iter().all(|own| !resolved.contains_key(own)),
            Forwarding::Blackhole => false,
        });
        self.failed.extend(unreachable.map(|(prefix, _)| *prefix));
        if ops.is_empty() {
            return;
        }
        match self.kernel.apply(&ops) {
            Ok(failed) => self.failed.extend(failed),
            Err(error) => {
                tracing::error!(%error, "routes were not written, they are tried again");
                self.failed.extend(looked_at);
            }
        }
    }

    /// Somebody changed routes or links: what is there is read anew and put right.
    fn repair(&mut self) {
        let before = std::mem::take(&mut self.kernel.actual);
        if let Err(error) = self.kernel.observe() {
            tracing::warn!(%error, "the kernel's routes were not read");
            self.kernel.actual = before;
            return;
        }
        let prefixes: BTreeSet<IpNetwork> = self.speaker.rib().prefixes().copied().collect();
        self.write_routes(prefixes);
    }

    /// A restart keeps our routes with the peers: connections end without a word. The tasks
    /// that write end with the process.
    async fn close_all(&mut self) {
        if self.speaker.config().restart_time == 0 {
            self.speaker
                .stop(&Notification::ADMINISTRATIVE_SHUTDOWN, Instant::now());
            self.act();
            tokio::task::yield_now().await;
        }
        self.connections.clear();
    }
}

async fn connect(address: IpAddr, port: u16, events: mpsc::Sender<Event>) {
    let connecting = TcpStream::connect(SocketAddr::new(address, port));
    let event = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Event::Connected(stream, address),
        _ => Event::ConnectFailed(address),
    };
    // Nobody listens only when the speaker has ended.
    let _ = events.send(event).await;
}

async fn write(
    mut writer: tokio::net::tcp::OwnedWriteHalf,
    mut outgoing: mpsc::UnboundedReceiver<Bytes>,
) {
    while let Some(bytes) = outgoing.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = writer.shutdown().await;
}

async fn read(
    mut reader: tokio::net::tcp::OwnedReadHalf,
    id: ConnectionId,
    events: mpsc::Sender<Event>,
) {
    // What was not agreed on is not sent; a longer message than that is refused by its type.
    let framer = Framer { extended: true };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_PIECE);
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let mut messages = Vec::new();
        let mut broken = false;
        loop {
            match framer.next(&mut buffer) {
                Ok(Some(raw)) => messages.push(Ok(raw)),
                Ok(None) => break,
                Err(fault) => {
                    messages.push(Err(fault));
                    broken = true;
                    break;
                }
            }
        }
        if !messages.is_empty() && events.send(Event::Received(id, messages)).await.is_err() {
            return;
        }
        if broken {
            break;
        }
    }
    // Nobody listens only when the speaker has ended.
    let _ = events.send(Event::Closed(id)).await;
}
