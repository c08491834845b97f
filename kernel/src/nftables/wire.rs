//! Netlink messages and attributes of nf_tables, written and read.

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const NESTED: u16 = 0x8000;

pub(super) mod flags {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const ACK: u16 = 4;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const DUMP_INTR: u16 = 0x10;
    pub(in super::super) const REPLACE: u16 = 0x100;
    pub(in super::super) const CREATE: u16 = 0x400;
    pub(in super::super) const APPEND: u16 = 0x800;
}

/// Message numbers of nf_tables.
pub(super) mod msg {
    pub(in super::super) const NEWTABLE: u8 = 0;
    pub(in super::super) const GETTABLE: u8 = 1;
    pub(in super::super) const DELTABLE: u8 = 2;
    pub(in super::super) const NEWCHAIN: u8 = 3;
    pub(in super::super) const GETCHAIN: u8 = 4;
    pub(in super::super) const DELCHAIN: u8 = 5;
    pub(in super::super) const NEWRULE: u8 = 6;
    pub(in super::super) const GETRULE: u8 = 7;
    pub(in super::super) const DELRULE: u8 = 8;
    pub(in super::super) const NEWSET: u8 = 9;
    pub(in super::super) const GETSET: u8 = 10;
    pub(in super::super) const DELSET: u8 = 11;
    pub(in super::super) const NEWSETELEM: u8 = 12;
    pub(in super::super) const GETSETELEM: u8 = 13;
    pub(in super::super) const DELSETELEM: u8 = 14;
    pub(in super::super) const NEWGEN: u8 = 15;
    pub(in super::super) const GETGEN: u8 = 16;
    pub(in super::super) const NEWFLOWTABLE: u8 = 22;
    pub(in super::super) const DELFLOWTABLE: u8 = 24;
}

/// Netlink messages, one after the other.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    fn header(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
    }

    fn finish(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// A message of nf_tables with the attributes that `body` writes.
    pub(super) fn message(
        &mut self,
        kind: u8,
        flags: u16,
        sequence: u32,
        family: u8,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.header(SUBSYSTEM << 8 | u16::from(kind), flags, sequence, family, 0);
        body(self);
        self.finish(start);
    }

    /// `NFNL_MSG_BATCH_BEGIN`. With a `generation`, the kernel refuses the batch with `ERESTART`
    /// where the ruleset is of another one (`NFNL_BATCH_GENID`).
    pub(super) fn batch_begin(&mut self, sequence: u32, generation: Option<u32>) {
        let start = self.bytes.len();
        self.header(0x10, flags::REQUEST, sequence, 0, SUBSYSTEM);
        if let Some(generation) = generation {
            self.be32(1, generation);
        }
        self.finish(start);
    }

    /// `NFNL_MSG_BATCH_END`.
    pub(super) fn batch_end(&mut self, sequence: u32) {
        let start = self.bytes.len();
        self.header(0x11, flags::REQUEST, sequence, 0, SUBSYSTEM);
        self.finish(start);
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(super) fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub(super) fn str(&mut self, kind: u16, value: &str) {
        let length = (value.len() + 5) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// `NFTA_DATA_VALUE` within an attribute.
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |w| w.bytes(1, value));
    }
}

/// The attributes in a run of bytes; a broken tail ends the iteration.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The first attribute of a kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(k, _)| *k == kind)
        .map(|(_, value)| value)
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn be32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn be64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// One netlink message as received.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;

    /// The nf_tables message number.
    pub(super) fn nft(&self) -> Option<u8> {
        (self.kind >> 8 == SUBSYSTEM).then_some(self.kind as u8)
    }

    pub(super) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    /// What follows the nfgenmsg.
    pub(super) fn attributes(&self) -> &'a [u8] {
        self.body.get(4..).unwrap_or_default()
    }
}

/// The messages of one datagram; a broken tail ends the iteration.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let word = |at: usize| Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?));
        let length = word(0)? as usize;
        let (kind, flags, sequence) = (half(4)?, half(6)?, word(8)?);
        let body = self.0.get(16..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            flags,
            sequence,
            body,
        })
    }
}
