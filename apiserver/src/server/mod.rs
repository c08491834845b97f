//! The listener: TLS, connections, who is on the other end, and the orderly end.
//!
//! A connection's way: [`listener`] accepts it and shakes hands, [`x509`](crate::authn::x509)
//! judges its certificate once, and [`handler`] gives each of its requests a user and hands it
//! to the API.

mod address;
mod errors;
mod handler;
mod health;
mod limits;
mod listener;
mod nodes;
mod start;
mod tls;

pub use errors::StartError;
pub use health::Health;
pub use start::{JoinInfo, RunningServer, start};
pub(crate) use tls::any_server;
