//! Tracked connections: listed and deleted over netlink.

use std::net::IpAddr;

use crate::netlink::{Attribute, Attributes, Error, Protocol, Reply, Request, Socket, parse};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

/// Bits of a flow's status.
pub mod status {
    /// Answers were seen.
    pub const SEEN_REPLY: u32 = 2;
    pub const CONFIRMED: u32 = 8;
    /// The source was translated.
    pub const SNAT: u32 = 16;
    /// The destination was translated.
    pub const DNAT: u32 = 32;
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers are expected: its source is who really serves.
    pub reply: Tuple,
    /// Of [`status`].
    pub status: u32,
    pub mark: u32,
    pub zone: u16,
    id: u32,
}

impl Flow {
    /// Whether packets go elsewhere than they were sent to.
    pub fn is_redirected(&self) -> bool {
        (self.original.destination, self.original.destination_port)
            != (self.reply.source, self.reply.source_port)
    }

    /// A flow as a planner's test makes it.
    pub fn new(original: Tuple, reply: Tuple, status: u32) -> Self {
        Self {
            original,
            reply,
            status,
            mark: 0,
            zone: 0,
            id: 0,
        }
    }
}

/// A connection to conntrack of the network namespace in which it was opened.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    /// The tracked connections of a family, of all protocols that have ports.
    pub fn flows(&mut self, v6: bool) -> Result<Vec<Flow>, Error> {
        let header = [family(v6), 0, 0, 0];
        let body = Attributes::with_header(&header);
        let request = Request::new("list", "tracked connections", GET, 0, body.into_bytes());
        let replies = self.socket.dump(&request)?;
        Ok(replies.iter().filter_map(flow).collect())
    }

    /// The tracked connections of a family and layer-4 protocol. The kernel leaves the others
    /// out, where it knows how to (Linux 5.8): listing few of very many costs little.
    pub fn flows_of(&mut self, v6: bool, protocol: u8) -> Result<Vec<Flow>, Error> {
        let request = filtered_list(v6, protocol);
        let mut flows: Vec<Flow> = match self.socket.dump(&request) {
            Ok(replies) => replies.iter().filter_map(flow).collect(),
            Err(error) if knows_no_filter(&error) => self.flows(v6)?,
            Err(error) => return Err(error),
        };
        flows.retain(|flow| flow.original.protocol == protocol);
        Ok(flows)
    }

    /// Forgets the flows; one that is gone already is no error. Answers with how many there were.
    pub fn delete(&mut self, flows: &[Flow]) -> Result<usize, Error> {
        let requests: Vec<Request> = flows.iter().map(delete_request).collect();
        let mut deleted = 0;
        for result in self.socket.batch(&requests)? {
            match result {
                Ok(()) => deleted += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

fn family(v6: bool) -> u8 {
    if v6 {
        libc::AF_INET6 as u8
    } else {
        libc::AF_INET as u8
    }
}

/// `CTA_FILTER` says which parts of the tuple in the request count: its protocol's number.
fn filtered_list(v6: bool, protocol: u8) -> Request {
    const TUPLE: u16 = 1;
    const FILTER: u16 = 25;
    const PROTOCOL_NUMBER: u32 = 1 << 3;
    let mut body = Attributes::with_header(&[family(v6), 0, 0, 0]);
    body.nest(TUPLE, |w| {
        w.nest(2, |w| {
            w.u8(1, protocol);
        });
    });
    body.nest(FILTER, |w| {
        w.u32(1, PROTOCOL_NUMBER);
    });
    Request::new("list", "tracked connections", GET, 0, body.into_bytes())
}

fn knows_no_filter(error: &Error) -> bool {
    use nix::errno::Errno;
    matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL))
}

fn delete_request(flow: &Flow) -> Request {
    let t = &flow.original;
    let mut body = Attributes::with_header(&[family(t.source.is_ipv6()), 0, 0, 0]);
    body.nest(1, |w| put_tuple(w, t));
    if flow.id != 0 {
        // Not another flow that began in the meantime.
        body.u32_be(12, flow.id);
    }
    if flow.zone != 0 {
        body.u16_be(18, flow.zone);
    }
    let object = format!("{}:{}", t.destination, t.destination_port);
    Request::new(
        "delete the tracked connection to",
        object,
        DELETE,
        0,
        body.into_bytes(),
    )
}

fn put_tuple(w: &mut Attributes, tuple: &Tuple) {
    w.nest(1, |w| match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            w.put(1, &source.octets()).put(2, &destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            w.put(3, &source.octets()).put(4, &destination.octets());
        }
        // No flow has ends of two families.
        _ => {}
    });
    w.nest(2, |w| {
        w.u8(1, tuple.protocol);
        w.u16_be(2, tuple.source_port);
        w.u16_be(3, tuple.destination_port);
    });
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

fn read_tuple(attribute: &Attribute<'_>) -> Option<Tuple> {
    let part = |kind| attribute.nested().find(|a| a.kind == kind);
    let (ip, protocol) = (part(1)?, part(2)?);
    let end = |kinds: [u16; 2]| {
        ip.nested()
            .find(|a| kinds.contains(&a.kind))
            .and_then(|a| address(a.value))
    };
    let number = |kind| protocol.nested().find(|a| a.kind == kind);
    Some(Tuple {
        source: end([1, 3])?,
        destination: end([2, 4])?,
        protocol: number(1)?.as_u8()?,
        source_port: number(2)?.as_u16_be()?,
        destination_port: number(3)?.as_u16_be()?,
    })
}

fn flow(reply: &Reply) -> Option<Flow> {
    let attributes = || parse(reply.payload.get(4..).unwrap_or_default());
    let find = |kind| attributes().find(|a| a.kind == kind);
    let number = |kind| find(kind).and_then(|a| a.as_u32_be()).unwrap_or_default();
    Some(Flow {
        original: read_tuple(&find(1)?)?,
        reply: read_tuple(&find(2)?)?,
        status: number(3),
        mark: number(8),
        zone: find(18).and_then(|a| a.as_u16_be()).unwrap_or_default(),
        id: number(12),
    })
}
