//! Bidirectional Forwarding Detection over one hop (RFC 5880, RFC 5881): tells within less than a
//! second that a peer cannot be reached any more.
//!
//! [`Session`] is pure: packets and the time are inputs, packets and changes are outputs. The
//! sockets are in the driver's task.

pub mod packet;
mod session;
mod task;

pub use packet::Packet;
pub use session::{Change, Output, Session};
pub(crate) use task::{Report, Task, Wanted};

use std::time::Duration;

/// The UDP port of single-hop sessions.
pub const PORT: u16 = 3784;
/// While a session is not up, packets are no more frequent than that (RFC 5880, section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What both directions of a session are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub transmit: Duration,
    pub receive: Duration,
    /// So many packets in a row have to be lost.
    pub multiplier: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            transmit: Duration::from_millis(300),
            receive: Duration::from_millis(300),
            multiplier: 3,
        }
    }
}
