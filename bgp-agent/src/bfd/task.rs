//! The sockets of BFD and the task that serves them.
//!
//! ```text
//! driver --wanted peers--> loop { sessions } --Report--> driver
//! UDP 3784 ----------------^        '--packets--> peers
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use kernel::sockopt::{self, NEIGHBOURS_HOPS};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};

use super::packet::State;
use super::{Change, Output, PORT, Packet, Session, Settings};

/// Ports that packets come from (RFC 5881, section 4).
const FIRST_SOURCE_PORT: u16 = 49152;

/// A change of one peer's session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) peer: IpAddr,
    pub(crate) change: Change,
}

/// A session that is wanted, and our address in it.
pub(crate) type Wanted = BTreeMap<IpAddr, (Settings, Option<IpAddr>)>;

enum Command {
    Want(Wanted),
    End(oneshot::Sender<()>),
}

/// The running task; it ends with this value.
pub(crate) struct Task {
    commands: mpsc::UnboundedSender<Command>,
    states: Arc<Mutex<BTreeMap<IpAddr, State>>>,
}

impl Task {
    /// Opens the sockets in the calling thread's network namespace.
    pub(crate) fn start(reports: mpsc::UnboundedSender<Report>) -> io::Result<Self> {
        let v4 = receiver(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
        // A kernel without IPv6 has no peers with it.
        let v6 = receiver(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).ok();
        let (commands, arriving) = mpsc::unbounded_channel();
        let states = Arc::<Mutex<BTreeMap<IpAddr, State>>>::default();
        let running = Running {
            peers: BTreeMap::new(),
            reports,
            states: states.clone(),
            next_discriminator: std::process::id() << 8 | 1,
        };
        tokio::spawn(running.serve(v4, v6, arriving));
        Ok(Self { commands, states })
    }

    pub(crate) fn want(&self, wanted: Wanted) {
        // The task ends only with this value.
        let _ = self.commands.send(Command::Want(wanted));
    }

    pub(crate) fn states(&self) -> BTreeMap<IpAddr, State> {
        self.states.lock().clone()
    }

    /// Tells all peers that the end of the sessions says nothing about the path.
    pub(crate) async fn end(self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::End(done)).is_ok() {
            let _ = finished.await;
        }
    }
}

struct Peer {
    session: Session,
    socket: UdpSocket,
    settings: Settings,
    source: Option<IpAddr>,
}

struct Running {
    peers: BTreeMap<IpAddr, Peer>,
    reports: mpsc::UnboundedSender<Report>,
    states: Arc<Mutex<BTreeMap<IpAddr, State>>>,
    next_discriminator: u32,
}

fn receiver(address: IpAddr) -> io::Result<tokio::net::UdpSocket> {
    use socket2::{Domain, Socket, Type};
    let address = SocketAddr::new(address, PORT);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    sockopt::tell_hops(&socket, address.is_ipv4())?;
    socket.bind(&address.into())?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// A socket to send from, with a port that no other session has.
fn sender(peer: IpAddr, source: Option<IpAddr>, discriminator: u32) -> io::Result<UdpSocket> {
    let unspecified = match peer {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let local = source.unwrap_or(unspecified);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for offset in 0..64_u32 {
        let place =
            (discriminator.wrapping_mul(64) + offset) % u32::from(u16::MAX - FIRST_SOURCE_PORT);
        let port = FIRST_SOURCE_PORT + u16::try_from(place).unwrap_or(0);
        match UdpSocket::bind((local, port)) {
            Ok(socket) => {
                sockopt::set_hops(&socket, peer.is_ipv4(), NEIGHBOURS_HOPS)?;
                socket.set_nonblocking(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One datagram of a neighbour: packets that crossed a router are forged.
fn receive(socket: &tokio::net::UdpSocket) -> io::Result<Option<(IpAddr, Packet)>> {
    let mut buffer = [0; 128];
    socket.try_io(Interest::READABLE, || {
        let (length, from, hops) = sockopt::receive_with_hops(socket, &mut buffer)?;
        if hops != Some(NEIGHBOURS_HOPS) {
            return Ok(None);
        }
        let packet = buffer.get(..length).and_then(Packet::decode);
        Ok(packet.map(|packet| (from.ip(), packet)))
    })
}

impl Running {
    async fn serve(
        mut self,
        v4: tokio::net::UdpSocket,
        v6: Option<tokio::net::UdpSocket>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            let due = self.peers.values().map(|peer| peer.session.timeout()).min();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Want(wanted)) => self.want(wanted),
                    Some(Command::End(done)) => {
                        self.end();
                        // Nobody waits if the speaker ended in a hurry.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                ready = v4.readable() => if ready.is_ok() { self.take(&v4) },
                ready = readable(v6.as_ref()) => if let (Ok(()), Some(v6)) = (ready, &v6) { self.take(v6) },
                () = sleep_until(due) => self.tick(),
            }
            let states = self
                .peers
                .iter()
                .map(|(peer, own)| (*peer, own.session.state()));
            *self.states.lock() = states.collect();
        }
    }

    fn want(&mut self, wanted: Wanted) {
        self.peers.retain(|address, peer| {
            let same = wanted.get(address) == Some(&(peer.settings, peer.source));
            if !same {
                let last = peer.session.end();
                send(peer, *address, &last);
            }
            same
        });
        for (address, (settings, source)) in wanted {
            if self.peers.contains_key(&address) {
                continue;
            }
            let discriminator = self.next_discriminator;
            self.next_discriminator = discriminator.checked_add(1).unwrap_or(1);
            match sender(address, source, discriminator) {
                Ok(socket) => {
                    let session = Session::new(settings, discriminator, Instant::now());
                    let peer = Peer {
                        session,
                        socket,
                        settings,
                        source,
                    };
                    self.peers.insert(address, peer);
                }
                Err(error) => tracing::error!(peer = %address, %error, "no BFD with the peer"),
            }
        }
    }

    fn take(&mut self, socket: &tokio::net::UdpSocket) {
        loop {
            match receive(socket) {
                Ok(Some((from, packet))) => self.received(from, &packet),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "BFD");
                    return;
                }
            }
        }
    }

    /// By the discriminator, once the peer knows ours; it has to come from the peer all the same.
    fn received(&mut self, from: IpAddr, packet: &Packet) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let for_us = [0, peer.session.discriminator()].contains(&packet.your_discriminator);
        if for_us {
            let outputs = peer.session.received(packet, Instant::now());
            self.output(from, outputs);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let due: Vec<IpAddr> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.session.timeout() <= now)
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            if let Some(peer) = self.peers.get_mut(&address) {
                let outputs = peer.session.tick(now);
                self.output(address, outputs);
            }
        }
    }

    fn output(&mut self, address: IpAddr, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(packet) => {
                    if let Some(peer) = self.peers.get(&address) {
                        send(peer, address, &packet);
                    }
                }
                Output::Changed(change) => {
                    tracing::info!(peer = %address, ?change, "BFD");
                    let peer = address;
                    // Nobody listens only when the speaker has ended.
                    let _ = self.reports.send(Report { peer, change });
                }
            }
        }
    }

    fn end(&mut self) {
        for (address, peer) in &mut self.peers {
            let last = peer.session.end();
            send(peer, *address, &last);
        }
    }
}

/// A packet that cannot be sent is lost, like one that the network loses.
fn send(peer: &Peer, address: IpAddr, packet: &Packet) {
    let to = SocketAddr::new(address, PORT);
    if let Err(error) = peer.socket.send_to(&packet.encode(), to) {
        tracing::trace!(peer = %address, %error, "BFD");
    }
}

async fn readable(socket: Option<&tokio::net::UdpSocket>) -> io::Result<()> {
    match socket {
        Some(socket) => socket.readable().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
