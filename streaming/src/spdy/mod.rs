//! SPDY/3.1 as Kubernetes uses it: streams with headers and data, without flow control.
//!
//! Source: "SPDY Protocol - Draft 3.1", sections 2.2 and 2.6.

mod dictionary;
mod frame;
mod headers;

pub use frame::{Decoder, Encoder, Frame, FrameError, StreamId};
pub use headers::Headers;
