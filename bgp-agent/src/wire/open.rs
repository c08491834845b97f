//! OPEN and its capabilities (RFC 4271, section 4.2; RFC 5492).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::nlri::Family;
use super::notification::Fault;
use super::reader::Reader;

/// What a two-octet field says for an AS that does not fit it (RFC 6793).
pub const AS_TRANS: u16 = 23456;

const PARAMETER_CAPABILITIES: u8 = 2;
/// The length and type that mark long parameters (RFC 9072).
const EXTENDED_LENGTH: u8 = 255;

/// Directions of ADD-PATH (RFC 7911, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddPath {
    pub receive: bool,
    pub send: bool,
}

/// One family of graceful restart (RFC 4724) or its long-lived kind (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartFamily {
    pub family: Family,
    pub forwarding: bool,
    /// Long-lived only: seconds that stale routes are kept.
    pub stale_time: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    Multiprotocol(Family),
    RouteRefresh,
    EnhancedRouteRefresh,
    ExtendedMessage,
    /// IPv4 prefixes with IPv6 next hops (RFC 8950).
    ExtendedNextHop,
    FourOctetAs(u32),
    GracefulRestart {
        restarting: bool,
        notification: bool,
        seconds: u16,
        families: Vec<RestartFamily>,
    },
    LongLivedGracefulRestart(Vec<RestartFamily>),
    AddPath(Vec<(Family, AddPath)>),
    /// One that is not known, or whose content does not fit: as it came.
    Other {
        code: u8,
        value: Bytes,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The four-octet number, where the peer has the capability.
    pub asn: u32,
    /// Seconds; 0 means none is held.
    pub hold_time: u16,
    pub router_id: Ipv4Addr,
    pub capabilities: Vec<Capability>,
}

impl Open {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Fault> {
        let malformed = || Fault::open("the OPEN is cut off", 0, &[]);
        let mut from = Reader(body);
        let version = from.u8().ok_or_else(malformed)?;
        if version != 4 {
            return Err(Fault::open(
                "the peer speaks another version of BGP",
                1,
                &[0, 4],
            ));
        }
        let short_asn = from.u16().ok_or_else(malformed)?;
        let hold_time = from.u16().ok_or_else(malformed)?;
        if matches!(hold_time, 1 | 2) {
            return Err(Fault::open(
                "a hold time of one or two seconds is not acceptable",
                6,
                &[],
            ));
        }
        let router_id = Ipv4Addr::from(from.u32().ok_or_else(malformed)?);
        if router_id.is_unspecified() {
            return Err(Fault::open("the BGP identifier is zero", 3, &[]));
        }
        let capabilities = parameters(from).ok_or_else(malformed)??;
        let asn = capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        let asn = asn.unwrap_or(u32::from(short_asn));
        if asn == 0 {
            return Err(Fault::open("the peer's AS is zero", 2, &[]));
        }
        Ok(Self {
            asn,
            hold_time,
            router_id,
            capabilities,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(4);
        out.put_u16(u16::try_from(self.asn).unwrap_or(AS_TRANS));
        out.put_u16(self.hold_time);
        out.put_u32(self.router_id.to_bits());
        let mut capabilities = BytesMut::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        // What we announce never comes near a parameter's 255 bytes.
        let length = u8::try_from(capabilities.len()).unwrap_or(0);
        if length == 0 {
            out.put_u8(0);
            return;
        }
        out.put_u8(length.saturating_add(2));
        out.put_u8(PARAMETER_CAPABILITIES);
        out.put_u8(length);
        out.put_slice(&capabilities[..usize::from(length)]);
    }
}

/// The capabilities of all optional parameters; `None` where they are cut off.
fn parameters(mut from: Reader<'_>) -> Option<Result<Vec<Capability>, Fault>> {
    let length = from.u8()?;
    let mut extended = false;
    if length == EXTENDED_LENGTH && from.0.first() == Some(&EXTENDED_LENGTH) {
        from.u8()?;
        let length = usize::from(from.u16()?);
        from = Reader(from.0.get(..length)?);
        extended = true;
    } else if from.0.len() != usize::from(length) {
        return None;
    }
    let mut capabilities = Vec::new();
    while !from.is_empty() {
        let kind = from.u8()?;
        let length = if extended {
            usize::from(from.u16()?)
        } else {
            usize::from(from.u8()?)
        };
        let mut value = Reader(from.take(length)?);
        if kind != PARAMETER_CAPABILITIES {
            return Some(Err(Fault::open(
                "an optional parameter is not supported",
                4,
                &[],
            )));
        }
        while !value.is_empty() {
            let code = value.u8()?;
            let length = usize::from(value.u8()?);
            capabilities.push(Capability::decode(code, value.take(length)?));
        }
    }
    Some(Ok(capabilities))
}

impl Capability {
    fn decode(code: u8, value: &[u8]) -> Self {
        let known = Self::decode_known(code, Reader(value));
        known.unwrap_or_else(|| Self::Other {
            code,
            value: Bytes::copy_from_slice(value),
        })
    }

    fn decode_known(code: u8, mut value: Reader<'_>) -> Option<Self> {
        let capability = match code {
            1 => {
                let afi = value.u16()?;
                value.u8()?;
                Self::Multiprotocol(Family::from_numbers(afi, value.u8()?)?)
            }
            2 => Self::RouteRefresh,
            5 => {
                let mut spoken = false;
                while !value.is_empty() {
                    let (afi, safi, next_hop) = (value.u16()?, value.u16()?, value.u16()?);
                    spoken |= (afi, safi, next_hop) == (1, 1, 2);
                }
                spoken.then_some(Self::ExtendedNextHop)?
            }
            6 => Self::ExtendedMessage,
            64 => {
                let head = value.u16()?;
                let families = restart_families(&mut value, false)?;
                Self::GracefulRestart {
                    restarting: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    seconds: head & 0x0fff,
                    families,
                }
            }
            65 => Self::FourOctetAs(value.u32()?),
            69 => {
                let mut families = Vec::new();
                while !value.is_empty() {
                    let (afi, safi, directions) = (value.u16()?, value.u8()?, value.u8()?);
                    if let (Some(family), 1..=3) = (Family::from_numbers(afi, safi), directions) {
                        let (receive, send) = (directions & 1 != 0, directions & 2 != 0);
                        families.push((family, AddPath { receive, send }));
                    }
                }
                Self::AddPath(families)
            }
            70 => Self::EnhancedRouteRefresh,
            71 => Self::LongLivedGracefulRestart(restart_families(&mut value, true)?),
            _ => return None,
        };
        value.is_empty().then_some(capability)
    }

    fn encode(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        let code = match self {
            Self::Multiprotocol(family) => {
                let (afi, safi) = family.numbers();
                value.put_u16(afi);
                value.put_u8(0);
                value.put_u8(safi);
                1
            }
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop => {
                value.put_slice(&[0, 1, 0, 1, 0, 2]);
                5
            }
            Self::ExtendedMessage => 6,
            Self::GracefulRestart {
                restarting,
                notification,
                seconds,
                families,
            } => {
                let flags = u16::from(*restarting) << 15 | u16::from(*notification) << 14;
                value.put_u16(flags | (seconds & 0x0fff));
                put_restart_families(families, false, &mut value);
                64
            }
            Self::FourOctetAs(asn) => {
                value.put_u32(*asn);
                65
            }
            Self::AddPath(families) => {
                for (family, directions) in families {
                    let (afi, safi) = family.numbers();
                    value.put_u16(afi);
                    value.put_u8(safi);
                    value.put_u8(u8::from(directions.receive) | u8::from(directions.send) << 1);
                }
                69
            }
            Self::EnhancedRouteRefresh => 70,
            Self::LongLivedGracefulRestart(families) => {
                put_restart_families(families, true, &mut value);
                71
            }
            Self::Other {
                code,
                value: content,
            } => {
                value.put_slice(content);
                *code
            }
        };
        out.put_u8(code);
        out.put_u8(u8::try_from(value.len()).unwrap_or(u8::MAX));
        out.put_slice(&value[..value.len().min(255)]);
    }
}

fn restart_families(value: &mut Reader<'_>, long_lived: bool) -> Option<Vec<RestartFamily>> {
    let mut families = Vec::new();
    while !value.is_empty() {
        let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
        let stale_time = if long_lived {
            let [high, middle, low] = value.array()?;
            u32::from_be_bytes([0, high, middle, low])
        } else {
            0
        };
        if let Some(family) = Family::from_numbers(afi, safi) {
            families.push(RestartFamily {
                family,
                forwarding: flags & 0x80 != 0,
                stale_time,
            });
        }
    }
    Some(families)
}

fn put_restart_families(families: &[RestartFamily], long_lived: bool, out: &mut BytesMut) {
    for own in families {
        let (afi, safi) = own.family.numbers();
        out.put_u16(afi);
        out.put_u8(safi);
        out.put_u8(u8::from(own.forwarding) << 7);
        if long_lived {
            out.put_uint(u64::from(own.stale_time & 0x00ff_ffff), 3);
        }
    }
}
