//! Accepts connections until shutdown, then lets them finish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::handler::Handler;
use crate::authn::x509::CertificateAuthenticator;

/// Nobody may hold a connection for longer without having said who he is.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(30);
/// How long connections may go on after the end was announced.
const DRAIN: Duration = Duration::from_secs(10);
/// As upstream's default: informers have all their watches on one connection.
const STREAMS: u32 = 1000;

pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) tls: TlsAcceptor,
    pub(super) certificates: Arc<CertificateAuthenticator>,
    pub(super) handler: Arc<Handler>,
    pub(super) shutdown: CancellationToken,
}

impl Listener {
    pub(super) async fn run(self) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.spawn(stream, graceful.watcher()),
                Err(error) => {
                    // Too many open files, most likely: others have to close theirs first.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.socket);
        if tokio::time::timeout(DRAIN, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("connections were cut off: they did not end in time");
        }
    }

    fn spawn(&self, stream: TcpStream, watcher: Watcher) {
        let (tls, certificates) = (self.tls.clone(), self.certificates.clone());
        let handler = self.handler.clone();
        tokio::spawn(async move {
            let source = stream.peer_addr().ok().map(|a| a.ip().to_canonical());
            // Small answers must not wait for each other.
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else {
                return;
            };
            let peer = Arc::new(certificates.judge(stream.get_ref().1.peer_certificates()));
            let service = service_fn(move |request| {
                let (handler, peer) = (handler.clone(), peer.clone());
                async move { Ok::<_, Infallible>(handler.handle(&peer, source, request).await) }
            });
            let builder = builder();
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS);
    builder
}
