//! Peers that announce as fast as they are read, and count what they are told.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bgp_agent::wire::update::Context;
use bgp_agent::wire::{
    Attributes, Capability, Family, Framer, Message, NextHop, Nlri, Open, Segment, Update,
};
use bytes::BytesMut;
use ipnetwork::{IpNetwork, Ipv4Network};
use socket2::{Domain, Socket, Type};

use crate::daemon;

const PORT: u16 = 179;
const HOLD_TIME: u16 = 600;
/// Prefixes that share attributes, as in tables of real routers.
const SHARED: usize = 10;
/// Far more often than any speaker's hold time wants it.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How many peers announce how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) peers: u8,
    pub(crate) prefixes: u32,
    /// Every table is told within this, or the speaker has failed.
    pub(crate) patience: Duration,
}

impl Load {
    /// From the first announcement until every peer has all prefixes of all others.
    pub(crate) fn run(self) -> anyhow::Result<Duration> {
        let sessions: Vec<Session> = (1..=self.peers)
            .map(Session::establish)
            .collect::<anyhow::Result<_>>()?;
        let announcements: Vec<BytesMut> = (1..=self.peers)
            .map(|number| self.announcements(number))
            .collect();
        let expected = u64::from(self.prefixes) * u64::from(self.peers - 1);
        let streams: Vec<TcpStream> = sessions
            .iter()
            .map(|session| session.stream.try_clone())
            .collect::<Result<_, _>>()?;
        let start = Barrier::new(usize::from(self.peers) + 1);
        let (done, results) = mpsc::channel();
        thread::scope(|scope| {
            let mut ends = Vec::new();
            for ((mut session, bytes), sender) in
                sessions.into_iter().zip(announcements).zip(&streams)
            {
                let (end, ended) = mpsc::channel();
                ends.push(end);
                let (start, done) = (&start, done.clone());
                scope.spawn(move || {
                    start.wait();
                    // A speaker that hangs up is found by the receiver.
                    let _ = announce(sender, &bytes, &ended);
                });
                scope.spawn(move || {
                    let received = session.receive(expected, self.patience);
                    // Nobody waits for it when another one has failed.
                    let _ = done.send(received.map(|()| session));
                });
            }
            start.wait();
            let begun = Instant::now();
            // A session that ends takes its prefixes with it: all stay until the last has everything.
            let received: anyhow::Result<Vec<Session>> =
                results.iter().take(usize::from(self.peers)).collect();
            let elapsed = begun.elapsed();
            for stream in &streams {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            drop(ends);
            received.map(|_| elapsed)
        })
    }

    /// What a peer announces, as bytes: nothing but the speaker is measured.
    fn announcements(self, number: u8) -> BytesMut {
        let mut bytes = BytesMut::new();
        let first =
            u32::from(Ipv4Addr::new(16, 0, 0, 0)) + (u32::from(number - 1) * self.prefixes) * 256;
        let prefixes: Vec<Nlri> = (0..self.prefixes)
            .filter_map(|index| Ipv4Network::new(Ipv4Addr::from(first + index * 256), 24).ok())
            .map(|network| Nlri::new(IpNetwork::V4(network)))
            .collect();
        let context = context();
        for (index, group) in prefixes.chunks(SHARED).enumerate() {
            let origin = 100_000 + u32::try_from(index % 5000).unwrap_or(0);
            let path = vec![daemon::peer_asn(number), 3356, origin];
            let next_hop = NextHop::new(IpAddr::V4(daemon::peer_address(number)));
            let update = Update {
                attributes: Attributes {
                    as_path: vec![Segment::Sequence(path)],
                    communities: vec![u32::try_from(index % 1000).unwrap_or(0)],
                    ..Attributes::default()
                },
                reachable: vec![(next_hop, group.to_vec())],
                ..Update::default()
            };
            Message::Update(Box::new(update)).encode(&context, &mut bytes);
        }
        Message::Update(Box::new(Update::end_of_rib(Family::Ipv4))).encode(&context, &mut bytes);
        bytes
    }
}

fn context() -> Context {
    Context {
        four_octets: true,
        ..Context::default()
    }
}

/// An established session of one peer.
struct Session {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Session {
    /// Tries until the speaker listens, then goes through OPEN and KEEPALIVE.
    fn establish(number: u8) -> anyhow::Result<Self> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match Self::try_establish(number) {
                Ok(session) => return Ok(session),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("peer {number} has no session")));
                }
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn try_establish(number: u8) -> anyhow::Result<Self> {
        let stream = connect(daemon::peer_address(number))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = Session {
            stream,
            buffer: BytesMut::new(),
        };
        let asn = daemon::peer_asn(number);
        session.send(&Message::Open(Open {
            asn,
            hold_time: HOLD_TIME,
            router_id: daemon::peer_address(number),
            capabilities: vec![
                Capability::Multiprotocol(Family::Ipv4),
                Capability::FourOctetAs(asn),
            ],
        }))?;
        let Message::Open(_) = session.next()? else {
            bail!("the speaker's first message is no OPEN");
        };
        session.send(&Message::Keepalive)?;
        let Message::Keepalive = session.next()? else {
            bail!("the speaker does not accept the OPEN");
        };
        Ok(session)
    }

    fn send(&mut self, message: &Message) -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        message.encode(&context(), &mut bytes);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            let framed = Framer::default().next(&mut self.buffer);
            let framed = framed.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
            if let Some(raw) = framed {
                return raw
                    .decode(&context())
                    .map_err(|fault| anyhow::anyhow!("{fault:?}"));
            }
            let mut piece = [0; 65536];
            let length = self.stream.read(&mut piece)?;
            ensure!(length > 0, "the speaker has closed the connection");
            self.buffer.extend_from_slice(&piece[..length]);
        }
    }

    /// Reads until so many different prefixes were told.
    fn receive(&mut self, expected: u64, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        let mut told = 0;
        while told < expected {
            let left = end.saturating_duration_since(Instant::now());
            let context = || {
                let seconds = patience.as_secs();
                format!("{told} of {expected} prefixes were told within {seconds} s")
            };
            ensure!(!left.is_zero(), context());
            self.stream.set_read_timeout(Some(left))?;
            let message = self.next().with_context(context)?;
            match message {
                Message::Update(update) => {
                    let each = update
                        .reachable
                        .iter()
                        .map(|(_, prefixes)| prefixes.len() as u64);
                    told += each.sum::<u64>();
                    ensure!(update.withdrawn.is_empty(), "a prefix was withdrawn");
                }
                Message::Notification(notification) => bail!("{notification:?}"),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Announces, and then keeps the session up until the other end of `ended` is dropped.
fn announce(
    mut stream: &TcpStream,
    bytes: &[u8],
    ended: &mpsc::Receiver<()>,
) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    let mut keepalive = BytesMut::new();
    Message::Keepalive.encode(&context(), &mut keepalive);
    while ended.recv_timeout(KEEPALIVE) == Err(mpsc::RecvTimeoutError::Timeout) {
        stream.write_all(&keepalive)?;
    }
    Ok(())
}

/// A connection from that address.
fn connect(from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(
        &SocketAddr::from((daemon::ADDRESS, PORT)).into(),
        Duration::from_secs(2),
    )?;
    Ok(socket.into())
}
