//! UPDATE: routes come and go, with the error handling of RFC 7606.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};

use super::attribute::{
    self, AGGREGATOR, AS_PATH, AS4_AGGREGATOR, AS4_PATH, ATOMIC_AGGREGATE, Attributes,
    CLUSTER_LIST, COMMUNITIES, EXTENDED, EXTENDED_COMMUNITIES, LARGE_COMMUNITIES, LOCAL_PREF, MED,
    MP_REACH, MP_UNREACH, NEXT_HOP, OPTIONAL, ORIGIN, ORIGINATOR_ID, Origin, Segment, TRANSITIVE,
    Unknown,
};
use super::nlri::{self, Family, Nlri};
use super::notification::Fault;
use super::reader::Reader;
use super::{LONGEST, LONGEST_EXTENDED, UPDATE, frame};

/// What both sides agreed on, as far as it changes how messages read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub four_octets: bool,
    pub extended_messages: bool,
    /// Families whose prefixes come, and go, with path identifiers.
    pub add_path_receive: Vec<Family>,
    pub add_path_send: Vec<Family>,
    /// A peer of the same AS: LOCAL_PREF and reflection attributes count.
    pub internal: bool,
}

/// Where packets for a route go: a global address, and beside an IPv6 one a link-local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    pub address: IpAddr,
    pub link_local: Option<Ipv6Addr>,
}

impl NextHop {
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            link_local: None,
        }
    }
}

/// The routes of one UPDATE that share attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    pub withdrawn: Vec<Nlri>,
    pub attributes: Attributes,
    /// Prefixes by the next hop that they have.
    pub reachable: Vec<(NextHop, Vec<Nlri>)>,
    /// The peer has sent everything that it has of the family (RFC 4724, section 2).
    pub end_of_rib: Option<Family>,
    /// What was wrong and mended as RFC 7606 says: attributes discarded, or all routes withdrawn.
    pub mended: Vec<&'static str>,
}

/// What is read before it is known whether the attributes are sound.
#[derive(Default)]
struct Parsed {
    attributes: Attributes,
    seen: [u64; 4],
    next_hop: Option<NextHop>,
    as4_path: Option<Vec<Segment>>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
    reach: Option<(NextHop, Family, Vec<Nlri>)>,
    unreach: Option<(Family, Vec<Nlri>)>,
    mended: Vec<&'static str>,
    withdraw: bool,
}

impl Update {
    pub(super) fn decode(body: Bytes, context: &Context) -> Result<Self, Fault> {
        let malformed = || Fault::update("the UPDATE's lengths do not fit", 1);
        let mut from = Reader(&body);
        let length = usize::from(from.u16().ok_or_else(malformed)?);
        let withdrawn = from.take(length).ok_or_else(malformed)?;
        let length = usize::from(from.u16().ok_or_else(malformed)?);
        let attributes = from.take(length).ok_or_else(malformed)?;
        let invalid = || Fault::update("a prefix of the UPDATE is not one", 10);
        let v4 = |bytes: &[u8]| {
            let add_path = context.add_path_receive.contains(&Family::Ipv4);
            nlri::decode(Reader(bytes), Family::Ipv4, add_path).ok_or_else(invalid)
        };
        let withdrawn = v4(withdrawn)?;
        let announced = v4(from.0)?;
        let parsed = Parsed::read(attributes, context)?;
        Ok(parsed.into_update(withdrawn, announced, length == 0, context))
    }

    /// Nothing but the mark that everything was sent.
    pub fn end_of_rib(family: Family) -> Self {
        Self {
            end_of_rib: Some(family),
            ..Self::default()
        }
    }
}

impl Parsed {
    fn read(attributes: &[u8], context: &Context) -> Result<Self, Fault> {
        let mut parsed = Self::default();
        let mut from = Reader(attributes);
        while !from.is_empty() {
            // A length that does not fit leaves nothing to read on (RFC 7606, section 4).
            let Some((flags, code, value)) = next_attribute(&mut from) else {
                parsed.withdraw("the attributes' lengths do not fit");
                break;
            };
            let (word, bit) = (usize::from(code / 64), 1 << (code % 64));
            if parsed.seen[word] & bit != 0 {
                if matches!(code, MP_REACH | MP_UNREACH) {
                    return Err(Fault::update("a multiprotocol attribute comes twice", 1));
                }
                parsed
                    .mended
                    .push("an attribute that comes twice counts once");
                continue;
            }
            parsed.seen[word] |= bit;
            parsed.attribute(flags, code, value, context)?;
        }
        Ok(parsed)
    }

    fn withdraw(&mut self, why: &'static str) {
        self.withdraw = true;
        self.mended.push(why);
    }

    fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code / 64)] & (1 << (code % 64)) != 0
    }

    fn attribute(
        &mut self,
        flags: u8,
        code: u8,
        value: &[u8],
        context: &Context,
    ) -> Result<(), Fault> {
        if let Some(expected) = expected_flags(code)
            && flags & (OPTIONAL | TRANSITIVE) != expected
        {
            self.withdraw("an attribute's flags do not fit its type");
            return Ok(());
        }
        let from = Reader(value);
        match code {
            MP_REACH => self.reach = reach(from, context)?,
            MP_UNREACH => self.unreach = unreach(from, context)?,
            AS4_PATH | AS4_AGGREGATOR if context.four_octets => {
                self.mended
                    .push("an attribute for two-octet speakers is discarded");
            }
            LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST if !context.internal => {
                self.mended
                    .push("an attribute for internal peers is discarded");
            }
            ATOMIC_AGGREGATE | AGGREGATOR | AS4_AGGREGATOR | AS4_PATH
                if self.discardable(code, from, context).is_none() =>
            {
                self.mended.push("a malformed attribute is discarded");
            }
            ATOMIC_AGGREGATE | AGGREGATOR | AS4_AGGREGATOR | AS4_PATH => {}
            _ if self.decisive(flags, code, from, context).is_none() => {
                self.withdraw("a malformed attribute withdraws its routes");
            }
            _ => {}
        }
        Ok(())
    }

    /// Attributes whose loss does no harm.
    fn discardable(&mut self, code: u8, mut from: Reader<'_>, context: &Context) -> Option<()> {
        match code {
            ATOMIC_AGGREGATE => self.attributes.atomic_aggregate = from.is_empty(),
            AS4_PATH => self.as4_path = Some(attribute::decode_path(from, true)?),
            _ => {
                let wide = context.four_octets || code == AS4_AGGREGATOR;
                let asn = if wide {
                    from.u32()?
                } else {
                    u32::from(from.u16()?)
                };
                let value = (asn, Ipv4Addr::from(from.u32()?));
                from.is_empty().then_some(())?;
                if code == AGGREGATOR {
                    self.attributes.aggregator = Some(value);
                } else {
                    self.as4_aggregator = Some(value);
                }
            }
        }
        Some(())
    }

    /// Attributes that decide on routes.
    fn decisive(
        &mut self,
        flags: u8,
        code: u8,
        mut from: Reader<'_>,
        context: &Context,
    ) -> Option<()> {
        let own = &mut self.attributes;
        let word = |mut from: Reader<'_>| from.u32().filter(|_| from.is_empty());
        match code {
            ORIGIN => {
                own.origin = match from.u8()? {
                    0 => Origin::Igp,
                    1 => Origin::Egp,
                    2 => Origin::Incomplete,
                    _ => return None,
                };
                from.is_empty().then_some(())?;
            }
            AS_PATH => own.as_path = attribute::decode_path(from, context.four_octets)?,
            NEXT_HOP => {
                let address = Ipv4Addr::from(word(from)?);
                self.next_hop = Some(NextHop::new(IpAddr::V4(address)));
            }
            MED => own.med = Some(word(from)?),
            LOCAL_PREF => own.local_pref = Some(word(from)?),
            COMMUNITIES => own.communities = non_empty(from.words()?)?,
            ORIGINATOR_ID => own.originator_id = Some(Ipv4Addr::from(word(from)?)),
            CLUSTER_LIST => own.cluster_list = non_empty(from.words()?)?,
            EXTENDED_COMMUNITIES => {
                let (values, rest) = from.0.as_chunks::<8>();
                rest.is_empty().then_some(())?;
                own.extended_communities = non_empty(values.to_vec())?;
            }
            LARGE_COMMUNITIES => {
                let words = from.words()?;
                let (values, rest) = words.as_chunks::<3>();
                rest.is_empty().then_some(())?;
                own.large_communities = non_empty(values.to_vec())?;
            }
            _ if flags & OPTIONAL == 0 => return None,
            _ => {
                let value = Bytes::copy_from_slice(from.0);
                // Whether its length took two bytes says nothing.
                let flags = flags & !EXTENDED;
                own.unknown.push(Unknown { flags, code, value });
            }
        }
        Some(())
    }

    fn into_update(
        mut self,
        withdrawn: Vec<Nlri>,
        announced: Vec<Nlri>,
        bare: bool,
        context: &Context,
    ) -> Update {
        let mut update = Update {
            withdrawn,
            ..Update::default()
        };
        let nothing = update.withdrawn.is_empty() && announced.is_empty();
        if bare && nothing {
            update.end_of_rib = Some(Family::Ipv4);
            return update;
        }
        if let Some((family, prefixes)) = self.unreach.take() {
            let only = nothing && self.reach.is_none();
            if prefixes.is_empty() && only {
                update.end_of_rib = Some(family);
            }
            update.withdrawn.extend(prefixes);
        }
        let reach = self.reach.take();
        let any = !announced.is_empty() || reach.is_some();
        let required = [
            (ORIGIN, "ORIGIN is missing"),
            (AS_PATH, "AS_PATH is missing"),
        ];
        for (code, why) in required {
            if any && !self.has(code) {
                self.withdraw(why);
            }
        }
        if context.internal && any && !self.has(LOCAL_PREF) {
            self.withdraw("LOCAL_PREF is missing");
        }
        if !announced.is_empty() && self.next_hop.is_none() {
            self.withdraw("NEXT_HOP is missing");
        }
        update.mended = self.mended;
        if self.withdraw {
            update.withdrawn.extend(announced);
            update
                .withdrawn
                .extend(reach.into_iter().flat_map(|(_, _, prefixes)| prefixes));
            return update;
        }
        if let Some((asn, _)) = self.attributes.aggregator {
            // An aggregate that a new speaker made says nothing about the path behind it.
            if let Some(wide) = self
                .as4_aggregator
                .filter(|_| asn == u32::from(super::open::AS_TRANS))
            {
                self.attributes.aggregator = Some(wide);
            }
        }
        if let Some(wide) = self.as4_path {
            let path = std::mem::take(&mut self.attributes.as_path);
            self.attributes.as_path = attribute::merge_paths(path, wide);
        }
        update.attributes = self.attributes;
        if let Some(next_hop) = self.next_hop.filter(|_| !announced.is_empty()) {
            update.reachable.push((next_hop, announced));
        }
        if let Some((next_hop, _, prefixes)) = reach.filter(|(_, _, prefixes)| !prefixes.is_empty())
        {
            update.reachable.push((next_hop, prefixes));
        }
        update
    }
}

fn non_empty<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

fn next_attribute<'a>(from: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, code) = (from.u8()?, from.u8()?);
    let length = match flags & EXTENDED {
        0 => usize::from(from.u8()?),
        _ => usize::from(from.u16()?),
    };
    Some((flags, code, from.take(length)?))
}

/// The optional and transitive bits that a known attribute has.
fn expected_flags(code: u8) -> Option<u8> {
    Some(match code {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => TRANSITIVE,
        MED | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH | MP_UNREACH => OPTIONAL,
        AGGREGATOR | COMMUNITIES | EXTENDED_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR
        | LARGE_COMMUNITIES => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

type Reach = (NextHop, Family, Vec<Nlri>);

/// MP_REACH_NLRI (RFC 4760, section 3). What cannot be read ends the session: its prefixes
/// cannot be told (RFC 7606, section 7.11). Families that are not spoken are passed over.
fn reach(mut from: Reader<'_>, context: &Context) -> Result<Option<Reach>, Fault> {
    let invalid = || Fault::update("MP_REACH_NLRI cannot be read", 9);
    let afi = from.u16().ok_or_else(invalid)?;
    let safi = from.u8().ok_or_else(invalid)?;
    let length = usize::from(from.u8().ok_or_else(invalid)?);
    let next_hop = from.take(length).ok_or_else(invalid)?;
    from.u8().ok_or_else(invalid)?;
    let Some(family) = Family::from_numbers(afi, safi) else {
        return Ok(None);
    };
    let next_hop = decode_next_hop(next_hop).ok_or_else(invalid)?;
    let add_path = context.add_path_receive.contains(&family);
    let prefixes = nlri::decode(from, family, add_path).ok_or_else(invalid)?;
    Ok(Some((next_hop, family, prefixes)))
}

/// Of either version, whatever the family is (RFC 8950); beside an IPv6 address a link-local one.
fn decode_next_hop(bytes: &[u8]) -> Option<NextHop> {
    match bytes.len() {
        4 => Some(NextHop::new(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 | 32 => {
            let (global, rest) = bytes.split_first_chunk::<16>()?;
            let link_local = rest.first_chunk::<16>().map(|own| Ipv6Addr::from(*own));
            Some(NextHop {
                address: IpAddr::from(*global),
                link_local,
            })
        }
        _ => None,
    }
}

/// MP_UNREACH_NLRI (RFC 4760, section 4).
fn unreach(mut from: Reader<'_>, context: &Context) -> Result<Option<(Family, Vec<Nlri>)>, Fault> {
    let invalid = || Fault::update("MP_UNREACH_NLRI cannot be read", 9);
    let afi = from.u16().ok_or_else(invalid)?;
    let safi = from.u8().ok_or_else(invalid)?;
    let Some(family) = Family::from_numbers(afi, safi) else {
        return Ok(None);
    };
    let add_path = context.add_path_receive.contains(&family);
    let prefixes = nlri::decode(from, family, add_path).ok_or_else(invalid)?;
    Ok(Some((family, prefixes)))
}

impl Update {
    pub(super) fn encode(&self, context: &Context, out: &mut BytesMut) {
        if let Some(family) = self.end_of_rib {
            return encode_end_of_rib(family, out);
        }
        let attributes = match self.reachable.is_empty() {
            true => Encoded::default(),
            false => Encoded::of(&self.attributes, context),
        };
        for family in Family::ALL {
            let of_family = |prefixes: &[Nlri]| -> Vec<Nlri> {
                let own = prefixes.iter().filter(|nlri| nlri.family() == family);
                own.copied().collect()
            };
            encode_withdrawn(&of_family(&self.withdrawn), family, context, out);
            for (next_hop, prefixes) in &self.reachable {
                let prefixes = of_family(prefixes);
                encode_reachable(&prefixes, family, *next_hop, &attributes, context, out);
            }
        }
    }
}

/// Attributes as they stand in every UPDATE of a session, or of sessions that agreed on the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Encoded(Box<[u8]>);

impl Encoded {
    pub fn of(attributes: &Attributes, context: &Context) -> Self {
        let mut bytes = BytesMut::new();
        attributes.encode(context.four_octets, &mut bytes);
        Self(bytes.as_ref().into())
    }

    /// Whether there is room for a prefix beside them. Attributes of a peer with longer messages
    /// may be too long for another one: its routes are not told (RFC 8654, section 4).
    pub fn fits(&self, context: &Context) -> bool {
        room(&self.0, context) >= LONGEST_NLRI
    }
}

fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    frame(out, UPDATE, |out| {
        out.put_u16(0);
        if family == Family::Ipv4 {
            return out.put_u16(0);
        }
        let mut attributes = BytesMut::new();
        let (afi, safi) = family.numbers();
        let [high, low] = afi.to_be_bytes();
        attribute::put(&mut attributes, OPTIONAL, MP_UNREACH, &[high, low, safi]);
        out.put_u16(u16::try_from(attributes.len()).unwrap_or(u16::MAX));
        out.put_slice(&attributes);
    });
}

/// Cuts prefixes so that each piece takes at most `room` bytes.
fn pieces(prefixes: &[Nlri], add_path: bool, room: usize) -> Vec<&[Nlri]> {
    let (mut pieces, mut start, mut used) = (Vec::new(), 0, 0);
    for (index, prefix) in prefixes.iter().enumerate() {
        let length = prefix.len(add_path);
        if used + length > room && index > start {
            pieces.push(&prefixes[start..index]);
            (start, used) = (index, 0);
        }
        used += length;
    }
    if start < prefixes.len() {
        pieces.push(&prefixes[start..]);
    }
    pieces
}

fn longest(context: &Context) -> usize {
    if context.extended_messages {
        LONGEST_EXTENDED
    } else {
        LONGEST
    }
}

/// An identifier, a length and an IPv6 address.
const LONGEST_NLRI: usize = 4 + 1 + 16;

/// What is left for prefixes: without header, length fields, the longest next hop with its
/// attribute's head.
fn room(attributes: &[u8], context: &Context) -> usize {
    longest(context).saturating_sub(19 + 4 + attributes.len() + 4 + 5 + 32)
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

fn put_all(prefixes: &[Nlri], add_path: bool, out: &mut BytesMut) {
    prefixes.iter().for_each(|nlri| nlri.encode(add_path, out));
}

/// Writes withdrawals of one family; how many messages they are.
pub(crate) fn encode_withdrawn(
    prefixes: &[Nlri],
    family: Family,
    context: &Context,
    out: &mut BytesMut,
) -> u64 {
    let add_path = context.add_path_send.contains(&family);
    // Header, the two length fields, and an attribute's head and family.
    let room = longest(context) - 19 - 4 - 7;
    let mut messages = 0;
    for piece in pieces(prefixes, add_path, room) {
        messages += 1;
        let bytes: usize = piece.iter().map(|nlri| nlri.len(add_path)).sum();
        frame(out, UPDATE, |out| match family {
            Family::Ipv4 => {
                out.put_u16(length(bytes));
                put_all(piece, add_path, out);
                out.put_u16(0);
            }
            Family::Ipv6 => {
                let (afi, safi) = family.numbers();
                let mut value = BytesMut::with_capacity(3 + bytes);
                value.put_u16(afi);
                value.put_u8(safi);
                put_all(piece, add_path, &mut value);
                let mut attributes = BytesMut::with_capacity(value.len() + 4);
                attribute::put(&mut attributes, OPTIONAL, MP_UNREACH, &value);
                out.put_u16(0);
                out.put_u16(length(attributes.len()));
                out.put_slice(&attributes);
            }
        });
    }
    messages
}

/// Writes routes of one family that share attributes and next hop; how many messages they are.
pub(crate) fn encode_reachable(
    prefixes: &[Nlri],
    family: Family,
    next_hop: NextHop,
    attributes: &Encoded,
    context: &Context,
    out: &mut BytesMut,
) -> u64 {
    /// The head of a NEXT_HOP attribute and an address.
    const CLASSIC: usize = 3 + 4;
    let (add_path, attributes) = (context.add_path_send.contains(&family), &attributes.0);
    let mut messages = 0;
    for piece in pieces(prefixes, add_path, room(attributes, context)) {
        messages += 1;
        frame(out, UPDATE, |out| {
            out.put_u16(0);
            if let (Family::Ipv4, IpAddr::V4(address)) = (family, next_hop.address) {
                out.put_u16(length(attributes.len() + CLASSIC));
                out.put_slice(attributes);
                attribute::put(out, TRANSITIVE, NEXT_HOP, &address.octets());
                return put_all(piece, add_path, out);
            }
            let mut bytes = BytesMut::new();
            put_all(piece, add_path, &mut bytes);
            let value = reach_value(family, next_hop, &bytes);
            let mut own = BytesMut::with_capacity(attributes.len() + value.len() + 4);
            own.put_slice(attributes);
            attribute::put(&mut own, OPTIONAL, MP_REACH, &value);
            out.put_u16(length(own.len()));
            out.put_slice(&own);
        });
    }
    messages
}

fn reach_value(family: Family, next_hop: NextHop, prefixes: &[u8]) -> BytesMut {
    let mut value = BytesMut::new();
    let (afi, safi) = family.numbers();
    value.put_u16(afi);
    value.put_u8(safi);
    match (next_hop.address, next_hop.link_local) {
        (IpAddr::V4(address), _) => {
            value.put_u8(4);
            value.put_slice(&address.octets());
        }
        (IpAddr::V6(address), None) => {
            value.put_u8(16);
            value.put_slice(&address.octets());
        }
        (IpAddr::V6(address), Some(link_local)) => {
            value.put_u8(32);
            value.put_slice(&address.octets());
            value.put_slice(&link_local.octets());
        }
    }
    value.put_u8(0);
    value.put_slice(prefixes);
    value
}
