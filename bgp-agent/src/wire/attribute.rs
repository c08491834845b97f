//! Path attributes (RFC 4271, section 4.3, and its successors).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use super::open::AS_TRANS;
use super::reader::Reader;

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
pub(super) const MED: u8 = 4;
pub(super) const LOCAL_PREF: u8 = 5;
pub(super) const ATOMIC_AGGREGATE: u8 = 6;
pub(super) const AGGREGATOR: u8 = 7;
pub(super) const COMMUNITIES: u8 = 8;
pub(super) const ORIGINATOR_ID: u8 = 9;
pub(super) const CLUSTER_LIST: u8 = 10;
pub(super) const MP_REACH: u8 = 14;
pub(super) const MP_UNREACH: u8 = 15;
pub(super) const EXTENDED_COMMUNITIES: u8 = 16;
pub(super) const AS4_PATH: u8 = 17;
pub(super) const AS4_AGGREGATOR: u8 = 18;
pub(super) const LARGE_COMMUNITIES: u8 = 32;

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED: u8 = 0x10;

/// Well-known communities.
pub mod community {
    /// RFC 8326.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// RFC 9494.
    pub const LLGR_STALE: u32 = 0xffff_0006;
    pub const NO_LLGR: u32 = 0xffff_0007;
    /// RFC 1997.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Igp,
    Egp,
    #[default]
    Incomplete,
}

/// A segment of the AS path (RFC 4271, section 4.3; RFC 5065 for confederations).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    Set(Vec<u32>),
    Sequence(Vec<u32>),
    ConfederationSequence(Vec<u32>),
    ConfederationSet(Vec<u32>),
}

impl Segment {
    fn parts(&self) -> (u8, &[u32]) {
        match self {
            Self::Set(path) => (1, path),
            Self::Sequence(path) => (2, path),
            Self::ConfederationSequence(path) => (3, path),
            Self::ConfederationSet(path) => (4, path),
        }
    }

    pub fn numbers(&self) -> &[u32] {
        self.parts().1
    }
}

/// An attribute that is not known here; passed on if it is transitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unknown {
    pub flags: u8,
    pub code: u8,
    pub value: Bytes,
}

/// What is said of a path besides prefix and next hop.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: Vec<Segment>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(u32, Ipv4Addr)>,
    pub communities: Vec<u32>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<u32>,
    pub extended_communities: Vec<[u8; 8]>,
    pub large_communities: Vec<[u32; 3]>,
    pub unknown: Vec<Unknown>,
}

impl Attributes {
    /// The length that the decision process counts: a set is one (RFC 4271, section 9.1.2.2).
    pub fn as_path_length(&self) -> usize {
        let each = self.as_path.iter().map(|segment| match segment {
            Segment::Sequence(path) => path.len(),
            Segment::Set(_) => 1,
            Segment::ConfederationSequence(_) | Segment::ConfederationSet(_) => 0,
        });
        each.sum()
    }

    /// The AS that the path came from last.
    pub fn neighbour_as(&self) -> Option<u32> {
        match self.as_path.first() {
            Some(Segment::Sequence(path)) => path.first().copied(),
            _ => None,
        }
    }

    pub fn contains_as(&self, asn: u32) -> usize {
        let all = self.as_path.iter().flat_map(|segment| segment.numbers());
        all.filter(|own| **own == asn).count()
    }

    /// Puts an AS before the path, `times` times.
    pub fn prepend(&mut self, asn: u32, times: usize) {
        const LONGEST_SEGMENT: usize = 255;
        for _ in 0..times {
            match self.as_path.first_mut() {
                Some(Segment::Sequence(path)) if path.len() < LONGEST_SEGMENT => {
                    path.insert(0, asn)
                }
                _ => self.as_path.insert(0, Segment::Sequence(vec![asn])),
            }
        }
    }

    pub(super) fn encode(&self, four_octets: bool, out: &mut BytesMut) {
        put(
            out,
            TRANSITIVE,
            ORIGIN,
            &[match self.origin {
                Origin::Igp => 0,
                Origin::Egp => 1,
                Origin::Incomplete => 2,
            }],
        );
        put(
            out,
            TRANSITIVE,
            AS_PATH,
            &path_bytes(&self.as_path, four_octets),
        );
        let word = |out: &mut BytesMut, flags, code, value: Option<u32>| {
            if let Some(value) = value {
                put(out, flags, code, &value.to_be_bytes());
            }
        };
        word(out, OPTIONAL, MED, self.med);
        word(out, TRANSITIVE, LOCAL_PREF, self.local_pref);
        if self.atomic_aggregate {
            put(out, TRANSITIVE, ATOMIC_AGGREGATE, &[]);
        }
        self.encode_aggregator(four_octets, out);
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_be_bytes()).collect()
        };
        let mut list = |flags, code, value: Vec<u8>| {
            if !value.is_empty() {
                put(out, flags, code, &value);
            }
        };
        list(OPTIONAL | TRANSITIVE, COMMUNITIES, words(&self.communities));
        let originator: Vec<u8> = self
            .originator_id
            .iter()
            .flat_map(Ipv4Addr::octets)
            .collect();
        list(OPTIONAL, ORIGINATOR_ID, originator);
        list(OPTIONAL, CLUSTER_LIST, words(&self.cluster_list));
        list(
            OPTIONAL | TRANSITIVE,
            EXTENDED_COMMUNITIES,
            self.extended_communities.concat(),
        );
        let too_wide = self
            .as_path
            .iter()
            .flat_map(|s| s.numbers())
            .any(|n| u16::try_from(*n).is_err());
        if !four_octets && too_wide {
            list(
                OPTIONAL | TRANSITIVE,
                AS4_PATH,
                path_bytes(&self.as_path, true),
            );
        }
        let large = self
            .large_communities
            .iter()
            .flat_map(|parts| words(parts))
            .collect();
        list(OPTIONAL | TRANSITIVE, LARGE_COMMUNITIES, large);
        for unknown in self
            .unknown
            .iter()
            .filter(|unknown| unknown.flags & TRANSITIVE != 0)
        {
            put(
                out,
                (unknown.flags & !EXTENDED) | PARTIAL,
                unknown.code,
                &unknown.value,
            );
        }
    }

    fn encode_aggregator(&self, four_octets: bool, out: &mut BytesMut) {
        let Some((asn, address)) = self.aggregator else {
            return;
        };
        let wide = [asn.to_be_bytes(), address.octets()].concat();
        if four_octets {
            return put(out, OPTIONAL | TRANSITIVE, AGGREGATOR, &wide);
        }
        let short = u16::try_from(asn).unwrap_or(AS_TRANS);
        let narrow = [&short.to_be_bytes()[..], &address.octets()].concat();
        put(out, OPTIONAL | TRANSITIVE, AGGREGATOR, &narrow);
        if u16::try_from(asn).is_err() {
            put(out, OPTIONAL | TRANSITIVE, AS4_AGGREGATOR, &wide);
        }
    }
}

/// One attribute; its length takes two bytes where one does not suffice.
pub(super) fn put(out: &mut BytesMut, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => {
            out.put_u8(flags);
            out.put_u8(code);
            out.put_u8(length);
        }
        Err(_) => {
            out.put_u8(flags | EXTENDED);
            out.put_u8(code);
            out.put_u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        }
    }
    out.put_slice(value);
}

fn path_bytes(path: &[Segment], four_octets: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in path {
        let (kind, numbers) = segment.parts();
        for piece in numbers.chunks(255) {
            bytes.push(kind);
            bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
            for number in piece {
                if four_octets {
                    bytes.extend(number.to_be_bytes());
                } else {
                    bytes.extend(u16::try_from(*number).unwrap_or(AS_TRANS).to_be_bytes());
                }
            }
        }
    }
    bytes
}

/// The segments of an AS_PATH or AS4_PATH (RFC 7606, section 7.2).
pub(super) fn decode_path(mut from: Reader<'_>, four_octets: bool) -> Option<Vec<Segment>> {
    let mut path = Vec::new();
    while !from.is_empty() {
        let kind = from.u8()?;
        let count = from.u8().filter(|count| *count > 0)?;
        let mut numbers = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            numbers.push(if four_octets {
                from.u32()?
            } else {
                u32::from(from.u16()?)
            });
        }
        path.push(match kind {
            1 => Segment::Set(numbers),
            2 => Segment::Sequence(numbers),
            3 => Segment::ConfederationSequence(numbers),
            4 => Segment::ConfederationSet(numbers),
            _ => return None,
        });
    }
    Some(path)
}

/// The path with its wide numbers put back (RFC 6793, section 4.2.3): the front that the old
/// speakers added stays, the rest is what the first new speaker said.
pub(super) fn merge_paths(path: Vec<Segment>, wide: Vec<Segment>) -> Vec<Segment> {
    let length = |path: &[Segment]| -> usize {
        let each = path.iter().map(|segment| match segment {
            Segment::Sequence(numbers) => numbers.len(),
            Segment::Set(_) => 1,
            _ => 0,
        });
        each.sum()
    };
    let (have, known) = (length(&path), length(&wide));
    if have < known {
        return path;
    }
    let mut keep = have - known;
    let mut merged = Vec::new();
    for segment in path {
        match segment {
            Segment::Sequence(mut numbers) if keep > 0 => {
                numbers.truncate(keep);
                keep -= numbers.len();
                merged.push(Segment::Sequence(numbers));
            }
            Segment::Set(numbers) if keep > 0 => {
                keep -= 1;
                merged.push(Segment::Set(numbers));
            }
            Segment::ConfederationSequence(_) | Segment::ConfederationSet(_) => {
                merged.push(segment)
            }
            _ => {}
        }
    }
    merged.extend(wide);
    merged
}
