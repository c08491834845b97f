//! TCP: listening, connecting, and the tasks that read and write.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnetwork::IpNetwork;
use kernel::sockopt::{self, NEIGHBOURS_HOPS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Error, Event, keys};
use crate::config::{Config, Password, Peer};
use crate::session::ConnectionId;
use crate::wire::Framer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_PIECE: usize = 64 * 1024;

/// The sockets that peers connect to.
pub(super) struct Listeners {
    sockets: Vec<(bool, Arc<TcpListener>)>,
    keys: BTreeMap<IpNetwork, Password>,
}

/// Both families; a kernel without IPv6 is no fault.
pub(super) fn listen(
    port: u16,
    events: &mpsc::Sender<Event>,
    shutdown: &CancellationToken,
) -> Result<Listeners, Error> {
    let v4 = bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    let v4 = v4.map_err(|source| Error::Listen { port, source })?;
    let mut sockets = vec![(true, Arc::new(v4))];
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
        Ok(listener) => sockets.push((false, Arc::new(listener))),
        Err(error) => tracing::info!(%error, "no sessions over IPv6"),
    }
    for (_, listener) in &sockets {
        tokio::spawn(accept(listener.clone(), events.clone(), shutdown.clone()));
    }
    let keys = BTreeMap::new();
    Ok(Listeners { sockets, keys })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // The handshake already has to come from as near as peers with TTL security want it.
    sockopt::set_hops(&socket, address.is_ipv4(), NEIGHBOURS_HOPS)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn accept(
    listener: Arc<TcpListener>,
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
) {
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

impl Listeners {
    /// Connections of peers with a key are taken with its signature only.
    pub(super) fn set_keys(&mut self, config: &Config) {
        let wanted = keys(config);
        let gone = self.keys.keys().filter(|range| !wanted.contains_key(range));
        for range in gone {
            self.set_key(*range, &[]);
        }
        for (range, password) in &wanted {
            if self.keys.get(range) != Some(password) {
                self.set_key(*range, password.as_bytes());
            }
        }
        self.keys = wanted;
    }

    fn set_key(&self, range: IpNetwork, key: &[u8]) {
        let of_family = |own: &&(bool, Arc<TcpListener>)| own.0 == range.is_ipv4();
        for (_, socket) in self.sockets.iter().filter(of_family) {
            if let Err(error) = sockopt::set_tcp_md5(socket.as_ref(), range, key) {
                tracing::error!(%range, %error, "the key of a peer cannot be used");
            }
        }
    }
}

/// What a connection to a peer needs of its configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    password: Option<Password>,
    ttl_security: Option<u8>,
    source: Option<IpAddr>,
}

impl Options {
    pub(super) fn of(peer: &Peer) -> Self {
        Self {
            password: peer.password.clone(),
            ttl_security: peer.ttl_security,
            source: peer.source,
        }
    }

    /// RFC 5082, section 3: a peer `n` hops away leaves `256 - n` of 255.
    fn least_hops(&self) -> Option<u8> {
        let hops = self.ttl_security?;
        Some(NEIGHBOURS_HOPS - (hops.max(1) - 1))
    }

    pub(super) fn on_accepted(&self, stream: &TcpStream, peer: IpAddr) -> io::Result<()> {
        match self.least_hops() {
            Some(least) => sockopt::set_least_hops(stream, peer.is_ipv4(), least),
            None => Ok(()),
        }
    }

    fn socket(&self, peer: IpAddr) -> io::Result<TcpSocket> {
        let ipv4 = peer.is_ipv4();
        let socket = if ipv4 {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(password) = &self.password {
            sockopt::set_tcp_md5(&socket, peer.into(), password.as_bytes())?;
        }
        if let Some(least) = self.least_hops() {
            sockopt::set_hops(&socket, ipv4, NEIGHBOURS_HOPS)?;
            sockopt::set_least_hops(&socket, ipv4, least)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(socket)
    }
}

pub(super) async fn connect(
    address: IpAddr,
    port: u16,
    options: Options,
    events: mpsc::Sender<Event>,
) {
    let connecting = async {
        let socket = options.socket(address)?;
        socket.connect(SocketAddr::new(address, port)).await
    };
    let event = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Event::Connected(stream, address),
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, %error, "no connection");
            Event::ConnectFailed(address)
        }
        Err(_) => Event::ConnectFailed(address),
    };
    // Nobody listens only when the speaker has ended.
    let _ = events.send(event).await;
}

/// Reads and writes a connection; what is sent through the result goes out in order.
pub(super) fn start(
    stream: TcpStream,
    id: ConnectionId,
    events: mpsc::Sender<Event>,
) -> mpsc::UnboundedSender<Bytes> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "messages may wait for others");
    }
    let (reader, writer) = stream.into_split();
    let (sender, outgoing) = mpsc::unbounded_channel();
    tokio::spawn(read(reader, id, events));
    tokio::spawn(write(writer, outgoing));
    sender
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
