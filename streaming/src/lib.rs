//! Byte channels between a client, the API server and a node: exec, attach and port-forward.
//!
//! Clients speak one of three protocols, and a node's runtime one of them:
//!
//! | client | what happens |
//! |---|---|
//! | SPDY/3.1, WebSocket `v4.channel.k8s.io` and older | [`upgrade::proxy`] hands the bytes through |
//! | WebSocket `v5.channel.k8s.io` (exec, attach) | [`remote_command::translate`] to SPDY streams |
//! | WebSocket `SPDY/3.1+portforward.k8s.io` | [`tunnel::pump`]: the messages are SPDY's bytes |
//! | WebSocket `binary.k8s.io`, `base64.binary.k8s.io` or none (logs) | [`download`]: the body in messages |
//!
//! Sources: KEP-4006; the SPDY protocol, draft 3.1; RFC 6455.
//!
//! **Invariant:** everything that is read from either side is bounded: frames, header blocks,
//! messages.

pub mod download;
pub mod remote_command;
pub mod spdy;
pub mod splice;
pub mod tunnel;
pub mod upgrade;
pub mod websocket;
