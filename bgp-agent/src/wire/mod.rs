//! BGP-4 messages on the wire.
//!
//! Everything that a peer sends is hostile until it is parsed: [`Framer`] cuts the stream by the
//! header (RFC 4271, section 4.1), [`open`] and [`update`] decode the bodies. A fault is either a
//! [`Fault`], which ends the session with its NOTIFICATION, or, in an UPDATE, what RFC 7606 makes
//! of it.

pub mod attribute;
pub mod nlri;
pub mod notification;
pub mod open;
pub(crate) mod reader;
pub mod update;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use attribute::{Attributes, Segment};
pub use nlri::{Family, Nlri};
pub use notification::{Fault, Notification};
pub use open::{Capability, Open};
pub use update::{Context, NextHop, Update};

const MARKER: [u8; 16] = [0xff; 16];
const HEADER: usize = 19;
/// The longest message without and with RFC 8654.
pub const LONGEST: usize = 4096;
pub const LONGEST_EXTENDED: usize = 65535;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

/// What a ROUTE-REFRESH asks for or marks (RFC 7313).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    Request,
    Begin,
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Box<Update>),
    Notification(Notification),
    Keepalive,
    RouteRefresh { family: Family, kind: Refresh },
}

/// A message whose body is not decoded yet: how an UPDATE reads depends on the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    kind: u8,
    body: Bytes,
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Framer {
    pub extended: bool,
}

impl Framer {
    /// The next complete message of the buffer.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Raw>, Fault> {
        let Some(header) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (marker, rest) = header.split_at(MARKER.len());
        if marker != MARKER {
            return Err(Fault::header_not_synchronized());
        }
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let kind = rest[2];
        if !self.is_length(kind, length) {
            return Err(Fault::bad_length(rest[0], rest[1]));
        }
        if !(OPEN..=ROUTE_REFRESH).contains(&kind) {
            return Err(Fault::bad_type(kind));
        }
        if buffer.len() < length {
            buffer.reserve(length - buffer.len());
            return Ok(None);
        }
        let mut message = buffer.split_to(length);
        message.advance(HEADER);
        Ok(Some(Raw {
            kind,
            body: message.freeze(),
        }))
    }

    /// RFC 4271, section 6.1; RFC 8654, section 4: OPEN and KEEPALIVE never get longer.
    fn is_length(&self, kind: u8, length: usize) -> bool {
        let longest = match (self.extended, kind) {
            (true, UPDATE | NOTIFICATION | ROUTE_REFRESH) => LONGEST_EXTENDED,
            _ => LONGEST,
        };
        let fits = |range: std::ops::RangeInclusive<usize>| range.contains(&length);
        match kind {
            OPEN => fits(29..=longest),
            UPDATE => fits(23..=longest),
            NOTIFICATION => fits(21..=longest),
            KEEPALIVE => length == HEADER,
            ROUTE_REFRESH => length == HEADER + 4,
            _ => fits(HEADER..=longest),
        }
    }
}

impl Raw {
    pub fn decode(self, context: &Context) -> Result<Message, Fault> {
        Ok(match self.kind {
            OPEN => Message::Open(Open::decode(&self.body)?),
            UPDATE => Message::Update(Box::new(Update::decode(self.body, context)?)),
            NOTIFICATION => Message::Notification(Notification::decode(&self.body)),
            ROUTE_REFRESH => refresh(&self.body),
            _ => Message::Keepalive,
        })
    }
}

/// A request for a family that is not spoken, or of an unknown kind, is passed over
/// (RFC 2918, section 4; RFC 7313, section 5).
fn refresh(body: &[u8]) -> Message {
    let [afi_high, afi_low, kind, safi] = *body else {
        return Message::Keepalive;
    };
    let family = Family::from_numbers(u16::from_be_bytes([afi_high, afi_low]), safi);
    let kind = match kind {
        0 => Some(Refresh::Request),
        1 => Some(Refresh::Begin),
        2 => Some(Refresh::End),
        _ => None,
    };
    match (family, kind) {
        (Some(family), Some(kind)) => Message::RouteRefresh { family, kind },
        _ => Message::Keepalive,
    }
}

impl Message {
    /// The messages as bytes; an UPDATE that does not fit one message becomes several.
    pub fn encode(&self, context: &Context, out: &mut BytesMut) {
        match self {
            Self::Open(open) => frame(out, OPEN, |out| open.encode(out)),
            Self::Update(update) => update.encode(context, out),
            Self::Notification(notification) => {
                frame(out, NOTIFICATION, |out| notification.encode(out));
            }
            Self::Keepalive => frame(out, KEEPALIVE, |_| {}),
            Self::RouteRefresh { family, kind } => frame(out, ROUTE_REFRESH, |out| {
                let (afi, safi) = family.numbers();
                out.put_u16(afi);
                out.put_u8(match kind {
                    Refresh::Request => 0,
                    Refresh::Begin => 1,
                    Refresh::End => 2,
                });
                out.put_u8(safi);
            }),
        }
    }
}

/// A header and the body that the closure writes.
fn frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(kind);
    body(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests;
