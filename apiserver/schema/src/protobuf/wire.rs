//! The wire format: varints, lengths, tags.

/// A message is not well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("unexpected EOF")]
    Eof,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal tag or wire type")]
    Tag,
}

/// One field of a message as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(WireError::Eof)?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                return Err(WireError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Overflow)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Overflow)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Eof)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next field's number and content.
    pub(super) fn next(&mut self) -> Result<Option<(u16, Raw<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u16::try_from(tag >> 3)
            .ok()
            .filter(|n| *n > 0)
            .ok_or(WireError::Tag)?;
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| WireError::Eof)?,
            )),
            2 => {
                let length = self.varint()?;
                Raw::Bytes(self.take(length)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| WireError::Eof)?,
            )),
            _ => return Err(WireError::Tag),
        };
        Ok(Some((number, raw)))
    }
}

/// Appends fields to a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
}

impl Writer {
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn tag(&mut self, number: u16, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    pub(crate) fn int(&mut self, number: u16, value: i64) {
        self.tag(number, 0);
        self.varint(value as u64);
    }

    pub(crate) fn double(&mut self, number: u16, value: f64) {
        self.tag(number, 1);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, number: u16, value: &[u8]) {
        self.tag(number, 2);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// A message that `fill` writes; its length is put in front afterwards.
    pub(crate) fn message<E>(
        &mut self,
        number: u16,
        fill: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.tag(number, 2);
        let start = self.out.len();
        fill(self)?;
        let mut length = Self::default();
        length.varint((self.out.len() - start) as u64);
        self.out.splice(start..start, length.out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut w = Writer::default();
        w.int(1, -1);
        w.double(2, 1.5);
        w.message::<()>(300, |w| {
            w.bytes(1, &[7; 200]);
            Ok(())
        })
        .expect("no error");
        let mut r = Reader::new(&w.out);
        assert_eq!(r.next(), Ok(Some((1, Raw::Varint(u64::MAX)))));
        assert_eq!(r.next(), Ok(Some((2, Raw::Fixed64(1.5f64.to_bits())))));
        let Ok(Some((300, Raw::Bytes(inner)))) = r.next() else {
            panic!("a message")
        };
        assert_eq!(
            Reader::new(inner).next(),
            Ok(Some((1, Raw::Bytes(&[7; 200]))))
        );
        assert_eq!(r.next(), Ok(None));
    }

    #[test]
    fn broken_messages_are_errors() {
        assert_eq!(Reader::new(&[0x0a, 5, 1]).next(), Err(WireError::Eof));
        assert_eq!(Reader::new(&[0x08, 0xff]).next(), Err(WireError::Eof));
        assert_eq!(
            Reader::new(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).next(),
            Err(WireError::Overflow)
        );
        assert_eq!(Reader::new(&[0x0b]).next(), Err(WireError::Tag));
        assert_eq!(Reader::new(&[0x00, 0]).next(), Err(WireError::Tag));
    }
}
