use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A channel to a unix socket. It connects at the first call and again after a break, so a
/// runtime that restarts needs nothing from its client.
///
/// # Panics
/// Never: the address inside is a constant that parses.
pub fn connect(socket: impl Into<PathBuf>) -> Channel {
    let socket = socket.into();
    // The address is not used to connect; HTTP/2 needs an authority.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}
