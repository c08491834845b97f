//! The routed mode: a BGP speaker.

pub mod wire;
