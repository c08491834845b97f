//! The kubelet's own server: what the API server asks of a node on behalf of people.
//!
//! Every request is authenticated (a client certificate of the cluster's CA, or a bearer
//! token that the API server vouches for) and authorized by the API server.

mod auth;
mod kernel;
mod logs;
mod metrics;
mod query;
mod routes;
mod stats;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use tls::{Identity, Serving, TlsError};

use crate::config::Config;
use crate::context::Context;
use crate::run::{Beside, Error};
use auth::Peer;

/// A server that has its port and does not answer yet.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// Takes the port. `None` when the configuration wants no server.
pub(crate) async fn bind(config: &Config) -> Result<Option<Server>, Error> {
    let (Some(address), Some(serving)) = (config.listen, &config.serving) else {
        return Ok(None);
    };
    let acceptor = TlsAcceptor::from(serving.server_config()?);
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    Ok(Some(Server { listener, acceptor }))
}

impl Server {
    pub(crate) async fn run(
        self,
        context: Arc<Context>,
        beside: Beside,
        shutdown: CancellationToken,
    ) {
        let router = routes::router(context, beside);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let _ = stream.set_nodelay(true);
                    let (acceptor, router) = (self.acceptor.clone(), router.clone());
                    tokio::spawn(serve(acceptor, stream, from, router, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
    from: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    let handshake =
        tokio::time::timeout(std::time::Duration::from_secs(10), acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        tracing::debug!(%from, "a TLS handshake failed");
        return;
    };
    let peer = Peer::of(stream.get_ref().1.peer_certificates());
    let service =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router
                .clone()
                .oneshot(request.map(axum::body::Body::new) as Request)
        });
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%from, %error, "a connection broke");
            }
        }
    }
}
