//! Frames on the wire.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec;

use super::headers::{Compressor, Decompressor, Headers};

pub type StreamId = u32;

/// A frame's length field allows 16 MiB; what Kubernetes sends is far smaller.
const LONGEST_FRAME: usize = 1 << 20;
/// What of a payload goes into one data frame.
const DATA_PIECE: usize = 32 * 1024;

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("SPDY: a frame or header block is longer than any that is allowed")]
    TooLong,
    #[error("SPDY: a frame's content does not fit its type")]
    Malformed,
    #[error("SPDY: version {0} of the protocol is not spoken here")]
    Version(u16),
    #[error("SPDY: a header block cannot be (de)compressed")]
    Compression,
    #[error("SPDY: the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: StreamId,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        stream: StreamId,
        headers: Headers,
        fin: bool,
    },
    Data {
        stream: StreamId,
        data: Bytes,
        fin: bool,
    },
    RstStream {
        stream: StreamId,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: StreamId,
        status: u32,
    },
    /// Settings, window updates and what else asks for nothing.
    Ignored,
}

/// Writes frames; its compression state belongs to one direction of one connection.
pub struct Encoder {
    compressor: Compressor,
}

impl Encoder {
    pub fn new() -> Result<Self, FrameError> {
        Ok(Self {
            compressor: Compressor::new()?,
        })
    }
}

impl codec::Encoder<Frame> for Encoder {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::SynStream {
                stream,
                headers,
                fin,
            } => {
                let block = self.compressor.block(&headers)?;
                // No associated stream, the highest priority, no credential slot.
                control(out, SYN_STREAM, fin, 10 + block.len())?;
                out.put_u32(stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply {
                stream,
                headers,
                fin,
            } => {
                let block = self.compressor.block(&headers)?;
                control(out, SYN_REPLY, fin, 4 + block.len())?;
                out.put_u32(stream);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, status } => {
                control(out, RST_STREAM, false, 8)?;
                out.put_u32(stream);
                out.put_u32(status);
            }
            Frame::Ping { id } => {
                control(out, PING, false, 4)?;
                out.put_u32(id);
            }
            Frame::GoAway {
                last_stream,
                status,
            } => {
                control(out, GOAWAY, false, 8)?;
                out.put_u32(last_stream);
                out.put_u32(status);
            }
            Frame::Data { stream, data, fin } => put_data(out, stream, data, fin),
            Frame::Ignored => {}
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) -> Result<(), FrameError> {
    if length > LONGEST_FRAME {
        return Err(FrameError::TooLong);
    }
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_length(out, fin, length);
    Ok(())
}

fn put_flags_and_length(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u8(if fin { FLAG_FIN } else { 0 });
    out.put_uint(length as u64, 3);
}

fn put_data(out: &mut BytesMut, stream: StreamId, mut data: Bytes, fin: bool) {
    loop {
        let piece = data.split_to(data.len().min(DATA_PIECE));
        out.put_u32(stream & 0x7fff_ffff);
        put_flags_and_length(out, fin && data.is_empty(), piece.len());
        out.put_slice(&piece);
        if data.is_empty() {
            return;
        }
    }
}

/// Reads frames; its compression state belongs to one direction of one connection.
pub struct Decoder {
    decompressor: Decompressor,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            decompressor: Decompressor::new(),
        }
    }
}

impl codec::Decoder for Decoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        const HEAD: usize = 8;
        let Some(head) = input.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > LONGEST_FRAME {
            return Err(FrameError::TooLong);
        }
        if input.len() < HEAD + length {
            input.reserve(HEAD + length - input.len());
            return Ok(None);
        }
        let mut head = input.split_to(HEAD);
        let body = input.split_to(length).freeze();
        let word = head.get_u32();
        let fin = head.get_u8() & FLAG_FIN != 0;
        if word & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data {
                stream: word,
                data: body,
                fin,
            }));
        }
        let version = (word >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        self.control(word as u16, fin, body).map(Some)
    }
}

impl Decoder {
    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, FrameError> {
        let demand = |body: &Bytes, least: usize| {
            if body.len() < least {
                Err(FrameError::Malformed)
            } else {
                Ok(())
            }
        };
        Ok(match kind {
            SYN_STREAM => {
                demand(&body, 10)?;
                let stream = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream {
                    stream,
                    headers: self.decompressor.headers(&body)?,
                    fin,
                }
            }
            SYN_REPLY => {
                demand(&body, 4)?;
                let stream = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply {
                    stream,
                    headers: self.decompressor.headers(&body)?,
                    fin,
                }
            }
            HEADERS => {
                demand(&body, 4)?;
                body.advance(4);
                // Read all the same: the compression state spans all header blocks.
                self.decompressor.headers(&body)?;
                Frame::Ignored
            }
            RST_STREAM => {
                demand(&body, 8)?;
                Frame::RstStream {
                    stream: body.get_u32() & 0x7fff_ffff,
                    status: body.get_u32(),
                }
            }
            PING => {
                demand(&body, 4)?;
                Frame::Ping { id: body.get_u32() }
            }
            GOAWAY => {
                demand(&body, 8)?;
                let last_stream = body.get_u32() & 0x7fff_ffff;
                Frame::GoAway {
                    last_stream,
                    status: body.get_u32(),
                }
            }
            _ => Frame::Ignored,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::codec::{Decoder as _, Encoder as _};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn frames_survive_the_wire_in_order_and_in_pieces() {
        let frames = vec![
            Frame::SynStream {
                stream: 1,
                headers: headers(&[("streamtype", "error")]),
                fin: false,
            },
            Frame::SynReply {
                stream: 1,
                headers: headers(&[]),
                fin: true,
            },
            Frame::SynStream {
                stream: 3,
                headers: headers(&[("streamtype", "stdin")]),
                fin: false,
            },
            Frame::Data {
                stream: 3,
                data: Bytes::from_static(b"hello"),
                fin: true,
            },
            Frame::Ping { id: 7 },
            Frame::RstStream {
                stream: 3,
                status: 5,
            },
            Frame::GoAway {
                last_stream: 3,
                status: 0,
            },
        ];
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
        let mut wire = BytesMut::new();
        for frame in &frames {
            encoder.encode(frame.clone(), &mut wire).unwrap();
        }
        let (mut arrived, mut read) = (BytesMut::new(), Vec::new());
        for byte in wire {
            arrived.put_u8(byte);
            read.extend(decoder.decode(&mut arrived).unwrap());
        }
        assert_eq!(read, frames);
    }

    #[test]
    fn large_data_is_split_and_only_its_end_is_final() {
        let data = Bytes::from(vec![7; DATA_PIECE + 1]);
        let mut wire = BytesMut::new();
        let frame = Frame::Data {
            stream: 1,
            data,
            fin: true,
        };
        Encoder::new().unwrap().encode(frame, &mut wire).unwrap();
        let mut decoder = Decoder::default();
        let mut next = || decoder.decode(&mut wire).unwrap();
        assert!(matches!(next(), Some(Frame::Data { fin: false, .. })));
        assert!(matches!(next(), Some(Frame::Data { fin: true, .. })));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_header_block_that_expands_without_end_is_refused() {
        let name = "a".repeat(200_000);
        let mut wire = BytesMut::new();
        let frame = Frame::SynStream {
            stream: 1,
            headers: headers(&[(&name, "")]),
            fin: false,
        };
        Encoder::new().unwrap().encode(frame, &mut wire).unwrap();
        assert!(matches!(
            Decoder::default().decode(&mut wire),
            Err(FrameError::TooLong)
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes: Vec<u8>, control: bool) {
            let mut input = BytesMut::new();
            if control {
                input.put_u32(0x8003_0001);
            }
            input.extend_from_slice(&bytes);
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
        }
    }
}
