//! Reading and writing netlink attributes (type, length, value; aligned to four bytes).
//!
//! rtnetlink messages come from `netlink-packet-route`; this is for the families and the
//! attributes that no crate knows.

use netlink_packet_core::{DefaultNla, Nla};

const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Writes a message's payload: a fixed header first, attributes behind it.
///
/// ```
/// use kernel::netlink::Attributes;
/// let mut payload = Attributes::new();
/// payload.u32(1, 7).nest(2, |inner| {
///     inner.text(1, "eth0");
/// });
/// assert_eq!(payload.as_bytes().len(), 8 + 4 + 12);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with the family's fixed header.
    pub fn with_header(header: &[u8]) -> Self {
        let mut this = Self {
            bytes: header.to_vec(),
        };
        this.pad();
        this
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An attribute with the given bytes as its value.
    ///
    /// # Panics
    /// When the value is longer than the 16-bit length field can say.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(HEADER + value.len()).expect("an attribute is under 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// An attribute without a value.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.put(kind, &[])
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub fn u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A string with the zero byte that the kernel expects at its end.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// An attribute that holds attributes.
    ///
    /// # Panics
    /// When the content is longer than the 16-bit length field can say.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_plain(kind | NESTED, fill)
    }

    /// As [`Attributes::nest`], without the flag that old families refuse.
    pub fn nest_plain(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("a nest is under 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// An attribute as `netlink-packet-route` takes those that it does not know.
pub fn other(kind: u16, value: Vec<u8>) -> DefaultNla {
    DefaultNla::new(kind, value)
}

/// The value of an attribute that `netlink-packet-route` does not know.
pub fn other_value(nla: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    value
}

/// One attribute that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn as_u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    pub fn as_u16(&self) -> Option<u16> {
        Some(u16::from_ne_bytes(*self.value.first_chunk()?))
    }

    pub fn as_u16_be(&self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.value.first_chunk()?))
    }

    pub fn as_u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.value.first_chunk()?))
    }

    pub fn as_u32_be(&self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.value.first_chunk()?))
    }

    pub fn as_u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(*self.value.first_chunk()?))
    }

    pub fn as_u64_be(&self) -> Option<u64> {
        Some(u64::from_be_bytes(*self.value.first_chunk()?))
    }

    /// The text up to its zero byte.
    pub fn as_text(&self) -> Option<&'a str> {
        let end = self
            .value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }

    pub fn nested(&self) -> AttributeIter<'a> {
        parse(self.value)
    }
}

/// Walks over attributes; ends at the first that is cut off.
#[derive(Debug, Clone)]
pub struct AttributeIter<'a> {
    rest: &'a [u8],
}

/// The attributes in `bytes`, which start behind the family's fixed header.
pub fn parse(bytes: &[u8]) -> AttributeIter<'_> {
    AttributeIter { rest: bytes }
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (length, after) = self.rest.split_first_chunk::<2>()?;
        let (kind, _) = after.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = self.rest.get(HEADER..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Attribute {
            kind: u16::from_ne_bytes(*kind) & TYPE_MASK,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut written = Attributes::with_header(&[9]);
        written
            .u8(1, 5)
            .u16_be(2, 0x0102)
            .text(3, "abc")
            .nest(4, |inner| {
                inner.u64(1, 77).flag(2);
            });
        let read: Vec<_> = parse(&written.as_bytes()[4..]).collect();
        assert_eq!(read[0].as_u8(), Some(5));
        assert_eq!(read[1].as_u16_be(), Some(0x0102));
        assert_eq!(read[2].as_text(), Some("abc"));
        let inner: Vec<_> = read[3].nested().collect();
        assert_eq!(inner[0].as_u64(), Some(77));
        assert_eq!((inner[1].kind, inner[1].value), (2, &[][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for attribute in parse(&bytes) {
                let _ = (attribute.as_text(), attribute.as_u64(), attribute.nested().count());
            }
        }
    }
}
