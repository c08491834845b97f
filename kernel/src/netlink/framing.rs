//! Netlink message headers: what is put before a payload, and what a received datagram holds.

use nix::errno::Errno;

use super::attributes;

pub(super) const HEADER: usize = 16;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// In an acknowledgement: the original request was left out.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub message_type: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// What a frame says about the exchange that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    Nothing,
    /// An acknowledgement, or the end of a dump.
    Finished,
    Refused {
        errno: Errno,
        message: Option<&'a str>,
    },
    Data,
}

pub(super) fn append(
    buffer: &mut Vec<u8>,
    message_type: u16,
    flags: u16,
    sequence: u32,
    payload: &[u8],
) {
    let length = u32::try_from(HEADER + payload.len()).expect("a message is under 4 GiB");
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&message_type.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0u32.to_ne_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// The frames of one datagram; ends at the first that is cut off.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes(*header[0..].first_chunk()?) as usize;
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame {
            message_type: u16::from_ne_bytes(*header[4..].first_chunk()?),
            flags: u16::from_ne_bytes(*header[6..].first_chunk()?),
            sequence: u32::from_ne_bytes(*header[8..].first_chunk()?),
            payload,
        })
    })
}

impl<'a> Frame<'a> {
    pub(super) fn meaning(&self) -> Meaning<'a> {
        match self.message_type {
            NLMSG_NOOP => Meaning::Nothing,
            NLMSG_DONE => self.status(4).unwrap_or(Meaning::Finished),
            NLMSG_ERROR => self
                .status(self.error_header())
                .unwrap_or(Meaning::Finished),
            _ => Meaning::Data,
        }
    }

    /// The kernel's state changed while it was dumped.
    pub(super) fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// Where an acknowledgement's attributes start: behind the error number and the request
    /// that it repeats (its header only, when capped).
    fn error_header(&self) -> usize {
        let repeated = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            let length = self.payload.get(4..).and_then(|rest| rest.first_chunk());
            length.map_or(HEADER, |length| u32::from_ne_bytes(*length) as usize)
        };
        4usize.saturating_add(repeated.next_multiple_of(4))
    }

    fn status(&self, attributes_at: usize) -> Option<Meaning<'a>> {
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        if code == 0 || (self.message_type == NLMSG_DONE && code > 0) {
            return None;
        }
        let message = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| self.payload.get(attributes_at..))
            .flatten()
            .and_then(|rest| attributes::parse(rest).find(|nla| nla.kind == NLMSGERR_ATTR_MSG))
            .and_then(|nla| nla.as_text());
        Some(Meaning::Refused {
            errno: Errno::from_raw(code.saturating_neg()),
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_round_trip() {
        let mut bytes = Vec::new();
        append(&mut bytes, 16, 5, 1, &[1, 2, 3]);
        append(&mut bytes, 17, 0, 2, &[]);
        let read: Vec<_> = frames(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].payload, &[1, 2, 3]);
        assert_eq!((read[1].message_type, read[1].sequence), (17, 2));
    }

    #[test]
    fn an_error_carries_its_number_and_text() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        append(&mut payload, 16, 0, 9, &[]);
        let mut text = attributes::Attributes::new();
        text.text(NLMSGERR_ATTR_MSG, "no such thing");
        payload.extend_from_slice(text.as_bytes());
        let mut bytes = Vec::new();
        append(
            &mut bytes,
            NLMSG_ERROR,
            NLM_F_CAPPED | NLM_F_ACK_TLVS,
            9,
            &payload,
        );
        let frame = frames(&bytes).next().unwrap();
        let expected = Meaning::Refused {
            errno: Errno::EEXIST,
            message: Some("no such thing"),
        };
        assert_eq!(frame.meaning(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            for frame in frames(&bytes) {
                let _ = frame.meaning();
            }
        }

        #[test]
        fn any_error_is_read_without_a_panic(
            kind in 1u16..5, flags in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = Frame { message_type: kind, flags, sequence: 0, payload: &payload }.meaning();
        }
    }
}
