//! A client of the Container Runtime Interface (CRI v1) over a unix socket, as containerd
//! (1.6 and later) and CRI-O serve it.
//!
//! [`Runtime`] wraps the generated clients: every call has a deadline, and an error says
//! which call failed. Messages are the protocol's own, in [`v1`]. [`events`] is containerd's
//! event stream, which tells of exited containers without asking; [`health`] is the
//! protocol of gRPC probes. [`csi`] and [`registration`] are what storage plugins on the node
//! speak.

mod channel;
mod client;
mod error;
mod signal;
mod watch;

pub use channel::connect;
pub use client::Runtime;
pub use error::Error;
pub use signal::{stop_signal_name, stop_signal_number};
pub use watch::{TaskEvents, TaskNotice};

#[allow(
    clippy::doc_markdown,
    clippy::large_enum_variant,
    reason = "generated code: which of these it has is the generator's matter"
)]
mod generated {
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
    pub mod events {
        tonic::include_proto!("containerd.services.events.v1");
    }
    pub mod csi {
        tonic::include_proto!("csi.v1");
    }
    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}

pub use generated::{csi, events, health, registration, v1};
