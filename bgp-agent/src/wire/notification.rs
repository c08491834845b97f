//! NOTIFICATION messages, and the faults that cause them (RFC 4271, section 6).

use bytes::{BufMut, Bytes, BytesMut};

/// Why a session ends, as it is told on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Bytes,
}

/// A fault of the peer's bytes, with the NOTIFICATION that answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    pub what: &'static str,
    pub notification: Notification,
}

impl Notification {
    pub const HOLD_TIMER_EXPIRED: Self = Self::new(4, 0);
    pub const FSM_ERROR: Self = Self::new(5, 0);
    /// Cease (RFC 4486).
    pub const MAXIMUM_PREFIXES: Self = Self::new(6, 1);
    pub const ADMINISTRATIVE_SHUTDOWN: Self = Self::new(6, 2);
    pub const PEER_DECONFIGURED: Self = Self::new(6, 3);
    pub const ADMINISTRATIVE_RESET: Self = Self::new(6, 4);
    pub const CONNECTION_REJECTED: Self = Self::new(6, 5);
    pub const COLLISION: Self = Self::new(6, 7);
    /// RFC 9384.
    pub const BFD_DOWN: Self = Self::new(6, 10);

    /// The end of the session is meant, not a restart: routes go at once.
    pub fn is_final(&self) -> bool {
        let finals = [
            &Self::MAXIMUM_PREFIXES,
            &Self::ADMINISTRATIVE_SHUTDOWN,
            &Self::PEER_DECONFIGURED,
            &Self::BFD_DOWN,
        ];
        self.is_hard_reset() || finals.contains(&self)
    }

    /// RFC 8538, section 3.
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (6, 9)
    }

    /// The same as a hard reset, which says why in its data.
    pub fn as_hard_reset(self) -> Self {
        let mut data = BytesMut::new();
        self.encode(&mut data);
        Self {
            data: data.freeze(),
            ..Self::new(6, 9)
        }
    }

    const fn new(code: u8, subcode: u8) -> Self {
        Self {
            code,
            subcode,
            data: Bytes::new(),
        }
    }

    pub(super) fn decode(body: &[u8]) -> Self {
        let (code, subcode) = (body.first().copied(), body.get(1).copied());
        Self {
            code: code.unwrap_or(0),
            subcode: subcode.unwrap_or(0),
            data: Bytes::copy_from_slice(body.get(2..).unwrap_or_default()),
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        out.put_slice(&self.data);
    }
}

impl std::fmt::Display for Notification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match (self.code, self.subcode) {
            (1, _) => "message header error",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 6) => "unacceptable hold time",
            (2, _) => "OPEN message error",
            (3, _) => "UPDATE message error",
            (4, _) => "hold timer expired",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer de-configured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 9) => "hard reset",
            (6, 7) => "connection collision resolution",
            (6, 10) => "BFD down",
            (6, _) => "cease",
            (7, _) => "ROUTE-REFRESH message error",
            _ => "unknown error",
        };
        write!(f, "{name} ({}/{})", self.code, self.subcode)
    }
}

impl Fault {
    fn new(what: &'static str, code: u8, subcode: u8, data: &[u8]) -> Self {
        let data = Bytes::copy_from_slice(data);
        Self {
            what,
            notification: Notification {
                code,
                subcode,
                data,
            },
        }
    }

    pub(super) fn header_not_synchronized() -> Self {
        Self::new("the header's marker is not all ones", 1, 1, &[])
    }

    pub(super) fn bad_length(high: u8, low: u8) -> Self {
        Self::new(
            "the header's length does not fit its type",
            1,
            2,
            &[high, low],
        )
    }

    pub(super) fn bad_type(kind: u8) -> Self {
        Self::new("the message's type is unknown", 1, 3, &[kind])
    }

    /// Of an OPEN message (RFC 4271, section 6.2).
    pub(crate) fn open(what: &'static str, subcode: u8, data: &[u8]) -> Self {
        Self::new(what, 2, subcode, data)
    }

    /// Of an UPDATE message that cannot be read on (RFC 7606, section 3).
    pub(super) fn update(what: &'static str, subcode: u8) -> Self {
        Self::new(what, 3, subcode, &[])
    }
}
