//! IPVS over generic netlink: virtual servers, the real servers behind them, timeouts.

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;

use crate::netlink::{
    self, Attribute, Attributes, NLM_F_ACK, Protocol, Reply, Request, Socket, parse,
};

const FAMILY: &str = "IPVS";

mod command {
    pub(super) const NEW_SERVICE: u8 = 1;
    pub(super) const SET_SERVICE: u8 = 2;
    pub(super) const DEL_SERVICE: u8 = 3;
    pub(super) const GET_SERVICE: u8 = 4;
    pub(super) const NEW_DEST: u8 = 5;
    pub(super) const SET_DEST: u8 = 6;
    pub(super) const DEL_DEST: u8 = 7;
    pub(super) const GET_DEST: u8 = 8;
    pub(super) const SET_CONFIG: u8 = 12;
}

/// Flags of a virtual server.
pub mod flag {
    /// Clients stay with their real server.
    pub const PERSISTENT: u32 = 1;
    pub(super) const HASHED: u32 = 2;
    /// Scheduler `sh` or `mh`: another server where the chosen one has weight 0.
    pub const FALLBACK: u32 = 8;
    /// Scheduler `sh` or `mh`: the source port counts too.
    pub const SOURCE_PORT: u32 = 16;
}

/// What can go wrong with IPVS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operator has to load the module or choose another kernel.
    #[error("this kernel has no IPVS: load the module ip_vs (modprobe ip_vs)")]
    Missing,
    /// Whether a retry helps, the inner error says.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// What a virtual server is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualId {
    pub address: IpAddr,
    /// The layer-4 protocol's number.
    pub protocol: u8,
    pub port: u16,
}

impl std::fmt::Display for VirtualId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => "ip",
        };
        write!(
            f,
            "{protocol} {}",
            std::net::SocketAddr::new(self.address, self.port)
        )
    }
}

/// How a virtual server chooses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualServer {
    pub scheduler: String,
    /// Of [`flag`].
    pub flags: u32,
    /// How long a client stays with its real server, in seconds, with [`flag::PERSISTENT`].
    pub persistence: u32,
}

/// A real server's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealId {
    pub address: IpAddr,
    pub port: u16,
}

/// A real server as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealServer {
    pub id: RealId,
    pub weight: u32,
    pub active: u32,
    pub inactive: u32,
    /// Clients that are held by persistence.
    pub persistent: u32,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddService {
        id: VirtualId,
        server: VirtualServer,
    },
    UpdateService {
        id: VirtualId,
        server: VirtualServer,
    },
    /// With its real servers.
    DeleteService { id: VirtualId },
    AddServer {
        service: VirtualId,
        server: RealId,
        weight: u32,
    },
    /// Changes the weight; connections stay also with weight 0.
    UpdateServer {
        service: VirtualId,
        server: RealId,
        weight: u32,
    },
    /// Its connections end.
    DeleteServer { service: VirtualId, server: RealId },
}

impl Op {
    /// The virtual server that it belongs to.
    pub fn service(&self) -> VirtualId {
        match self {
            Self::AddService { id, .. }
            | Self::UpdateService { id, .. }
            | Self::DeleteService { id } => *id,
            Self::AddServer { service, .. }
            | Self::UpdateServer { service, .. }
            | Self::DeleteServer { service, .. } => *service,
        }
    }

    fn parts(&self) -> (&'static str, u8) {
        match self {
            Self::AddService { .. } => ("add the IPVS service", command::NEW_SERVICE),
            Self::UpdateService { .. } => ("change the IPVS service", command::SET_SERVICE),
            Self::DeleteService { .. } => ("delete the IPVS service", command::DEL_SERVICE),
            Self::AddServer { .. } => ("add an IPVS server of", command::NEW_DEST),
            Self::UpdateServer { .. } => ("change an IPVS server of", command::SET_DEST),
            Self::DeleteServer { .. } => ("delete an IPVS server of", command::DEL_DEST),
        }
    }

    fn request(&self, family: u16) -> Request {
        let (operation, number) = self.parts();
        let mut body = Attributes::with_header(&[number, 1, 0, 0]);
        body.nest(1, |w| put_service(w, self.service(), self.settings()));
        let mut object = self.service().to_string();
        if let Some((server, weight)) = self.real() {
            body.nest(2, |w| put_server(w, server, weight));
            object = format!(
                "{object}: {}",
                std::net::SocketAddr::new(server.address, server.port)
            );
        }
        Request::new(operation, object, family, 0, body.into_bytes())
    }

    fn settings(&self) -> Option<&VirtualServer> {
        match self {
            Self::AddService { server, .. } | Self::UpdateService { server, .. } => Some(server),
            _ => None,
        }
    }

    fn real(&self) -> Option<(RealId, Option<u32>)> {
        match self {
            Self::AddServer { server, weight, .. } | Self::UpdateServer { server, weight, .. } => {
                Some((*server, Some(*weight)))
            }
            Self::DeleteServer { server, .. } => Some((*server, None)),
            _ => None,
        }
    }
}

fn address_family(address: IpAddr) -> u16 {
    if address.is_ipv6() {
        libc::AF_INET6 as u16
    } else {
        libc::AF_INET as u16
    }
}

fn put_address(w: &mut Attributes, kind: u16, address: IpAddr) {
    let mut bytes = [0u8; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    w.put(kind, &bytes);
}

fn put_service(w: &mut Attributes, id: VirtualId, server: Option<&VirtualServer>) {
    w.u16(1, address_family(id.address));
    w.u16(2, u16::from(id.protocol));
    put_address(w, 3, id.address);
    w.u16_be(4, id.port);
    let Some(server) = server else { return };
    w.text(6, &server.scheduler);
    let mut flags = [0u8; 8];
    flags[..4].copy_from_slice(&server.flags.to_ne_bytes());
    flags[4..].copy_from_slice(&u32::MAX.to_ne_bytes());
    w.put(7, &flags);
    w.u32(8, server.persistence);
    // Each client by itself: all bits of its address count.
    w.u32(9, if id.address.is_ipv6() { 128 } else { u32::MAX });
}

fn put_server(w: &mut Attributes, server: RealId, weight: Option<u32>) {
    put_address(w, 1, server.address);
    w.u16_be(2, server.port);
    w.u16(11, address_family(server.address));
    if let Some(weight) = weight {
        // Forwarding by address translation; thresholds are not used.
        w.u32(3, 0).u32(4, weight).u32(5, 0).u32(6, 0);
    }
}

/// A connection to IPVS of the network namespace in which it was opened.
pub struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    /// Finds IPVS; asking for it also makes the kernel load the module, where it may.
    pub fn open() -> Result<Self, Error> {
        const GET_FAMILY: u8 = 3;
        const CONTROLLER: u16 = 0x10;
        let mut socket = Socket::open(Protocol::Generic)?;
        let mut body = Attributes::with_header(&[GET_FAMILY, 1, 0, 0]);
        body.text(2, FAMILY);
        let request = Request::new(
            "find the netlink family",
            FAMILY,
            CONTROLLER,
            0,
            body.into_bytes(),
        );
        let replies = match socket.query(&request) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Err(Error::Missing),
            other => other?,
        };
        let family = replies
            .iter()
            .flat_map(attributes)
            .find(|attribute| attribute.kind == 1)
            .and_then(|attribute| attribute.as_u16())
            .ok_or_else(|| request.decode_error("no family number"))?;
        Ok(Self { socket, family })
    }

    /// Performs the operations in order; the results are in that order too. A failed one does
    /// not stop those behind it.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), netlink::Error>>, Error> {
        let requests: Vec<Request> = ops.iter().map(|op| op.request(self.family)).collect();
        Ok(self.socket.batch(&requests)?)
    }

    /// All virtual servers but those of firewall marks.
    pub fn services(&mut self) -> Result<Vec<(VirtualId, VirtualServer)>, Error> {
        let body = Attributes::with_header(&[command::GET_SERVICE, 1, 0, 0]);
        let request = Request::new("list", "IPVS services", self.family, 0, body.into_bytes());
        let replies = self.socket.dump(&request)?;
        Ok(replies.iter().filter_map(service).collect())
    }

    /// The real servers of a virtual server.
    pub fn servers(&mut self, id: VirtualId) -> Result<Vec<RealServer>, Error> {
        let mut body = Attributes::with_header(&[command::GET_DEST, 1, 0, 0]);
        body.nest(1, |w| put_service(w, id, None));
        let request = Request::new(
            "list IPVS servers of",
            id,
            self.family,
            0,
            body.into_bytes(),
        );
        let replies = self.socket.dump(&request)?;
        let family = address_family(id.address);
        Ok(replies
            .iter()
            .filter_map(|reply| real_server(reply, family))
            .collect())
    }

    /// Idle timeouts of established TCP, of closing TCP and of UDP connections; `None` leaves one.
    pub fn set_timeouts(
        &mut self,
        tcp: Option<Duration>,
        tcp_fin: Option<Duration>,
        udp: Option<Duration>,
    ) -> Result<(), Error> {
        let mut body = Attributes::with_header(&[command::SET_CONFIG, 1, 0, 0]);
        for (kind, timeout) in [(4, tcp), (5, tcp_fin), (6, udp)] {
            // The kernel takes 0 for "as it is".
            body.u32(kind, timeout.map_or(0, |t| t.as_secs() as u32));
        }
        let request = Request::new(
            "set",
            "the IPVS timeouts",
            self.family,
            NLM_F_ACK,
            body.into_bytes(),
        );
        Ok(self.socket.execute(&request)?)
    }
}

/// What follows the generic netlink header.
fn attributes(reply: &Reply) -> impl Iterator<Item = Attribute<'_>> {
    parse(reply.payload.get(4..).unwrap_or_default())
}

fn address(bytes: &[u8], family: u16) -> Option<IpAddr> {
    if family == libc::AF_INET6 as u16 {
        return Some(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?.into());
    }
    Some(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?.into())
}

fn service(reply: &Reply) -> Option<(VirtualId, VirtualServer)> {
    let nested = attributes(reply).find(|attribute| attribute.kind == 1)?;
    let find = |kind| nested.nested().find(|attribute| attribute.kind == kind);
    let family = find(1)?.as_u16()?;
    let id = VirtualId {
        address: address(find(3)?.value, family)?,
        protocol: u8::try_from(find(2)?.as_u16()?).ok()?,
        port: find(4)?.as_u16_be()?,
    };
    let flags = u32::from_ne_bytes(find(7)?.value.get(..4)?.try_into().ok()?);
    let flags = flags & !flag::HASHED;
    let server = VirtualServer {
        scheduler: find(6)?.as_text()?.to_owned(),
        flags,
        // The kernel keeps a number here also where it means nothing.
        persistence: if flags & flag::PERSISTENT != 0 {
            find(8)?.as_u32()?
        } else {
            0
        },
    };
    Some((id, server))
}

fn real_server(reply: &Reply, service_family: u16) -> Option<RealServer> {
    let nested = attributes(reply).find(|attribute| attribute.kind == 2)?;
    let find = |kind| nested.nested().find(|attribute| attribute.kind == kind);
    let family = find(11)
        .and_then(|attribute| attribute.as_u16())
        .unwrap_or(service_family);
    let number = |kind| {
        find(kind)
            .and_then(|attribute| attribute.as_u32())
            .unwrap_or_default()
    };
    Some(RealServer {
        id: RealId {
            address: address(find(1)?.value, family)?,
            port: find(2)?.as_u16_be()?,
        },
        weight: number(4),
        active: number(7),
        inactive: number(8),
        persistent: number(9),
    })
}
