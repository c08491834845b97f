//! Who reaches whom: real packets, sent in the network namespaces of the pods themselves.
//!
//! A TCP connection has to be made and a datagram to be answered by the pod's server. SCTP's INIT
//! has to arrive: it is made here and read by a raw socket, since not every kernel speaks SCTP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::netns::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::pods::Places;

pub(crate) type PortProtocol = (u16, &'static str);

/// A connection to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    /// `NAMESPACE/NAME`
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) port: PortProtocol,
    pub(crate) v6: bool,
}

/// Where a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Pods,
    /// Its Service's address, whose only back end it is.
    Services,
}

const SCTP: i32 = 132;
/// What raw sockets of IPv4 and IPv6 give before the packet.
const IP_HEADERS: [usize; 2] = [20, 0];

/// The namespaces of the pods.
pub(crate) struct Prober {
    pods: BTreeMap<String, Pod>,
    next_tag: AtomicU32,
}

struct Pod {
    netns: Netns,
    addresses: [IpAddr; 2],
    service: [IpAddr; 2],
    /// What reads the pod's SCTP packets, by family.
    sctp: [Socket; 2],
}

fn family(v6: bool) -> usize {
    usize::from(v6)
}

fn domain(v6: bool) -> Domain {
    if v6 { Domain::IPV6 } else { Domain::IPV4 }
}

impl Prober {
    /// Finds each pod's namespace by a process in it and the address.
    pub(crate) fn new(lab: &str, places: &Places) -> anyhow::Result<Self> {
        let mut by_address = BTreeMap::new();
        for netns in pods_namespaces(lab)? {
            let addresses = netns.run(addresses)??;
            for address in addresses {
                by_address.insert(address, netns.path().to_owned());
            }
        }
        let mut pods = BTreeMap::new();
        for (name, place) in places {
            let addresses = [place.v4.parse()?, place.v6.parse()?];
            let path = by_address
                .get(&addresses[0])
                .with_context(|| format!("no process has the address of {name}"))?;
            let netns = Netns::open(path)?;
            let raw = |v6| -> anyhow::Result<Socket> {
                let socket = Socket::new(domain(v6), Type::RAW, Some(Protocol::from(SCTP)))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let sctp = netns.run(|| anyhow::Ok([raw(false)?, raw(true)?]))??;
            let pod = Pod {
                netns,
                addresses,
                service: place.service,
                sctp,
            };
            pods.insert(name.clone(), pod);
        }
        let next_tag = AtomicU32::new(1);
        Ok(Self { pods, next_tag })
    }

    /// Which of the connections are made; what is not answered in this time is not.
    pub(crate) fn reached(
        &self,
        probes: &[Probe],
        patience: Duration,
        at: At,
    ) -> anyhow::Result<BTreeMap<Probe, bool>> {
        let mut by_client: BTreeMap<&str, Vec<&Probe>> = BTreeMap::new();
        for probe in probes {
            by_client.entry(&probe.client).or_default().push(probe);
        }
        let mut seen = BTreeMap::new();
        let mut tags = BTreeMap::new();
        let answers = thread::scope(|scope| {
            let threads: Vec<_> = by_client
                .iter()
                .map(|(client, own)| scope.spawn(|| self.ask_from_pod(client, own, patience, at)))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let panicked = |_| anyhow::anyhow!("a probe panicked");
                thread.join().map_err(panicked).flatten()
            });
            joined.collect::<anyhow::Result<Vec<_>>>()
        })?;
        for answer in answers {
            seen.extend(answer.seen);
            tags.extend(answer.tags);
        }
        let arrived = self.arrived_tags()?;
        for (tag, probe) in tags {
            seen.insert(probe, arrived.contains(&tag));
        }
        ensure!(seen.len() == probes.len(), "not every probe was sent");
        Ok(seen)
    }

    fn arrived_tags(&self) -> anyhow::Result<BTreeSet<u32>> {
        let mut tags = BTreeSet::new();
        let mut packet = [0; 256];
        for pod in self.pods.values() {
            for (mut socket, header) in pod.sctp.iter().zip(IP_HEADERS) {
                loop {
                    match socket.read(&mut packet) {
                        Ok(length) => tags.extend(initiate_tag(&packet[..length], header)),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(tags)
    }

    fn ask_from_pod(
        &self,
        client: &str,
        probes: &[&Probe],
        patience: Duration,
        at: At,
    ) -> anyhow::Result<Answer> {
        let pod = &self.pods[client];
        pod.netns.run(|| {
            let mut answer = Answer::default();
            let mut open = Vec::new();
            for probe in probes {
                let server = &self.pods[&probe.server];
                let (port, protocol) = probe.port;
                let addresses = match at {
                    At::Pods => server.addresses,
                    At::Services => server.service,
                };
                let to = SocketAddr::new(addresses[family(probe.v6)], port);
                let begun = match protocol {
                    "SCTP" => {
                        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
                        send_init(to, tag)?;
                        answer.tags.insert(tag, (*probe).clone());
                        continue;
                    }
                    "UDP" => begin(to, Type::DGRAM)?,
                    _ => begin(to, Type::STREAM)?,
                };
                open.push((begun, *probe));
            }
            let deadline = Instant::now() + patience;
            wait_for_answers(open, deadline, &mut answer)?;
            // Also where nothing else is waited for.
            if !answer.tags.is_empty() {
                thread::sleep(deadline.saturating_duration_since(Instant::now()));
            }
            Ok(answer)
        })?
    }
}

#[derive(Default)]
struct Answer {
    seen: BTreeMap<Probe, bool>,
    tags: BTreeMap<u32, Probe>,
}

fn begin(to: SocketAddr, kind: Type) -> anyhow::Result<Socket> {
    let socket = Socket::new(domain(to.is_ipv6()), kind, None)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        // Nothing is left of a connection that was made.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
            return Err(error).with_context(|| to.to_string());
        }
        _ => {}
    }
    if kind == Type::DGRAM {
        socket.send(b"hostname")?;
    }
    Ok(socket)
}

fn wait_for_answers(
    mut open: Vec<(Socket, &Probe)>,
    deadline: Instant,
    answer: &mut Answer,
) -> anyhow::Result<()> {
    while !open.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = open
                .iter()
                .map(|(socket, probe)| {
                    let wanted = match probe.port.1 {
                        "UDP" => PollFlags::POLLIN,
                        _ => PollFlags::POLLOUT,
                    };
                    PollFd::new(socket.as_fd(), wanted)
                })
                .collect();
            let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            poll(&mut polled, PollTimeout::from(timeout))?;
            polled.iter().map(|own| own.any() == Some(true)).collect()
        };
        let mut ready = ready.into_iter();
        open.retain(|(socket, probe)| {
            if ready.next() != Some(true) {
                return true;
            }
            let answered = match probe.port.1 {
                "UDP" => {
                    let mut socket = socket;
                    socket.read(&mut [0; 64]).is_ok()
                }
                _ => matches!(socket.take_error(), Ok(None)),
            };
            answer.seen.insert((*probe).clone(), answered);
            false
        });
    }
    for (_, probe) in open {
        answer.seen.insert(probe.clone(), false);
    }
    Ok(())
}

/// The namespaces of the processes that serve in the lab's pods: pods of other labs may have the
/// same addresses.
fn pods_namespaces(lab: &str) -> anyhow::Result<Vec<Netns>> {
    let cgroup = lab::cgroup::path(lab, None);
    let cgroup = format!("/{}/", cgroup.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|own| own.parse().ok()) else {
            continue;
        };
        let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        // A process may end at any time.
        if read("comm").trim() == "testserver"
            && read("cgroup").contains(&cgroup)
            && let Ok(netns) = Netns::of_process(pid)
        {
            found.push(netns);
        }
    }
    Ok(found)
}

fn addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|own| {
        let address = own.address?;
        let v4 = address.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip())))
    });
    Ok(addresses.collect())
}

/// The first packet of an association (RFC 9260, section 3.3.2).
fn send_init(to: SocketAddr, tag: u32) -> anyhow::Result<()> {
    const CHECKSUM: std::ops::Range<usize> = 8..12;
    let source = 20_000 + u16::try_from(tag % 40_000)?;
    let mut packet = Vec::with_capacity(32);
    packet.extend(source.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0; 8]); // verification tag, checksum
    packet.extend([1, 0, 0, 20]); // INIT, no flags, length
    packet.extend(tag.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes()); // receiver window
    packet.extend([0, 1, 0, 1]); // streams out, in
    packet.extend(1_u32.to_be_bytes()); // first TSN
    let checksum = crc32c(&packet).to_le_bytes();
    packet[CHECKSUM].copy_from_slice(&checksum);
    let protocol = Some(Protocol::from(SCTP));
    let socket = Socket::new(domain(to.is_ipv6()), Type::RAW, protocol)?;
    let mut plain = to;
    plain.set_port(0);
    match socket.send_to(&packet, &plain.into()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("SCTP to {to}")),
    }
}

/// The tag of an INIT behind an IP header of this length.
fn initiate_tag(packet: &[u8], header: usize) -> Option<u32> {
    let tag = packet.get(header + 16..header + 20)?.try_into().ok()?;
    (packet.get(header + 12) == Some(&1)).then(|| u32::from_be_bytes(tag))
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    const REFLECTED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= REFLECTED_POLYNOMIAL;
            }
        }
    }
    !crc
}
