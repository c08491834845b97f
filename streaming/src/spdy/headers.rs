//! Name/value header blocks, compressed with one zlib stream per direction and connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use super::frame::FrameError;

/// Names in lower case, as they are on the wire; a name's values are joined with NUL there.
pub type Headers = Vec<(String, String)>;

/// No header block of Kubernetes comes near this.
const LONGEST_BLOCK: usize = 64 * 1024;
const WINDOW_BITS: u8 = 15;

pub(super) struct Compressor(Compress);

impl Compressor {
    pub(super) fn new() -> Result<Self, FrameError> {
        let mut compress = Compress::new_with_window_bits(Compression::fast(), true, WINDOW_BITS);
        compress
            .set_dictionary(&dictionary())
            .map_err(|_| FrameError::Compression)?;
        Ok(Self(compress))
    }

    pub(super) fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        put_length(&mut plain, headers.len())?;
        for (name, value) in headers {
            for text in [name, value] {
                put_length(&mut plain, text.len())?;
                plain.extend(text.as_bytes());
            }
        }
        // Room for incompressible input and the flush marker: one call always suffices.
        let mut packed = Vec::with_capacity(plain.len() + plain.len() / 8 + 256);
        self.0
            .compress_vec(&plain, &mut packed, FlushCompress::Sync)
            .map_err(|_| FrameError::Compression)?;
        Ok(packed)
    }
}

fn put_length(into: &mut Vec<u8>, length: usize) -> Result<(), FrameError> {
    let length = u32::try_from(length).map_err(|_| FrameError::TooLong)?;
    into.extend(length.to_be_bytes());
    Ok(())
}

pub(super) struct Decompressor(Decompress);

impl Decompressor {
    pub(super) fn new() -> Self {
        Self(Decompress::new_with_window_bits(true, WINDOW_BITS))
    }

    pub(super) fn headers(&mut self, packed: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(packed)?;
        parse(&plain).ok_or(FrameError::Malformed)
    }

    fn inflate(&mut self, packed: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = vec![0; LONGEST_BLOCK];
        let (mut read, mut written) = (0, 0);
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(
                &packed[read..],
                &mut plain[written..],
                FlushDecompress::Sync,
            );
            read += usize::try_from(self.0.total_in() - before_in).unwrap_or(usize::MAX);
            written += usize::try_from(self.0.total_out() - before_out).unwrap_or(usize::MAX);
            match result {
                Ok(Status::Ok | Status::BufError) if read >= packed.len() => break,
                Ok(Status::Ok) if written < plain.len() => {}
                Ok(_) => return Err(FrameError::TooLong),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| FrameError::Compression)?;
                }
                Err(_) => return Err(FrameError::Compression),
            }
        }
        if written == plain.len() {
            return Err(FrameError::TooLong);
        }
        plain.truncate(written);
        Ok(plain)
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let count = take_length(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut plain)?;
        let value = take_text(&mut plain)?;
        headers.push((name, value));
    }
    plain.is_empty().then_some(headers)
}

fn take_length(from: &mut &[u8]) -> Option<usize> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    let length = take_length(from)?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    String::from_utf8(text.to_vec()).ok()
}
