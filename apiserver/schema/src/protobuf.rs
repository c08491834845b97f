//! Kubernetes protobuf: the envelope and the transcoding between messages and JSON values.

mod decode;
mod encode;
mod special;
mod wire;

pub use decode::{DecodeError, decode};
pub use encode::{EncodeError, encode, encode_watch_event};

pub(crate) use wire::Writer;

/// First bytes of every encoded object.
pub const MAGIC: [u8; 4] = *b"k8s\0";

#[cfg(test)]
mod tests;
